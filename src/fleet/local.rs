//! A node in this process: looked at and acted on by calling functions. What the agent does for a controller elsewhere.

#![expect(clippy::disallowed_methods, reason = "which server this process may start is read from its environment here")]

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::Look;
use crate::apply::node as node_as_a_whole;
use crate::apply::perform::Performer;
use crate::apply::set_aside;
use crate::apply::snapshot;
use crate::host::clock::{Deadline, Poll};
use crate::host::layout::Layout;
use crate::host::lock::{self, Guard, LockError};
use crate::host::tell::Tell;
use crate::host::{files, held, way};
use crate::model::live::Server;
use crate::model::name::{FleetName, InstanceName};
use crate::model::outcome::Outcome;
use crate::model::plan::Step;
use crate::model::role::{Endpoint, Replication};
use crate::model::snapshot::SnapshotId;
use crate::observe::{Limits, LocalNode, Surroundings, chain, node};
use crate::wire::Turn;

/// How long the right to act is asked for.
const HOLDER_STAYS: Duration = Duration::from_secs(1);

impl Surroundings {
    /// From the environment: `VALKEY_SERVER`, or `valkey-server` on `PATH`. The one place of the node side that reads it.
    pub fn of_this_process(limits: Limits) -> Self {
        let named = env::var_os("VALKEY_SERVER").filter(|name| !name.is_empty()).map(PathBuf::from);
        // Servers are started from their own folders, so a relative path would mean something else there.
        let server = named.or_else(|| find_on_path("valkey-server")).map(|path| std::path::absolute(&path).unwrap_or(path));
        Self { server, scratch: env::temp_dir(), limits }
    }
}

fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// A node in this process, and the right to act on it.
#[derive(Debug)]
pub struct Local {
    performer: Performer,
    right: Mutex<Right>,
}

/// The right to act on the node.
#[derive(Debug)]
enum Right {
    Missing,
    /// It could not be taken, though nobody has it: why.
    Unable(String),
    Taken {
        _guard: Guard,
    },
}

impl Local {
    pub fn new(node: LocalNode) -> Self {
        Self { performer: Performer::new(Arc::new(node)), right: Mutex::new(Right::Missing) }
    }

    /// The real path of its folder.
    pub fn root(&self) -> &Path {
        self.performer.node().layout.root()
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// Why the node as a whole cannot be seen.
    pub async fn look(&self) -> Result<Look, String> {
        let seen = node::look(self.performer.node()).await;
        seen.map(|(facts, binary)| Look { facts, binary: binary.facts }).map_err(|error| chain(&error))
    }

    /// Takes a step, if the right to act is held.
    pub async fn perform(&self, step: &Step, fleet: Option<&FleetName>, tell: &Tell) -> Outcome {
        match self.may_act() {
            // In a box: the futures of a step are nested deep, and whoever waits for many of them nests on.
            Ok(()) => Box::pin(self.performer.perform(step, fleet, tell)).await,
            Err(why) => Outcome::Failed(why),
        }
    }

    fn may_act(&self) -> Result<(), String> {
        match &*self.right() {
            Right::Taken { .. } => Ok(()),
            Right::Missing => Err("the right to act on the node was not taken".to_owned()),
            Right::Unable(why) => Err(why.clone()),
        }
    }

    /// A piece of a snapshot of this instance's data, if the right to act is held.
    ///
    /// # Errors
    /// As [`snapshot::piece`].
    pub async fn piece(&self, name: &InstanceName, id: &SnapshotId, from: u64) -> Result<Vec<u8>, String> {
        self.may_act()?;
        snapshot::piece(self.performer.node(), name, id, from).await
    }

    /// How much of a snapshot has arrived here. Bytes.
    ///
    /// # Errors
    /// As [`snapshot::arrived`].
    pub async fn arrived(&self, name: &InstanceName, id: &SnapshotId) -> Result<u64, String> {
        self.may_act()?;
        snapshot::arrived(self.performer.node(), name, id).await
    }

    /// Keeps a piece of a snapshot of `total` bytes; gives how much there is now. Bytes.
    ///
    /// # Errors
    /// As [`snapshot::store`].
    pub async fn store(
        &self,
        name: &InstanceName,
        id: &SnapshotId,
        total: u64,
        from: u64,
        piece: Vec<u8>,
    ) -> Result<u64, String> {
        self.may_act()?;
        snapshot::store(self.performer.node(), name, id, total, from, piece).await
    }

    /// How the replication of this instance's member stands.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub async fn position(&self, name: &InstanceName) -> Result<Replication, String> {
        let node = self.performer.node();
        let binary = node.binary().await.map_err(|error| chain(&error))?;
        let found = node::look_at(node, Some(name), &binary).await.map_err(|error| chain(&error))?;
        match found.member(name).map(|member| &member.server) {
            Some(Server::Up(running)) => Ok(running.replication.clone()),
            Some(other) => Err(format!("its server is {}", other.word())),
            None => Err("it is not there".to_owned()),
        }
    }

    /// Can a server there be reached from this machine?
    ///
    /// # Errors
    /// Why not.
    pub async fn try_way(&self, to: &Endpoint) -> Result<(), String> {
        match to.socket() {
            Some(socket) => way::try_way(socket).await,
            None => Err(format!("{to} is no address")),
        }
    }

    /// Asks for the right to act. A node that cannot be written to holds up only itself: every step on it says why.
    pub async fn acquire(&self, holder: &str) -> Turn {
        if self.has_right() {
            return Turn::Taken;
        }
        let (right, turn) = match take(&self.performer.node().layout, holder).await {
            Ok(guard) => (Right::Taken { _guard: guard }, Turn::Taken),
            Err(error @ LockError::Held(_)) => (Right::Missing, Turn::Held(chain(&error))),
            Err(LockError::File(error)) => (Right::Unable(error.to_string()), Turn::Unable(error.to_string())),
        };
        *self.right() = right;
        turn
    }

    /// Puts in place what all members of the node share.
    ///
    /// # Errors
    /// What cannot be written.
    pub async fn prepare(&self) -> Result<(), String> {
        node_as_a_whole::prepare(self.performer.node()).await
    }

    /// Removes all that is ours from the node; nobody may act on it meanwhile.
    ///
    /// # Errors
    /// Why something has to stay.
    pub async fn leave(&self, set_aside: bool) -> Result<(), String> {
        match self.acquire("valkeeper node remove").await {
            Turn::Held(why) | Turn::Unable(why) => return Err(why),
            Turn::Taken => {}
        }
        let left = node_as_a_whole::leave(self.performer.node(), set_aside).await;
        self.release();
        left
    }

    pub fn has_right(&self) -> bool {
        matches!(&*self.right(), Right::Taken { .. })
    }

    /// Gives the right to act back.
    pub fn release(&self) {
        *self.right() = Right::Missing;
    }

    fn right(&self) -> MutexGuard<'_, Right> {
        held::lock(&self.right)
    }
}

/// For a moment after a process was killed, a child that it was about to start may still hold the lock; so a holder is
/// believed only when it stays.
async fn take(layout: &Layout, holder: &str) -> Result<Guard, LockError> {
    files::make_folder(layout.root())?;
    let (end, mut poll) = (Deadline::after(HOLDER_STAYS), Poll::default());
    loop {
        match lock::acquire(&layout.lock(), holder) {
            Err(LockError::Held(_)) if poll.again(end).await => {}
            Err(error) => return Err(error),
            Ok(guard) => {
                set_aside::sweep(layout);
                return Ok(guard);
            }
        }
    }
}
