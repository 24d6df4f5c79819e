//! Where the fleet's record places a group: the nodes and ports of its members.

use std::collections::BTreeMap;

use super::{Group, Standing};
use crate::model::action::Action;
use crate::model::name::NodeName;
use crate::model::plan::Step;
use crate::model::record::Seat;
use crate::plan::{Decision, Scene};

impl<'a> Group<'a> {
    /// The nodes and ports of members that are to be made.
    pub(super) fn joining(&self, decision: &Decision) -> Vec<(NodeName, u16)> {
        let created = |step: &Step| {
            let Action::CreateInstance(creation) = &step.action else { return None };
            creation.spec.port().map(|port| (step.node.clone(), port))
        };
        decision.steps.iter().filter_map(created).collect()
    }

    /// Enters where it is and will be; what cannot be seen keeps its place.
    pub(super) fn seat(&self, scene: &mut Scene<'a>, added: &[(NodeName, u16)]) {
        let Some(first) = self.members.first() else { return };
        let uid = first.place.member.marker.uid.clone();
        let port = |member: &Standing<'_>| member.declared.port().map(|port| (member.place.node.clone(), port));
        let mut seats: Vec<(NodeName, u16)> = self.members.iter().filter_map(port).collect();
        seats.extend(added.iter().cloned());
        let main = self.seat.map(|seat| seat.port).or(first.declared.port()).unwrap_or_default();
        let seen = |node: &NodeName| seats.iter().any(|(other, _)| other == node);
        let unseen: Vec<(NodeName, u16)> = self
            .seat
            .iter()
            .flat_map(|seat| seat.nodes.iter().map(|node| (node.clone(), seat.port_on(node))))
            .filter(|(node, _)| self.unseen.contains(&node) && !seen(node))
            .collect();
        seats.extend(unseen);
        self.seat_as(scene, &uid, main, seats);
    }

    pub(super) fn seat_as(&self, scene: &mut Scene<'a>, uid: &str, port: u16, mut seats: Vec<(NodeName, u16)>) {
        let order = |node: &NodeName| self.shard.nodes.iter().position(|other| other == node).unwrap_or(usize::MAX);
        for (node, port) in &self.begun {
            if !seats.iter().any(|(other, _)| other == node) {
                seats.push((node.clone(), *port));
            }
        }
        seats.sort_by_key(|(node, _)| (order(node), node.clone()));
        let ports: BTreeMap<NodeName, u16> = seats.iter().filter(|(_, own)| *own != port).cloned().collect();
        let nodes = seats.into_iter().map(|(node, _)| node).collect();
        scene.roster.place(self.name, self.seat, Seat { uid: uid.to_owned(), nodes, port, ports });
    }
}
