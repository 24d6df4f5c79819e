//! What fits on a node: the memory that its instances may take together, and the disk that a new one needs.

use std::collections::BTreeMap;

use super::ports::machine;
use crate::model::desired::{Desired, WithoutRoom};
use crate::model::live::{Live, Member, MemberFacts, NodeFacts};
use crate::model::name::NodeName;
use crate::model::plan::{HeldReason, Note, Resource};
use crate::model::spec::InstanceSpec;

/// While a snapshot or an AOF is written, the old one is there as well (facts E.5: room for two RDBs).
const COPIES_ON_DISK: u64 = 2;

/// The memory of all machines and what is declared there, kept up while it is decided what comes to it.
#[derive(Debug)]
pub(super) struct Room<'a> {
    desired: &'a Desired,
    /// By the node that stands for the machine; nothing stands for this one, which all local nodes share.
    machines: BTreeMap<Option<NodeName>, Memory<'a>>,
    disks: BTreeMap<NodeName, Disk>,
}

/// What comes to a node's disk, and how much is free there now.
#[derive(Debug)]
struct Disk {
    coming_bytes: u64,
    free_bytes: u64,
}

#[derive(Debug)]
struct Memory<'a> {
    /// For people: the first node of the machine.
    node: &'a NodeName,
    total_bytes: Option<u64>,
    /// What nothing has taken yet. It differs from look to look, so it decides nothing, and is told only where it is too little.
    available_bytes: Option<u64>,
    /// The sum of `maxmemory` of all members there, whoever's they are.
    declared_bytes: u64,
    /// By how much this plan lets that sum grow.
    coming_bytes: u64,
}

impl<'a> Room<'a> {
    pub(super) fn new(desired: &'a Desired, live: &'a Live) -> Self {
        let mut machines = BTreeMap::new();
        for (node, facts) in live.seen_nodes() {
            let place = machines.entry(machine(desired, node).cloned()).or_insert_with(|| Memory {
                node,
                total_bytes: facts.capacity.memory_total_bytes,
                available_bytes: facts.capacity.memory_available_bytes,
                declared_bytes: 0,
                coming_bytes: 0,
            });
            let members = facts.members.values().filter_map(|member| match &**member {
                Member::Marked(member) => Some(of_member(member)),
                Member::Unmarked { .. } => None,
            });
            place.declared_bytes = members.fold(place.declared_bytes, u64::saturating_add);
        }
        Self { desired, machines, disks: BTreeMap::new() }
    }

    /// Enters a new member of this size. `data_bytes`: what it receives from another one, as far as that is known.
    ///
    /// # Errors
    /// When there is no room for it.
    pub(super) fn enter(
        &mut self,
        node: &NodeName,
        facts: &NodeFacts,
        spec: &InstanceSpec,
        persists: bool,
        data_bytes: u64,
    ) -> Result<(), HeldReason> {
        let size = max_memory(spec);
        // Who keeps nothing still receives its data as a file.
        let needed_bytes = if persists { size.max(data_bytes).saturating_mul(COPIES_ON_DISK) } else { data_bytes };
        self.check_disk(node, facts, needed_bytes)?;
        self.resize(node, 0, size)?;
        if let Some(free_bytes) = facts.capacity.disk_free_bytes {
            let disk = self.disks.entry(node.clone()).or_insert(Disk { coming_bytes: 0, free_bytes });
            disk.coming_bytes = disk.coming_bytes.saturating_add(needed_bytes);
        }
        Ok(())
    }

    /// Is there room on disk for so much more, beside what comes there anyway?
    ///
    /// # Errors
    /// When there is not.
    pub(super) fn check_disk(&self, node: &NodeName, facts: &NodeFacts, more_bytes: u64) -> Result<(), HeldReason> {
        let coming = self.disks.get(node).map_or(0, |disk| disk.coming_bytes);
        let needed_bytes = coming.saturating_add(more_bytes);
        match (facts.capacity.disk_free_bytes, self.desired.guard.without_room) {
            (Some(there_bytes), WithoutRoom::Hold) if there_bytes < needed_bytes => {
                Err(HeldReason::NoRoom { node: node.clone(), resource: Resource::Disk, needed_bytes, there_bytes })
            }
            (Some(_) | None, WithoutRoom::Hold | WithoutRoom::Warn) => Ok(()),
        }
    }

    /// Enters that a member changes from one size to another.
    ///
    /// # Errors
    /// When it grows and there is no room for that.
    pub(super) fn change(&mut self, node: &NodeName, member: &MemberFacts, spec: &InstanceSpec) -> Result<(), HeldReason> {
        self.resize(node, of_member(member), max_memory(spec))
    }

    fn resize(&mut self, node: &NodeName, before: u64, after: u64) -> Result<(), HeldReason> {
        let Some(place) = self.machines.get_mut(&machine(self.desired, node).cloned()) else { return Ok(()) };
        let needed_bytes = place.declared_bytes.saturating_sub(before).saturating_add(after);
        let short = place.total_bytes.filter(|total| after > before && needed_bytes > *total);
        match (short, self.desired.guard.without_room) {
            (Some(there_bytes), WithoutRoom::Hold) => {
                Err(HeldReason::NoRoom { node: node.clone(), resource: Resource::Memory, needed_bytes, there_bytes })
            }
            (Some(_), WithoutRoom::Warn) | (None, _) => {
                place.declared_bytes = needed_bytes;
                place.coming_bytes = place.coming_bytes.saturating_add(after.saturating_sub(before));
                Ok(())
            }
        }
    }

    /// The machines of which more is declared than they have, or to which more comes than they have left, and the disks to
    /// which more comes than is free.
    pub(super) fn notes(self) -> impl Iterator<Item = Note> {
        let memory = self.machines.into_values().filter_map(Memory::note);
        let disks = self.disks.into_iter().filter(|(_, disk)| disk.coming_bytes > disk.free_bytes);
        let disks = disks.map(|(node, Disk { coming_bytes, free_bytes })| Note::DiskShort { node, coming_bytes, free_bytes });
        memory.chain(disks)
    }
}

impl Memory<'_> {
    /// One at most: of a machine that is too small anyway, it says nothing new that it is full.
    fn note(self) -> Option<Note> {
        let Self { node, total_bytes, available_bytes, declared_bytes, coming_bytes } = self;
        let node = node.clone();
        if let Some(total_bytes) = total_bytes.filter(|total| declared_bytes > *total) {
            return Some(Note::MemoryShort { node, declared_bytes, total_bytes });
        }
        let available_bytes = available_bytes.filter(|available| coming_bytes > *available)?;
        Some(Note::MemoryTaken { node, coming_bytes, available_bytes })
    }
}

/// What a member is set to, as its file says, or, where that cannot be read, as it runs.
fn of_member(member: &MemberFacts) -> u64 {
    member.spec.disk.seen().or(member.spec.memory.seen()).map_or(0, max_memory)
}

/// Nothing is said of an instance without a limit: how large it gets is not known.
fn max_memory(spec: &InstanceSpec) -> u64 {
    spec.get("maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}
