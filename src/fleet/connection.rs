//! One connection to an agent: requests and replies side by side, and the reason when it ends.
//!
//! The other side may be wrong in every way: what is too large, unasked for or makes no sense ends the connection, and
//! nothing here waits or grows without a bound.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::host::held::lock;
use crate::host::tell::Tell;
use crate::observe::chain;
use crate::wire::{self, Answered, Asked, Hello, Incoming, Outgoing, Reply, Request, WireError};

/// Between two signs of life. The agent gives up after six of them (`agent::SILENCE`).
pub const BEAT: Duration = Duration::from_secs(5);
/// Requests that may wait to be written.
const QUEUE: usize = 64;
/// Requests that an agent may leave unanswered: many more than are asked at once.
const UNANSWERED_MAX: usize = 1000;
/// How much of what `ssh` and the agent say on their standard error is kept. Bytes.
const WORDS_BYTES_MAX: usize = 2048;
/// How long a child whose output ended may take to end itself.
const ENDING: Duration = Duration::from_secs(1);

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    asks: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    pub release: String,
    /// Ended with the connection.
    _tasks: JoinSet<()>,
}

/// Who waits for which reply; or why none will come.
#[derive(Debug)]
enum Waiting {
    Open(BTreeMap<u64, Asker>),
    Ended(String),
}

/// What `ssh` and the agent say on their standard error.
#[derive(Debug)]
struct Words {
    last: Arc<Mutex<Vec<u8>>>,
    /// Ends with them: what was said before the end may still be on its way.
    listening: JoinHandle<()>,
}

/// Where a reply goes, and what is said on the way to it.
#[derive(Debug)]
struct Asker {
    reply: oneshot::Sender<Reply>,
    tell: Tell,
}

impl Connection {
    /// Speaks with the agent that this child runs. `limit`: for the greeting.
    ///
    /// # Errors
    /// Why there is no agent to speak with.
    pub async fn to_child(mut child: Child, limit: Duration) -> Result<Self, String> {
        let (Some(input), Some(output), Some(error)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err("ssh was started without its streams".to_owned());
        };
        let mut words = Words::of(error);
        let opening = Self::open(output, input, JoinSet::new());
        let (mut connection, reader) = match timeout(limit, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(farewell(&error, Some((&mut child, &mut words))).await),
            Err(_elapsed) => return Err(format!("it did not answer within {} s", limit.as_secs())),
        };
        connection.read(reader, Some((child, words)));
        Ok(connection)
    }

    /// Speaks with an agent over any pair of streams.
    ///
    /// # Errors
    /// Why there is no agent to speak with.
    pub async fn over<R, W>(output: R, input: W) -> Result<Self, String>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (mut connection, reader) = Self::open(output, input, JoinSet::new()).await.map_err(|error| chain(&error))?;
        connection.read(reader, None);
        Ok(connection)
    }

    async fn open<R, W>(output: R, input: W, mut tasks: JoinSet<()>) -> Result<(Self, Incoming<BufReader<R>>), WireError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut output = BufReader::new(output);
        wire::await_greeting(&mut output).await?;
        let mut reader = wire::incoming(output, wire::REPLY_BYTES_MAX);
        let mut writer = wire::outgoing(input);
        let (ours, theirs) = (Hello::of_this_release(), wire::receive::<_, Hello>(&mut reader).await?);
        if ours.agree(&theirs).is_none() {
            return Err(WireError::Strangers { theirs: theirs.release, ours: ours.release });
        }
        wire::send(&mut writer, wire::encode(&ours)?).await?;
        let (asks, asked) = mpsc::channel(QUEUE);
        tasks.spawn(write(writer, asked));
        let waiting = Arc::new(Mutex::new(Waiting::Open(BTreeMap::new())));
        let connection = Self { asks, waiting, next: AtomicU64::new(1), release: theirs.release, _tasks: tasks };
        Ok((connection, reader))
    }

    fn read<R: AsyncRead + Unpin + Send + 'static>(&mut self, mut reader: Incoming<R>, child: Option<(Child, Words)>) {
        let waiting = Arc::clone(&self.waiting);
        self._tasks.spawn(async move {
            let error = loop {
                match wire::receive::<_, Answered>(&mut reader).await {
                    Ok(Answered { id, reply }) => {
                        if !deliver(&waiting, id, reply) {
                            break WireError::Unasked;
                        }
                    }
                    Err(error) => break error,
                }
            };
            let why = match child {
                Some((mut child, mut words)) => farewell(&error, Some((&mut child, &mut words))).await,
                None => farewell(&error, None).await,
            };
            *lock(&waiting) = Waiting::Ended(why);
        });
    }

    /// Why the connection ended, if it did.
    pub fn end(&self) -> Option<String> {
        match &*lock(&self.waiting) {
            Waiting::Open(_) => None,
            Waiting::Ended(why) => Some(why.clone()),
        }
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask(&self, request: Request, limit: Duration, tell: &Tell) -> Result<Reply, String> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let message = wire::encode(&Asked { id, request }).map_err(|error| chain(&error))?;
        if message.len() > wire::REQUEST_BYTES_MAX {
            return Err(format!("the request has {} bytes, more than {}", message.len(), wire::REQUEST_BYTES_MAX));
        }
        let (to, reply) = oneshot::channel();
        match &mut *lock(&self.waiting) {
            Waiting::Open(waiting) if waiting.len() >= UNANSWERED_MAX => {
                return Err(format!("it leaves {UNANSWERED_MAX} requests unanswered"));
            }
            Waiting::Open(waiting) => drop(waiting.insert(id, Asker { reply: to, tell: tell.clone() })),
            Waiting::Ended(why) => return Err(why.clone()),
        }
        let answer = async {
            if self.asks.send(message).await.is_err() {
                return None;
            }
            reply.await.ok()
        };
        match timeout(limit, answer).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.end().unwrap_or_else(|| "the connection ended".to_owned())),
            // Its place stays until the reply comes: one that comes late was asked for all the same.
            Err(_elapsed) => Err(format!("it did not answer within {} s", limit.as_secs())),
        }
    }
}

/// Gives a reply to who waits for it; false: nobody asked.
fn deliver(waiting: &Mutex<Waiting>, id: u64, reply: Reply) -> bool {
    let mut waiting = lock(waiting);
    let Waiting::Open(waiting) = &mut *waiting else { return false };
    if let Reply::Progress(doing) = reply {
        return waiting.get(&id).map(|asker| asker.tell.say(doing)).is_some();
    }
    let asker = waiting.remove(&id);
    // Whoever asked may have stopped waiting.
    asker.map(|asker| asker.reply.send(reply)).is_some()
}

async fn write<W: AsyncWrite + Unpin>(mut writer: Outgoing<W>, mut asked: mpsc::Receiver<Vec<u8>>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = asked.recv() => message,
            _ = beat.tick() => wire::encode(&Asked { id: 0, request: Request::Beat }).ok(),
        };
        // The reader learns why, and says it.
        let Some(message) = message else { return };
        if wire::send(&mut writer, message).await.is_err() {
            return;
        }
    }
}

impl Words {
    fn of(error: ChildStderr) -> Self {
        let last = Arc::default();
        let listening = tokio::spawn(listen(error, Arc::clone(&last)));
        Self { last, listening }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Keeps the last words of a child.
async fn listen(mut error: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 512];
    while let Ok(count @ 1..) = error.read(&mut buffer).await {
        let mut words = lock(&words);
        words.extend(buffer.iter().take(count));
        let surplus = words.len().saturating_sub(WORDS_BYTES_MAX);
        words.drain(..surplus);
    }
}

/// Why a connection ended, for people: the last words of `ssh` say more than that it ended.
async fn farewell(error: &WireError, child: Option<(&mut Child, &mut Words)>) -> String {
    let Some((child, words)) = child else { return chain(error) };
    let status = match timeout(ENDING, child.wait()).await {
        Ok(Ok(status)) => format!(" ({status})"),
        Ok(Err(_)) | Err(_) => String::new(),
    };
    // A master connection that ssh left behind may keep its standard error open.
    let _all_heard = timeout(ENDING, &mut words.listening).await;
    let last = String::from_utf8_lossy(&lock(&words.last)).lines().map(printable).rfind(|line| !line.is_empty());
    match (error, last) {
        (WireError::Ended, None) => format!("ssh ended{status} without a word"),
        (WireError::Ended, Some(words)) => format!("ssh: {}", words.trim_start_matches("ssh: ")),
        // What the other end said is not lost behind what ssh says of the end.
        (WireError::NoAgent(_), Some(words)) => format!("{}; ssh: {}", chain(error), words.trim_start_matches("ssh: ")),
        (_, _) => chain(error),
    }
}

fn printable(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(300).collect()
}
