//! A node behind ssh: a connection that is kept open, and made anew when it ends, with a growing delay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Look;
use super::connection::Connection;
use super::known::Known;
use crate::host::clock::Stopwatch;
use crate::host::held::lock;
use crate::host::ssh::{Destination, Remote};
use crate::host::tell::Tell;
use crate::model::name::{FleetName, InstanceName};
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::model::role::{Endpoint, Replication};
use crate::model::snapshot::SnapshotId;
use crate::wire::{Chunk, Reply, Request, Turn};

/// For connecting, from starting `ssh` to the agent's greeting.
const CONNECT: Duration = Duration::from_secs(15);
/// For a look at a whole node; the agent's own limits are shorter.
const LOOK: Duration = Duration::from_secs(10);
/// For a step: a little more than the node itself takes at most, and less than the schedule waits.
const STEP: Duration = Duration::from_secs(34);
/// For all else.
const SHORT: Duration = Duration::from_secs(5);
/// Why a way is closed. Characters.
const WHY_CHARS_MAX: usize = 200;
/// How long a look waits for a node that was unseen before: it must not delay the others, and the next look will see.
const RETURNING: Duration = Duration::from_millis(500);
/// The pause before the second try to connect; it doubles with each further one.
const DELAY_FIRST: Duration = Duration::from_secs(1);
const DELAY_LAST: Duration = Duration::from_secs(60);
/// Connections that are made at the same time: each is a process with its key exchange.
const CONNECTING_MAX: usize = 32;

/// How often in a row an agent may say that one and the same step is done, when its next look shows that it is not.
const CLAIMS_MAX: u32 = 3;
/// What is due again after a longer while than that was undone by somebody. The daemon looks at once when something was done.
const IN_A_ROW: Duration = Duration::from_secs(10);

const NO_RIGHT: &str = "the right to act on the node was not taken";

static CONNECTING: Semaphore = Semaphore::const_new(CONNECTING_MAX);

/// An attempt to connect, for all who wait for it.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Connection>, String>>>;

/// A node behind ssh.
#[derive(Debug)]
pub struct Session {
    destination: Destination,
    state: Mutex<State>,
    /// Who has the right to act here, if it was asked for: a new connection has to ask again.
    holder: Mutex<Option<String>>,
    /// In whose name an agent was once given it, over this session.
    held_as: Mutex<Option<String>>,
    /// The connection over which it is held: that agent keeps it as long as this lasts, and need not be asked again.
    right: Mutex<Weak<Connection>>,
    claims: Claims,
    /// What the agent need not send again.
    known: Mutex<Known>,
    /// A look that is under way, which those who did not wait for it left behind.
    looking: Mutex<Option<Looking>>,
    /// How long the last look took that came to an end.
    usual: Mutex<Duration>,
}

/// A look, for all who wait for it.
type Looking = Shared<BoxFuture<'static, Result<Look, String>>>;

#[derive(Debug)]
enum State {
    Fresh,
    Connecting {
        attempt: Attempt,
        /// What is said until it succeeds, if the node was unseen before, and the pause if it does not.
        before: Option<Trouble>,
    },
    Up {
        connection: Arc<Connection>,
        /// The trouble that it came after, until it is of use: an agent that hangs at every look is not made anew as often.
        before: Option<Trouble>,
    },
    Down(Trouble),
}

/// Why there is no connection, and when the next try is due.
#[derive(Debug, Clone)]
struct Trouble {
    why: String,
    since: Stopwatch,
    pause: Duration,
}

impl Session {
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            state: Mutex::new(State::Fresh),
            holder: Mutex::default(),
            held_as: Mutex::default(),
            right: Mutex::default(),
            claims: Claims::default(),
            known: Mutex::default(),
            looking: Mutex::default(),
            usual: Mutex::default(),
        }
    }

    /// Looks at everything there, and waits for it no longer than this, or than is usual there: a node that hangs must not
    /// hold up the others. The look goes on meanwhile, and is not begun a second time.
    ///
    /// # Errors
    /// Why the node cannot be seen.
    pub async fn glance(self: &Arc<Self>, patience: Duration) -> Result<Look, String> {
        let patience = patience.max(*lock(&self.usual) * 2);
        let looking = {
            let mut looking = lock(&self.looking);
            match looking.take().filter(|looking| looking.peek().is_none()) {
                Some(under_way) => looking.insert(under_way).clone(),
                None => looking.insert(Arc::clone(self).begin_look()).clone(),
            }
        };
        let late = || format!("it has not answered for {:.0} s; the others do not wait for it", patience.as_secs_f64());
        timeout(patience, looking).await.unwrap_or_else(|_elapsed| Err(late()))
    }

    fn begin_look(self: Arc<Self>) -> Looking {
        let work = tokio::spawn(async move {
            let watch = Stopwatch::start();
            let seen = self.look().await;
            *lock(&self.usual) = watch.elapsed();
            seen
        });
        work.map(|end| end.unwrap_or_else(|error| Err(error.to_string()))).boxed().shared()
    }

    /// Looks at everything there. Whoever has the right to act sees only what nobody else is about to change: a connection that
    /// broke leaves an agent behind that finishes what it began, and keeps the right until then.
    ///
    /// # Errors
    /// Why the node cannot be seen.
    pub async fn look(&self) -> Result<Look, String> {
        let connection = self.connection().await?;
        let acts = lock(&self.held_as).is_some();
        if acts && lock(&self.holder).is_some() {
            self.regain_right().await?;
        }
        let known = lock(&self.known).clone();
        match connection.ask(known.request(), LOOK, &Tell::nobody()).await {
            Ok(Reply::Observed { facts, binary, same }) => {
                let (look, known) = known.whole(*facts, binary.map(Arc::from), same)?;
                *lock(&self.known) = known;
                lock(&self.state).was_of_use();
                Ok(look)
            }
            Ok(Reply::Unseen(why)) => Err(why),
            Ok(other) => Err(self.lose(&connection, nonsense(&other))),
            // An agent that does not answer is as good as none: the next look begins with a new one.
            Err(why) => Err(self.lose(&connection, why)),
        }
    }

    /// Takes a step there. An agent that only says so does not keep us busy for ever.
    pub async fn perform(&self, step: &Step, fleet: Option<&FleetName>, tell: &Tell) -> Outcome {
        self.claims.judged(step, self.ask_for(step, fleet, tell).await)
    }

    /// Asks for the right to act again, if the connection is another one than the one that had it.
    async fn ask_for(&self, step: &Step, fleet: Option<&FleetName>, tell: &Tell) -> Outcome {
        let request = || Request::Perform { step: Box::new(step.clone()), fleet: fleet.cloned() };
        if let Some(outcome) = self.ask_once(request(), tell).await {
            return outcome;
        }
        match self.regain_right().await {
            Ok(()) => self.ask_once(request(), tell).await.unwrap_or_else(|| Outcome::Failed(NO_RIGHT.to_owned())),
            Err(why) => Outcome::Failed(why),
        }
    }

    /// An agent said that the right to act is not held: asks for it anew, if it ever was.
    async fn regain_right(&self) -> Result<(), String> {
        let holder = lock(&self.holder).clone().ok_or(NO_RIGHT)?;
        match self.acquire(&holder).await {
            Turn::Taken => Ok(()),
            Turn::Held(why) | Turn::Unable(why) => Err(why),
        }
    }

    /// Nothing: the agent says that the right to act is not held.
    async fn ask_once(&self, request: Request, tell: &Tell) -> Option<Outcome> {
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(why) => return Some(Outcome::NotReached(why)),
        };
        Some(match connection.ask(request, STEP, tell).await {
            Ok(Reply::Performed(outcome)) => outcome,
            Ok(Reply::NoRight) => {
                *lock(&self.right) = Weak::new();
                return None;
            }
            Ok(Reply::NotUnderstood(why)) => Outcome::Failed(why),
            Ok(other) => Outcome::NotReached(self.lose(&connection, nonsense(&other))),
            Err(why) => Outcome::NotReached(why),
        })
    }

    /// Asks for what needs the right to act, and once more for that right, if it is not held any more.
    async fn ask_with_right(&self, request: impl Fn() -> Request) -> Result<Reply, String> {
        let reply = self.connection().await?.ask(request(), STEP, &Tell::nobody()).await?;
        if !matches!(reply, Reply::NoRight) {
            return Ok(reply);
        }
        *lock(&self.right) = Weak::new();
        self.regain_right().await?;
        self.connection().await?.ask(request(), STEP, &Tell::nobody()).await
    }

    /// A piece of a snapshot of this instance's data there.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn piece(&self, instance: &InstanceName, id: &SnapshotId, from: u64) -> Result<Vec<u8>, String> {
        let request = || Request::Piece { instance: instance.clone(), snapshot: id.clone(), from };
        let reply = self.ask_with_right(request).await?;
        if let Reply::Piece(piece) = reply { piece.map(|Chunk(piece)| piece) } else { Err(nonsense(&reply)) }
    }

    /// How much of a snapshot has arrived there. Bytes.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub async fn arrived(&self, instance: &InstanceName, id: &SnapshotId) -> Result<u64, String> {
        self.count(|| Request::Arrived { instance: instance.clone(), snapshot: id.clone() }).await
    }

    /// Keeps a piece of a snapshot of `total` bytes there; gives how much there is now. Bytes.
    ///
    /// # Errors
    /// Why it is not kept.
    pub async fn store(
        &self,
        instance: &InstanceName,
        id: &SnapshotId,
        total: u64,
        from: u64,
        piece: Vec<u8>,
    ) -> Result<u64, String> {
        let piece = Chunk(piece);
        let request = || Request::Store { instance: instance.clone(), snapshot: id.clone(), total, from, piece: piece.clone() };
        self.count(request).await
    }

    async fn count(&self, request: impl Fn() -> Request) -> Result<u64, String> {
        let reply = self.ask_with_right(request).await?;
        if let Reply::Arrived(count) = reply { count } else { Err(nonsense(&reply)) }
    }

    /// How the replication of an instance's member stands there.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub async fn position(&self, instance: &InstanceName) -> Result<Replication, String> {
        let request = Request::Position { instance: instance.clone() };
        let reply = self.connection().await?.ask(request, SHORT, &Tell::nobody()).await?;
        if let Reply::Position(position) = reply { position } else { Err(nonsense(&reply)) }
    }

    /// Can a server be reached from there?
    ///
    /// # Errors
    /// Why not, or why that cannot be told.
    pub async fn try_way(&self, to: &Endpoint) -> Result<(), String> {
        let request = Request::TryWay { to: to.clone() };
        let reply = self.connection().await?.ask(request, SHORT, &Tell::nobody()).await?;
        // It stands in the plan, and an agent may say what it likes.
        let short = |why: String| why.chars().take(WHY_CHARS_MAX).collect();
        if let Reply::Tried(tried) = reply { tried.map_err(short) } else { Err(nonsense(&reply)) }
    }

    /// Asks for the right to act there.
    pub async fn acquire(&self, holder: &str) -> Turn {
        *lock(&self.holder) = Some(holder.to_owned());
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(why) => return Turn::Unable(why),
        };
        if Weak::ptr_eq(&lock(&self.right), &Arc::downgrade(&connection)) {
            return Turn::Taken;
        }
        match connection.ask(Request::Acquire { holder: holder.to_owned() }, SHORT, &Tell::nobody()).await {
            Ok(Reply::Turn(turn)) => self.judged(turn, holder, &connection),
            Ok(Reply::NotUnderstood(why)) => Turn::Unable(why),
            Ok(other) => Turn::Unable(self.lose(&connection, nonsense(&other))),
            Err(why) => Turn::Unable(self.lose(&connection, why)),
        }
    }

    /// An agent that hangs keeps the right that it was given, and its successor finds it taken by ourselves. That is the
    /// trouble of this node, and no reason to leave the others alone.
    fn judged(&self, turn: Turn, holder: &str, connection: &Arc<Connection>) -> Turn {
        let mut held_as = lock(&self.held_as);
        match turn {
            Turn::Taken => {
                *held_as = Some(holder.to_owned());
                *lock(&self.right) = Arc::downgrade(connection);
            }
            Turn::Held(why) if held_as.as_deref() == Some(holder) && why.ends_with(holder) => {
                return Turn::Unable(format!("an earlier agent of this daemon or command hangs there: {why}"));
            }
            Turn::Held(_) | Turn::Unable(_) => {}
        }
        turn
    }

    /// Gives the right to act back. The end of a connection does that as well.
    pub async fn release(&self) {
        *lock(&self.holder) = None;
        *lock(&self.right) = Weak::new();
        let connection = match &*lock(&self.state) {
            State::Up { connection, before: _ } => Arc::clone(connection),
            State::Fresh | State::Connecting { .. } | State::Down(_) => return,
        };
        if let Err(why) = connection.ask(Request::Release, SHORT, &Tell::nobody()).await {
            self.lose(&connection, why);
        }
    }

    /// Puts in place there what all instances share.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn prepare(&self) -> Result<(), String> {
        self.order(Request::Prepare).await
    }

    /// Removes all that is ours there, if no member stands there.
    ///
    /// # Errors
    /// Why something is left.
    pub async fn leave(&self, set_aside: bool) -> Result<(), String> {
        self.order(Request::Leave { set_aside }).await
    }

    async fn order(&self, request: Request) -> Result<(), String> {
        let reply = self.connection().await?.ask(request, STEP, &Tell::nobody()).await?;
        if let Reply::Done(done) = reply { done } else { Err(nonsense(&reply)) }
    }

    /// The connection, made now if there is none. After a failure it is made in the background, and not waited for long.
    async fn connection(&self) -> Result<Arc<Connection>, String> {
        let (attempt, before) = {
            let mut state = lock(&self.state);
            state.take_stock();
            match &*state {
                State::Up { connection, before: _ } => return Ok(Arc::clone(connection)),
                State::Down(trouble) if !trouble.is_over() => return Err(trouble.why.clone()),
                State::Connecting { attempt, before } => (attempt.clone(), before.clone()),
                State::Fresh => (state.begin(&self.destination, None), None),
                State::Down(trouble) => {
                    let before = Some(trouble.clone());
                    (state.begin(&self.destination, before.clone()), before)
                }
            }
        };
        let result = match &before {
            None => attempt.await,
            Some(trouble) => match timeout(RETURNING, attempt).await {
                Ok(result) => result,
                Err(_elapsed) => return Err(format!("{} (connecting again)", trouble.why)),
            },
        };
        lock(&self.state).take_stock();
        result
    }

    /// Ends a connection that is of no use. Gives the reason back.
    fn lose(&self, connection: &Arc<Connection>, why: String) -> String {
        let mut state = lock(&self.state);
        if let State::Up { connection: current, before } = &*state
            && Arc::ptr_eq(current, connection)
        {
            *state = State::Down(Trouble::next(why.clone(), before.as_ref()));
        }
        why
    }
}

impl State {
    /// Sees whether an attempt has ended, or a connection.
    fn take_stock(&mut self) {
        let next = match self {
            Self::Fresh | Self::Down(_) => return,
            Self::Connecting { attempt, before } => match attempt.peek() {
                None => return,
                Some(Ok(connection)) => Self::Up { connection: Arc::clone(connection), before: before.clone() },
                Some(Err(why)) => Self::Down(Trouble::next(why.clone(), before.as_ref())),
            },
            Self::Up { connection, before } => match (connection.end(), before) {
                (None, _) => return,
                // It worked until now: whatever ended it, such as a restart of sshd, may be over already.
                (Some(_), None) => Self::Fresh,
                (Some(why), Some(before)) => Self::Down(Trouble::next(why, Some(before))),
            },
        };
        *self = next;
    }

    fn was_of_use(&mut self) {
        if let Self::Up { connection: _, before } = self {
            *before = None;
        }
    }

    fn begin(&mut self, destination: &Destination, before: Option<Trouble>) -> Attempt {
        let work = tokio::spawn(connect(destination.clone()));
        let attempt = work.map(|end| end.unwrap_or_else(|error| Err(error.to_string()))).boxed().shared();
        *self = Self::Connecting { attempt: attempt.clone(), before };
        attempt
    }
}

impl Trouble {
    fn next(why: String, before: Option<&Self>) -> Self {
        let pause = before.map_or(DELAY_FIRST, |before| (before.pause * 2).min(DELAY_LAST));
        Self { why, since: Stopwatch::start(), pause }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.pause
    }
}

/// What an agent said last that it did, for each subject.
#[derive(Debug, Default)]
struct Claims(Mutex<BTreeMap<Subject, Claim>>);

#[derive(Debug)]
struct Claim {
    step: Step,
    times: u32,
    last: Stopwatch,
}

impl Claims {
    fn judged(&self, step: &Step, outcome: Outcome) -> Outcome {
        if !outcome.is_done() {
            return outcome;
        }
        let mut claims = lock(&self.0);
        let before = claims.get(&step.subject).filter(|claim| claim.last.elapsed() < IN_A_ROW && claim.step == *step);
        let times = before.map_or(0, |claim| claim.times).saturating_add(1);
        claims.insert(step.subject.clone(), Claim { step: step.clone(), times, last: Stopwatch::start() });
        if times <= CLAIMS_MAX {
            return outcome;
        }
        Outcome::NotKept(format!("the node said {times} times in a row that it is done, and then showed that it is not"))
    }
}

async fn connect(destination: Destination) -> Result<Arc<Connection>, String> {
    let _turn = CONNECTING.acquire().await.map_err(|error| error.to_string())?;
    let child = destination.start(Remote::Agent).map_err(|error| format!("ssh cannot be started: {error}"))?;
    Connection::to_child(child, CONNECT).await.map(Arc::new)
}

fn nonsense(reply: &Reply) -> String {
    match reply {
        Reply::NotUnderstood(why) => why.clone(),
        Reply::Observed { .. }
        | Reply::Unseen(_)
        | Reply::Turn(_)
        | Reply::Released
        | Reply::NoRight
        | Reply::Done(_)
        | Reply::Performed(_)
        | Reply::Position(_)
        | Reply::Tried(_)
        | Reply::Piece(_)
        | Reply::Arrived(_)
        | Reply::Progress(_) => "its agent answers something else than it is asked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_trouble_is_waited_for_twice_as_long() {
        let mut trouble = Trouble::next("gone".to_owned(), None);
        let mut pauses = vec![trouble.pause];
        for _ in 0..9 {
            trouble = Trouble::next("gone".to_owned(), Some(&trouble));
            pauses.push(trouble.pause);
        }
        assert_eq!(pauses[..3], [DELAY_FIRST, DELAY_FIRST * 2, DELAY_FIRST * 4]);
        assert_eq!(pauses.last(), Some(&DELAY_LAST));
    }
}
