//! The plan in words: one function for each way of printing it. Deterministic bytes; no secret is in a plan, so none can
//! be printed.

mod authority;
mod diff;
mod json;
mod markdown;
mod moves;
mod text;
mod words;

use std::collections::BTreeMap;

use crate::model::action::Action;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::name::InstanceName;
use crate::model::plan::{Cause, Plan, Step, Subject};

pub use authority::Authority;
pub use json::{FORMAT_VERSION, identity, json};
pub use markdown::markdown;
pub use moves::{lines as move_lines, progress as move_progress};
pub use text::{step_line, text};
pub use words::{cost, held_reason};

/// A plan with what it was made from, and what is foreseen to follow it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub desired: &'a Desired,
    pub live: &'a Live,
    pub plan: &'a Plan,
    /// See [`super::rest`].
    pub rest: &'a [Plan],
}

/// How many instances a plan adds, changes and removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub add: usize,
    pub change: usize,
    pub remove: usize,
    pub held: usize,
}

/// What happens to one instance as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Add,
    Change,
    Remove,
    /// Only valkeeper's own memory.
    Note,
}

impl Verb {
    fn of(plan: &Plan, name: &InstanceName, steps: &[&Step]) -> Self {
        let has = |wanted: fn(&Action) -> bool| steps.iter().any(|step| wanted(&step.action));
        if plan.stays.contains(name) {
            Self::Change
        } else if has(|action| matches!(action, Action::CreateInstance(_))) {
            Self::Add
        } else if has(|action| matches!(action, Action::DeleteInstance { .. } | Action::Purge { .. })) {
            Self::Remove
        } else if steps.iter().all(|step| step.cause == Cause::Bookkeeping) {
            Self::Note
        } else {
            Self::Change
        }
    }

    fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
            Self::Note => '.',
        }
    }
}

fn by_subject(plan: &Plan) -> BTreeMap<&Subject, Vec<&Step>> {
    let mut groups: BTreeMap<&Subject, Vec<&Step>> = BTreeMap::new();
    for step in &plan.steps {
        groups.entry(&step.subject).or_default().push(step);
    }
    groups
}

/// Counts the instances of a plan by what happens to them.
pub fn counts(plan: &Plan) -> Counts {
    let mut counts = Counts { held: plan.held.len(), ..Counts::default() };
    for (subject, steps) in by_subject(plan) {
        let Subject::Instance(name) = subject else { continue };
        match Verb::of(plan, name, &steps) {
            Verb::Note => {}
            Verb::Add => counts.add += 1,
            Verb::Change => counts.change += 1,
            Verb::Remove => counts.remove += 1,
        }
    }
    counts
}

/// The last line of every plan; a script can read it.
pub fn summary(plan: &Plan) -> String {
    let Counts { add, change, remove, held } = counts(plan);
    if plan.steps.is_empty() && held == 0 && plan.unseen.is_empty() {
        return "No changes.".to_owned();
    }
    let mut line = format!("Plan: {add} to add, {change} to change, {remove} to remove");
    if held > 0 {
        line.push_str(&format!(", {held} held"));
    }
    if !plan.unseen.is_empty() {
        let nodes = if plan.unseen.len() == 1 { "node" } else { "nodes" };
        line.push_str(&format!(", {} {nodes} unseen", plan.unseen.len()));
    }
    line.push('.');
    line
}
