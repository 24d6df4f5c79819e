//! Writing what the fleet remembers to its nodes, for the commands that change nothing else.

use std::sync::Mutex;

use anyhow::ensure;
use tokio::sync::watch;

use crate::apply::schedule::{self, Event, Pace};
use crate::fleet::nodes::Nodes;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::outcome::Outcome;
use crate::model::plan::{Plan, Step};

/// Takes these steps on every node that was seen. The right to act is held already.
///
/// # Errors
/// When no node was seen, or one did not take it; `what` says what it is, as `the approval`.
pub(super) async fn remember(desired: &Desired, fleet: &Nodes, live: &Live, steps: Vec<Step>, what: &str) -> anyhow::Result<()> {
    let plan = crate::plan::plan(desired, live);
    let unseen = &plan.unseen;
    ensure!(live.seen_nodes().next().is_some(), "no node could be seen, so nothing can remember {what}: {unseen:?}");
    let plan = Plan { steps, ..plan };
    let report = schedule::run(&plan, fleet, Pace::default(), &watch::channel(false).1, &Mutex::new(|_: Event<'_>| {})).await;
    for (step, outcome) in &report.results {
        let done = outcome.as_ref().is_some_and(Outcome::is_done);
        let outcome = outcome.as_ref().map_or_else(|| "not begun".to_owned(), ToString::to_string);
        ensure!(done, "{what} could not be written on node {}: {outcome}", step.node);
    }
    Ok(())
}
