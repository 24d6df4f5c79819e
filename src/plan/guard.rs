//! The brakes: how many instances a revision may delete, and how many members may restart at once.

use super::found::{Found, Place, Places};
use super::{Decision, Hand, Scene};
use crate::model::action::Action;
use crate::model::desired::{Desired, Ensure, Mode};
use crate::model::live::{Live, MemberFacts, Server};
use crate::model::marker::Stage;
use crate::model::name::InstanceName;
use crate::model::plan::{Cause, Cost, HeldReason, Step};
use crate::model::record::Suspension;

/// The restarts that are under way or planned.
///
/// What counts is what is out by our hand (`Marker::disturbed`) until it is seen at work: a server that was restarted, until it is
/// up, and as a replica until its link is; a primary that was fenced to hand over, until it follows the new one. Where they do not
/// come back, no further one is restarted: that is what a brake is for. A server that loads its data counts whoever stopped it.
///
/// What does not count: an instance of which a node cannot be seen, or a dead node would stop the fleet for ever; a member that
/// leaves; a link that broke by itself; a replica that joins, for it takes nothing away from anybody while it is not there yet; what
/// nobody is to bring back, because its block is gone or it is only observed. And no instance waits for its own members that are out: a restart
/// that failed is tried again.
#[derive(Debug)]
pub(super) struct Budget {
    max: u32,
    out: Vec<InstanceName>,
    planned: Vec<InstanceName>,
}

impl Budget {
    pub(super) fn new(desired: &Desired, live: &Live, found: &Found<'_>) -> Self {
        let is_seen =
            |places: &Places<'_>| places.seat.is_none_or(|seat| seat.nodes.iter().all(|node| live.seen(node).is_some()));
        let is_kept = |places: &Places<'_>| {
            places.desired.is_some_and(|instance| instance.ensure == Ensure::Present) && !is_only_observed(desired, places)
        };
        let mut out = Vec::new();
        for (name, places) in &found.instances {
            let counts = |member: &MemberFacts| {
                let is_loading = matches!(&member.server, Server::Up(running) if running.loading);
                let is_out = member.marker.disturbed.is_some() && member.marker.retiring.is_none() && !member.is_at_work();
                is_loading || (is_out && is_kept(places) && is_seen(places))
            };
            out.extend(places.ours.iter().filter(|place| counts(place.member)).map(|_| (*name).clone()));
        }
        Self { max: desired.guard.max_restarts, out, planned: Vec::new() }
    }

    /// Takes one restart.
    ///
    /// # Errors
    /// The instance behind which it waits.
    pub(super) fn take(&mut self, instance: &InstanceName) -> Result<(), InstanceName> {
        let counts = || self.out.iter().filter(|other| *other != instance).chain(&self.planned);
        let free = (counts().count() as u64) < u64::from(self.max);
        match counts().next_back() {
            Some(last) if !free => Err(last.clone()),
            // A budget of zero holds every restart behind itself.
            None if !free => Err(instance.clone()),
            Some(_) | None => {
                self.planned.push(instance.clone());
                Ok(())
            }
        }
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }
}

/// How many instances this revision would delete: what was begun before is not counted again.
pub(super) fn count_deletes(desired: &Desired, found: &Found<'_>) -> usize {
    let going = |places: &Places<'_>| match places.desired {
        Some(instance) => instance.ensure == Ensure::Absent,
        None => desired.guard.prune,
    };
    let standing = |places: &Places<'_>| {
        places.ours.iter().any(|place| place.member.marker.stage != Stage::Deleting && !place.member.marker.protect)
    };
    found.instances.iter().filter(|(_, places)| going(places) && standing(places)).count()
}

fn is_only_observed(desired: &Desired, places: &Places<'_>) -> bool {
    desired.mode == Mode::Observe || places.desired.is_some_and(|instance| instance.mode == Mode::Observe)
}

/// Nothing is done to what is only observed, nor by the daemon to what is suspended.
pub(super) fn rein_in(scene: &mut Scene<'_>, decision: &mut Decision, name: &InstanceName, places: &Places<'_>) {
    let reason = if is_only_observed(scene.desired, places) {
        HeldReason::ObserveOnly
    } else {
        let now = scene.live.seen_nodes().map(|(_, node)| node.observed_at).max();
        let suspension = now.and_then(|now| scene.record.suspended.of(name, now));
        match suspension.filter(|_| scene.hand == Hand::Daemon) {
            Some(suspension) => {
                let Suspension { by, reason, since: _, until } = suspension.clone();
                HeldReason::Suspended { by, why: reason, until }
            }
            None => return,
        }
    };
    if decision.steps.is_empty() {
        return;
    }
    scene.roster.forget(name);
    let withheld = std::mem::take(&mut decision.steps);
    decision.withhold(name, withheld, reason);
}

/// A revision that deletes too much is held whole; what drifted is still put right.
pub(super) fn hold_requests(scene: &mut Scene<'_>, decision: &mut Decision, name: &InstanceName, deletes: usize) {
    if decision.steps.iter().any(|step| matches!(step.action, Action::CreateInstance(_))) {
        scene.roster.forget(name);
    }
    let steps = std::mem::take(&mut decision.steps);
    let (drift, asked): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| step.cause == Cause::Drift);
    decision.steps = drift;
    if !asked.is_empty() {
        let revision = scene.desired.revision.clone();
        let max_deletes = scene.desired.guard.max_deletes;
        decision.withhold(name, asked, HeldReason::Approval { revision, deletes, max_deletes });
    }
}

/// May this member restart now? Holds it if not; gives what it costs if so. `persists`: does its server keep its data, as
/// it is set when it is stopped?
pub(super) fn may_restart(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    persists: bool,
    what: &str,
) -> Option<Cost> {
    if !persists && !scene.approved {
        let revision = scene.desired.revision.clone();
        decision.hold(name, what, HeldReason::RestartLosesData { revision });
        return None;
    }
    if let Some(reason) = scene.unready.clone() {
        decision.hold(name, what, reason);
        return None;
    }
    match scene.budget.take(name) {
        Ok(()) => Some(restart_cost(&place.member.server, persists)),
        Err(behind) => {
            decision.hold(name, what, HeldReason::Budget { max_restarts: scene.budget.max(), behind });
            None
        }
    }
}

fn restart_cost(server: &Server, persists: bool) -> Cost {
    let (connections, memory_bytes) = match server {
        Server::Up(running) => (Some(running.connections.total), Some(running.used_memory_bytes)),
        Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => (None, None),
    };
    if persists { Cost::Restart { connections, memory_bytes } } else { Cost::RestartEmpty { connections, memory_bytes } }
}
