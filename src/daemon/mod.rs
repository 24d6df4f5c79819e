//! The daemon: follows a source and keeps the nodes as it says. Triggers, requests, back-off, shutdown.
//!
//! Nothing that correctness needs is kept here: what was settled, suspended and approved is on the nodes, the rest in the
//! source. A trigger carries no data into a pass.

pub mod backoff;
pub mod command;
mod control;
mod following;
mod lifecycle;
pub mod notify;
mod pass;
mod shared;
pub mod status;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::host::clock;
use crate::http;
use crate::metrics::Metrics;
use crate::model::password::Secret;
use crate::repo::{self, Repo};
use crate::roots::Roots;
use command::{Command, WAITING_MAX, What};
use following::Following;
use pass::Passes;
use shared::Shared;

/// What a daemon is told at its start.
pub struct Options {
    pub source: repo::Spec,
    pub roots: Roots,
    /// Between two looks when nothing else asks for one.
    pub poll: Duration,
    /// Where metrics and hooks are served; nothing: nowhere.
    pub listen: Option<SocketAddr>,
    pub socket: PathBuf,
    pub hook_secret: Option<Secret>,
}

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("the source cannot be followed")]
    Source(#[from] repo::RepoError),
    #[error("{0} cannot be listened on")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error(transparent)]
    Control(#[from] control::ControlError),
    #[error("signals cannot be heard")]
    Signals(#[from] std::io::Error),
}

/// How much the time between two looks varies, so that many daemons do not fetch at once.
const JITTER: f64 = 0.05;
/// Passes that follow each other at once before the loop takes a breath: never a hot loop.
const AT_ONCE_MAX: u32 = 50;
/// The breath.
const BREATH: Duration = Duration::from_secs(1);
/// How soon a daemon that only watches looks whether it may act.
const WATCHING: Duration = Duration::from_secs(2);

/// Runs until it is told to stop.
///
/// # Errors
/// When it cannot begin; once it runs, it goes on.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let shared = Arc::new(Shared::new(Metrics::new()));
    let repo = Repo::open(options.source.clone())?;
    let (sender, mut requests) = mpsc::channel(WAITING_MAX);
    let _control = control::serve(&options.socket, Arc::clone(&shared), sender)?;
    serve_http(&options, &shared).await?;
    let woken = Arc::clone(&shared);
    let _watcher = match repo::watch(&options.source, move || woken.trigger.notify_one()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!("changes are not seen at once, only by the poll: {}", crate::host::chain(&error));
            None
        }
    };
    let mut signals = Signals::new()?;
    tokio::spawn(keep_watchdog(Arc::clone(&shared)));
    let mut passes = Passes::new(Following::new(repo, options.roots.clone()), options.roots.clone(), Arc::clone(&shared));
    notify::ready();
    info!(version = env!("CARGO_PKG_VERSION"), "following {}", options.source.location);
    let mut waiting: VecDeque<Command> = VecDeque::new();
    let mut in_a_row = 0;
    loop {
        let ended = tokio::select! {
            ended = passes.pass(&mut requests, &mut waiting) => ended,
            // A step under way is left to end by itself on its node; the next daemon finds what it left.
            () = signals.stop.recv() => break,
        };
        let mut again = ended.again;
        for Command { what, answer } in waiting.drain(..) {
            let (said, soon) = passes.answer(what).await;
            again |= soon;
            // Who asked may have gone.
            let _gone = answer.send(said);
        }
        shared.beats();
        in_a_row = if again { in_a_row + 1 } else { 0 };
        if again && in_a_row < AT_ONCE_MAX {
            continue;
        }
        let pause = if again { BREATH } else { pause(&options, &passes, ended.result) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.trigger.notified() => {}
            () = signals.reload.recv() => info!("a look was asked for by SIGHUP"),
            () = signals.stop.recv() => break,
            Some(request) = requests.recv() => waiting.push_back(request),
        }
    }
    notify::stopping();
    info!("stopped; the servers run on");
    Ok(())
}
