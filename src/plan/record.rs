//! What the fleet's record should say, and the steps that bring every seen copy to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Hand;
use super::identity;
use crate::model::action::Action;
use crate::model::change::Change;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, Step, Subject};
use crate::model::record::{FleetRecord, Seat};

/// The newest copy seen; a fresh record if there is none.
pub(super) fn newest(desired: &Desired, live: &Live) -> Arc<FleetRecord> {
    let copies = live.seen_nodes().filter_map(|(_, node)| node.records.get(&desired.fleet));
    copies.max_by_key(|record| record.generation).cloned().unwrap_or_else(|| FleetRecord::new(desired.fleet.clone()).into())
}

/// The roster as it will be: most instances keep their seat, so only the differences are held.
#[derive(Debug)]
pub(super) struct Roster<'a> {
    record: &'a FleetRecord,
    changes: BTreeMap<InstanceName, Option<Seat>>,
    /// Approvals that have served.
    served: BTreeSet<String>,
}

impl<'a> Roster<'a> {
    pub(super) fn new(record: &'a FleetRecord) -> Self {
        Self { record, changes: BTreeMap::new(), served: BTreeSet::new() }
    }

    /// Gives an instance that will be made a seat, and says its uid: the one it already has if a creation was begun. A
    /// uid in `used` was an earlier incarnation's, whose data is set aside.
    pub(super) fn enter(
        &mut self,
        instance: &InstanceName,
        seat: Option<&Seat>,
        node: &NodeName,
        port: u16,
        used: &[&str],
    ) -> String {
        let same = seat.filter(|seat| seat.nodes.iter().eq([node]) && !used.contains(&seat.uid.as_str()));
        let uid = same.map_or_else(|| self.record.next_uid(instance), |seat| seat.uid.clone());
        self.adopt(instance, seat, &uid, node, port);
        uid
    }

    /// The identity of an instance that will be made: the one that a creation was begun with, unless its data was set aside.
    pub(super) fn uid(&self, instance: &InstanceName, seat: Option<&Seat>, used: &[&str]) -> String {
        let same = seat.filter(|seat| !used.contains(&seat.uid.as_str()));
        same.map_or_else(|| self.record.next_uid(instance), |seat| seat.uid.clone())
    }

    /// Enters where all members of an instance are, and will be.
    pub(super) fn place(&mut self, instance: &InstanceName, before: Option<&Seat>, seat: Seat) {
        if before != Some(&seat) {
            self.changes.insert(instance.clone(), Some(seat));
        }
    }

    /// Enters an instance that stands on a node under this identity.
    pub(super) fn adopt(&mut self, instance: &InstanceName, seat: Option<&Seat>, uid: &str, node: &NodeName, port: u16) {
        let same = |seat: &Seat| seat.uid == uid && seat.port == port && seat.nodes.iter().eq([node]);
        if !seat.is_some_and(same) {
            let seat = Seat { uid: uid.to_owned(), nodes: vec![node.clone()], port, ports: BTreeMap::new() };
            self.changes.insert(instance.clone(), Some(seat));
        }
    }

    /// Strikes an instance that is known to be gone from all of its nodes.
    pub(super) fn strike(&mut self, instance: &InstanceName) {
        self.changes.insert(instance.clone(), None);
    }

    /// What was entered for an instance that is held after all.
    pub(super) fn forget(&mut self, instance: &InstanceName) {
        self.changes.remove(instance);
    }

    /// The revision is settled: its approval ends, so that the same text cannot delete again later. A person approves only
    /// what is read and applies it, so what was approved before is past; for a daemon commits that are yet to come may be
    /// approved already.
    pub(super) fn settled(&mut self, revision: &str, hand: Hand) {
        let served = |approved: &&String| hand == Hand::Person || *approved == revision;
        self.served = self.record.approvals.iter().filter(served).cloned().collect();
    }

    /// The record with all changes, if there are any. It remembers which machine each node of a seat is.
    pub(super) fn finish(self, live: &Live) -> Option<FleetRecord> {
        if self.changes.is_empty() && self.served.is_empty() {
            return None;
        }
        let mut record = self.record.clone();
        record.approvals.retain(|revision| !self.served.contains(revision));
        record.grow();
        for (name, seat) in self.changes {
            match seat {
                Some(seat) => record.roster.insert(name, seat),
                None => record.roster.remove(&name),
            };
        }
        let seats = record.roster.values().flat_map(|seat| &seat.nodes).collect::<BTreeSet<_>>();
        record.machines.retain(|node, _| seats.contains(node));
        for node in seats {
            if let Some((facts, _)) = live.seen(node) {
                record.machines.entry(node.clone()).or_insert_with(|| facts.machine.clone());
            }
        }
        Some(record)
    }
}

/// One step for every seen node whose copy is not the wanted one.
pub(super) fn steps(newest: &Arc<FleetRecord>, changed: Option<FleetRecord>, live: &Live, desired: &Desired) -> Vec<Step> {
    let wanted = changed.map_or_else(|| newest.clone(), Arc::new);
    if wanted.generation == 0 {
        return Vec::new();
    }
    let step = |(name, before): (&NodeName, Option<Arc<FleetRecord>>)| {
        let change = Change::new(before, Some(wanted.clone()))?;
        Some(Step {
            subject: Subject::Fleet,
            node: name.clone(),
            action: Action::WriteRecord(change),
            cause: Cause::Bookkeeping,
            drifted: Default::default(),
            costs: Vec::new(),
        })
    };
    let copies = live.seen_nodes().filter(|(_, node)| node.records.get(&desired.fleet) != Some(&wanted));
    copies.map(|(name, node)| (name, node.records.get(&desired.fleet).cloned())).filter_map(step).collect()
}

/// The steps that let this revision pass the guard.
pub fn approve(desired: &Desired, live: &Live) -> Vec<Step> {
    amend(desired, live, |record| {
        record.approvals.insert(desired.revision.clone());
    })
}

/// The steps by which the fleet forgets a node that will never come back, with the instances that were on it alone.
pub fn forget(desired: &Desired, live: &Live, node: &NodeName) -> Vec<Step> {
    amend(desired, live, |record| {
        record.machines.remove(node);
        for seat in record.roster.values_mut() {
            seat.nodes.retain(|other| other != node);
        }
        record.roster.retain(|_, seat| !seat.nodes.is_empty());
    })
}

/// The steps that change what the fleet remembers, on every seen node; none if it is so already.
pub fn amend(desired: &Desired, live: &Live, change: impl FnOnce(&mut FleetRecord)) -> Vec<Step> {
    let live = &*identity::trusted(desired, live);
    let newest = newest(desired, live);
    let mut record = FleetRecord::clone(&newest);
    change(&mut record);
    if record == *newest {
        return Vec::new();
    }
    record.grow();
    steps(&newest, Some(record), live, desired)
}

/// What the fleet remembers, as far as it can be seen.
pub fn remembered(desired: &Desired, live: &Live) -> Arc<FleetRecord> {
    newest(desired, live)
}
