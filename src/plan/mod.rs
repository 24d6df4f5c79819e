//! DECISION: from what is wanted and what is seen to a plan. Pure and total: no I/O, no clock, no randomness; what cannot
//! be done now is held, with a typed reason.

mod acl;
mod forward;
mod found;
mod group;
mod guard;
mod identity;
mod instance;
mod limits;
mod migration;
mod moves;
mod open;
mod ports;
mod preflight;
mod record;
mod room;
mod settings;
pub mod show;
mod snapshot;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::action::Action;
use crate::model::desired::{Desired, Ensure, Mode};
use crate::model::live::{Live, NodeFacts, Observed, SetAside};
use crate::model::moves::Move;
use crate::model::name::{InstanceName, NodeName};
use crate::model::path::Way;
use crate::model::plan::{Cause, Cost, Held, HeldReason, Note, Plan, Refusal, Step, Subject};
use crate::model::record::FleetRecord;

use found::Found;
use ports::Ports;

pub use forward::{carry, rest};
pub use record::{amend, approve, forget, remembered};

/// What is to be done so that the nodes show what is desired, by a person's hand. Never fails.
pub fn plan(desired: &Desired, live: &Live) -> Plan {
    decide_all(desired, live, Hand::Person)
}

/// The same for the daemon, which leaves alone what a person suspended.
pub fn plan_unattended(desired: &Desired, live: &Live) -> Plan {
    decide_all(desired, live, Hand::Daemon)
}

/// Who will take the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    Person,
    Daemon,
}

fn decide_all(desired: &Desired, live: &Live, hand: Hand) -> Plan {
    let live = &*identity::trusted(desired, live);
    let record = record::newest(desired, live);
    let operators = found::operators(live);
    let found = Found::of(desired, live, &record, &operators);
    let deletes = guard::count_deletes(desired, &found);
    let approved = record.approvals.contains(&desired.revision);
    let mut scene = Scene {
        desired,
        live,
        hand,
        record: &record,
        over_deletes: (deletes > desired.guard.max_deletes as usize && !approved).then_some(deletes),
        approved,
        ports: Ports::new(desired, live, &record),
        budget: guard::Budget::new(desired, live, &found),
        room: room::Room::new(desired, live),
        roster: record::Roster::new(&record),
        unready: None,
    };
    let mut result = Decision::default();
    for (name, places) in &found.instances {
        let decision = instance::decide(&mut scene, name, places);
        result.extend(decision);
    }
    if result.steps.is_empty() && live.nodes.len() == live.seen_nodes().count() && !result.held.iter().any(awaits_approval) {
        scene.roster.settled(&desired.revision, hand);
    }
    result.notes.extend(scene.room.notes());
    let changed = scene.roster.finish(live);
    let mut steps = match desired.mode {
        Mode::Correct => record::steps(&record, changed, live, desired),
        Mode::Observe => Vec::new(),
    };
    steps.append(&mut result.steps);
    if desired.mode == Mode::Correct {
        steps.extend(purges(desired, live));
    }
    let unseen = live.nodes.iter().filter_map(|(name, node)| match node {
        Observed::Unseen { unseen } => Some((name.clone(), unseen.clone())),
        Observed::Seen(_) => None,
    });
    let stays = stays(&steps, desired, &found);
    Plan {
        fleet: desired.fleet.clone(),
        revision: desired.revision.clone(),
        steps,
        held: result.held,
        refused: result.refused,
        unseen: unseen.collect(),
        notes: result.notes,
        unknown: result.unknown,
        moves: result.moves,
        stays,
    }
}

/// Of whom something is made or deleted, though the instance was there before and is to be there.
fn stays(steps: &[Step], desired: &Desired, found: &Found<'_>) -> BTreeSet<InstanceName> {
    let comes_or_goes = |step: &&Step| matches!(step.action, Action::CreateInstance(_) | Action::DeleteInstance { .. });
    let subject = |step: &Step| match &step.subject {
        Subject::Instance(name) => Some(name.clone()),
        Subject::Fleet => None,
    };
    let named: BTreeSet<InstanceName> = steps.iter().filter(comes_or_goes).filter_map(subject).collect();
    let is_wanted = |name: &InstanceName| desired.instances.get(name).is_some_and(|instance| instance.ensure == Ensure::Present);
    let stands = found.instances.iter().filter(|(name, places)| {
        named.contains(*name) && is_wanted(name) && places.ours.iter().any(|place| !place.member.is_unborn())
    });
    stands.map(|(name, _)| (*name).clone()).collect()
}

/// May there be something to do under an approval once this is held no more?
fn awaits_approval(held: &Held) -> bool {
    !matches!(held.reason, HeldReason::Protected | HeldReason::Vanished)
}

/// All that a decision about one instance looks at, and the little it uses up.
struct Scene<'a> {
    desired: &'a Desired,
    live: &'a Live,
    hand: Hand,
    record: &'a FleetRecord,
    /// How many instances the revision deletes, if that is more than it may.
    over_deletes: Option<usize>,
    approved: bool,
    ports: Ports<'a>,
    budget: guard::Budget,
    room: room::Room<'a>,
    roster: record::Roster<'a>,
    /// Why no member of the instance at hand may restart now.
    unready: Option<HeldReason>,
}

/// What was decided about one instance.
#[derive(Debug, Default)]
struct Decision {
    steps: Vec<Step>,
    held: Vec<Held>,
    refused: Vec<Refusal>,
    notes: Vec<Note>,
    unknown: BTreeSet<Way>,
    moves: Vec<Move>,
}

impl Decision {
    fn hold(&mut self, instance: &InstanceName, what: impl Into<String>, reason: HeldReason) {
        self.held.push(Held { instance: instance.clone(), what: what.into(), reason, withheld: Vec::new() });
    }

    /// Holds steps that were decided on.
    fn withhold(&mut self, instance: &InstanceName, withheld: Vec<Step>, reason: HeldReason) {
        let what = withheld.iter().map(|step| step.action.imperative()).collect::<Vec<_>>().join(", ");
        self.held.push(Held { instance: instance.clone(), what, reason, withheld });
    }

    fn step(&mut self, instance: &InstanceName, node: &NodeName, action: Action, cause: Cause) -> &mut Vec<Cost> {
        let (subject, node) = (Subject::Instance(instance.clone()), node.clone());
        let place = self.steps.len();
        self.steps.push(Step { subject, node, action, cause, drifted: Default::default(), costs: Vec::new() });
        // The vector cannot be empty: the element was pushed a line above.
        #[expect(clippy::indexing_slicing, reason = "the element at this place was just pushed")]
        &mut self.steps[place].costs
    }

    fn extend(&mut self, other: Self) {
        let Self { steps, held, refused, notes, unknown, moves } = other;
        self.steps.extend(steps);
        self.held.extend(held);
        self.refused.extend(refused);
        self.notes.extend(notes);
        self.unknown.extend(unknown);
        self.moves.extend(moves);
    }
}

/// Data of deleted members that was kept long enough.
fn purges(desired: &Desired, live: &Live) -> Vec<Step> {
    let mut steps: BTreeMap<(&InstanceName, &str), Step> = BTreeMap::new();
    for (name, node) in live.seen_nodes() {
        let due = |kept: &&SetAside| kept.fleet == desired.fleet && is_older(node, kept, desired.guard.retain_deleted);
        for kept in node.set_aside.iter().filter(due) {
            let step = Step {
                subject: Subject::Instance(kept.instance.clone()),
                node: name.clone(),
                action: Action::Purge { uid: kept.uid.clone() },
                cause: Cause::Bookkeeping,
                drifted: Default::default(),
                costs: vec![Cost::DataGone { bytes: kept.bytes }],
            };
            steps.insert((&kept.instance, &kept.uid), step);
        }
    }
    steps.into_values().collect()
}

fn is_older(node: &NodeFacts, kept: &SetAside, limit: std::time::Duration) -> bool {
    let age = node.observed_at.duration_since(kept.deleted_at);
    // An age below zero is a clock that was set back: nothing is removed then.
    std::time::Duration::try_from(age).is_ok_and(|age| age > limit)
}
