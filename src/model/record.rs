//! What the fleet remembers on its nodes: a small record, a copy on every node; the newest generation counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::name::{FleetName, InstanceName, NodeName};
use super::password::Fingerprint;

/// The last generation: TOML has no larger number. No fleet gets there, but a node may say that it has.
pub const GENERATION_MAX: u64 = i64::MAX.unsigned_abs();

/// The memory of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRecord {
    pub fleet: FleetName,
    /// Grows with every change of the record.
    #[serde(deserialize_with = "generation")]
    pub generation: u64,
    /// Where each instance was placed, entered before it is made.
    #[serde(default)]
    pub roster: BTreeMap<InstanceName, Seat>,
    /// Which machine each node is that carries instances, so that another one that answers in its place is noticed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<NodeName, String>,
    /// Revisions that a person let pass the guard.
    #[serde(default)]
    pub approvals: BTreeSet<String>,
    /// The revision of the state repository that the nodes were last brought to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
    /// A revision that a person accepted although it does not follow the settled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    #[serde(default, skip_serializing_if = "Suspensions::is_empty")]
    pub suspended: Suspensions,
}

/// When all that a revision asks for was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    pub revision: String,
    pub at: Timestamp,
}

/// What the daemon leaves alone for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Suspensions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Suspension>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<InstanceName, Suspension>,
}

/// Who wants it left alone, why, and until when; it ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub by: String,
    pub reason: String,
    pub since: Timestamp,
    pub until: Timestamp,
}

impl Suspensions {
    pub fn is_empty(&self) -> bool {
        self.fleet.is_none() && self.instances.is_empty()
    }

    /// The suspension that holds this instance at this time: its own, or the fleet's.
    pub fn of(&self, instance: &InstanceName, now: Timestamp) -> Option<&Suspension> {
        let own = self.instances.get(instance).filter(|suspension| suspension.until > now);
        own.or_else(|| self.of_fleet(now))
    }

    pub fn of_fleet(&self, now: Timestamp) -> Option<&Suspension> {
        self.fleet.as_ref().filter(|suspension| suspension.until > now)
    }

    /// Forgets what has ended.
    pub fn tidy(&mut self, now: Timestamp) {
        self.fleet.take_if(|suspension| suspension.until <= now);
        self.instances.retain(|_, suspension| suspension.until > now);
    }
}

/// The place of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    pub uid: String,
    pub nodes: Vec<NodeName>,
    /// The port it was given: it keeps it, also when its creation is taken up again after a crash.
    pub port: u16,
    /// The ports of members that have another one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<NodeName, u16>,
}

impl Seat {
    /// The port of the member on this node.
    pub fn port_on(&self, node: &NodeName) -> u16 {
        self.ports.get(node).copied().unwrap_or(self.port)
    }
}

fn generation<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let generation = u64::deserialize(from)?;
    if generation < GENERATION_MAX {
        return Ok(generation);
    }
    Err(D::Error::custom(format!("the record's generation {generation} is beyond what a fleet can reach")))
}

impl FleetRecord {
    /// A change of the record is a new generation.
    pub fn grow(&mut self) {
        self.generation = (self.generation + 1).min(GENERATION_MAX - 1);
    }

    pub fn new(fleet: FleetName) -> Self {
        Self {
            fleet,
            generation: 0,
            roster: BTreeMap::new(),
            machines: BTreeMap::new(),
            approvals: BTreeSet::new(),
            settled: None,
            accepted: None,
            suspended: Suspensions::default(),
        }
    }

    /// The uid of an incarnation that enters the roster now. Generations never come back, so neither does a uid.
    pub fn next_uid(&self, instance: &InstanceName) -> String {
        let seed = format!("{}\0{instance}\0{}", self.fleet, self.generation + 1);
        Fingerprint::of(seed.as_bytes()).to_string()
    }
}
