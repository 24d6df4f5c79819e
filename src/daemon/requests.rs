//! What people ask of the loop, and what it waits for between two passes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use super::command::{Command, What};
use super::pass::Passes;
use super::shared::Shared;

/// What people asked for.
pub struct Requests {
    pub queue: mpsc::Receiver<Command>,
    /// Not looked at yet: they came while steps were taken.
    pub waiting: VecDeque<Command>,
    /// Answered by a pass that began after them.
    for_pass: Vec<Command>,
    /// How often a rest shows that the loop lives.
    beat: Duration,
}

/// Why a rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The pause is over, or the source answered: there is no reason to ask it again.
    InTime,
    /// Somebody wants a pass.
    Asked,
    /// The daemon's configuration is to be read again.
    Reload,
}

impl Requests {
    pub fn new(queue: mpsc::Receiver<Command>, beat: Duration) -> Self {
        Self { queue, waiting: VecDeque::new(), for_pass: Vec::new(), beat }
    }

    /// Answers what needs no pass. Gives whether a pass should follow at once.
    pub async fn answer(&mut self, passes: &mut Passes) -> bool {
        let (syncs, others): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|command| matches!(command.what, What::Sync { .. }));
        self.waiting.extend(syncs);
        let mut again = false;
        for command in others {
            again |= passes.answer(command).await;
        }
        again
    }

    pub async fn answer_for_pass(&mut self, passes: &mut Passes) {
        for command in self.for_pass.drain(..) {
            passes.answer(command).await;
        }
    }

    /// Those who came meanwhile wait for the next pass. Gives whether there are any.
    pub fn take_for_pass(&mut self) -> bool {
        let came = !self.waiting.is_empty();
        self.for_pass.extend(self.waiting.drain(..));
        came
    }

    /// Ends after the pause, or when the source answers, when woken, or when a request wants a pass; all others are answered at
    /// once. The loop lives meanwhile: a long poll is not a hang.
    pub async fn rest(
        &mut self,
        passes: &mut Passes,
        shared: &Shared,
        pause: Duration,
        wake: impl Future<Output = Woken>,
    ) -> Woken {
        let due = tokio::time::sleep(pause);
        tokio::pin!(due, wake);
        loop {
            let request = tokio::select! {
                () = &mut due => return Woken::InTime,
                woken = &mut wake => return woken,
                _ = passes.following.has_moved() => return Woken::InTime,
                () = tokio::time::sleep(self.beat) => {
                    shared.beats();
                    continue;
                }
                Some(request) = self.queue.recv() => request,
            };
            // Not in the select: what is begun for somebody is not broken off by something else.
            self.waiting.push_back(request);
            if self.answer(passes).await || self.take_for_pass() {
                return Woken::Asked;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::daemon::following::Following;
    use crate::host::clock::Stopwatch;
    use crate::metrics::Metrics;
    use crate::repo::{Access, FETCH_DEADLINE, Location, Repo, Spec, Verify};
    use crate::roots::Roots;

    #[tokio::test]
    async fn a_daemon_that_waits_for_a_long_poll_is_alive() {
        let spec = Spec {
            location: Location::Folder(PathBuf::from("/nowhere")),
            branch: "main".into(),
            folder: ".".into(),
            cache: PathBuf::from("/nowhere"),
            verify: Verify::Off,
            access: Access::default(),
            deadline: FETCH_DEADLINE,
        };
        let roots = Roots { secrets: None, local: PathBuf::from("/nowhere") };
        let metrics = Arc::new(Metrics::new().unwrap());
        let following = Following::new(Repo::open(spec).unwrap(), roots.clone(), Arc::clone(&metrics));
        let shared = Arc::new(Shared::new(metrics, following.status()));
        let mut passes = Passes::new(following, roots, Arc::clone(&shared));
        let (_sender, queue) = mpsc::channel(1);
        let mut requests = Requests::new(queue, Duration::from_millis(20));
        let watch = Stopwatch::start();
        let rest = requests.rest(&mut passes, &shared, Duration::from_secs(3600), std::future::pending());
        assert!(tokio::time::timeout(Duration::from_millis(400), rest).await.is_err(), "the poll is not over");
        assert!(shared.moment().since_beat < watch.elapsed() / 2);
    }
}
