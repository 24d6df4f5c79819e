//! What people are told of a group on its way: the script of its move, and what cannot be seen of it. Decides no step.

use super::{Group, Standing, endpoint};
use crate::model::action::{Action, RoleStage};
use crate::model::desired::MoveBy;
use crate::model::moves::{Move, MoveStage};
use crate::model::name::NodeName;
use crate::model::plan::HeldReason;
use crate::model::role::Overlay;
use crate::plan::migration::{self, Fellow, Stage};
use crate::plan::snapshot::{self, Next};
use crate::plan::{Decision, Scene, moves};

impl Group<'_> {
    /// What cannot be seen may be, or have, anything.
    pub(super) fn hold_unseen(&self, scene: &Scene<'_>, decision: &mut Decision, changes_roles: bool) {
        for node in &self.unseen {
            let (why, node) = (scene.live.why_unseen(node), (*node).clone());
            let reason =
                if changes_roles { HeldReason::PromotionUnseen { node, why } } else { HeldReason::NodeUnseen { node, why } };
            decision.hold(self.name, "any change of roles", reason);
        }
    }

    /// Is somebody to take over now, or is nobody the primary?
    pub(super) fn would_change_roles(&self, stage: &Stage) -> bool {
        match stage {
            Stage::Led { primary, turns: _ } => self.chosen(*primary) != *primary,
            Stage::Between(_) | Stage::Headless | Stage::Held(_) => true,
        }
    }

    /// Where they stand while the data is carried.
    pub(super) fn carried_script(&self, scene: &Scene<'_>, decision: &Decision, source: usize) -> Option<Move> {
        let fellows: Vec<Fellow<'_>> = self.members.iter().map(Standing::fellow).collect();
        let node = self.instance.primary.as_ref().or(self.shard.nodes.first())?;
        let target = fellows.iter().position(|fellow| fellow.node == node);
        let from = fellows.get(source)?;
        let now = match snapshot::next(&fellows, source, target, self.instance.move_by) {
            Next::Turn(turn) => match turn.stage {
                RoleStage::Fence | RoleStage::CallOff | RoleStage::Promote | RoleStage::Demote => MoveStage::CutOver,
                RoleStage::Open => MoveStage::Open,
                RoleStage::Attach => MoveStage::Join,
            },
            Next::Take { .. } | Next::Carry(_) => MoveStage::Carry,
            Next::Wait if migration::in_force(from) != Some(Overlay::OPEN) => MoveStage::Carry,
            Next::Wait | Next::Empty => MoveStage::Join,
        };
        let may_lose = self.instance.move_by == MoveBy::SnapshotUnfenced;
        self.told(scene, decision, &fellows, (&Stage::Headless, Some(node)), |scene| {
            moves::by_snapshot(scene, from, now, may_lose)
        })
    }

    /// Where the members stand on their way, for people.
    pub(super) fn script(&self, scene: &Scene<'_>, decision: &Decision, stage: &Stage) -> Option<Move> {
        let fellows: Vec<Fellow<'_>> = self.members.iter().map(Standing::fellow).collect();
        let leaves = |fellow: &&Fellow<'_>| !fellow.wanted && !fellow.member.marker.is_vessel();
        let given = fellows.iter().filter(leaves).find(|fellow| snapshot::gave_away(&fellows, fellow));
        let is_stopped = matches!(stage, Stage::Headless | Stage::Held(_));
        let is_carried = is_stopped && fellows.iter().any(|fellow| fellow.member.marker.is_vessel());
        let gives = given.map(|source| (source, MoveStage::Leave)).or_else(|| {
            let source = fellows.iter().find(leaves).filter(|_| is_carried);
            source.map(|source| (source, MoveStage::Carry))
        });
        if let Some((source, now)) = gives {
            let may_lose = self.instance.move_by == MoveBy::SnapshotUnfenced;
            let target = self.successor();
            return self
                .told(scene, decision, &fellows, (stage, target), |scene| moves::by_snapshot(scene, source, now, may_lose));
        }
        let asked = decision.steps.iter().find_map(|step| {
            let Action::CutOver(change) = &step.action else { return None };
            Some(&change.target)
        });
        self.told(scene, decision, &fellows, (stage, asked.or_else(|| self.successor())), moves::script)
    }

    fn told(
        &self,
        scene: &Scene<'_>,
        decision: &Decision,
        fellows: &[Fellow<'_>],
        (stage, target): (&Stage, Option<&NodeName>),
        tell: impl Fn(&moves::Scene<'_>) -> Option<Move>,
    ) -> Option<Move> {
        let at = |node: &NodeName| moves::made_at(decision, node, |port| endpoint(scene, node, port).to_string());
        tell(&moves::Scene {
            name: self.name,
            fellows,
            stage,
            target,
            missing: self.missing.iter().map(|(node, _)| (*node, at(node))).collect(),
            has_unseen: !self.unseen.is_empty(),
            grace: scene.desired.guard.handover_grace,
        })
    }

    /// The node whose member shall be the primary; nothing: whoever is it on the shard.
    fn successor(&self) -> Option<&NodeName> {
        let on_shard = |role: Overlay| {
            let is = |member: &&Standing<'_>| member.on_shard && member.place.member.role_in_force().as_ref() == Some(&role);
            self.members.iter().find(is).map(|member| member.place.node)
        };
        let there = |node: &&NodeName| self.members.iter().any(|member| member.place.node == *node);
        let first = || self.shard.nodes.iter().find(there).or(self.shard.nodes.first());
        self.instance.primary.as_ref().or_else(|| on_shard(Overlay::OPEN)).or_else(first)
    }
}
