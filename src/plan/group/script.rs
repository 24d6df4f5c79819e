//! What people are told of a group on its way: the script of its move, and what cannot be seen of it. Decides no step.

use super::{Group, Standing, endpoint};
use crate::model::action::Action;
use crate::model::moves::Move;
use crate::model::name::NodeName;
use crate::model::plan::HeldReason;
use crate::model::role::Overlay;
use crate::plan::migration::Stage;
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

    /// Where the members stand on their way, for people.
    pub(super) fn script(&self, scene: &Scene<'_>, decision: &Decision, stage: &Stage) -> Option<Move> {
        let fellows = self.fellows();
        let asked = decision.steps.iter().find_map(|step| {
            let Action::CutOver(change) = &step.action else { return None };
            Some(&change.target)
        });
        let at = |node: &NodeName| moves::made_at(decision, node, |port| endpoint(scene, node, port).to_string());
        moves::script(&moves::Scene {
            name: self.name,
            fellows: &fellows,
            stage,
            target: asked.or_else(|| self.successor()),
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
