//! Look, then act: the one path of `plan`, `apply` and the daemon.

pub mod pace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use crate::apply::schedule::{self, Event, Pace, Report};
use crate::fleet::{Execute, Observe};
use crate::host::clock::Stopwatch;
use crate::model::action::Action;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::moves::Move;
use crate::model::name::InstanceName;
use crate::model::outcome::Outcome;
use crate::model::plan::{HeldReason, Plan, Step, Subject};
use crate::plan::plan;
use crate::plan::show::Authority;
use pace::Paces;

/// What the nodes show, and what is to be done.
#[derive(Debug, Clone)]
pub struct Look {
    pub live: Live,
    pub plan: Plan,
}

/// Observes all nodes and plans.
pub async fn look(desired: &Desired, fleet: &impl Observe) -> Look {
    let live = fleet.observe().await;
    consider(live, fleet, |live| plan(desired, live)).await
}

/// Plans; and again, when what the plan would like to know of the ways between nodes was asked.
pub async fn consider(mut live: Live, fleet: &impl Observe, plan: impl Fn(&Live) -> Plan) -> Look {
    let first = plan(&live);
    if first.unknown.is_empty() {
        return Look { live, plan: first };
    }
    live.paths = fleet.try_ways(&first.unknown).await;
    let plan = plan(&live);
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
    /// What is left was waited for as long as it may take without any progress.
    pub stalled: bool,
}

impl Applied {
    /// Before anything was done.
    pub fn nothing(look: Look) -> Self {
        Self { look, done: Vec::new(), failed: BTreeMap::new(), beyond: None, interrupted: false, stalled: false }
    }
}

/// How long servers that load their data, or unfinished rewrites, are waited for: they do not tell how far they are.
const PATIENCE_LOADING: Duration = Duration::from_secs(600);
/// How long anything else is waited for without any progress, if nothing else is said.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks while waiting: a quarter of what was waited already, and within these. A small instance has all of its
/// data in some milliseconds, and a look has a price.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));
/// Passes in a row that may achieve nothing but conflicts: somebody changes the nodes as fast as we look.
const IDLE_PASSES_MAX: u32 = 3;
/// Looks in a row that a server may leave unanswered, when nothing else is left: it may be busy, or hang.
const SILENT_LOOKS_MAX: u32 = 3;

/// Acts and looks until nothing is left to do, or nothing moves for as long as `patience`. `first` is a look that was just taken.
pub async fn settle<F: Observe + Execute>(
    desired: &Desired,
    fleet: &F,
    first: Look,
    authority: Option<&Authority>,
    patience: Duration,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Applied {
    let mut applied = Applied::nothing(first);
    let mut wait = Wait::begun();
    loop {
        let todo = without_failed(&applied.look.plan, &applied.failed);
        applied.beyond = authority.and_then(|authority| todo.steps.iter().find(|step| !authority.allows(step)).cloned());
        applied.interrupted = *stop.borrow() && !todo.steps.is_empty();
        if applied.beyond.is_some() || *stop.borrow() {
            return applied;
        }
        let mut resting = Stopwatch::start();
        if todo.steps.is_empty() {
            let goes_on = waits(&todo);
            applied.stalled = goes_on && wait.is_over(&todo, patience);
            if applied.stalled || !(goes_on || wait.asks_again(&todo)) {
                return applied;
            }
            wait.pause(stop).await;
        } else {
            let report = schedule::run(&todo, fleet, Pace::default(), stop, on_event).await;
            resting = Stopwatch::start();
            let progress = report.done() > 0;
            wait.in_vain = in_vain(&report);
            let pending = account(&mut applied, report);
            wait.idle = if progress || pending { 0 } else { wait.idle + 1 };
            if progress {
                (wait.waited, wait.rested, wait.silent) = (Duration::ZERO, Duration::ZERO, 0);
            }
            if pending {
                wait.pause(stop).await;
            }
            applied.stalled = pending && wait.is_over(&todo, patience);
            if wait.idle > IDLE_PASSES_MAX || applied.stalled {
                applied.look = look(desired, fleet).await;
                return applied;
            }
        }
        applied.look = look(desired, fleet).await;
        wait.waited += resting.elapsed();
        wait.looked(&mut applied.look.plan.moves);
        if let (false, Ok(mut tell)) = (applied.look.plan.moves.is_empty(), on_event.lock()) {
            tell(Event::Moves { moves: &applied.look.plan.moves });
        }
    }
}

/// What is carried from look to look.
struct Wait {
    since: Stopwatch,
    /// Without any progress: pauses and looks, which take their time at a server that hangs. A step that takes long is at work.
    waited: Duration,
    /// Since the last step that came to its end.
    rested: Duration,
    /// Passes without any progress.
    idle: u32,
    /// Looks in which a server did not answer, without any progress.
    silent: u32,
    paces: Paces,
    in_vain: BTreeSet<InstanceName>,
}

impl Wait {
    fn begun() -> Self {
        Self {
            since: Stopwatch::start(),
            waited: Duration::ZERO,
            rested: Duration::ZERO,
            idle: 0,
            silent: 0,
            paces: Paces::default(),
            in_vain: BTreeSet::new(),
        }
    }

    fn is_over(&self, plan: &Plan, patience: Duration) -> bool {
        let loading = plan.held.iter().any(|held| matches!(held.reason, HeldReason::Loading { .. }));
        // A step that is pending waits for a server's own work, of which is not known either how far it is.
        let works = plan.held.is_empty() && plan.moves.is_empty();
        self.waited >= if loading || works { PATIENCE_LOADING.max(patience) } else { patience }
    }

    /// Is a server that did not answer to be asked again?
    fn asks_again(&mut self, plan: &Plan) -> bool {
        let is_silent = plan.held.iter().any(|held| matches!(held.reason, HeldReason::NotAnswering { .. }));
        self.silent += 1;
        is_silent && self.silent < SILENT_LOOKS_MAX
    }

    async fn pause(&mut self, stop: &watch::Receiver<bool>) {
        let (least, most) = LOOK_AGAIN;
        let rest = (self.rested / 4).clamp(least, most);
        let mut stop = stop.clone();
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            _ = stop.changed() => {}
        }
        self.rested += rest;
    }

    /// Whatever came nearer to its end is worth waiting for.
    fn looked(&mut self, moves: &mut [Move]) {
        if self.paces.enter(moves, self.since.elapsed(), &self.in_vain) {
            self.waited = Duration::ZERO;
        }
        self.in_vain.clear();
    }
}

/// Instances of which a step did not come to its end. A save, and what is carried, outlast their steps, and the next one goes on.
pub fn in_vain(report: &Report) -> BTreeSet<InstanceName> {
    let goes_on = |step: &Step, outcome: &Outcome| matches!((&step.action, outcome), (Action::Ship(_), Outcome::Pending(_)));
    let is_open = |step: &Step, outcome: &Outcome| !outcome.is_done() && !goes_on(step, outcome);
    let open = report.results.iter().filter(|(step, outcome)| outcome.as_ref().is_some_and(|outcome| is_open(step, outcome)));
    let instance = |(step, _): &(Step, Option<Outcome>)| match &step.subject {
        Subject::Instance(name) => Some(name.clone()),
        Subject::Fleet => None,
    };
    open.filter_map(instance).collect()
}

/// Does time alone bring something new?
pub fn waits(plan: &Plan) -> bool {
    let moves = |instance: &InstanceName| plan.moves.iter().any(|it| it.instance == *instance);
    plan.held.iter().any(|held| {
        let goes_on = matches!(held.reason, HeldReason::Loading { .. } | HeldReason::Syncing { .. });
        // A server that loads what it received may be too busy for one look.
        goes_on || (matches!(held.reason, HeldReason::NotAnswering { .. }) && moves(&held.instance))
    })
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
