//! The nodes that are folders on this machine: looked at and acted on in this process.

#![expect(clippy::disallowed_methods, reason = "which server this process may start is read from its environment here")]

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use super::{Execute, Held, Observe};
use crate::apply::perform::Performer;
use crate::apply::set_aside;
use crate::host::clock::{Deadline, Poll, Stopwatch};
use crate::host::files;
use crate::host::layout::Layout;
use crate::host::lock::{self, Guard, LockError};
use crate::model::live::{Live, Observed};
use crate::model::name::{FleetName, NodeName};
use crate::model::outcome::Outcome;
use crate::model::plan::Step;
use crate::observe::{Limits, LocalNode, Surroundings, chain, node};

/// How long the right to act is asked for.
const HOLDER_STAYS: Duration = Duration::from_secs(1);

/// How a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A state folder on this machine.
    Folder(PathBuf),
    /// Not reached by this release: why.
    Beyond(String),
}

/// Where a node is, or why it cannot be used.
#[derive(Debug)]
enum Seat {
    Here(Performer),
    Unseen(String),
}

/// The right to act on each node, or why it could not be taken.
type Rights = BTreeMap<NodeName, Result<Guard, String>>;

/// All nodes of a fleet, of which those on this machine are seen.
#[derive(Debug)]
pub struct LocalFleet {
    seats: BTreeMap<NodeName, Seat>,
    fleet: Option<FleetName>,
    rights: Mutex<Rights>,
    /// How long the last look at each node took.
    looks: Mutex<BTreeMap<NodeName, Duration>>,
}

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

/// What a node behind ssh says for now.
pub fn ssh_is_not_offered(destination: &str) -> Place {
    Place::Beyond(format!("ssh nodes are not reached by this release: {destination} needs the agent, which comes next"))
}

impl LocalFleet {
    /// The fleet over these places. A folder that cannot be used makes its node unseen, not the fleet.
    pub fn new(places: &BTreeMap<NodeName, Place>, surroundings: &Surroundings) -> Self {
        let seat = |place: &Place| match place {
            Place::Folder(folder) => match LocalNode::new(folder, surroundings.clone()) {
                Ok(node) => Seat::Here(Performer::new(Arc::new(node))),
                Err(error) => Seat::Unseen(chain(&error)),
            },
            Place::Beyond(why) => Seat::Unseen(why.clone()),
        };
        let mut seats: BTreeMap<NodeName, Seat> = places.iter().map(|(name, place)| (name.clone(), seat(place))).collect();
        keep_apart(&mut seats);
        Self { seats, fleet: None, rights: Mutex::default(), looks: Mutex::default() }
    }

    /// Members of another fleet are then never touched, even if a plan said so.
    #[must_use]
    pub fn only(mut self, fleet: FleetName) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// Gives the right to act back on every node.
    pub fn release(&self) {
        self.rights().clear();
    }

    /// How long the last look at each node took, whether it was seen or not.
    pub fn look_times(&self) -> BTreeMap<NodeName, Duration> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rights(&self) -> MutexGuard<'_, Rights> {
        self.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn right_to_act(&self, node: &NodeName) -> Result<(), String> {
        match self.rights().get(node) {
            Some(Ok(_guard)) => Ok(()),
            Some(Err(why)) => Err(why.clone()),
            None => Err("the right to act on the node was not taken".to_owned()),
        }
    }
}

/// Two names for one folder would be two nodes that show the same and hold each other's lock: only the first is one.
fn keep_apart(seats: &mut BTreeMap<NodeName, Seat>) {
    let mut known: BTreeMap<PathBuf, NodeName> = BTreeMap::new();
    for (name, seat) in seats {
        let Seat::Here(performer) = &*seat else { continue };
        let root = performer.node().layout.root().to_owned();
        match known.get(&root) {
            Some(first) => {
                let why =
                    format!("its folder {} is that of node {first} too, by another path: give each its own", root.display());
                *seat = Seat::Unseen(why);
            }
            None => drop(known.insert(root, name.clone())),
        }
    }
}

impl Observe for LocalFleet {
    async fn observe(&self) -> Live {
        let looks = self.seats.iter().map(|(name, seat)| async move {
            let watch = Stopwatch::start();
            let seen = match seat {
                Seat::Here(performer) => node::look(performer.node()).await.map_err(|error| chain(&error)),
                Seat::Unseen(why) => Err(why.clone()),
            };
            (name.clone(), seen, watch.elapsed())
        });
        let mut live = Live::default();
        let mut times = BTreeMap::new();
        for (name, seen, took) in join_all(looks).await {
            times.insert(name.clone(), took);
            let node = match seen {
                Ok((facts, binary)) => {
                    live.binaries.insert(binary.id, binary.facts);
                    Observed::Seen(facts)
                }
                Err(unseen) => Observed::Unseen { unseen },
            };
            live.nodes.insert(name, node);
        }
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = times;
        live
    }
}

impl Execute for LocalFleet {
    async fn perform(&self, step: &Step) -> Outcome {
        let performer = match self.seats.get(&step.node) {
            Some(Seat::Here(performer)) => performer,
            Some(Seat::Unseen(why)) => return Outcome::NotReached(why.clone()),
            None => return Outcome::NotReached(format!("there is no node {}", step.node)),
        };
        match self.right_to_act(&step.node) {
            Ok(()) => performer.perform(step, self.fleet.as_ref()).await,
            Err(why) => Outcome::Failed(why),
        }
    }

    async fn acquire(&self, holder: &str) -> Result<(), Held> {
        let mut taken = BTreeMap::new();
        for (name, seat) in &self.seats {
            let Seat::Here(performer) = seat else { continue };
            if self.right_to_act(name).is_ok() {
                continue;
            }
            let layout = &performer.node().layout;
            let right = match take(layout, holder).await {
                Ok(guard) => Ok(guard),
                Err(error @ LockError::Held(_)) => return Err(Held { node: name.clone(), why: chain(&error) }),
                // A folder that cannot be written holds up only its own node: every step on it says why.
                Err(LockError::File(error)) => Err(error.to_string()),
            };
            taken.insert(name.clone(), right);
        }
        self.rights().extend(taken);
        Ok(())
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
