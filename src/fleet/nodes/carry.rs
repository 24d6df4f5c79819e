//! A snapshot on its way from one node to another, through the controller: a piece is read while the one before it is written,
//! so that never more than two are in memory. What has arrived is the target's to say, so any attempt goes on from there.
//!
//! Never takes more at once, or goes further, than the snapshot is long, whatever a node says.

use std::time::Duration;

use super::{Nodes, Reach};
use crate::host::clock::{Deadline, Stopwatch};
use crate::host::tell::Tell;
use crate::model::name::{InstanceName, NodeName};
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::model::size::show_size;
use crate::model::snapshot::{CHUNK_BYTES_MAX, Made, SnapshotId};

/// How long one step carries: it has to end before the schedule takes it for lost. The next look goes on.
const CARRYING: Duration = Duration::from_secs(20);
/// A target that is seeded needs the whole time of a step on its node, so that begins only soon after this step did.
const SEEDING_AFTER: Duration = Duration::from_secs(2);

pub(super) async fn perform(nodes: &Nodes, source: &NodeName, made: &Made, step: &Step, tell: &Tell) -> Outcome {
    let (Subject::Instance(name), Some(seed)) = (&step.subject, step.seed()) else {
        return Outcome::Failed("the fleet has no snapshot to carry".to_owned());
    };
    let watch = Stopwatch::start();
    let way = Way { nodes, name, source, target: &step.node, made };
    match way.carry(tell).await {
        Err(why) => Outcome::Failed(why),
        Ok(at) if at < made.bytes => {
            Outcome::Pending(format!("the snapshot to be carried ({} of {})", show_size(at), show_size(made.bytes)))
        }
        Ok(_) if watch.elapsed() > SEEDING_AFTER => Outcome::Pending("the new server to start with what was carried".to_owned()),
        Ok(_) => nodes.perform_there(&seed, tell).await,
    }
}

/// From where to where.
struct Way<'a> {
    nodes: &'a Nodes,
    name: &'a InstanceName,
    source: &'a NodeName,
    target: &'a NodeName,
    made: &'a Made,
}

impl Way<'_> {
    /// Carries until all is there or the time is over; gives how much is there. Bytes.
    async fn carry(&self, tell: &Tell) -> Result<u64, String> {
        let (end, watch) = (Deadline::after(CARRYING), Stopwatch::start());
        let total = self.made.bytes;
        let first = self.nodes.arrived(self.target, self.name, &self.made.id).await.map_err(|why| self.at(self.target, &why))?;
        if first > total {
            return Err(self.at(self.target, &format!("it says that {first} bytes arrived of {total}")));
        }
        let mut at = first;
        let mut piece = if at < total { self.read(at).await? } else { Vec::new() };
        while at < total && !end.is_over() {
            let after = at + piece.len() as u64;
            // The next one is read meanwhile.
            let next = async { if after < total && !end.is_over() { self.read(after).await } else { Ok(Vec::new()) } };
            let (written, next) = tokio::join!(self.write(at, piece), next);
            (at, piece) = (written?, next?);
            tell.say(progress(at, first, total, watch));
        }
        Ok(at)
    }

    async fn read(&self, from: u64) -> Result<Vec<u8>, String> {
        let piece = self.nodes.piece(self.source, self.name, &self.made.id, from).await;
        let piece = piece.map_err(|why| self.at(self.source, &why))?;
        let most = usize::try_from(self.made.bytes - from).unwrap_or(usize::MAX).min(CHUNK_BYTES_MAX);
        if (1..=most).contains(&piece.len()) {
            Ok(piece)
        } else {
            Err(self.at(self.source, &format!("it gives {} bytes at {from} of {}", piece.len(), self.made.bytes)))
        }
    }

    async fn write(&self, from: u64, piece: Vec<u8>) -> Result<u64, String> {
        let after = from + piece.len() as u64;
        let there = self.nodes.store(self.target, self.name, self.made, from, piece).await;
        match there.map_err(|why| self.at(self.target, &why))? {
            there if there == after => Ok(there),
            there => Err(self.at(self.target, &format!("it says that it has {there} bytes where {after} were sent"))),
        }
    }

    fn at(&self, node: &NodeName, why: &str) -> String {
        format!("node {node}: {why}")
    }
}

/// How far it is, how fast, and how long it will take. What follows moves from look to look says so too, but none comes while a
/// step is at work.
fn progress(at: u64, first: u64, total: u64, watch: Stopwatch) -> String {
    let rate = (at - first) as f64 / watch.elapsed().as_secs_f64().max(0.001);
    let left = (total - at) as f64 / rate.max(1.0);
    format!("carried {} of {} ({}/s, {left:.0} s left)", show_size(at), show_size(total), show_size(rate as u64))
}

impl Nodes {
    async fn piece(&self, node: &NodeName, instance: &InstanceName, id: &SnapshotId, from: u64) -> Result<Vec<u8>, String> {
        match self.reach(node)? {
            Reach::Here(local) => local.piece(instance, id, from).await,
            Reach::Ssh(session) => session.piece(instance, id, from).await,
        }
    }

    async fn arrived(&self, node: &NodeName, instance: &InstanceName, id: &SnapshotId) -> Result<u64, String> {
        match self.reach(node)? {
            Reach::Here(local) => local.arrived(instance, id).await,
            Reach::Ssh(session) => session.arrived(instance, id).await,
        }
    }

    async fn store(
        &self,
        node: &NodeName,
        instance: &InstanceName,
        made: &Made,
        from: u64,
        piece: Vec<u8>,
    ) -> Result<u64, String> {
        match self.reach(node)? {
            Reach::Here(local) => local.store(instance, &made.id, made.bytes, from, piece).await,
            Reach::Ssh(session) => session.store(instance, &made.id, made.bytes, from, piece).await,
        }
    }
}
