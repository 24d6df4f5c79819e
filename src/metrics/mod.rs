//! What Prometheus scrapes: counters that the daemon moves, and gauges made from its latest [`Status`].
//!
//! The only home of the `prometheus` crate. Never reads a clock, and never decides anything: a scrape shows what `status`
//! shows. Every name, with its labels and its meaning, stands in `docs/metrics.md`.
//!
//! Several families have a label `instance`, which Prometheus gives to every target as well: scrape with
//! `honor_labels: true` (`deploy/prometheus/scrape.yml`).

mod family;
mod moves;
mod snapshot;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::daemon::status::{PassResult, Status};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, Plan};
use snapshot::Snapshot;

/// Upper bounds in seconds, from a look at one idle node to the deadline of a step and well beyond.
const BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// The table of metrics is wrong: a mistake in this program, which its tests would show.
#[derive(Debug, thiserror::Error)]
#[error("a metric could not be registered")]
pub struct Unregistered(#[from] prometheus::Error);

/// A part of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Asking the source, and reading and checking what it gave.
    Source,
    /// Observing the nodes, and planning.
    Look,
    Act,
}

impl Phase {
    pub const ALL: [Self; 3] = [Self::Source, Self::Look, Self::Act];

    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Look => "look",
            Self::Act => "act",
        }
    }
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attempt {
    Success,
    Failure,
}

impl Attempt {
    pub const ALL: [Self; 2] = [Self::Success, Self::Failure];

    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }

    /// How a result went.
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(_) => Self::Failure,
        }
    }
}

/// Every metric of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    passes: IntCounterVec,
    pass_seconds: HistogramVec,
    steps: IntCounterVec,
    step_seconds: HistogramVec,
    planned: IntCounterVec,
    fetches: IntCounterVec,
    verifications: IntCounterVec,
    snapshot: Mutex<Snapshot>,
}

impl Metrics {
    /// # Errors
    /// Only if two metrics share a name or one has a wrong name: a mistake in this program.
    pub fn new() -> Result<Self, Unregistered> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, Unregistered> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let histogram = |name: &str, help: &str, labels: &[&str]| -> Result<HistogramVec, Unregistered> {
            let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let metrics = Self {
            passes: counter("valkeeper_passes_total", "Passes that ended, by result.", &["result"])?,
            pass_seconds: histogram("valkeeper_pass_duration_seconds", "How long the phases of a pass took.", &["phase"])?,
            steps: counter("valkeeper_steps_total", "Steps that were tried, by kind and outcome.", &["kind", "outcome"])?,
            step_seconds: histogram("valkeeper_step_duration_seconds", "How long steps took, by kind.", &["kind"])?,
            planned: counter(
                "valkeeper_planned_steps_total",
                "Steps that plans held, by action and cause.",
                &["action", "cause"],
            )?,
            fetches: counter("valkeeper_source_fetches_total", "Times the source was asked, by result.", &["result"])?,
            verifications: counter(
                "valkeeper_source_verifications_total",
                "Revisions whose signature was checked, by result.",
                &["result"],
            )?,
            snapshot: Mutex::new(Snapshot::default()),
            registry,
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// What is to be counted starts at 0: where a series appears with its first event, a rate does not see that event.
    fn show_zeros(&self) {
        PassResult::ALL.iter().for_each(|result| count(&self.passes, &[result.word()], 0));
        for attempt in Attempt::ALL {
            count(&self.fetches, &[attempt.word()], 0);
            count(&self.verifications, &[attempt.word()], 0);
        }
    }

    /// A pass ended, having spent this much time in those of its phases that it came to.
    pub fn pass_ended(&self, phases: &[(Phase, Duration)], result: PassResult) {
        count(&self.passes, &[result.word()], 1);
        for (phase, took) in phases {
            time(&self.pass_seconds, &[phase.word()], *took);
        }
    }

    /// One try of a step ended. The words are those of `Action::kind` and `Outcome::kind`.
    pub fn step_ended(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        count(&self.steps, &[kind, outcome], 1);
        time(&self.step_seconds, &[kind], took);
    }

    pub fn fetched(&self, attempt: Attempt) {
        count(&self.fetches, &[attempt.word()], 1);
    }

    pub fn verified(&self, attempt: Attempt) {
        count(&self.verifications, &[attempt.word()], 1);
    }

    /// A pass made a plan.
    pub fn plan_made(&self, plan: &Plan) {
        for step in &plan.steps {
            count(&self.planned, &[step.action.kind(), cause_word(step.cause)], 1);
        }
    }

    /// A pass found that somebody else changed these instances.
    pub fn drift_found<'a>(&self, instances: impl IntoIterator<Item = &'a InstanceName>) {
        let mut snapshot = self.snapshot();
        instances.into_iter().for_each(|instance| snapshot.drift_found(instance));
    }

    /// A look at a node ended, whether it saw the node or not.
    pub fn observed(&self, node: &NodeName, took: Duration) {
        self.snapshot().observed.insert(node.clone(), took);
    }

    /// From now on the gauges show this; series of nodes and instances that are not in it are gone.
    pub fn set_status(&self, status: Arc<Status>) {
        self.snapshot().turn_to(status);
    }

    /// Everything, in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// Only if a family is empty or nameless, which [`family::Family::of`] rules out.
    pub fn render(&self) -> Result<String, Unregistered> {
        let mut families = self.registry.gather();
        {
            let snapshot = self.snapshot();
            let all = state::FAMILIES.iter().chain(moves::FAMILIES);
            families.extend(all.filter_map(|family| family.of(&snapshot)));
        }
        families.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }

    /// A panic elsewhere leaves the snapshot whole: it is replaced, never half-written.
    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cause_word(cause: Cause) -> &'static str {
    match cause {
        Cause::Requested => "requested",
        Cause::Drift => "drift",
        Cause::Bookkeeping => "bookkeeping",
    }
}

/// `with_label_values` would panic on a wrong number of labels; the tests see that none is wrong.
fn count(counter: &IntCounterVec, labels: &[&str], by: u64) {
    if let Ok(counter) = counter.get_metric_with_label_values(labels) {
        counter.inc_by(by);
    }
}

fn time(histogram: &HistogramVec, labels: &[&str], took: Duration) {
    if let Ok(histogram) = histogram.get_metric_with_label_values(labels) {
        histogram.observe(took.as_secs_f64());
    }
}
