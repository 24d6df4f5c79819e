//! Taking the steps of a pass, and what became of them. Never decides which steps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{Passes, Scene, name};
use crate::apply::schedule::{self, Event, Pace, Report};
use crate::daemon::command::{Command, What};
use crate::daemon::following::InForce;
use crate::host::clock;
use crate::model::outcome::Outcome;
use crate::model::plan::{Plan, Step};

impl Passes {
    /// Steps run while triggers and requests are heard: a newer revision, or a request, supersedes what has not begun.
    pub(super) async fn act(
        &mut self,
        scene: &Scene,
        todo: &Plan,
        requests: &mut mpsc::Receiver<Command>,
        waiting: &mut VecDeque<Command>,
    ) -> Report {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&self.shared);
        let revision = scene.in_force.revision.to_string();
        let pass = self.number;
        let listen = Mutex::new(|event: Event<'_>| shared.heard(event, &revision, pass));
        let work = schedule::run(todo, &*scene.fleet, Pace::default(), &stopped, &listen);
        tokio::pin!(work);
        loop {
            tokio::select! {
                // A question to the source that is under way then is answered to the next pass.
                report = &mut work => return report,
                () = shared.trigger.notified(), if !*stop.borrow() => self.following.ask(),
                moved = self.following.has_moved() => {
                    if moved && !stop.send_replace(true) {
                        info!(revision, "a newer revision supersedes what has not begun");
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
    pub(super) fn account(&mut self, report: &Report, in_force: &InForce) -> bool {
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
}
