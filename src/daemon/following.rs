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
    /// A head that does not follow what was settled: not taken unless a person accepts it.
    rewound: Option<Rewound>,
    problem: Option<Problem>,
    last_fetch: Option<Timestamp>,
}

/// A sound revision that only a person may bring into force.
#[derive(Debug)]
struct Rewound {
    candidate: Arc<InForce>,
    problem: Problem,
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

    /// What says which nodes there are: what is in force, or else what a person may accept. Only for looking.
    pub fn in_view(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref().or(self.rewound.as_ref().map(|rewound| &rewound.candidate))
    }

    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Is there something newer than what was seen last? For a pass that is under way, which must not wait for a remote
    /// that hangs: so the answer borrows nothing.
    pub fn has_moved(&self) -> impl Future<Output = bool> + Send + 'static {
        let (repo, known) = (self.repo.clone(), self.head.clone());
        async move { repo.head().await.is_ok_and(|head| Some(head.revision) != known) }
    }

    /// Looks for a newer revision. What is bad leaves the last good one in force. Gives whether another one is in force now.
    pub async fn follow(&mut self, now: Timestamp) -> bool {
        let head = self.repo.head().await;
        self.metrics.fetched(Attempt::of(&head));
        let head = match head {
            Ok(head) => head.revision,
            Err(error) => {
                self.trouble(bad(ProblemKind::Fetch)(error), now);
                return self.in_view().is_none() && self.recall().await;
            }
        };
        self.last_fetch = Some(now);
        self.head = Some(head.clone());
        if let Some(rewound) = self.rewound.as_mut().filter(|rewound| rewound.candidate.revision == head) {
            rewound.problem.count += 1;
            self.problem = Some(rewound.problem.clone());
            return false;
        }
        self.rewound = None;
        if self.in_force.as_ref().is_some_and(|in_force| in_force.revision == head) {
            self.problem = None;
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

    /// After a start without a way to the remote: what was fetched before is there, and the nodes need somebody.
    async fn recall(&mut self) -> bool {
        let Ok(known) = self.repo.known().await else { return false };
        self.head = Some(known.clone());
        match self.judge(&known).await {
            Ok(good) => {
                self.in_force = Some(Arc::new(good));
                true
            }
            Err(_why) => self.find_last_good(&known).await,
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
    /// accepted the new one by name. Gives whether another one is in force now, or none.
    pub async fn keep_to_history(&mut self, record: &FleetRecord, now: Timestamp) -> bool {
        let accepted = |revision: &Revision| record.accepted.as_deref() == Some(revision.as_str());
        if let Some(rewound) = self.rewound.take_if(|rewound| accepted(&rewound.candidate.revision)) {
            self.problem = None;
            self.in_force = Some(rewound.candidate);
            return true;
        }
        let Some(settled) = record.settled.as_ref().and_then(|settled| Revision::new(&settled.revision).ok()) else {
            return false;
        };
        let Some(in_force) = self.in_force.clone() else {
            // It could not be read a moment ago.
            self.in_force = self.judge(&settled).await.ok().map(Arc::new);
            return self.in_force.is_some();
        };
        if settled == in_force.revision || accepted(&in_force.revision) || settled.is_of_folder() {
            return false;
        }
        let why = match self.repo.descends(&in_force.revision, &settled).await {
            Ok(true) => return false,
            Ok(false) => "history was rewound or rewritten".to_owned(),
            Err(error) => chain(&error),
        };
        let message = format!(
            "revision {new} does not follow {settled}, which was settled: {why}; \"valkeeper accept {new}\" takes it all the same",
            new = in_force.revision
        );
        let problem = Problem { kind: ProblemKind::Rewound, message, since: now, count: 1 };
        // Where something else is wrong as well, as with a newer revision, that is what is said.
        self.problem.get_or_insert_with(|| problem.clone());
        self.rewound = Some(Rewound { candidate: in_force, problem });
        self.in_force = self.judge(&settled).await.ok().map(Arc::new);
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
            folder: if with_git && !folder.is_empty() { folder.clone() } else { ".".to_owned() },
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
