//! One pass: follow the source, look, act. Everything it needs it finds again: a pass after a crash is like any other.

mod act;
mod answer;
mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::command::Command;
use super::following::{Following, InForce};
use super::members::Fences;
use super::news::News;
use super::shared::Shared;
use super::status::{ConfigurationStatus, InstanceStatus, NodeStatus, PassResult, PassStatus, Status};
use crate::apply::schedule::{self, Event, Pace, Report};
use crate::fleet::nodes::Nodes;
use crate::fleet::{Execute as _, Observe as _};
use crate::host::clock::{self, Stopwatch};
use crate::metrics::Phase;
use crate::model::action::Action;
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::name::{FleetName, InstanceName, NodeName};
use crate::model::outcome::Outcome;
use crate::model::plan::{Plan, Step, Subject};
use crate::model::record::{FleetRecord, Settled};
use crate::plan::{amend, plan_unattended, remembered};
use crate::reconcile::pace::Paces;
use crate::reconcile::{Look, consider, in_vain, waits};
use crate::repo::Repo;
use crate::roots::{self, Places, Roots};

/// What the daemon carries from pass to pass; none of it is needed to be right, only to be quick and not to repeat itself.
pub struct Passes {
    pub following: Following,
    roots: Roots,
    fleet: Option<((FleetName, Places), Arc<Nodes>)>,
    backoff: Backoff,
    news: News,
    number: u64,
    revisions: u64,
    started: Timestamp,
    configuration: ConfigurationStatus,
    instances: BTreeMap<InstanceName, InstanceStatus>,
    nodes: BTreeMap<NodeName, NodeStatus>,
    watching: Option<String>,
    /// It had the right to act on these nodes in the last pass.
    acts: bool,
    last: Option<PassStatus>,
    next: Option<Timestamp>,
    phases: Vec<(Phase, Duration)>,
    /// For what is measured from pass to pass.
    clock: Stopwatch,
    paces: Paces,
    fences: Fences,
    /// Instances of which a step did not come to its end in the last pass.
    in_vain: BTreeSet<InstanceName>,
    /// Plans of other branches that people wait for.
    plans: JoinSet<()>,
    shared: Arc<Shared>,
}

/// How long a pass waits for the look at one node, unless more is usual there.
const PATIENCE: Duration = Duration::from_secs(3);

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
        let started = clock::now();
        Self {
            following,
            roots,
            fleet: None,
            backoff: Backoff::default(),
            news: News::default(),
            number: 0,
            revisions: 0,
            started,
            configuration: ConfigurationStatus { read: started, refused: None },
            plans: JoinSet::new(),
            instances: BTreeMap::new(),
            nodes: BTreeMap::new(),
            watching: None,
            acts: false,
            last: None,
            next: None,
            phases: Vec::new(),
            clock: Stopwatch::start(),
            paces: Paces::default(),
            fences: Fences::default(),
            in_vain: BTreeSet::new(),
            shared,
        }
    }

    /// Follows another source from now on, or the same one in another way.
    pub fn turn_to(&mut self, repo: Repo, roots: Roots) {
        self.following.turn_to(repo, roots.clone());
        self.roots = roots;
    }

    /// The configuration was read again, and taken or not.
    pub fn configured(&mut self, read: Result<(), String>) {
        match read {
            Ok(()) => self.configuration = ConfigurationStatus { read: clock::now(), refused: None },
            Err(problem) => self.configuration.refused = Some(problem),
        }
        let (configuration, source) = (self.configuration.clone(), self.following.status());
        let status = Status { configuration, source, ..(*self.shared.status()).clone() };
        self.shared.publish(status);
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
        if follow {
            self.following.ask();
        }
        self.follow(begun).await;
        self.phases.push((Phase::Source, watch.elapsed()));
        let watch = Stopwatch::start();
        let scene = self.look().await;
        self.phases.push((Phase::Look, watch.elapsed()));
        let Some(mut scene) = scene else {
            let next = if self.following.is_searching() { Next::AtOnce } else { Next::InTime };
            return self.end(begun, None, PassResult::Blind, Report { results: Vec::new() }, next);
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
        let acts = self.take_turn(&scene).await;
        let acted = std::mem::replace(&mut self.acts, acts);
        let todo = self.due(&scene.plan, begun);
        // Whoever had the right to act may have used it since this look.
        let is_stale = self.acts && !acted && !todo.steps.is_empty();
        if !self.acts || is_stale || todo.steps.is_empty() {
            let result = self.judge(&scene.plan, &todo);
            self.settle(&mut scene, result).await;
            let next = match (is_stale, waits(&scene.plan)) {
                (true, _) => Next::AtOnce,
                (false, true) => Next::Soon,
                (false, false) => Next::InTime,
            };
            return self.end(begun, Some(scene), result, Report { results: Vec::new() }, next);
        }
        self.publish(Some(&scene));
        let watch = Stopwatch::start();
        let report = self.act(&scene, &todo, requests, waiting).await;
        self.phases.push((Phase::Act, watch.elapsed()));
        self.in_vain = in_vain(&report);
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

    async fn look(&mut self) -> Option<Scene> {
        let in_force = self.following.in_view()?.clone();
        let fleet = self.fleet_of(&in_force.desired);
        let live = fleet.observe().await;
        fleet.look_times().iter().for_each(|(node, took)| self.shared.metrics.observed(node, *took));
        let record = remembered(&in_force.desired, &live);
        let Look { live, mut plan } = consider(live, &*fleet, |live| plan_unattended(&in_force.desired, live)).await;
        // How far they ever were matters only to who gives up waiting; the daemon never does.
        let _nearer = self.paces.enter(&mut plan.moves, self.clock.elapsed(), &std::mem::take(&mut self.in_vain));
        self.shared.metrics.plan_made(&plan);
        let drift = plan.drift().filter_map(|step| match &step.subject {
            Subject::Instance(name) => Some(name),
            Subject::Fleet => None,
        });
        self.shared.metrics.drift_found(drift.collect::<BTreeSet<_>>());
        Some(Scene { in_force, fleet, live, record, plan })
    }

    /// The nodes; kept from pass to pass while they are the same, and are of the same fleet.
    fn fleet_of(&mut self, desired: &Desired) -> Arc<Nodes> {
        let key = (desired.fleet.clone(), roots::places(desired, &self.roots));
        match &self.fleet {
            Some((known, fleet)) if *known == key => Arc::clone(fleet),
            known => {
                let before = known.as_ref().map(|(_, fleet)| &**fleet);
                let fleet = Arc::new(roots::fleet(desired, &key.1, before).waiting_at_most(PATIENCE));
                self.fleet = Some((key, Arc::clone(&fleet)));
                self.acts = false;
                fleet
            }
        }
    }

    /// Takes the right to act, or gives it back while a person suspended the fleet, so that `apply` may be used then. Tells
    /// whether it is there.
    async fn take_turn(&mut self, scene: &Scene) -> bool {
        let before = self.watching.take();
        if scene.record.suspended.of_fleet(clock::now()).is_some() {
            scene.fleet.release().await;
            self.watching = Some("nobody: the fleet is suspended".to_owned());
        } else if let Err(held) = scene.fleet.acquire(&roots::holder("run")).await {
            self.watching = Some(held.why.clone());
            // What was got elsewhere would keep whoever has the rest from acting, and both would watch for ever.
            scene.fleet.release().await;
        }
        if before != self.watching {
            match &self.watching {
                Some(why) => warn!("only watching: {why}"),
                None => info!("acting on the nodes"),
            }
        }
        self.watching.is_none()
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
