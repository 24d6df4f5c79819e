//! SOURCE: follows the state repository: its newest commit, who signed it, and the text in it.
//!
//! The `git` program fetches and verifies, libgit2 reads, straight from the tree of a commit: there is no checkout that
//! could be half-written (docs/decisions/0008). Never decides whether a revision may be applied, never remembers one, and
//! never changes the repository that people push to; the mirror of a remote is a cache that may be removed at any time.

pub mod askpass;
mod error;
mod fetch;
pub mod folder;
mod git;
mod location;
mod signature;
mod tree;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::{EntryFault, FetchFault, RepoError, SignatureFault, SpecError};
pub use location::Location;
pub use signature::{Signature, SignatureKind};
pub use watch::{WatchError, Watcher, watch};

use crate::desired::Source;
use tree::At;

/// How long a fetch may take unless the configuration says otherwise.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// How many hex digits of a revision are shown to people.
const SHORT_DIGITS: usize = 12;
/// How many hex digits the digest of a plain folder has; a commit's id has 40.
const FOLDER_DIGITS: usize = 64;

/// What is followed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub location: Location,
    /// The branch, without `refs/heads/`. Without meaning for a plain folder.
    pub branch: String,
    /// The folder in the repository that holds the TOML files; `.` or nothing is its root. Without meaning for a plain folder.
    pub folder: String,
    /// A folder of our own (mode 0700, made when missing) for the mirror of a remote. Holds nothing that cannot be fetched again.
    pub cache: PathBuf,
    pub verify: Verify,
    pub access: Access,
    /// How long a fetch, or the check of a signature, may take.
    pub deadline: Duration,
}

/// Whether the newest commit must be signed by somebody we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    Off,
    Head {
        /// An `allowed_signers` file (ssh-keygen(1)): who may sign with which ssh key, and until when.
        allowed_signers: Option<PathBuf>,
        /// A file of public OpenPGP keys (`gpg --export --armor KEY…`); each key in it is trusted. A file, not a GNUPGHOME: it can
        /// be reviewed and shipped as one, and whom else somebody's keyring trusts has no part in it.
        openpgp_keys: Option<PathBuf>,
    },
}

/// How a remote is reached. Whatever is left out is as git and ssh find it: `ssh_config`, the agent, credential helpers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// For https: a file that holds a token. Its path reaches git, its content only through [`askpass`].
    pub token_file: Option<PathBuf>,
    /// For https: a file of CA certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// For ssh: the private key to use, and no other.
    pub ssh_key: Option<PathBuf>,
    /// For ssh: the only file of host keys to believe, and strictly.
    pub known_hosts: Option<PathBuf>,
    /// The program that answers git when it asks for the token; this very program by default.
    pub askpass: Option<PathBuf>,
}

/// A state of the source: the full id of a commit, or the digest of a plain folder. Hex digits, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(String);

impl Revision {
    /// Takes a full id: 40 hex digits, or the 64 of a digest.
    ///
    /// # Errors
    /// When it is anything else; a short id could come to mean another commit.
    pub fn new(text: &str) -> Result<Self, SpecError> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && matches!(text.len(), 40 | FOLDER_DIGITS) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SpecError::Revision(text.chars().take(80).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it the digest of a plain folder, which has no history?
    pub fn is_of_folder(&self) -> bool {
        self.0.len() == FOLDER_DIGITS
    }

    /// The beginning, as people read it.
    pub fn short(&self) -> &str {
        self.0.get(..SHORT_DIGITS).unwrap_or(&self.0)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The newest state of the source, and what its author says about it; for people only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub revision: Revision,
    /// The first line of the message, without control characters. Empty for a plain folder.
    pub summary: String,
    /// The author's name, without control characters. Empty for a plain folder.
    pub author: String,
    /// The committer's clock. Nothing for a plain folder, or for a stamp that is no time.
    pub committed_at: Option<jiff::Timestamp>,
}

/// A source that is followed.
#[derive(Debug, Clone)]
pub struct Repo {
    spec: Arc<Spec>,
}

impl Repo {
    /// Checks what is to be followed. Reaches for nothing: whether it can be reached may change with every pass.
    ///
    /// # Errors
    /// When the spec cannot mean anything, or would carry a secret where others can read it.
    pub fn open(mut spec: Spec) -> Result<Self, SpecError> {
        location::check(&mut spec)?;
        Ok(Self { spec: Arc::new(spec) })
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The same source on another branch; both may share the cache.
    ///
    /// # Errors
    /// When it is no name of a branch.
    pub fn on_branch(&self, branch: &str) -> Result<Self, SpecError> {
        Self::open(Spec { branch: branch.to_owned(), ..Spec::clone(&self.spec) })
    }

    /// The newest state: fetched from a remote, looked up in a local repository, or computed over a plain folder.
    ///
    /// # Errors
    /// When it cannot be learned: [`RepoError`] says why. The last good revision stays readable.
    pub async fn head(&self) -> Result<Head, RepoError> {
        match &self.spec.location {
            Location::Local(path) => {
                let branch = self.spec.branch.clone();
                let at = At { path: path.clone(), shown: self.spec.location.show() };
                blocking(move || tree::head(&at, &format!("refs/heads/{branch}"), &branch)).await
            }
            Location::Remote(url) => {
                fetch::fetch(&self.spec, url).await?;
                self.fetched(url).await
            }
            Location::Folder(path) => {
                let path = path.clone();
                let (revision, _sources) = blocking(move || folder::read_with_revision(&path)).await?;
                Ok(Head { revision, summary: String::new(), author: String::new(), committed_at: None })
            }
        }
    }

    /// The newest revision that is known without asking anybody: of a remote, what was last fetched.
    ///
    /// # Errors
    /// When nothing was, or it cannot be read.
    pub async fn known(&self) -> Result<Revision, RepoError> {
        match &self.spec.location {
            Location::Local(_) | Location::Folder(_) => self.head().await,
            Location::Remote(url) => self.fetched(url).await,
        }
        .map(|head| head.revision)
    }

    async fn fetched(&self, url: &str) -> Result<Head, RepoError> {
        let branch = self.spec.branch.clone();
        let at = At { path: fetch::mirror(&self.spec), shown: url.to_owned() };
        blocking(move || tree::head(&at, &fetch::reference(&branch), &branch)).await
    }

    /// Who signed a revision.
    ///
    /// # Errors
    /// [`RepoError::Signature`] when nobody did whom the spec allows, whatever the reason; also when [`Verify::Off`] leaves
    /// nobody to allow. Other errors when it could not be tried.
    pub async fn verify(&self, revision: &Revision) -> Result<Signature, RepoError> {
        match self.source() {
            Text::Commits(at) => signature::verify(&self.spec, at, revision).await,
            Text::Folder(_) => Err(RepoError::Signature { revision: revision.clone(), fault: SignatureFault::NoCommit }),
        }
    }

    /// The text of a revision: the `*.toml` files of its folder in the order of their names, without hidden ones.
    ///
    /// # Errors
    /// When the revision is not there (any more), a file in it cannot be text, or there is none at all: nothing to read never
    /// means nothing wanted.
    pub async fn read(&self, revision: &Revision) -> Result<Vec<Source>, RepoError> {
        let revision = revision.clone();
        match self.source() {
            Text::Commits(at) => {
                let folder = self.spec.folder.clone();
                let read = blocking(move || tree::read(&at, &revision, &folder)).await;
                if matches!((&read, &self.spec.location), (Err(RepoError::Git { .. }), Location::Remote(_))) {
                    fetch::condemn(&self.spec);
                }
                read
            }
            Text::Folder(path) => blocking(move || folder::read_revision(&path, &revision)).await,
        }
    }

    /// Does `new` contain `old`, or is it the same? If not, history was rewound or replaced. A plain folder has no
    /// history: there, everything follows on everything.
    ///
    /// # Errors
    /// [`RepoError::UnknownCommit`] when either is not in the repository (any more).
    pub async fn descends(&self, new: &Revision, old: &Revision) -> Result<bool, RepoError> {
        match self.source() {
            Text::Commits(at) => {
                let (new, old) = (new.clone(), old.clone());
                blocking(move || tree::descends(&at, &new, &old)).await
            }
            Text::Folder(_) => Ok(true),
        }
    }

    /// The revisions before `from` along first parents, newest first, `limit` at most: where the last good one is found again
    /// after a restart. None of a first commit, nor of a plain folder, which has only the one; nor where a shallow copy ends.
    ///
    /// # Errors
    /// When `from` is not in the repository.
    pub async fn earlier(&self, from: &Revision, limit: usize) -> Result<Vec<Revision>, RepoError> {
        let from = from.clone();
        match self.source() {
            Text::Commits(at) => blocking(move || tree::earlier(&at, &from, limit)).await,
            Text::Folder(_) => Ok(Vec::new()),
        }
    }

    fn source(&self) -> Text {
        let shown = self.spec.location.show();
        match &self.spec.location {
            Location::Local(path) => Text::Commits(At { path: path.clone(), shown }),
            Location::Remote(_) => Text::Commits(At { path: fetch::mirror(&self.spec), shown }),
            Location::Folder(path) => Text::Folder(path.clone()),
        }
    }
}

/// Where the text of a revision is read, once the revision is known.
enum Text {
    Commits(At),
    Folder(PathBuf),
}

/// Runs what waits for a disk away from the threads that serve everybody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, RepoError> + Send + 'static) -> Result<T, RepoError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(RepoError::Cancelled),
        },
    }
}

/// Text of others, fit for a line of a log or a terminal: no control characters, and not too long.
fn one_line(text: &str, chars_max: usize) -> String {
    let clean = text.chars().map(|char| if char.is_control() { ' ' } else { char });
    clean.take(chars_max).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_a_full_id() {
        let full = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Revision::new(full).unwrap().short(), "0123456789ab");
        for bad in ["", "0123456", "main", "--output=x", &full.to_uppercase(), &format!("{full}0")] {
            assert!(Revision::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_of_others_cannot_write_to_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\r\nc", 100), "a [2Jb  c");
        assert_eq!(one_line("abcdef", 3), "abc");
    }
}
