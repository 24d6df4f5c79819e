//! Following the source: which revision is in force, and why a newer one is not.

use std::sync::Arc;

use jiff::Timestamp;

use super::status::{Problem, ProblemKind, SourceStatus};
use crate::desired::{self, Source};
use crate::metrics::{Attempt, Metrics};
use crate::model::desired::Desired;
use crate::model::record::FleetRecord;
use crate::observe::chain;
use crate::repo::{Location, Repo, RepoError, Revision, Spec, Verify};
use crate::roots::{self, Roots};

/// How far back in history a good revision is looked for after a start.
const HISTORY_MAX: usize = 100;

/// The revision that the nodes are kept at.
#[derive(Debug, Clone)]
pub struct InForce {
    pub revision: Revision,
    pub desired: Desired,
    pub signed_by: Option<String>,
}

/// A source and what came of it so far.
#[derive(Debug)]
pub struct Following {
    repo: Repo,
    roots: Roots,
    metrics: Arc<Metrics>,
    in_force: Option<Arc<InForce>>,
    head: Option<Revision>,
    /// A head that does not follow what was settled: not taken again unless a person accepts it.
    rewound: Option<Revision>,
    problem: Option<Problem>,
    last_fetch: Option<Timestamp>,
}

/// Why a revision cannot be in force.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bad {
    kind: ProblemKind,
    message: String,
}

fn bad(kind: ProblemKind) -> impl Fn(RepoError) -> Bad {
    move |error| Bad { kind, message: chain(&error) }
}

impl Following {
    pub fn new(repo: Repo, roots: Roots, metrics: Arc<Metrics>) -> Self {
        Self { repo, roots, metrics, in_force: None, head: None, rewound: None, problem: None, last_fetch: None }
    }

    pub fn in_force(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref()
    }

    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Is there something newer than what is in force? A cheap look, for a pass that is under way.
    pub async fn has_moved(&self) -> bool {
        let head = self.repo.head().await.ok();
        head.is_some_and(|head| Some(&head.revision) != self.head.as_ref())
    }

    /// Looks for a newer revision. What is bad leaves the last good one in force. Gives whether another one is in force now.
    pub async fn follow(&mut self, now: Timestamp) -> bool {
        let head = self.repo.head().await;
        self.metrics.fetched(Attempt::of(&head));
        let head = match head {
            Ok(head) => head.revision,
            Err(error) => {
                self.trouble(bad(ProblemKind::Fetch)(error), now);
                return false;
            }
        };
        self.last_fetch = Some(now);
        self.head = Some(head.clone());
        if self.in_force.as_ref().is_some_and(|in_force| in_force.revision == head) {
            self.problem = None;
            return false;
        }
        if self.rewound.as_ref() == Some(&head) {
            if let Some(problem) = &mut self.problem {
                problem.count += 1;
            }
            return false;
        }
        match self.judge(&head).await {
            Ok(good) => {
                self.problem = None;
                self.in_force = Some(Arc::new(good));
                true
            }
            Err(why) => {
                self.trouble(why, now);
                self.in_force.is_none() && self.find_last_good(&head).await
            }
        }
    }

    fn trouble(&mut self, bad: Bad, now: Timestamp) {
        let same = self.problem.take().filter(|known| known.kind == bad.kind && known.message == bad.message);
        let (since, count) = same.map_or((now, 0), |known| (known.since, known.count));
        self.problem = Some(Problem { kind: bad.kind, message: bad.message, since, count: count + 1 });
    }

    /// After a start nothing is in force yet: history knows what was.
    async fn find_last_good(&mut self, head: &Revision) -> bool {
        let Ok(history) = self.repo.history(head, HISTORY_MAX).await else { return false };
        for revision in history.iter().filter(|revision| *revision != head) {
            if let Ok(good) = self.judge(revision).await {
                self.in_force = Some(Arc::new(good));
                return true;
            }
        }
        false
    }

    async fn judge(&self, revision: &Revision) -> Result<InForce, Bad> {
        let signed_by = match self.repo.spec().verify {
            Verify::Off => None,
            Verify::Head { .. } => {
                let signature = self.repo.verify(revision).await;
                self.metrics.verified(Attempt::of(&signature));
                Some(signature.map_err(bad(ProblemKind::Verify))?.signer)
            }
        };
        let sources = self.repo.read(revision).await.map_err(bad(ProblemKind::Read))?;
        let invalid = |message: String| Bad { kind: ProblemKind::Invalid, message };
        let roots = self.roots.clone();
        let parsed = tokio::task::spawn_blocking(move || {
            let text = desired::read(&sources);
            let secrets = roots::read_secrets(&text.secret_refs().into_iter().collect::<Vec<_>>(), &roots);
            let checked = text.check(&secrets);
            (sources, checked)
        });
        let (sources, checked) = parsed.await.map_err(|error| invalid(error.to_string()))?;
        let mut desired = checked.map_err(|problems| invalid(summary(&problems, &sources)))?;
        desired.revision = revision.to_string();
        Ok(InForce { revision: revision.clone(), desired, signed_by })
    }

    /// Does what is in force follow what was last settled? If not, what was settled comes back into force, unless a person
    /// accepted the new one by name.
    pub async fn keep_to_history(&mut self, record: &FleetRecord, now: Timestamp) -> bool {
        if self.rewound.is_some() && self.rewound.as_ref().map(Revision::as_str) == record.accepted.as_deref() {
            self.rewound = None;
            return true;
        }
        let (Some(in_force), Some(settled)) = (&self.in_force, &record.settled) else { return false };
        let revision = &in_force.revision;
        if settled.revision == revision.as_str() || record.accepted.as_deref() == Some(revision.as_str()) {
            return false;
        }
        let old = Revision::new(&settled.revision).ok();
        let why = match &old {
            // Settled from a plain file: there is no history that could be kept to.
            None => return false,
            Some(old) => match self.repo.descends(revision, old).await {
                Ok(true) => return false,
                Ok(false) => "history was rewound or rewritten".to_owned(),
                Err(error) => chain(&error),
            },
        };
        let message = format!(
            "revision {revision} does not follow {}, which was settled: {why}; \
             \"valkeeper accept {revision}\" takes it all the same",
            settled.revision
        );
        self.rewound = Some(revision.clone());
        self.in_force = match old {
            Some(old) => self.judge(&old).await.ok().map(Arc::new),
            None => None,
        };
        self.trouble(Bad { kind: ProblemKind::Rewound, message }, now);
        true
    }

    /// What another branch says, for a plan of it.
    pub async fn read_other(&self, branch: &str) -> Result<Desired, String> {
        let spec = Spec { branch: branch.to_owned(), ..self.repo.spec().clone() };
        let repo = Repo::open(spec).map_err(|error| chain(&error))?;
        let other = Self::new(repo, self.roots.clone(), Arc::clone(&self.metrics));
        let head = other.repo.head().await.map_err(|error| chain(&error))?;
        match other.judge(&head.revision).await {
            Ok(good) => Ok(good.desired),
            Err(bad) => Err(bad.message),
        }
    }

    pub fn status(&self) -> SourceStatus {
        let Spec { location, branch, folder, .. } = self.repo.spec();
        let with_git = !matches!(location, Location::Folder(_));
        SourceStatus {
            location: location.show(),
            branch: with_git.then(|| branch.clone()),
            folder: if with_git { folder.clone() } else { ".".to_owned() },
            head: self.head.as_ref().map(ToString::to_string),
            desired: self.in_force.as_ref().map(|in_force| in_force.revision.to_string()),
            signed_by: self.in_force.as_ref().and_then(|in_force| in_force.signed_by.clone()),
            problem: self.problem.clone(),
            last_fetch: self.last_fetch,
        }
    }
}

/// The first problem with its place, and how many more there are.
fn summary(problems: &[desired::Problem], sources: &[Source]) -> String {
    let first = problems.first().map(|problem| {
        let place = sources.get(problem.at.file as usize).map_or("", |source| source.name.as_str());
        format!("{place}: {}", problem.title)
    });
    let first = first.unwrap_or_else(|| "the text is not sound".to_owned());
    match problems.len().saturating_sub(1) {
        0 => first,
        more => format!("{first}, and {more} more problems"),
    }
}
