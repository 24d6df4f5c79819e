//! What the gauges are made of: the daemon's latest word of itself, and what is remembered per node and instance for as
//! long as the daemon speaks of them. Never reads a clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::daemon::status::{PassResult, PassStatus, Status};
use crate::model::name::{InstanceName, NodeName};

#[derive(Debug, Default)]
pub struct Snapshot {
    pub status: Option<Arc<Status>>,
    /// When the last pass ended that found everything settled, in seconds since 1970.
    pub last_settled: Option<f64>,
    /// In how many passes drift was found on an instance.
    pub drift_found: BTreeMap<InstanceName, u64>,
    /// How long the last look at a node took.
    pub observed: BTreeMap<NodeName, Duration>,
}

impl Snapshot {
    /// Takes in what the daemon says now, and forgets nodes and instances that it does not speak of any more.
    pub fn turn_to(&mut self, status: Arc<Status>) {
        let settled = |pass: &&PassStatus| pass.result == PassResult::Settled;
        if let Some(pass) = status.last_pass.as_ref().filter(settled) {
            self.last_settled = Some(end_of(pass));
        }
        self.drift_found.retain(|instance, _| status.instances.contains_key(instance));
        self.observed.retain(|node, _| status.nodes.contains_key(node));
        self.status = Some(status);
    }

    pub fn drift_found(&mut self, instance: &InstanceName) {
        let count = self.drift_found.entry(instance.clone()).or_default();
        *count = count.saturating_add(1);
    }
}

/// When a pass ended, in seconds since 1970.
pub fn end_of(pass: &PassStatus) -> f64 {
    seconds(pass.at) + pass.seconds
}

/// Seconds since 1970, to the millisecond.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay exact in an f64 for 285,000 years")]
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
