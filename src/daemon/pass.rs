//! One pass: follow the source, look, act. Everything it needs it finds again: a pass after a crash is like any other.

mod answer;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::backoff::{Backoff, later};
use super::command::{Command, What};
use super::following::{Following, InForce};
use super::lifecycle;
use super::news::News;
use super::shared::Shared;
use super::status::{InstanceStatus, NodeStatus, PassResult, PassStatus, Problem, Status};
use crate::apply::schedule::{self, Event, Pace, Report};
use crate::fleet::nodes::Nodes;
use crate::fleet::{Execute as _, Observe as _};
use crate::host::clock::{self, Stopwatch};
use crate::metrics::Phase;
use crate::model::action::Action;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::name::{InstanceName, NodeName};
use crate::model::outcome::Outcome;
use crate::model::plan::{Plan, Step, Subject};
use crate::model::record::{FleetRecord, Settled};
use crate::plan::{amend, plan_unattended, remembered};
use crate::reconcile::waits;
use crate::roots::{self, Places, Roots};

/// What the daemon carries from pass to pass; none of it is needed to be right, only to be quick and not to repeat itself.
pub struct Passes {
    pub following: Following,
    roots: Roots,
    fleet: Option<(Places, Arc<Nodes>)>,
    backoff: Backoff,
    news: News,
    number: u64,
    revisions: u64,
    started: Timestamp,
    instances: BTreeMap<InstanceName, InstanceStatus>,
    nodes: BTreeMap<NodeName, NodeStatus>,
    watching: Option<String>,
    last: Option<PassStatus>,
    next: Option<Timestamp>,
    phases: Vec<(Phase, Duration)>,
    shared: Arc<Shared>,
}

/// How a pass ended, and when the next one should follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub result: PassResult,
    pub next: Next,
}

/// When the next pass should follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    AtOnce,
    /// In a moment: something that takes its time is under way on a node.
    Soon,
    /// With the poll, or when something is due or asked for.
    InTime,
}

/// What one look showed.
struct Scene {
    in_force: Arc<InForce>,
    fleet: Arc<Nodes>,
    live: Live,
    record: Arc<FleetRecord>,
    plan: Plan,
}

impl Passes {
    pub fn new(following: Following, roots: Roots, shared: Arc<Shared>) -> Self {
        Self {
            following,
            roots,
            fleet: None,
            backoff: Backoff::default(),
            news: News::default(),
            number: 0,
            revisions: 0,
            started: clock::now(),
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            watching: None,
            last: None,
            next: None,
            phases: Vec::new(),
            shared,
        }
    }

    /// How many revisions were new since the start.
    pub fn revisions(&self) -> u64 {
        self.revisions
    }

    /// Takes one pass. Requests that arrive while it acts stop what has not begun and are kept in `waiting`.
    ///
    /// `follow`: ask the source; a retry that is due does not need that.
    pub async fn pass(&mut self, follow: bool, requests: &mut mpsc::Receiver<Command>, waiting: &mut VecDeque<Command>) -> Ended {
        self.number += 1;
        let begun = clock::now();
        self.phases.clear();
        let watch = Stopwatch::start();
        if follow || self.following.in_force().is_none() {
            self.follow(begun).await;
        }
        self.phases.push((Phase::Source, watch.elapsed()));
        let watch = Stopwatch::start();
        let scene = self.look().await;
        self.phases.push((Phase::Look, watch.elapsed()));
        let Some(mut scene) = scene else {
            return self.end(begun, None, PassResult::Blind, Report { results: Vec::new() }, Next::InTime);
        };
        let turned = self.following.keep_to_history(&scene.record, begun).await;
        if turned || self.following.in_force().is_none() {
            // What is in force now is not what was planned with.
            self.tell_problem(None);
            let next = if self.following.in_force().is_some() { Next::AtOnce } else { Next::InTime };
            return self.end(begun, Some(scene), PassResult::Blind, Report { results: Vec::new() }, next);
        }
        self.news.tell(&scene.plan, self.number);
        self.forget_failures(&scene.plan);
        self.take_turn(&scene).await;
        let todo = self.due(&scene.plan, begun);
        if self.watching.is_some() || todo.steps.is_empty() {
            let result = self.judge(&scene.plan, &todo);
            self.settle(&mut scene, result).await;
            let next = if waits(&scene.plan) { Next::Soon } else { Next::InTime };
            return self.end(begun, Some(scene), result, Report { results: Vec::new() }, next);
        }
        self.publish(Some(&scene));
        let watch = Stopwatch::start();
        let report = self.act(&scene, &todo, requests, waiting).await;
        self.phases.push((Phase::Act, watch.elapsed()));
        let troubled = self.account(&report, &scene.in_force);
        let result = if troubled { PassResult::Troubled } else { PassResult::Progress };
        // Whatever was done, the next look says whether more is to do; what failed waits for its time.
        let some = |is: fn(&Outcome) -> bool| report.results.iter().any(|(_, outcome)| outcome.as_ref().is_none_or(is));
        let next = match (some(Outcome::is_done), some(is_unclear)) {
            (true, _) => Next::AtOnce,
            (false, true) => Next::Soon,
            (false, false) => Next::InTime,
        };
        self.end(begun, Some(scene), result, report, next)
    }

    async fn follow(&mut self, now: Timestamp) {
        let before = self.following.problem().cloned();
        if self.following.follow(now).await {
            // A new revision may have cured what failed.
            self.backoff.hasten(now);
            self.revisions += 1;
            let revision = self.following.in_force().map(|in_force| in_force.revision.to_string());
            info!(revision, "a new revision was read");
        }
        self.tell_problem(before.as_ref());
        if before.is_some() && self.following.problem().is_none() {
            info!("the source is sound again");
        }
    }

    /// What is wrong with the source is said once.
    fn tell_problem(&self, before: Option<&Problem>) {
        if let Some(now) = self.following.problem().filter(|now| before.is_none_or(|before| before.message != now.message)) {
            warn!(kind = now.kind.word(), "the source: {}", now.message);
        }
    }

    async fn look(&mut self) -> Option<Scene> {
        let in_force = self.following.in_view()?.clone();
        let fleet = self.fleet_of(&in_force.desired);
        let live = fleet.observe().await;
        fleet.look_times().iter().for_each(|(node, took)| self.shared.metrics.observed(node, *took));
        let record = remembered(&in_force.desired, &live);
        let plan = plan_unattended(&in_force.desired, &live);
        self.shared.metrics.plan_made(&plan);
        let drift = plan.drift().filter_map(|step| match &step.subject {
            Subject::Instance(name) => Some(name),
            Subject::Fleet => None,
        });
        self.shared.metrics.drift_found(drift.collect::<std::collections::BTreeSet<_>>());
        Some(Scene { in_force, fleet, live, record, plan })
    }

    /// The nodes; kept from pass to pass while they are the same.
    fn fleet_of(&mut self, desired: &Desired) -> Arc<Nodes> {
        let places = roots::places(desired, &self.roots);
        match &self.fleet {
            Some((known, fleet)) if *known == places => Arc::clone(fleet),
            known => {
                let before = known.as_ref().map(|(_, fleet)| &**fleet);
                let fleet = Arc::new(roots::fleet(desired, &places, before));
                self.fleet = Some((places, Arc::clone(&fleet)));
                fleet
            }
        }
    }

    /// Takes the right to act, or gives it back while a person suspended the fleet, so that `apply` may be used then.
    async fn take_turn(&mut self, scene: &Scene) {
        let before = self.watching.take();
        if scene.record.suspended.of_fleet(clock::now()).is_some() {
            scene.fleet.release().await;
            self.watching = Some("nobody: the fleet is suspended".to_owned());
        } else if let Err(held) = scene.fleet.acquire(&format!("valkeeper run (process {})", std::process::id())).await {
            self.watching = Some(held.why.clone());
        }
        if before != self.watching {
            match &self.watching {
                Some(why) => warn!("only watching: {why}"),
                None => info!("acting on the nodes"),
            }
        }
    }

    /// Where nothing is to be done any more, there is nothing to try again: somebody else put it right, or holds it.
    fn forget_failures(&mut self, plan: &Plan) {
        for subject in self.backoff.keep(|subject| plan.steps.iter().any(|step| step.subject == *subject)) {
            info!(revision = plan.revision, pass = self.number, "{}: nothing is left to try", name(&subject));
        }
    }

    /// Without what failed a moment ago.
    fn due(&self, plan: &Plan, now: Timestamp) -> Plan {
        let mut plan = plan.clone();
        // Where the fleet's record could not be written, nothing new is made: a node might not remember it.
        let forgetful = self.backoff.waits(&Subject::Fleet, now);
        let unmakeable = |step: &Step| forgetful && matches!(step.action, Action::CreateInstance(_));
        plan.steps.retain(|step| !self.backoff.waits(&step.subject, now) && !unmakeable(step));
        plan
    }

    fn judge(&self, plan: &Plan, todo: &Plan) -> PassResult {
        if self.watching.is_some() {
            PassResult::Watching
        } else if plan.is_settled() {
            PassResult::Settled
        } else if todo.steps.len() < plan.steps.len() || !plan.unseen.is_empty() {
            PassResult::Troubled
        } else {
            PassResult::Progress
        }
    }

    /// Steps run while triggers and requests are heard: a newer revision, or a request, supersedes what has not begun.
    async fn act(
        &self,
        scene: &Scene,
        todo: &Plan,
        requests: &mut mpsc::Receiver<Command>,
        waiting: &mut VecDeque<Command>,
    ) -> Report {
        let (stop, stopped) = watch::channel(false);
        let shared = &self.shared;
        let revision = scene.in_force.revision.to_string();
        let pass = self.number;
        let listen = Mutex::new(|event: Event<'_>| shared.heard(event, &revision, pass));
        let work = schedule::run(todo, &*scene.fleet, Pace::default(), &stopped, &listen);
        tokio::pin!(work);
        // At most one question to the source at a time, and no step waits for its answer.
        let mut asked: Option<Pin<Box<dyn Future<Output = bool> + Send>>> = None;
        loop {
            tokio::select! {
                report = &mut work => {
                    if asked.is_some() {
                        self.shared.trigger.notify_one();
                    }
                    return report;
                }
                () = self.shared.trigger.notified(), if asked.is_none() && !*stop.borrow() => {
                    asked = Some(Box::pin(self.following.has_moved()));
                }
                moved = async { match &mut asked { Some(asking) => asking.await, None => pending().await } } => {
                    asked = None;
                    if moved {
                        info!(revision, "a newer revision supersedes what has not begun");
                        stop.send_replace(true);
                    }
                }
                Some(request) = requests.recv() => {
                    if !matches!(request.what, What::Sync { .. }) {
                        stop.send_replace(true);
                    }
                    waiting.push_back(request);
                }
            }
        }
    }

    /// Enters what became of the steps. Gives whether anything failed.
    fn account(&mut self, report: &Report, in_force: &InForce) -> bool {
        let mut troubled = false;
        for (step, outcome) in &report.results {
            match outcome {
                Some(outcome @ (Outcome::Failed(_) | Outcome::Refused(_) | Outcome::NotKept(_) | Outcome::NotReached(_))) => {
                    troubled = true;
                    let message = format!("{}: {outcome}", crate::plan::show::step_line(step));
                    if self.backoff.failed(&step.subject, message.clone(), clock::now()) {
                        let (instance, kind) = (name(&step.subject), step.action.kind());
                        warn!(revision = %in_force.revision, pass = self.number, node = %step.node, instance, step = kind, "{message}");
                    }
                }
                Some(Outcome::Done | Outcome::AlreadyDone) => {
                    let more = |(other, outcome): &(Step, Option<Outcome>)| {
                        other.subject == step.subject && outcome.as_ref().is_none_or(|outcome| !outcome.is_done())
                    };
                    if !report.results.iter().any(more) && self.backoff.succeeded(&step.subject) {
                        info!(revision = %in_force.revision, pass = self.number, node = %step.node, "{} works again", name(&step.subject));
                    }
                }
                Some(Outcome::Pending(_) | Outcome::Conflict(_)) | None => {}
            }
        }
        troubled
    }

    /// Notes on the nodes that a revision was settled, once.
    async fn settle(&self, scene: &mut Scene, result: PassResult) {
        let revision = scene.in_force.revision.to_string();
        let known = scene.record.settled.as_ref().is_some_and(|settled| settled.revision == revision);
        if result != PassResult::Settled || known || scene.record.generation == 0 {
            return;
        }
        let now = clock::now();
        let mut record = FleetRecord::clone(&scene.record);
        record.settled = Some(Settled { revision: revision.clone(), at: now });
        record.accepted = None;
        record.suspended.tidy(now);
        let wanted = record.clone();
        match self.remember(scene, |record| *record = wanted).await {
            Ok(()) => {
                info!(revision, pass = self.number, "settled");
                // Status and metrics say so with this very pass.
                scene.record = Arc::new(record);
            }
            Err(why) => warn!(revision, "that it is settled could not be noted: {why}"),
        }
    }

    async fn remember(&self, scene: &Scene, change: impl FnOnce(&mut FleetRecord)) -> Result<(), String> {
        let steps = amend(&scene.in_force.desired, &scene.live, change);
        let plan = Plan { steps, ..scene.plan.clone() };
        let quiet = Mutex::new(|_: Event<'_>| {});
        let report = schedule::run(&plan, &*scene.fleet, Pace::default(), &watch::channel(false).1, &quiet).await;
        let failed = report.results.iter().find(|(_, outcome)| outcome.as_ref().is_none_or(|outcome| !outcome.is_done()));
        match failed {
            None => Ok(()),
            Some((step, Some(outcome))) => Err(format!("node {}: {outcome}", step.node)),
            Some((step, None)) => Err(format!("node {}: not begun", step.node)),
        }
    }

    fn end(&mut self, begun: Timestamp, scene: Option<Scene>, result: PassResult, report: Report, next: Next) -> Ended {
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
        self.publish(scene.as_ref());
        Ended { result, next }
    }

    /// Makes what is known now what `status` and the metrics say.
    fn publish(&mut self, scene: Option<&Scene>) {
        let now = clock::now();
        if let Some(scene) = scene {
            self.instances = lifecycle::instances(&lifecycle::Scene {
                desired: &scene.in_force.desired,
                live: &scene.live,
                plan: &scene.plan,
                backoff: &self.backoff,
                suspended: &scene.record.suspended,
                before: &self.instances,
                now,
            });
            self.nodes = nodes(scene, &self.nodes, now);
        }
        let record = scene.map(|scene| &scene.record);
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet: self.following.in_force().map(|in_force| in_force.desired.fleet.to_string()),
            started: self.started,
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

    /// When something is due by itself: a retry, or the end of a suspension.
    pub fn next_due(&self) -> Option<Timestamp> {
        let ends = self.instances.values().filter_map(|instance| instance.suspended.as_ref().map(|suspension| suspension.until));
        self.backoff.next().into_iter().chain(ends).min()
    }
}

/// Does the next look have to say what became of it?
fn is_unclear(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Pending(_) | Outcome::Conflict(_) => true,
        Outcome::Done
        | Outcome::AlreadyDone
        | Outcome::NotKept(_)
        | Outcome::Failed(_)
        | Outcome::Refused(_)
        | Outcome::NotReached(_) => false,
    }
}

fn name(subject: &Subject) -> String {
    match subject {
        Subject::Fleet => "the fleet's record".to_owned(),
        Subject::Instance(name) => name.to_string(),
    }
}

fn nodes(scene: &Scene, before: &BTreeMap<NodeName, NodeStatus>, now: Timestamp) -> BTreeMap<NodeName, NodeStatus> {
    let one = |name: &NodeName| {
        // A node that was seen and is not who it was counts as unseen to the plan.
        let message = scene.plan.unseen.get(name).cloned();
        let seen = message.is_none();
        let version = scene.live.seen(name).filter(|_| seen).map(|(_, binary)| binary.version.clone());
        let since = before.get(name).filter(|before| before.seen == seen).map_or(now, |before| before.since);
        (name.clone(), NodeStatus { seen, message, version, since })
    };
    scene.live.nodes.keys().map(one).collect()
}
