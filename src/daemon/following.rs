//! Following the source: which revision is in force, and why a newer one is not.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::info;

use super::asking::{Answer, Asking};
use super::status::{Problem, ProblemKind, SourceStatus};
use crate::desired::{self, Source};
use crate::host::clock::Stopwatch;
use crate::metrics::{Attempt, Metrics};
use crate::model::desired::Desired;
use crate::model::record::FleetRecord;
use crate::observe::chain;
use crate::repo::{Location, Repo, RepoError, Revision, Spec, Verify};
use crate::roots::{self, Roots};

/// How many revisions are asked of history at a time when a sound one is looked for.
const SEARCH_STEP: usize = 32;
/// How long one pass looks for it. The next one goes on where it ended.
const SEARCH_TIME: Duration = Duration::from_secs(5);

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
    asking: Asking,
    /// That the source is late was said.
    late: bool,
    search: Option<Search>,
    /// What is in force was read in another way than it would be now.
    anew: bool,
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

/// How far history was looked through for a sound revision.
#[derive(Debug)]
struct Search {
    head: Revision,
    /// The last one that was judged; nothing: it was the first of all.
    goes_on: Option<Revision>,
    judged: u64,
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
        let asking = Asking::new(repo.clone(), Arc::clone(&metrics));
        Self {
            repo,
            roots,
            metrics,
            asking,
            late: false,
            search: None,
            anew: false,
            in_force: None,
            head: None,
            rewound: None,
            problem: None,
            last_fetch: None,
        }
    }

    /// From now on another source is followed, or the same one in another way. Until it tells something sound, the revision in
    /// force stays, unless it might not be believed any more.
    pub fn turn_to(&mut self, repo: Repo, roots: Roots) {
        let Spec { location: _, branch: _, folder: _, cache: _, verify, access: _, deadline: _ } = repo.spec();
        let believed = *verify == Verify::Off || *verify == self.repo.spec().verify;
        let in_force = self.in_force.take().filter(|_| believed);
        *self = Self { in_force, anew: true, ..Self::new(repo, roots, Arc::clone(&self.metrics)) };
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

    /// Has the source asked for its newest revision; [`Self::follow`] uses the answer when it is there.
    pub fn ask(&mut self) {
        self.asking.ask();
    }

    /// Is a question to the source under way?
    pub fn is_asking(&self) -> bool {
        self.asking.since().is_some()
    }

    /// Waits until the source has answered, for ever if nobody asked it. Gives whether it has something newer than what was
    /// seen last.
    pub async fn has_moved(&mut self) -> bool {
        let head = self.asking.answered().await.and_then(|answer| answer.as_ref().ok());
        head.is_some_and(|head| Some(&head.revision) != self.head.as_ref())
    }

    /// Turns to the newest revision that the source told. What is bad, or late, leaves the last good one in force. Gives whether
    /// another one is in force now.
    pub async fn follow(&mut self, now: Timestamp) -> bool {
        let answer = self.asking.take().await;
        if self.is_asking() && !self.late {
            self.late = true;
            info!("the source has not answered yet; what was read of it before stays in force");
        }
        match answer {
            Some(answer) => self.hear(answer, now).await,
            None => self.in_view().is_none() && self.is_asking() && self.recall().await,
        }
    }

    async fn hear(&mut self, answer: Answer, now: Timestamp) -> bool {
        let head = match answer {
            Ok(head) => head.revision,
            Err(error) => {
                self.trouble(bad(ProblemKind::Fetch)(error), now);
                return self.in_view().is_none() && self.recall().await;
            }
        };
        if std::mem::take(&mut self.late) && !self.is_asking() {
            info!("the source answered");
        }
        self.last_fetch = Some(now);
        self.head = Some(head.clone());
        if let Some(rewound) = self.rewound.as_mut().filter(|rewound| rewound.candidate.revision == head) {
            rewound.problem.count += 1;
            self.problem = Some(rewound.problem.clone());
            return false;
        }
        self.rewound = None;
        if !self.anew && self.in_force.as_ref().is_some_and(|in_force| in_force.revision == head) {
            self.problem = None;
            return false;
        }
        match self.judge(&head).await {
            Ok(good) => {
                (self.problem, self.anew) = (None, false);
                self.in_force = Some(Arc::new(good));
                true
            }
            Err(mut why) => {
                let found = self.in_force.is_none() && self.find_last_good(&head).await;
                if let Some(Search { goes_on: None, judged, .. }) = &self.search {
                    why.message += &format!("; none of the {judged} revisions before it is sound either");
                }
                self.trouble(why, now);
                found
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

    /// After a start nothing is in force yet: history knows what was. However long it is, it is walked to its beginning; a pass
    /// takes a part of it.
    async fn find_last_good(&mut self, head: &Revision) -> bool {
        let known = self.search.take().filter(|search| search.head == *head);
        let mut search = known.unwrap_or_else(|| Search { head: head.clone(), goes_on: Some(head.clone()), judged: 0 });
        let watch = Stopwatch::start();
        while let Some(at) = search.goes_on.clone().filter(|_| watch.elapsed() < SEARCH_TIME) {
            let earlier = self.repo.earlier(&at, SEARCH_STEP).await.unwrap_or_default();
            search.goes_on = earlier.last().cloned();
            for revision in &earlier {
                search.judged += 1;
                if let Ok(good) = self.judge(revision).await {
                    self.in_force = Some(Arc::new(good));
                    return true;
                }
            }
        }
        self.search = Some(search);
        false
    }

    /// Is a part of history still to be looked through for a sound revision?
    pub fn is_searching(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.goes_on.is_some())
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

    /// Another branch of the same source, for a plan of it.
    pub fn of_branch(&self, branch: &str) -> Result<Self, String> {
        let repo = self.repo.on_branch(branch).map_err(|error| chain(&error))?;
        Ok(Self::new(repo, self.roots.clone(), Arc::clone(&self.metrics)))
    }

    /// What the newest revision says.
    pub async fn read_head(&self) -> Result<Desired, String> {
        let head = self.repo.head().await.map_err(|error| chain(&error))?;
        match self.judge(&head.revision).await {
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
            asked_since: self.asking.since(),
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
