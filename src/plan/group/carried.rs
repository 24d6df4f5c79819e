//! An instance whose data is carried to its shard as a snapshot: what its members need meanwhile, and the next part of the
//! move. The order of the parts is `plan/snapshot.rs`'s; what is around it is `group.rs`'s.

use super::{Decision, Group, Scene};
use crate::model::action::{Action, RoleStage};
use crate::model::change::{Change, Twin};
use crate::model::desired::MoveBy;
use crate::model::live::Server;
use crate::model::marker::Marker;
use crate::model::name::NodeName;
use crate::model::plan::{Cause, Cost, HeldReason};
use crate::model::role::Overlay;
use crate::model::snapshot::{Seed, Shipping};
use crate::plan::found::Place;
use crate::plan::migration::{self, Fellow, Stage, Turn};
use crate::plan::ports;
use crate::plan::preflight::{self, Target};
use crate::plan::snapshot::{self, Next};

impl<'a> Group<'a> {
    /// Tells apart who takes no part in replication.
    pub(super) fn part(&mut self) {
        let fellows = self.fellows();
        let apart = |fellow: &Fellow<'_>| fellow.member.marker.is_vessel() || snapshot::gave_away(&fellows, fellow);
        let apart: Vec<bool> = fellows.iter().map(apart).collect();
        self.members.iter_mut().zip(apart).for_each(|(member, apart)| member.is_apart = apart);
    }

    /// Was another member opened with the data of this one?
    pub(super) fn gave_away(&self, place: usize) -> bool {
        let fellows = self.fellows();
        fellows.get(place).is_some_and(|fellow| snapshot::gave_away(&fellows, fellow))
    }

    /// Decides about an instance whose data has to be carried; false: it is not.
    pub(super) fn carried(&mut self, scene: &mut Scene<'a>, decision: &mut Decision) -> bool {
        let fellows = self.fellows();
        let meddled = |fellow: &Fellow<'_>| migration::up(fellow.member).is_some_and(|up| up.replication.foreign_failover);
        let source = snapshot::source(&fellows, self.instance.move_by).filter(|_| !fellows.iter().any(meddled));
        self.source = source;
        let Some(source) = source else { return false };
        let Some(node) = self.instance.primary.as_ref().or(self.shard.nodes.first()) else { return true };
        self.hold_unseen(scene, decision, true);
        let next = self.carry(scene, decision, source, node);
        let added = self.joining(decision);
        self.seat(scene, &added);
        decision.moves.extend(self.carried_script(scene, decision, source, node, next.as_ref()));
        true
    }

    /// While the source takes writes, all members are brought up to date, and the new one is made; then come the parts of the
    /// move, one by one. Further members join the new one when it is open.
    /// Gives what comes next, if that could be told.
    fn carry(&mut self, scene: &mut Scene<'a>, decision: &mut Decision, source: usize, node: &NodeName) -> Option<Next> {
        let from = self.members.get(source)?;
        let (leader, uid) = (from.endpoint.clone(), from.place.member.marker.uid.clone());
        let port = ports::current(from.place.member);
        let is_open = migration::in_force(&from.fellow()) == Some(Overlay::OPEN);
        let target = self.members.iter().position(|member| member.place.node == node);
        let why_not = self.unfit(scene, source, target);
        if is_open {
            let turns = self.turns();
            for place in 0..self.members.len() {
                // An old primary steps down before this one is fenced: only one of them has everything.
                let fills = self.members.get(place).is_some_and(|member| member.place.node == node);
                if let Some(turn) = turns.iter().find(|turn| turn.of == place && place != source && !fills) {
                    self.take(decision, turn);
                    continue;
                }
                let why = "its data goes there first".to_owned();
                let busy = (place == source).then(|| HeldReason::Syncing { node: node.clone(), why });
                self.converge(scene, decision, place, Some((source, &leader)), busy);
            }
            match why_not.clone() {
                Some(reason) => decision.hold(self.name, "move the data", reason),
                None => self.make_vessel(scene, decision, source, (node, &uid, port)),
            }
        }
        if !decision.steps.is_empty() || !self.unseen.is_empty() {
            return None;
        }
        let fellows = self.fellows();
        let next = snapshot::next(&fellows, source, target, self.instance.move_by);
        drop(fellows);
        match why_not {
            Some(_) if is_open => {}
            // A snapshot that cannot be begun would keep the source closed for nothing.
            Some(reason) if matches!(next, Next::Take { .. }) && self.is_unwritten(source) => {
                decision.hold(self.name, "move the data", reason);
                self.take(decision, &Turn { of: source, stage: RoleStage::CallOff, after: Twin::both(Overlay::OPEN) });
            }
            Some(_) | None => self.take_part(scene, decision, source, target, &next),
        }
        Some(next)
    }

    /// Why the new member could not have the data, if it could not: better known before the source takes no more writes.
    fn unfit(&self, scene: &Scene<'_>, source: usize, target: Option<usize>) -> Option<HeldReason> {
        let from = self.members.get(source)?;
        if self.is_unwritten(source)
            && let Err(reason) = preflight::snapshot(scene, &from.place)
        {
            return Some(reason);
        }
        let to = self.members.get(target?)?;
        let (Place { node, binary, .. }, spec) = (to.place, to.place.member.spec.memory.seen()?);
        preflight::receive(&from.place, Target { node, binary, spec }).err()
    }

    /// Is no snapshot of it there, nor begun?
    fn is_unwritten(&self, source: usize) -> bool {
        self.members.get(source).is_some_and(|member| member.place.member.marker.snapshot.is_none())
    }

    /// Takes the next part of the move.
    fn take_part(&self, scene: &mut Scene<'a>, decision: &mut Decision, source: usize, target: Option<usize>, next: &Next) {
        let Some(from) = self.members.get(source) else { return };
        let is_open = migration::in_force(&from.fellow()) == Some(Overlay::OPEN);
        match (next, target) {
            (Next::Wait, _) if is_open => {}
            (Next::Wait, _) => (0..self.members.len()).for_each(|place| self.converge(scene, decision, place, None, None)),
            (Next::Turn(turn), _) => {
                self.take(decision, turn);
                if let (RoleStage::Fence, MoveBy::Snapshot, Some(step)) =
                    (turn.stage, self.instance.move_by, decision.steps.last_mut())
                {
                    step.costs.push(self.price(source));
                }
            }
            (Next::Empty, Some(target)) => self.empty(decision, target),
            (Next::Void, _) => self.note(decision, source, |marker| Marker { snapshot: None, ..marker }),
            (Next::Take { fenced }, _) => self.ship(decision, source, Shipping::Take { fenced: *fenced }),
            (Next::Carry(made), Some(target)) => {
                self.ship(decision, target, Shipping::Carry { source: from.place.node.clone(), made: made.clone() });
            }
            (Next::Carry(_) | Next::Empty, None) => {}
        }
    }

    /// The roles that the other members of a primary that takes writes are to have.
    fn turns(&self) -> Vec<Turn> {
        let fellows = self.fellows();
        match migration::stage(&fellows, |primary| primary) {
            Stage::Led { primary: _, turns } => turns,
            Stage::Between(_) | Stage::Headless | Stage::Held(_) => Vec::new(),
        }
    }

    /// Makes the new member, fenced and empty, if there is none.
    fn make_vessel(
        &mut self,
        scene: &mut Scene<'a>,
        decision: &mut Decision,
        source: usize,
        (node, uid, port): (&NodeName, &str, Option<u16>),
    ) {
        let Some(joining) = self.missing.iter().find(|(missing, _)| *missing == node).copied() else { return };
        if self.create(scene, decision, joining, uid, port, &Overlay::FENCED, Some(source)).is_some()
            && let Some(step) = decision.steps.last_mut()
        {
            step.costs.push(self.price(source));
        }
    }

    /// Notes that what a member holds is nothing of its own any more.
    fn empty(&self, decision: &mut Decision, place: usize) {
        self.note(decision, place, |marker| Marker { seed: Some(Seed::Awaited), snapshot: None, ..marker });
    }

    pub(super) fn note(&self, decision: &mut Decision, place: usize, change: impl FnOnce(Marker) -> Marker) {
        let Some(member) = self.members.get(place) else { return };
        let before = member.place.member.marker.clone();
        if let Some(change) = Change::new(before.clone(), change(before)) {
            decision.step(self.name, member.place.node, Action::Mark(Box::new(change)), Cause::Bookkeeping);
        }
    }

    fn ship(&self, decision: &mut Decision, place: usize, shipping: Shipping) {
        let Some(member) = self.members.get(place) else { return };
        let costs = match &shipping {
            Shipping::Take { fenced } => {
                let rewrite = Cost::Rewrite { memory_bytes: self.used_bytes(place) };
                if *fenced { vec![rewrite] } else { vec![rewrite, Cost::WritesLost] }
            }
            Shipping::Carry { source: _, made } => vec![Cost::Carries { bytes: made.bytes }],
            Shipping::Seed { made: _ } => Vec::new(),
        };
        let action = Action::Ship(Box::new(shipping));
        *decision.step(self.name, member.place.node, action, Cause::Requested) = costs;
    }

    /// What the move costs those who write.
    fn price(&self, source: usize) -> Cost {
        match self.instance.move_by {
            MoveBy::SnapshotUnfenced => Cost::WritesLost,
            MoveBy::Snapshot | MoveBy::Replication => Cost::WritesWait { bytes: self.used_bytes(source) },
        }
    }

    /// What a member's data takes in memory.
    pub(super) fn used_bytes(&self, place: usize) -> u64 {
        match self.members.get(place).map(|member| &member.place.member.server) {
            Some(Server::Up(running)) => running.used_memory_bytes,
            Some(Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. }) | None => 0,
        }
    }
}
