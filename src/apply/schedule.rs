//! Takes the steps of a plan: the fleet's first, then instances side by side, the steps of one in order.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use crate::fleet::Execute;
use crate::host::tell::Tell;
use crate::model::moves::Move;
use crate::model::name::NodeName;
use crate::model::outcome::Outcome;
use crate::model::plan::{Plan, Step, Subject};

/// How the schedule acts; the defaults are the product's.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Attempts at a step that failed or was not reached.
    pub tries: u32,
    /// The pause after the first failed attempt; it doubles with each further one.
    pub pause: Duration,
    /// How many instances are worked on at once.
    pub parallel: usize,
    /// A step that has not answered by then counts as not reached. The node's own deadline is shorter.
    pub deadline: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { tries: 3, pause: Duration::from_millis(200), parallel: 32, deadline: Duration::from_secs(35) }
    }
}

/// What happens while steps are taken, in the order it happens.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    Begun {
        step: &'a Step,
        attempt: u32,
    },
    /// What it is at.
    Progress {
        step: &'a Step,
        doing: &'a str,
    },
    Ended {
        step: &'a Step,
        attempt: u32,
        outcome: &'a Outcome,
        took: Duration,
        again: bool,
    },
    /// Between steps: how far moves are.
    Moves {
        moves: &'a [Move],
    },
}

/// What became of every step; `None`: not begun, because an earlier step of its instance did not succeed or a stop was
/// asked for.
#[derive(Debug, Clone)]
pub struct Report {
    pub results: Vec<(Step, Option<Outcome>)>,
}

impl Report {
    pub fn done(&self) -> usize {
        self.results.iter().filter(|(_, outcome)| matches!(outcome, Some(Outcome::Done))).count()
    }
}

/// Takes all steps of a plan. `stop` turning true lets the steps under way finish and begins no further ones.
pub async fn run<E: Execute>(
    plan: &Plan,
    execute: &E,
    pace: Pace,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Report {
    let mut groups: BTreeMap<&Subject, Vec<&Step>> = BTreeMap::new();
    for step in &plan.steps {
        groups.entry(&step.subject).or_default().push(step);
    }
    let fleet = groups.remove(&Subject::Fleet).unwrap_or_default();
    let each: Vec<Vec<&Step>> = fleet.into_iter().map(|step| vec![step]).collect();
    let mut results = side_by_side(each, execute, pace, stop, on_event).await;
    // An instance must not be made before every seen node remembers it.
    let remembered = results.iter().all(|(_, outcome)| outcome.as_ref().is_some_and(Outcome::is_done));
    let instances = in_turn(groups.into_values());
    if remembered {
        results.extend(side_by_side(instances, execute, pace, stop, on_event).await);
    } else {
        results.extend(instances.into_iter().flatten().map(|step| (step.clone(), None)));
    }
    Report { results }
}

/// The first instance of each node, then the second of each, and so on: what is done side by side is spread over the nodes,
/// whatever the names of instances have to do with where they are.
fn in_turn<'a>(groups: impl IntoIterator<Item = Vec<&'a Step>>) -> Vec<Vec<&'a Step>> {
    let mut on_node: BTreeMap<&NodeName, usize> = BTreeMap::new();
    let mut turns: BTreeMap<usize, Vec<Vec<&Step>>> = BTreeMap::new();
    for steps in groups {
        let Some(first) = steps.first() else { continue };
        let turn = on_node.entry(&first.node).or_default();
        turns.entry(*turn).or_default().push(steps);
        *turn += 1;
    }
    turns.into_values().flatten().collect()
}

async fn side_by_side<E: Execute>(
    groups: Vec<Vec<&Step>>,
    execute: &E,
    pace: Pace,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Vec<(Step, Option<Outcome>)> {
    let work = groups.into_iter().map(|steps| in_order(steps, execute, pace, stop, on_event));
    stream::iter(work).buffer_unordered(pace.parallel.max(1)).collect::<Vec<_>>().await.into_iter().flatten().collect()
}

async fn in_order<E: Execute>(
    steps: Vec<&Step>,
    execute: &E,
    pace: Pace,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Vec<(Step, Option<Outcome>)> {
    let mut results = Vec::new();
    let mut going = true;
    for step in steps {
        going = going && !*stop.borrow();
        if !going {
            results.push((step.clone(), None));
            continue;
        }
        let outcome = attempt(step, execute, pace, stop, on_event).await;
        going = outcome.is_done();
        results.push((step.clone(), Some(outcome)));
    }
    results
}

async fn attempt<E: Execute>(
    step: &Step,
    execute: &E,
    pace: Pace,
    stop: &watch::Receiver<bool>,
    on_event: &Mutex<impl FnMut(Event<'_>) + Send>,
) -> Outcome {
    let tell = |event: Event<'_>| {
        // A listener that panicked has nothing more to hear; the step goes on.
        if let Ok(mut listener) = on_event.lock() {
            listener(event);
        }
    };
    let mut attempt = 1;
    loop {
        tell(Event::Begun { step, attempt });
        #[expect(clippy::disallowed_methods, reason = "how long a step took is shown, and nothing depends on it")]
        let begun = tokio::time::Instant::now();
        let outcome = watched(step, execute, pace, &tell).await;
        let again = attempt < pace.tries.max(1) && may_retry(&outcome) && !*stop.borrow();
        tell(Event::Ended { step, attempt, outcome: &outcome, took: begun.elapsed(), again });
        if !again {
            return outcome;
        }
        tokio::time::sleep(pace.pause * (1 << attempt.min(10).saturating_sub(1))).await;
        attempt += 1;
    }
}

/// One attempt, while it is told what it is at.
async fn watched<E: Execute>(step: &Step, execute: &E, pace: Pace, tell: &impl Fn(Event<'_>)) -> Outcome {
    let (to, mut from) = Tell::to_listener();
    let work = tokio::time::timeout(pace.deadline, execute.perform(step, &to));
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => {
                return outcome.unwrap_or_else(|_elapsed| {
                    Outcome::NotReached(format!("no answer within {} s", pace.deadline.as_secs()))
                });
            }
            Some(doing) = from.recv() => tell(Event::Progress { step, doing: &doing }),
        }
    }
}

/// Only what may pass by itself is tried again: a conflict wants a new plan, and a value that is not kept stays so.
fn may_retry(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(_) | Outcome::NotReached(_) => true,
        Outcome::Done
        | Outcome::AlreadyDone
        | Outcome::Pending(_)
        | Outcome::Conflict(_)
        | Outcome::NotKept(_)
        | Outcome::Refused(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::action::Action;
    use crate::model::name::InstanceName;
    use crate::model::plan::Cause;

    fn step(instance: &str, node: &str) -> Step {
        Step {
            subject: Subject::Instance(InstanceName::new(instance).unwrap()),
            node: NodeName::new(node).unwrap(),
            action: Action::Purge { uid: "1".to_owned() },
            cause: Cause::Requested,
            drifted: BTreeSet::new(),
            costs: Vec::new(),
        }
    }

    #[test]
    fn every_node_has_its_turn_before_any_has_its_second() {
        let steps = [step("a", "n1"), step("b", "n1"), step("c", "n2"), step("d", "n1"), step("e", "n2")];
        let turns = in_turn(steps.iter().map(|step| vec![step]));
        let order = [0, 2, 1, 4, 3].map(|at| vec![&steps[at]]);
        assert_eq!(turns, order);
    }
}
