//! What the loop shares with those who ask and scrape: the latest status, the trigger, the heartbeat, the metrics.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;
use tracing::info;

use super::status::Status;
use crate::apply::schedule::Event;
use crate::host::clock;
use crate::metrics::Metrics;
use crate::model::plan::Subject;
use crate::plan::show::step_line;

/// One for each daemon.
pub struct Shared {
    status: RwLock<Option<Arc<Status>>>,
    /// Somebody thinks that there is something new. It carries nothing: the next pass looks for itself.
    pub trigger: Notify,
    /// When the loop was last known to be alive. Seconds since 1970.
    beat: AtomicI64,
    pub metrics: Metrics,
}

impl Shared {
    pub fn new(metrics: Metrics) -> Self {
        let shared = Self { status: RwLock::default(), trigger: Notify::new(), beat: AtomicI64::new(0), metrics };
        shared.beats();
        shared
    }

    pub fn status(&self) -> Option<Arc<Status>> {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn publish(&self, status: Status) {
        self.beats();
        let status = Arc::new(status);
        self.metrics.set_status(Arc::clone(&status));
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    pub fn beats(&self) {
        self.beat.store(clock::now().as_second(), Ordering::Relaxed);
    }

    /// How long the loop has shown no life. Seconds.
    pub fn silent_seconds(&self) -> i64 {
        clock::now().as_second().saturating_sub(self.beat.load(Ordering::Relaxed))
    }

    /// A step began or ended.
    pub fn heard(&self, event: Event<'_>, revision: &str) {
        self.beats();
        match event {
            Event::Begun { .. } => {}
            Event::Ended { step, attempt, outcome, took, again } => {
                let seconds = took.as_secs_f64();
                self.metrics.step_ended(step.action.kind(), outcome.kind(), seconds);
                // A failure is told once by the pass that gives up on it.
                if outcome.is_done() {
                    let instance = match &step.subject {
                        Subject::Fleet => "",
                        Subject::Instance(name) => name.as_str(),
                    };
                    let (node, kind, line) = (step.node.as_str(), step.action.kind(), step_line(step));
                    info!(revision, instance, node, step = kind, attempt, seconds, again, "{line}: {outcome}");
                }
            }
        }
    }
}
