//! Carrying the facts forward over steps: what the plan calls "then", and what the simulator does one effect at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::found::Place;
use super::plan;
use crate::model::action::{Action, CutOverParts};
use crate::model::binary::BinaryFacts;
use crate::model::desired::Desired;
use crate::model::effect::{effects, happen};
use crate::model::live::{Live, Member, NodeFacts, Observed};
use crate::model::marker::Marker;
use crate::model::name::{InstanceName, NodeName, REPLICA_USER};
use crate::model::path::Paths;
use crate::model::plan::{HeldReason, Plan, Step, Subject};
use crate::model::role;

/// The most passes that are foreseen: a plan for a large fleet with a small budget says "and more" after that.
const PASSES_MAX: usize = 200;

/// The plans that follow when this one succeeds, until nothing is left that time alone would not change.
pub fn rest(desired: &Desired, live: &Live, first: &Plan) -> Vec<Plan> {
    let waits = |plan: &Plan| plan.held.iter().any(|held| matches!(held.reason, HeldReason::Budget { .. }));
    let mut plans: Vec<Plan> = Vec::new();
    if first.steps.is_empty() {
        return plans;
    }
    let mut live = live.clone();
    let mut steps = first.steps.clone();
    let mut waiting = waits(first) || first.steps.iter().any(opens_more);
    while waiting && plans.len() < PASSES_MAX {
        carry(&mut live, &steps);
        let next = plan(desired, &live);
        if next.steps.is_empty() || next.steps == steps {
            break;
        }
        steps.clone_from(&next.steps);
        waiting = true;
        plans.push(next);
    }
    plans
}

/// Only a few steps can bring further ones into view; for the rest nothing has to be foreseen.
fn opens_more(step: &Step) -> bool {
    match &step.action {
        Action::CreateInstance(creation) => !creation.spec.overlay().is_open(),
        Action::SetUser(change) => change.user.as_str() == REPLICA_USER,
        Action::StartInstance(_)
        | Action::ChangeRole(_)
        | Action::CutOver(_)
        | Action::Ship(_)
        | Action::ReopenInstance(_)
        | Action::UpgradeInstance(_)
        | Action::DeleteInstance { .. }
        | Action::Restore { .. } => true,
        Action::WriteRecord(_)
        | Action::RepairUnit { .. }
        | Action::RepairCredential { .. }
        | Action::ChangeInstance(_)
        | Action::RemoveUser { .. }
        | Action::SaveUsers { .. }
        | Action::Mark(_)
        | Action::Purge { .. } => false,
    }
}

/// What the nodes show after these steps succeeded.
pub fn carry(live: &mut Live, steps: &[Step]) {
    for step in steps {
        if let Action::CutOver(change) = &step.action {
            let CutOverParts { fence, call_off: _, promote, open, demote } = change.parts(step);
            [fence, promote, open, demote].iter().for_each(|part| carry_one(live, part));
        } else if let Some(seed) = step.seed() {
            carry_one(live, &seed);
        } else {
            carry_one(live, step);
        }
    }
}

fn carry_one(live: &mut Live, step: &Step) {
    let Live { nodes, binaries, paths: _ } = live;
    let Some(Observed::Seen(node)) = nodes.get_mut(&step.node) else { return };
    let Some(binary) = binaries.get(&node.binary) else { return };
    take(node, step, binary);
    if let Subject::Instance(name) = &step.subject {
        role::catch_up(live, &step.node, name);
    }
}

fn take(node: &mut NodeFacts, step: &Step, binary: &BinaryFacts) {
    for effect in effects(&step.action, &step.subject, node, binary) {
        happen(node, &step.subject, &effect, binary);
    }
}

/// Only what concerns one instance on one node: cheap to carry forward, whatever the size of the fleet.
pub(super) fn narrowed(live: &Live, node: &NodeName, name: &InstanceName) -> Live {
    let mut narrow = Live { nodes: BTreeMap::new(), binaries: live.binaries.clone(), paths: Paths::default() };
    if let Some((facts, _)) = live.seen(node) {
        let NodeFacts { observed_at, machine, binary, members, records, set_aside, ports_in_use: _, systemd, capacity } = facts;
        let facts = NodeFacts {
            observed_at: *observed_at,
            machine: machine.clone(),
            binary: binary.clone(),
            members: members.get_key_value(name).map(|(name, member)| (name.clone(), member.clone())).into_iter().collect(),
            records: records.iter().map(|(fleet, record)| (fleet.clone(), record.clone())).collect(),
            set_aside: set_aside.iter().filter(|kept| kept.instance == *name).cloned().collect(),
            ports_in_use: BTreeSet::new(),
            systemd: systemd.clone(),
            capacity: *capacity,
        };
        narrow.nodes.insert(node.clone(), Observed::Seen(facts));
    }
    narrow
}

/// What an instance's marker says after these steps.
pub(super) fn marker_after(steps: &[Step], name: &InstanceName, place: &Place<'_>) -> Marker {
    let mut facts = NodeFacts {
        observed_at: place.facts.observed_at,
        machine: place.facts.machine.clone(),
        binary: place.facts.binary.clone(),
        members: [(name.clone(), Member::Marked(place.member.clone()).into())].into(),
        records: BTreeMap::new(),
        set_aside: Vec::new(),
        ports_in_use: BTreeSet::new(),
        systemd: place.facts.systemd.clone(),
        capacity: place.facts.capacity,
    };
    for step in steps.iter().filter(|step| step.subject == Subject::Instance(name.clone())) {
        take(&mut facts, step, place.binary);
    }
    facts.member(name).map_or_else(|| place.member.marker.clone(), |member| member.marker.clone())
}
