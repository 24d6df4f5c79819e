//! Asking the source for its newest revision, in the background: a remote that hangs holds up no pass. One question at a
//! time. Never judges the answer.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tracing::error;

use crate::host::clock::{self, Stopwatch};
use crate::metrics::{Attempt, Metrics};
use crate::repo::{Head, Repo, RepoError};

/// How long a pass waits for an answer: most remotes need less, and one pass is then enough. Drift waits no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the source said.
pub type Answer = Result<Head, RepoError>;

/// A source, and the question to it that is under way. Dropping it ends the question.
#[derive(Debug)]
pub struct Asking {
    repo: Repo,
    metrics: Arc<Metrics>,
    under_way: JoinSet<Answer>,
    /// When the question under way was asked, by both clocks.
    begun: Option<(Stopwatch, Timestamp)>,
    /// Somebody asked while a question was under way: its answer may be older than what they know of.
    once_more: bool,
    answer: Option<Answer>,
}

impl Asking {
    pub fn new(repo: Repo, metrics: Arc<Metrics>) -> Self {
        Self { repo, metrics, under_way: JoinSet::new(), begun: None, once_more: false, answer: None }
    }

    /// Asks now, or again once the question under way is answered.
    pub fn ask(&mut self) {
        if !self.under_way.is_empty() {
            self.once_more = true;
            return;
        }
        let repo = self.repo.clone();
        self.under_way.spawn(async move { repo.head().await });
        self.begun = Some((Stopwatch::start(), clock::now()));
    }

    /// Since when a question is under way.
    pub fn since(&self) -> Option<Timestamp> {
        self.begun.map(|(_, at)| at)
    }

    /// Waits for the answer to the question under way, for ever where there is none. May be dropped while it waits.
    pub async fn answered(&mut self) -> Option<&Answer> {
        let Some(ended) = self.under_way.join_next().await else { return std::future::pending().await };
        self.begun = None;
        match ended {
            Ok(answer) => {
                self.metrics.fetched(Attempt::of(&answer));
                self.answer = Some(answer);
            }
            // A mistake in this program. The old answer stays, and the next pass asks again.
            Err(problem) => error!(%problem, "asking the source ended without an answer"),
        }
        if std::mem::take(&mut self.once_more) {
            self.ask();
        }
        self.answer.as_ref()
    }

    /// The newest answer that nobody took yet; waits for one under way, if it is not late already.
    pub async fn take(&mut self) -> Option<Answer> {
        while let Some((asked, _)) = self.begun {
            if tokio::time::timeout(PATIENCE.saturating_sub(asked.elapsed()), self.answered()).await.is_err() {
                break;
            }
        }
        self.answer.take()
    }
}
