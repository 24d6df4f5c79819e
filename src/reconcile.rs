//! Look, then act: the one path of `plan`, `apply` and the daemon.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use crate::apply::schedule::{self, Event, Pace, Report};
use crate::fleet::{Execute, Observe};
use crate::model::action::Action;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::outcome::Outcome;
use crate::model::plan::{HeldReason, Plan, Step, Subject};
use crate::plan::plan;
use crate::plan::show::Authority;

/// What the nodes show, and what is to be done.
#[derive(Debug, Clone)]
pub struct Look {
    pub live: Live,
    pub plan: Plan,
}

/// Observes all nodes and plans.
pub async fn look(desired: &Desired, fleet: &impl Observe) -> Look {
    let live = fleet.observe().await;
    let plan = plan(desired, &live);
    Look { live, plan }
}

/// How an apply ended.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What the nodes showed at the last look.
    pub look: Look,
    pub done: Vec<Step>,
    /// Instances (and the fleet) that did not come to their end, with the step and its outcome.
    pub failed: BTreeMap<Subject, (Step, Outcome)>,
    /// A step came up that the saved plan does not allow.
    pub beyond: Option<Step>,
    /// Stopped on request, with steps left.
    pub interrupted: bool,
}

impl Applied {
    /// Before anything was done.
    pub fn nothing(look: Look) -> Self {
        Self { look, done: Vec::new(), failed: BTreeMap::new(), beyond: None, interrupted: false }
    }
}

/// How long servers that load their data, or unfinished rewrites, are waited for without any progress.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks while waiting: a quarter of what was waited already, and within these. A small instance has all of its
/// data in some milliseconds, and a look has a price.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));
/// Passes in a row that may achieve nothing but conflicts: somebody changes the nodes as fast as we look.
const IDLE_PASSES_MAX: u32 = 3;

/// Acts and looks until nothing is left to do. `first` is a look that was just taken.
pub async fn settle<F: Observe + Execute>(
    desired: &Desired,
    fleet: &F,
    first: Look,
    authority: Option<&Authority>,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Applied {
    let mut applied = Applied::nothing(first);
    let (mut waited, mut idle) = (Duration::ZERO, 0);
    loop {
        let todo = without_failed(&applied.look.plan, &applied.failed);
        applied.beyond = authority.and_then(|authority| todo.steps.iter().find(|step| !authority.allows(step)).cloned());
        applied.interrupted = *stop.borrow() && !todo.steps.is_empty();
        if applied.beyond.is_some() || *stop.borrow() {
            return applied;
        }
        if todo.steps.is_empty() {
            if !waits(&todo) || waited >= PATIENCE {
                return applied;
            }
            waited += pause(stop, waited).await;
        } else {
            let report = schedule::run(&todo, fleet, Pace::default(), stop, on_event).await;
            let progress = report.done() > 0;
            let pending = account(&mut applied, report);
            idle = if progress || pending { 0 } else { idle + 1 };
            waited = if progress { Duration::ZERO } else { waited };
            if pending {
                waited += pause(stop, waited).await;
            }
            if idle > IDLE_PASSES_MAX || waited >= PATIENCE {
                applied.look = look(desired, fleet).await;
                return applied;
            }
        }
        applied.look = look(desired, fleet).await;
    }
}

async fn pause(stop: &watch::Receiver<bool>, waited: Duration) -> Duration {
    let (least, most) = LOOK_AGAIN;
    let rest = (waited / 4).clamp(least, most);
    let mut stop = stop.clone();
    tokio::select! {
        () = tokio::time::sleep(rest) => {}
        _ = stop.changed() => {}
    }
    rest
}

/// Does time alone bring something new?
pub fn waits(plan: &Plan) -> bool {
    plan.held.iter().any(|held| matches!(held.reason, HeldReason::Loading { .. } | HeldReason::Syncing { .. }))
}

/// What failed three times is left alone for the rest of this apply.
fn without_failed(plan: &Plan, failed: &BTreeMap<Subject, (Step, Outcome)>) -> Plan {
    let mut plan = plan.clone();
    // Where the fleet's record could not be written, nothing new is made: a node might not remember it.
    let forgetful = failed.contains_key(&Subject::Fleet);
    let unmakeable = |step: &Step| forgetful && matches!(step.action, Action::CreateInstance(_));
    plan.steps.retain(|step| !failed.contains_key(&step.subject) && !unmakeable(step));
    plan
}

/// Enters a report; is anything still under way on a node?
fn account(applied: &mut Applied, report: Report) -> bool {
    let mut pending = false;
    for (step, outcome) in report.results {
        match outcome {
            Some(Outcome::Done | Outcome::AlreadyDone) => applied.done.push(step),
            Some(Outcome::Pending(_)) => pending = true,
            Some(Outcome::Conflict(_)) | None => {}
            Some(outcome @ (Outcome::NotKept(_) | Outcome::Failed(_) | Outcome::Refused(_) | Outcome::NotReached(_))) => {
                applied.failed.insert(step.subject.clone(), (step, outcome));
            }
        }
    }
    pending
}
