//! What the loop shares with those who ask and scrape: the latest status, the trigger, the heartbeat, the metrics.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tracing::info;

use super::status::{SourceStatus, Status};
use crate::apply::schedule::Event;
use crate::host::clock::{self, Stopwatch};
use crate::host::held;
use crate::http::Moment;
use crate::metrics::Metrics;
use crate::model::plan::Subject;
use crate::plan::show::step_line;

/// One for each daemon.
pub struct Shared {
    now: Mutex<Now>,
    /// Somebody thinks that there is something new. It carries nothing: the next pass looks for itself.
    pub trigger: Notify,
    pub metrics: Arc<Metrics>,
}

struct Now {
    status: Arc<Status>,
    /// Since the loop was last known to be alive.
    beat: Stopwatch,
    /// Since the last pass ended, if one has.
    pass: Stopwatch,
}

impl Shared {
    pub fn new(metrics: Arc<Metrics>, source: SourceStatus) -> Self {
        let status = Arc::new(Status::at_start(clock::now(), source));
        metrics.set_status(Arc::clone(&status));
        let now = Now { status, beat: Stopwatch::start(), pass: Stopwatch::start() };
        Self { now: Mutex::new(now), trigger: Notify::new(), metrics }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        held::lock(&self.now)
    }

    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.now().status)
    }

    pub fn publish(&self, status: Status) {
        let status = Arc::new(status);
        self.metrics.set_status(Arc::clone(&status));
        let number = |status: &Status| status.last_pass.as_ref().map(|pass| pass.number);
        let mut now = self.now();
        if number(&status) != number(&now.status) {
            now.pass = Stopwatch::start();
        }
        now.status = status;
        now.beat = Stopwatch::start();
    }

    pub fn beats(&self) {
        self.now().beat = Stopwatch::start();
    }

    /// The daemon at this moment, for those who ask whether it lives.
    pub fn moment(&self) -> Moment {
        let now = self.now();
        Moment { since_beat: now.beat.elapsed(), since_pass: now.pass.elapsed(), status: Arc::clone(&now.status) }
    }

    /// A step began or ended.
    pub fn heard(&self, event: Event<'_>, revision: &str, pass: u64) {
        self.beats();
        match event {
            Event::Begun { .. } | Event::Progress { .. } | Event::Moves { .. } => {}
            Event::Ended { step, attempt, outcome, took, again } => {
                self.metrics.step_ended(step.action.kind(), outcome.kind(), took);
                let seconds = took.as_secs_f64();
                // A failure is told once by the pass that gives up on it.
                if outcome.is_done() {
                    let instance = match &step.subject {
                        Subject::Fleet => "",
                        Subject::Instance(name) => name.as_str(),
                    };
                    let (node, kind, line) = (step.node.as_str(), step.action.kind(), step_line(step));
                    info!(revision, pass, instance, node, step = kind, attempt, seconds, again, "{line}: {outcome}");
                }
            }
        }
    }
}
