//! The node side of the wire: answers what a controller asks over a pair of streams, by the same functions that act in process.
//!
//! Gives the right to act back, and ends, when the controller hangs up or says nothing for a while. What it was doing it
//! finishes: a step that was begun is better done.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fleet::local::Local;
use crate::host::tell::Tell;
use crate::model::name::FleetName;
use crate::model::record::FleetRecord;
use crate::wire::{self, Answered, Asked, Chunk, Hello, Reply, Request, WireError};

/// How long a controller may say nothing: it gives a sign of life every 5 s. A network that was cut shows no end of a
/// connection for hours, and the right to act must not be lost with it.
pub const SILENCE: Duration = Duration::from_secs(30);
/// Requests worked on at once. A controller takes at most 32 steps side by side.
const AT_ONCE: usize = 64;

/// What a controller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looks only: the right to act is refused, and so is every step.
    ReadOnly,
    Full,
}

/// Serves one controller until it hangs up, or is silent for longer than `silence`.
///
/// # Errors
/// When it speaks another protocol, or what it says makes no sense.
pub async fn serve<R, W>(local: Arc<Local>, from: R, mut to: W, access: Access, silence: Duration) -> Result<(), WireError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    wire::greet(&mut to).await?;
    let mut reader = wire::incoming(from, wire::REQUEST_BYTES_MAX);
    let mut writer = wire::outgoing(to);
    let ours = Hello::of_this_release();
    wire::send(&mut writer, wire::encode(&ours)?).await?;
    let theirs: Hello = timeout(silence, wire::receive(&mut reader)).await.unwrap_or(Err(WireError::Ended))?;
    if ours.agree(&theirs).is_none() {
        return Err(WireError::Strangers { theirs: theirs.release, ours: ours.release });
    }
    let (replies, mut answered) = mpsc::channel::<Vec<u8>>(AT_ONCE);
    let writing = tokio::spawn(async move {
        while let Some(message) = answered.recv().await {
            if wire::send(&mut writer, message).await.is_err() {
                return;
            }
        }
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut work = JoinSet::new();
    let end = loop {
        let asked = match timeout(silence, wire::receive::<_, Asked>(&mut reader)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(WireError::Ended)) | Err(_) => break Ok(()),
            Ok(Err(error)) => break Err(error),
        };
        let Asked { id, request } = asked;
        if matches!(request, Request::Beat) {
            continue;
        }
        // What is asked for beyond that waits in the stream.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break Ok(()) };
        let (local, replies) = (Arc::clone(&local), replies.clone());
        work.spawn(async move {
            let (tell, mut told) = Tell::to_listener();
            let work = async {
                let reply = answer(&local, request, access, &tell).await;
                drop(tell);
                reply
            };
            let pass_on = async {
                while let Some(doing) = told.recv().await {
                    // Progress is worth no waiting.
                    if let Ok(message) = wire::encode(&Answered { id, reply: Reply::Progress(doing) }) {
                        let _lost = replies.try_send(message);
                    }
                }
            };
            let (reply, ()) = tokio::join!(work, pass_on);
            let message = wire::encode(&Answered { id, reply }).unwrap_or_default();
            let _nobody_reads = replies.send(message).await;
            drop(place);
        });
        while work.try_join_next().is_some() {}
    };
    while work.join_next().await.is_some() {}
    local.release();
    drop(replies);
    // A controller that does not read any more must not keep this process.
    let _written = timeout(silence, writing).await;
    end
}

async fn answer(local: &Local, request: Request, access: Access, tell: &Tell) -> Reply {
    let refused = || Reply::NotUnderstood("this agent was started with --read-only: it looks, and changes nothing".to_owned());
    match (request, access) {
        (Request::Observe { known, records }, _) => match local.look().await {
            Ok(mut look) => {
                let binary = (!known.contains(&look.facts.binary)).then(|| Box::new((*look.binary).clone()));
                let is_known = |(fleet, record): (&FleetName, &Arc<FleetRecord>)| {
                    let known = records.get(fleet)?;
                    (*known == wire::print_of(record)).then(|| fleet.clone())
                };
                let same: BTreeSet<FleetName> = look.facts.records.iter().filter_map(is_known).collect();
                look.facts.records.retain(|fleet, _| !same.contains(fleet));
                Reply::Observed { facts: Box::new(look.facts), binary, same }
            }
            Err(why) => Reply::Unseen(why),
        },
        (
            Request::Acquire { .. }
            | Request::Perform { .. }
            | Request::Prepare
            | Request::Leave { .. }
            | Request::Piece { .. }
            | Request::Arrived { .. }
            | Request::Store { .. },
            Access::ReadOnly,
        ) => refused(),
        (Request::Acquire { holder }, Access::Full) => Reply::Turn(local.acquire(&holder).await),
        (Request::Perform { .. } | Request::Piece { .. } | Request::Arrived { .. } | Request::Store { .. }, Access::Full)
            if !local.has_right() =>
        {
            Reply::NoRight
        }
        (Request::Perform { step, fleet }, Access::Full) => Reply::Performed(local.perform(&step, fleet.as_ref(), tell).await),
        (Request::Prepare, Access::Full) => Reply::Done(local.prepare().await),
        (Request::Leave { set_aside }, Access::Full) => Reply::Done(local.leave(set_aside).await),
        (Request::Piece { instance, snapshot, from }, Access::Full) => {
            Reply::Piece(local.piece(&instance, &snapshot, from).await.map(Chunk))
        }
        (Request::Arrived { instance, snapshot }, Access::Full) => Reply::Arrived(local.arrived(&instance, &snapshot).await),
        (Request::Store { instance, snapshot, total, from, piece: Chunk(piece) }, Access::Full) => {
            Reply::Arrived(local.store(&instance, &snapshot, total, from, piece).await)
        }
        (Request::Position { instance }, _) => Reply::Position(local.position(&instance).await),
        (Request::TryWay { to }, _) => Reply::Tried(local.try_way(&to).await),
        (Request::Release, _) => {
            local.release();
            Reply::Released
        }
        // Heard by the loop.
        (Request::Beat, _) => Reply::NotUnderstood("a sign of life has no reply".to_owned()),
    }
}
