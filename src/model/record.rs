//! What the fleet remembers on its nodes: a small record, a copy on every node; the newest generation counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::name::{FleetName, InstanceName, NodeName};
use super::password::Fingerprint;

/// The memory of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRecord {
    pub fleet: FleetName,
    /// Grows with every change of the record.
    pub generation: u64,
    /// Where each instance was placed, entered before it is made.
    #[serde(default)]
    pub roster: BTreeMap<InstanceName, Seat>,
    /// Revisions that a person let pass the guard.
    #[serde(default)]
    pub approvals: BTreeSet<String>,
}

/// The place of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    pub uid: String,
    pub nodes: Vec<NodeName>,
    /// The port it was given: it keeps it, also when its creation is taken up again after a crash.
    pub port: u16,
}

impl FleetRecord {
    pub fn new(fleet: FleetName) -> Self {
        Self { fleet, generation: 0, roster: BTreeMap::new(), approvals: BTreeSet::new() }
    }

    /// The uid of an incarnation that enters the roster now. Generations never come back, so neither does a uid.
    pub fn next_uid(&self, instance: &InstanceName) -> String {
        let seed = format!("{}\0{instance}\0{}", self.fleet, self.generation + 1);
        Fingerprint::of(seed.as_bytes()).to_string()
    }
}
