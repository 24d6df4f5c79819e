//! The nodes of a fleet, each where it is: folders on this machine, hosts behind ssh.

mod carry;
mod cut_over;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};

use super::local::Local;
use super::session::Session;
use super::{Execute, Held, Look, Observe};
use crate::host::clock::{Deadline, Stopwatch};
use crate::host::held::lock;
use crate::host::ssh::Ssh;
use crate::host::tell::Tell;
use crate::model::action::Action;
use crate::model::live::{BinaryId, Live, Observed};
use crate::model::name::{FleetName, InstanceName, NodeName};
use crate::model::outcome::Outcome;
use crate::model::path::{Path, Paths, Way};
use crate::model::plan::Step;
use crate::model::role::Replication;
use crate::model::snapshot::Shipping;
use crate::observe::{LocalNode, Surroundings, chain};
use crate::wire::Turn;

/// Ways that are tried side by side; an agent works on as many requests at once.
const WAYS_AT_ONCE: usize = 64;
/// For all of them together. One that is closed takes two seconds to find out.
const WAYS_LIMIT: Duration = Duration::from_secs(8);

/// How a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A state folder on this machine.
    Folder(PathBuf),
    /// A host behind ssh: the destination.
    Ssh(String),
    /// Not reached: why.
    Beyond(String),
}

/// Where a node is, or why it cannot be used.
#[derive(Debug, Clone)]
enum Seat {
    Here(Arc<Local>),
    Ssh(Arc<Session>),
    Unseen(String),
}

/// A node that can be asked.
enum Reach<'a> {
    Here(&'a Local),
    Ssh(&'a Session),
}

/// What it takes to reach nodes from this process.
#[derive(Debug, Clone)]
pub struct Means {
    pub surroundings: Surroundings,
    pub ssh: Ssh,
}

/// All nodes of a fleet.
#[derive(Debug)]
pub struct Nodes {
    seats: BTreeMap<NodeName, (Place, Seat)>,
    fleet: Option<FleetName>,
    /// How long a look waits for one node; nothing: as long as it may take.
    patience: Option<Duration>,
    /// How long the last look at each node took.
    looks: Mutex<BTreeMap<NodeName, Duration>>,
}

impl Nodes {
    /// The nodes at these places. One that cannot be used is unseen, and the others are not.
    pub fn new(places: &BTreeMap<NodeName, Place>, means: &Means) -> Self {
        Self::renewed(places, means, None)
    }

    /// The nodes at these places; those of `before` that are where they were keep their connections and rights.
    pub fn renewed(places: &BTreeMap<NodeName, Place>, means: &Means, before: Option<&Self>) -> Self {
        let kept = |name: &NodeName, place: &Place| {
            let (was, seat) = before?.seats.get(name)?;
            // Why a folder could not be used may have passed.
            (was == place && !matches!(seat, Seat::Unseen(_))).then(|| seat.clone())
        };
        let new = |place: &Place| match place {
            Place::Folder(folder) => match LocalNode::new(folder, means.surroundings.clone()) {
                Ok(node) => Seat::Here(Arc::new(Local::new(node))),
                Err(error) => Seat::Unseen(chain(&error)),
            },
            Place::Ssh(destination) => Seat::Ssh(Arc::new(Session::new(means.ssh.to(destination)))),
            Place::Beyond(why) => Seat::Unseen(why.clone()),
        };
        let seat = |(name, place): (&NodeName, &Place)| {
            let seat = kept(name, place).unwrap_or_else(|| new(place));
            (name.clone(), (place.clone(), seat))
        };
        let mut seats = places.iter().map(seat).collect();
        keep_apart(&mut seats);
        Self { seats, fleet: None, patience: None, looks: Mutex::default() }
    }

    /// Members of another fleet are then never touched, even if a plan said so.
    #[must_use]
    pub fn only(mut self, fleet: FleetName) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// A look then waits no longer for one node, for the sake of the others.
    #[must_use]
    pub fn waiting_at_most(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Gives the right to act back on every node.
    pub async fn release(&self) {
        let releases = self.seats.values().map(|(_, seat)| async {
            match seat {
                Seat::Here(local) => local.release(),
                Seat::Ssh(session) => session.release().await,
                Seat::Unseen(_) => {}
            }
        });
        join_all(releases).await;
    }

    /// How long the last look at each node took, whether it was seen or not.
    pub fn look_times(&self) -> BTreeMap<NodeName, Duration> {
        lock(&self.looks).clone()
    }
}

/// Two names for one folder would be two nodes that show the same and hold each other's lock: only the first is one.
fn keep_apart(seats: &mut BTreeMap<NodeName, (Place, Seat)>) {
    let mut known: BTreeMap<PathBuf, NodeName> = BTreeMap::new();
    for (name, (_, seat)) in seats {
        let Seat::Here(local) = &*seat else { continue };
        let root = local.root().to_owned();
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

impl Observe for Nodes {
    async fn observe(&self) -> Live {
        let looks = self.seats.iter().map(|(name, (_, seat))| async move {
            let watch = Stopwatch::start();
            let seen = match seat {
                Seat::Here(local) => local.look().await,
                Seat::Ssh(session) => match self.patience {
                    Some(patience) => session.glance(patience).await,
                    None => session.look().await,
                },
                Seat::Unseen(why) => Err(why.clone()),
            };
            (name.clone(), seen, watch.elapsed())
        });
        let mut live = Live::default();
        let mut times = BTreeMap::new();
        for (name, seen, took) in join_all(looks).await {
            times.insert(name.clone(), took);
            let node = match seen {
                Ok(Look { mut facts, binary }) => {
                    let same = live.binaries.get(&facts.binary).is_none_or(|known| *known == binary);
                    if !same {
                        // One node cannot say what the binary of another one knows.
                        facts.binary = BinaryId(format!("{}@{name}", facts.binary.0));
                    }
                    live.binaries.insert(facts.binary.clone(), binary);
                    Observed::Seen(facts)
                }
                Err(unseen) => Observed::Unseen { unseen },
            };
            live.nodes.insert(name, node);
        }
        *lock(&self.looks) = times;
        live
    }

    async fn try_ways(&self, ways: &BTreeSet<Way>) -> Paths {
        let tries = ways.clone().into_iter().map(|way| async move {
            let tried = match self.reach(&way.from) {
                Ok(Reach::Here(local)) => local.try_way(&way.to).await,
                Ok(Reach::Ssh(session)) => session.try_way(&way.to).await,
                Err(why) => Err(why),
            };
            (way, Path::from(tried))
        });
        let mut paths = Paths::default();
        let late = || Path::Closed { why: format!("it could not be tried within {WAYS_LIMIT:?}") };
        ways.iter().for_each(|way| paths.enter(way.clone(), late()));
        let end = Deadline::after(WAYS_LIMIT);
        let mut trying = stream::iter(tries).buffer_unordered(WAYS_AT_ONCE);
        while let Some(Some((way, path))) = end.bound(trying.next()).await {
            paths.enter(way, path);
        }
        paths
    }
}

impl Nodes {
    /// How the replication of an instance's member on this node stands.
    pub(super) async fn position(&self, node: &NodeName, instance: &InstanceName) -> Result<Replication, String> {
        match self.reach(node)? {
            Reach::Here(local) => local.position(instance).await,
            Reach::Ssh(session) => session.position(instance).await,
        }
    }

    /// Takes a step that concerns its own node only.
    pub(super) async fn perform_there(&self, step: &Step, tell: &Tell) -> Outcome {
        let fleet = self.fleet.as_ref();
        match self.reach(&step.node) {
            Ok(Reach::Here(local)) => local.perform(step, fleet, tell).await,
            Ok(Reach::Ssh(session)) => session.perform(step, fleet, tell).await,
            Err(why) => Outcome::NotReached(why),
        }
    }

    /// The node of this name, or why it cannot be used.
    fn reach(&self, node: &NodeName) -> Result<Reach<'_>, String> {
        match self.seats.get(node) {
            Some((_, Seat::Here(local))) => Ok(Reach::Here(local)),
            Some((_, Seat::Ssh(session))) => Ok(Reach::Ssh(session)),
            Some((_, Seat::Unseen(why))) => Err(why.clone()),
            None => Err(format!("there is no node {node}")),
        }
    }
}

impl Execute for Nodes {
    async fn perform(&self, step: &Step, tell: &Tell) -> Outcome {
        match &step.action {
            Action::CutOver(change) => Box::pin(cut_over::perform(self, change, step, tell)).await,
            Action::Ship(shipping) => match &**shipping {
                Shipping::Carry { source, made } => Box::pin(carry::perform(self, source, made, step, tell)).await,
                Shipping::Take { .. } | Shipping::Seed { .. } => self.perform_there(step, tell).await,
            },
            Action::WriteRecord(_)
            | Action::CreateInstance(_)
            | Action::StartInstance(_)
            | Action::ReopenInstance(_)
            | Action::UpgradeInstance(_)
            | Action::RepairUnit { .. }
            | Action::RepairCredential { .. }
            | Action::ChangeInstance(_)
            | Action::ChangeRole(_)
            | Action::SetUser(_)
            | Action::RemoveUser { .. }
            | Action::SaveUsers { .. }
            | Action::Mark(_)
            | Action::DeleteInstance { .. }
            | Action::Purge { .. }
            | Action::Restore { .. } => self.perform_there(step, tell).await,
        }
    }

    async fn acquire(&self, holder: &str) -> Result<(), Held> {
        let asks = self.seats.iter().map(|(name, (_, seat))| async move {
            let turn = match seat {
                Seat::Here(local) => local.acquire(holder).await,
                Seat::Ssh(session) => session.acquire(holder).await,
                Seat::Unseen(why) => Turn::Unable(why.clone()),
            };
            (name, turn)
        });
        for (name, turn) in join_all(asks).await {
            match turn {
                Turn::Held(why) => return Err(Held { node: name.clone(), why }),
                // It holds up only its own node: every step on it says why.
                Turn::Taken | Turn::Unable(_) => {}
            }
        }
        Ok(())
    }
}
