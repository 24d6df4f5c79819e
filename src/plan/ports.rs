//! Which port an instance gets: the declared one, else the one it has, else the lowest free one of its shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::desired::{Desired, DesiredInstance, DesiredNode, Shard};
use crate::model::live::{Live, Member, MemberFacts, NodeFacts};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::HeldReason;
use crate::model::record::FleetRecord;
use crate::model::spec::InstanceSpec;

/// A machine, whose ports its nodes share: nothing stands for this one, where all local nodes are.
pub(super) type Machine<'a> = Option<&'a NodeName>;

pub(super) fn machine<'a>(desired: &Desired, node: &'a NodeName) -> Machine<'a> {
    let is_local = desired.nodes.get(node).is_some_and(DesiredNode::is_local);
    (!is_local).then_some(node)
}

/// The ports of all nodes; worked out only when a new port is needed.
#[derive(Debug)]
pub(super) struct Ports<'a> {
    desired: &'a Desired,
    live: &'a Live,
    record: &'a FleetRecord,
    /// The ports that nobody may be given any more.
    reserved: Option<BTreeMap<Machine<'a>, BTreeSet<u16>>>,
    /// Those that creations of this plan were given.
    given: BTreeSet<(Option<NodeName>, u16)>,
}

impl<'a> Ports<'a> {
    pub(super) fn new(desired: &'a Desired, live: &'a Live, record: &'a FleetRecord) -> Self {
        Self { desired, live, record, reserved: None, given: BTreeSet::new() }
    }

    /// The port of an instance that is to be made; `remembered`: those that it was given already.
    ///
    /// # Errors
    /// When the declared port is taken, or none is free.
    pub(super) fn for_new(
        &mut self,
        name: &InstanceName,
        wanted: &DesiredInstance,
        shard: &Shard,
        node: &NodeName,
        remembered: [Option<u16>; 2],
    ) -> Result<u16, HeldReason> {
        if let Some(port) = wanted.port {
            return if self.listening(node, port) { Err(self.taken(node, port, name)) } else { Ok(port) };
        }
        if let Some(port) = remembered.into_iter().flatten().find(|port| self.give(node, *port)) {
            return Ok(port);
        }
        let mut reserved = self.reserved.take().unwrap_or_else(|| reserved(self.desired, self.live, self.record));
        let taken = |node: &NodeName, port: u16| {
            self.listening(node, port) || reserved.get(&machine(self.desired, node)).is_some_and(|ports| ports.contains(&port))
        };
        let free = |port: &u16| !shard.nodes.iter().any(|node| taken(node, *port));
        let port = shard.ports.clone().find(free);
        let nodes = shard.nodes.iter().filter_map(|node| self.desired.nodes.get_key_value(node));
        for (node, _) in nodes {
            reserved.entry(machine(self.desired, node)).or_default().extend(port);
        }
        self.reserved = Some(reserved);
        port.ok_or_else(|| HeldReason::NoPortFree { ports: shard.ports.clone() })
    }

    /// The port of a further member: that of the others if it is free there, else another one.
    ///
    /// # Errors
    /// As [`Ports::for_new`].
    pub(super) fn for_fellow(
        &mut self,
        name: &InstanceName,
        wanted: &DesiredInstance,
        shard: &Shard,
        node: &NodeName,
        [seated, others]: [Option<u16>; 2],
    ) -> Result<u16, HeldReason> {
        let free =
            |port: &u16| !self.is_anothers(name, node, *port) && (shard.ports.contains(port) || wanted.port == Some(*port));
        self.for_new(name, wanted, shard, node, [seated, others.filter(free)])
    }

    /// Does another instance have it on this machine, whether that runs or not?
    fn is_anothers(&self, name: &InstanceName, node: &NodeName, port: u16) -> bool {
        let (desired, here) = (self.desired, machine(self.desired, node));
        let beside = |other: &NodeName| machine(desired, other) == here;
        let seated = self.record.roster.iter().filter(|(other, _)| *other != name);
        let declared = self.desired.instances.iter().filter(|(other, instance)| *other != name && instance.port == Some(port));
        let nodes = |instance: &DesiredInstance| desired.shards.get(&instance.shard).map_or(&[][..], |shard| &shard.nodes);
        seated
            .flat_map(|(_, seat)| seat.nodes.iter().map(|node| (node, seat.port_on(node))))
            .any(|(node, has)| has == port && beside(node))
            || declared.flat_map(|(_, instance)| nodes(instance)).any(beside)
    }

    /// A port was given to a member of this plan: none beside it gets it too.
    pub(super) fn enter(&mut self, node: &NodeName, port: u16) {
        self.given.insert((machine(self.desired, node).cloned(), port));
    }

    /// Gives a port out, unless something listens there or this plan gave it to another creation on the same machine.
    fn give(&mut self, node: &NodeName, port: u16) -> bool {
        !self.listening(node, port) && self.given.insert((machine(self.desired, node).cloned(), port))
    }

    /// The port of a member that stands: what is declared, else what it has.
    ///
    /// # Errors
    /// When the declared port is new to it and taken by somebody else.
    pub(super) fn for_member(
        &self,
        name: &InstanceName,
        wanted: &DesiredInstance,
        member: &MemberFacts,
        node: &NodeName,
    ) -> Result<Option<u16>, HeldReason> {
        let has = current(member);
        match wanted.port {
            Some(port) if has != Some(port) && self.listening(node, port) => Err(self.taken(node, port, name)),
            Some(port) => Ok(Some(port)),
            None => Ok(has),
        }
    }

    /// Why a port on which something listens cannot be given to an instance.
    pub(super) fn taken(&self, node: &NodeName, port: u16, name: &InstanceName) -> HeldReason {
        let has = |(other, member): (&InstanceName, &Arc<Member>)| match &**member {
            Member::Marked(member) if other != name && current(member) == Some(port) => Some(other.clone()),
            Member::Marked(_) | Member::Unmarked { .. } => None,
        };
        let own = |(_, facts): &(&NodeName, &NodeFacts)| facts.member(name).is_some_and(|member| current(member) == Some(port));
        if let Some((other, _)) = self.beside(node).find(|beside| beside.0 != node && own(beside)) {
            return HeldReason::PortShared { node: other.clone(), port };
        }
        let by = self.beside(node).find_map(|(_, facts)| facts.members.iter().find_map(has));
        HeldReason::PortTaken { node: node.clone(), port, by }
    }

    /// Does anything listen there?
    pub(super) fn listening(&self, node: &NodeName, port: u16) -> bool {
        self.beside(node).any(|(_, facts)| facts.ports_in_use.contains(&port))
    }

    /// The facts of this node and of those on the same machine, as far as they were seen.
    fn beside(&self, node: &'a NodeName) -> impl Iterator<Item = (&'a NodeName, &'a NodeFacts)> {
        let (desired, live, machine) = (self.desired, self.live, machine(self.desired, node));
        let own = machine.and_then(|node| Some((node, live.seen(node)?.0)));
        let is_local = move |node: &NodeName| desired.nodes.get(node).is_some_and(DesiredNode::is_local);
        let local = live.seen_nodes().filter(move |(node, _)| machine.is_none() && is_local(node));
        own.into_iter().chain(local)
    }
}

/// What the marker says comes first: a config file can be edited, and the port has to stay.
pub(super) fn current(member: &MemberFacts) -> Option<u16> {
    let applied = member.marker.applied.settings.get("port").and_then(|port| port.parse().ok());
    applied.or_else(|| member.spec.disk.seen().and_then(InstanceSpec::port))
}

fn reserved<'a>(desired: &'a Desired, live: &'a Live, record: &'a FleetRecord) -> BTreeMap<Machine<'a>, BTreeSet<u16>> {
    let mut reserved: BTreeMap<Machine<'_>, BTreeSet<u16>> = BTreeMap::new();
    for instance in desired.instances.values() {
        let nodes = desired.shards.get(&instance.shard).map_or(&[][..], |shard| &shard.nodes);
        for (node, port) in nodes.iter().zip(std::iter::repeat(instance.port)) {
            reserved.entry(machine(desired, node)).or_default().extend(port);
        }
    }
    for (node, facts) in live.seen_nodes() {
        let members = facts.members.values().filter_map(|member| match &**member {
            Member::Marked(member) => current(member),
            Member::Unmarked { .. } => None,
        });
        reserved.entry(machine(desired, node)).or_default().extend(members);
    }
    for seat in record.roster.values() {
        for node in &seat.nodes {
            reserved.entry(machine(desired, node)).or_default().insert(seat.port_on(node));
        }
    }
    reserved
}
