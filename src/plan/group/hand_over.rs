//! From one primary to the next: when it is due, and what is looked at before. How it goes is [`CutOver`].

use super::Group;
use crate::model::action::{Action, CutOver};
use crate::model::plan::{Cause, Cost, Step};
use crate::plan::found::Place;
use crate::plan::migration;
use crate::plan::preflight::{self, Target};
use crate::plan::{Decision, Scene};

impl Group<'_> {
    /// A primary that has to restart hands over first, if a replica is ready; then it restarts as a replica.
    pub(super) fn stand_in(&self, scene: &Scene<'_>, decision: &mut Decision, primary: usize) -> bool {
        let Some(leader) = self.members.get(primary) else { return false };
        let restarts = |step: &Step| step.node == *leader.place.node && step.action.restarts();
        if !self.unseen.is_empty() || !decision.steps.iter().any(restarts) {
            return false;
        }
        let others = self.members.iter().enumerate().filter(|(place, member)| *place != primary && member.on_shard);
        let judged: Vec<_> =
            others.map(|(place, member)| (place, migration::caught_up(&leader.fellow(), &member.fellow()))).collect();
        let ready = judged.iter().find(|(_, judged)| judged.is_ok()).map(|(place, _)| *place);
        let Some((_, first)) = judged.into_iter().next() else { return false };
        // What the marker is to say afterwards follows from the restart.
        let notes = |step: &Step| step.node == *leader.place.node && matches!(step.action, Action::Mark(_));
        decision.steps.retain(|step| !restarts(step) && !notes(step));
        match (ready, first) {
            (Some(chosen), _) if decision.steps.is_empty() => self.cut_over(scene, decision, primary, chosen),
            (None, Err(reason)) => decision.hold(self.name, "restart", reason),
            (Some(_), _) | (None, Ok(())) => {}
        }
        true
    }

    /// The primary hands over to the chosen member, unless that is the primary itself.
    pub(super) fn hand_over(&self, scene: &Scene<'_>, decision: &mut Decision, primary: usize) {
        let chosen = self.chosen(primary);
        let (Some(source), Some(target)) = (self.members.get(primary), self.members.get(chosen)) else { return };
        if chosen == primary {
            return;
        }
        match migration::caught_up(&source.fellow(), &target.fellow()) {
            Err(reason) => decision.hold(self.name, "hand over", reason),
            Ok(()) => self.cut_over(scene, decision, primary, chosen),
        }
    }

    fn cut_over(&self, scene: &Scene<'_>, decision: &mut Decision, primary: usize, chosen: usize) {
        let (Some(source), Some(target)) = (self.members.get(primary), self.members.get(chosen)) else { return };
        if let Some(spec) = target.place.member.spec.memory.seen() {
            let Place { node, binary, .. } = target.place;
            let judged = preflight::take_over(scene, decision, &source.place, Target { node, binary, spec }, &target.endpoint);
            if let Err(reason) = judged {
                return decision.hold(self.name, "hand over", reason);
            }
        }
        let cut_over = CutOver {
            target: target.place.node.clone(),
            from: source.endpoint.clone(),
            to: target.endpoint.clone(),
            source_settings: source.declared.clone(),
            target_settings: target.declared.clone(),
        };
        let costs = decision.step(self.name, source.place.node, Action::CutOver(Box::new(cut_over)), Cause::Requested);
        let connections = migration::up(source.place.member).map(|running| running.connections.total);
        costs.push(Cost::SwitchOver { from: source.endpoint.clone(), to: target.endpoint.clone(), connections });
    }
}
