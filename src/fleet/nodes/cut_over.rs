//! From one primary to the next: the parts of a cut-over, each on its own node, with a wait between the fence and the
//! promotion. The controller does it because a primary learns where its replica is only once a second (facts E.2).
//!
//! Never goes on by judgement: whatever part does not come to its end, the next look decides (facts E.4).

use std::time::Duration;

use super::Nodes;
use crate::host::clock::{Deadline, Poll};
use crate::host::tell::Tell;
use crate::model::action::{CutOver, CutOverParts};
use crate::model::name::InstanceName;
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::model::role::{Link, Replication};

/// How long the new primary may take to have the last writes, while none are taken. It has nearly all when this begins.
const CATCHING_UP: Duration = Duration::from_millis(1500);

pub(super) async fn perform(nodes: &Nodes, change: &CutOver, step: &Step, tell: &Tell) -> Outcome {
    let Subject::Instance(name) = &step.subject else {
        return Outcome::Failed("the fleet has no primary to change".to_owned());
    };
    let CutOverParts { fence, call_off, promote, open, demote } = change.parts(step);
    tell.say("fencing the old primary".to_owned());
    match nodes.perform_there(&fence, tell).await {
        Outcome::Done => {}
        // An earlier attempt at this step may have come as far as to open the new primary: to take the fence back now would make two.
        Outcome::AlreadyDone => {
            return Outcome::Conflict(
                "the old primary takes no writes already; what comes next depends on the new one".to_owned(),
            );
        }
        other @ (Outcome::Pending(_)
        | Outcome::Conflict(_)
        | Outcome::NotKept(_)
        | Outcome::Failed(_)
        | Outcome::Refused(_)
        | Outcome::NotReached(_)) => return other,
    }
    if let Err(why) = await_the_last(nodes, change, step, name).await {
        tell.say(format!("called off: {why}"));
        let back = nodes.perform_there(&call_off, tell).await;
        let back = if back.is_done() { "it takes writes again".to_owned() } else { back.to_string() };
        return Outcome::Pending(format!("the new primary to catch up ({why}); {back}"));
    }
    for part in [&promote, &open, &demote] {
        let outcome = nodes.perform_there(part, tell).await;
        if !outcome.is_done() {
            return outcome;
        }
    }
    Outcome::Done
}

/// Waits until the new primary has all that the fenced one has.
async fn await_the_last(nodes: &Nodes, change: &CutOver, step: &Step, name: &InstanceName) -> Result<(), String> {
    let source = nodes.position(&step.node, name).await?;
    let (end, mut poll) = (Deadline::after(CATCHING_UP), Poll::closely());
    loop {
        let target = nodes.position(&change.target, name).await?;
        if has_all(&source, &target) {
            return Ok(());
        }
        if !poll.again(end).await {
            return Err(format!("it is at {} of {} bytes", target.offset, source.offset));
        }
    }
}

fn has_all(source: &Replication, target: &Replication) -> bool {
    target.link == Some(Link::Up) && target.replid == source.replid && target.offset >= source.offset
}
