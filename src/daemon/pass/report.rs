//! What a pass says of itself: the status, the metrics, and in the log what is wrong with the source.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::{Ended, Next, Passes, Scene};
use crate::apply::schedule::Report;
use crate::daemon::backoff::later;
use crate::daemon::lifecycle;
use crate::daemon::members::members;
use crate::daemon::status::{NodeStatus, PassResult, PassStatus, Problem, Status};
use crate::daemon::systemd;
use crate::host::clock;
use crate::model::live::{Live, Observed};
use crate::model::name::NodeName;
use crate::model::outcome::Outcome;

impl Passes {
    /// What is wrong with the source is said once.
    pub(super) fn tell_problem(&self, before: Option<&Problem>) {
        if let Some(now) = self.following.problem().filter(|now| before.is_none_or(|before| before.message != now.message)) {
            warn!(kind = now.kind.word(), "the source: {}", now.message);
        }
    }

    pub(super) fn end(
        &mut self,
        begun: Timestamp,
        scene: Option<Scene>,
        result: PassResult,
        report: Report,
        next: Next,
    ) -> Ended {
        let seconds = clock::now().duration_since(begun).as_secs_f64();
        let count = |wanted: fn(&Outcome) -> bool| {
            report.results.iter().filter(|(_, outcome)| outcome.as_ref().is_some_and(wanted)).count() as u64
        };
        let held = scene.as_ref().map_or(0, |scene| scene.plan.held.len() as u64);
        let failed = count(|outcome| {
            matches!(outcome, Outcome::Failed(_) | Outcome::Refused(_) | Outcome::NotKept(_) | Outcome::NotReached(_))
        });
        let done = count(|outcome| matches!(outcome, Outcome::Done));
        self.last = Some(PassStatus { number: self.number, at: begun, seconds, result, done, failed, held });
        self.shared.metrics.pass_ended(&self.phases, result);
        systemd::status(&self.last_pass());
        self.publish(scene.as_ref());
        Ended { result, next }
    }

    /// Makes what is known now what `status` and the metrics say.
    pub(super) fn publish(&mut self, scene: Option<&Scene>) {
        let now = clock::now();
        if let Some(scene) = scene {
            let members = members(&scene.in_force.desired, &scene.live, &mut self.fences, self.clock.elapsed());
            self.instances = lifecycle::instances(&lifecycle::Scene {
                desired: &scene.in_force.desired,
                live: &scene.live,
                plan: &scene.plan,
                backoff: &self.backoff,
                suspended: &scene.record.suspended,
                before: &self.instances,
                members,
                now,
            });
            self.nodes = nodes(&scene.live, &self.nodes, now);
        }
        let record = scene.map(|scene| &scene.record);
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet: self.following.in_force().map(|in_force| in_force.desired.fleet.to_string()),
            started: self.started,
            configuration: self.configuration.clone(),
            source: self.following.status(),
            settled: record.and_then(|record| record.settled.clone()),
            watching: self.watching.clone(),
            suspended: record.and_then(|record| record.suspended.of_fleet(now).cloned()),
            last_pass: self.last.clone(),
            next_pass: self.next,
            nodes: self.nodes.clone(),
            instances: self.instances.clone(),
        };
        self.shared.publish(status);
    }

    /// Says in the status when the next pass comes.
    pub fn waits(&mut self, pause: Duration) {
        self.next = Some(later(clock::now(), pause));
        let status = Status { next_pass: self.next, ..(*self.shared.status()).clone() };
        self.shared.publish(status);
    }

    /// When something is due by itself: a retry, the end of a suspension, or of the time of clients.
    pub fn next_due(&self) -> Option<Timestamp> {
        let ends = self.instances.values().filter_map(|instance| instance.suspended.as_ref().map(|suspension| suspension.until));
        // A server leaves when the time of its clients is over.
        let moving = self.instances.values().filter_map(|instance| instance.moving.as_ref());
        let leaves =
            moving.flat_map(|it| &it.remaining).filter_map(|remaining| remaining.until).filter(|until| *until > clock::now());
        self.backoff.next().into_iter().chain(ends).chain(leaves).min()
    }
}

fn nodes(live: &Live, before: &BTreeMap<NodeName, NodeStatus>, now: Timestamp) -> BTreeMap<NodeName, NodeStatus> {
    let one = |(name, node): (&NodeName, &Observed<_>)| {
        let (seen, message) = match node {
            Observed::Seen(_) => (true, None),
            Observed::Unseen { unseen } => (false, Some(unseen.clone())),
        };
        let version = live.seen(name).map(|(_, binary)| binary.version.clone());
        let since = before.get(name).filter(|before| before.seen == seen).map_or(now, |before| before.since);
        (name.clone(), NodeStatus { seen, message, version, since })
    };
    live.nodes.iter().map(one).collect()
}
