//! Why a source cannot be followed right now: each error names the place and the cure, and none carries a secret.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Revision;
use super::folder::ReadError;

/// Why a spec cannot be followed at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{0:?} is no address of a repository: name a path, an https:// or ssh:// URL, or HOST:PATH")]
    Address(String),
    /// The address itself is not shown: it holds a password.
    #[error("the address of the repository holds a password: take it out, and name a file that holds it with token_file")]
    PasswordInAddress,
    #[error("{0} is not a way to a repository that is safe to use: use https:// or ssh://, or a path for one on this machine")]
    Protocol(String),
    #[error("{0:?} is not a name of a branch: write it as in `git branch`, without refs/heads/")]
    Branch(String),
    #[error("{0:?} is not a folder of a repository: write it relative to its root, without ..")]
    Folder(String),
    #[error("{0:?} is not a full commit id: write all of its 40 hex digits")]
    Revision(String),
    #[error("{key} is {path:?}: use a path of letters, digits and any of / . _ - + @ ,")]
    Path { key: &'static str, path: PathBuf },
    #[error("{key} has no meaning for {what}: take it out")]
    Meaningless { key: &'static str, what: &'static str },
    #[error("verify = \"head\" needs to know who may sign: name allowed_signers (ssh) or openpgp_keys")]
    NobodyMaySign,
    #[error("a plain folder holds no signed commits: follow a git repository, or set verify = \"off\"")]
    FolderIsNotSigned,
}

/// Why the source cannot be read now.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    #[error("{}: there is no git repository: create it, or correct the path", path.display())]
    NoRepository { path: PathBuf },
    #[error(
        "{}: the repository belongs to another user: run `git config --global --add safe.directory {}` as the user of this process",
        path.display(), path.display()
    )]
    NotOurs { path: PathBuf },
    #[error("{place}: there is no branch {branch:?}{}", known_branches(known))]
    NoBranch { place: String, branch: String, known: Vec<String> },
    #[error("{place}: commit {revision} is not in the repository (any more)")]
    UnknownCommit { place: String, revision: Revision },
    #[error("{place}: there is no folder {folder:?} in commit {}: create it there, or name another with --folder", revision.short())]
    NoFolder { place: String, folder: String, revision: Revision },
    #[error(
        "{place}: there is no TOML file in folder {folder:?}: nothing is changed because of that; to delete, say so for each instance"
    )]
    Empty { place: String, folder: String },
    #[error("{}", listed(.0))]
    Entries(Vec<EntryFault>),
    #[error("{}", listed(.0))]
    Files(Vec<ReadError>),
    #[error("{}: the files changed while they were read: they are read again in the next pass", path.display())]
    Changing { path: PathBuf },
    #[error("commit {}: {fault}", revision.short())]
    Signature { revision: Revision, fault: SignatureFault },
    #[error("{url}: {fault}")]
    Fetch { url: String, fault: FetchFault },
    #[error("the program {program} cannot be started: install it, or put it on PATH")]
    Program {
        program: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("{}: {doing}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{place}: git cannot {doing}")]
    Git {
        doing: &'static str,
        place: String,
        #[source]
        cause: git2::Error,
    },
    #[error("the process is ending")]
    Cancelled,
}

/// Why a fetch failed, as told by git's exit code and by what it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    #[error("no answer within {0:?}: is the host up, and is there a way to it?")]
    Deadline(Duration),
    #[error("the host cannot be reached: {said}")]
    Unreachable { said: String },
    #[error("access denied: the key or token is missing, wrong, or may not read this repository ({said})")]
    Denied { said: String },
    #[error("the host's ssh key is not known: compare it, then add it to known_hosts (`ssh-keyscan HOST`)")]
    HostKeyUnknown,
    #[error("the host's ssh key is NOT the known one: somebody may be in between; do not go on before you know why it changed")]
    HostKeyChanged,
    #[error("the host's certificate is not trusted: name its CA with ca_file ({said})")]
    Certificate { said: String },
    #[error("there is no such repository, or it may not be seen with this key or token ({said})")]
    NotFound { said: String },
    #[error("there is no branch {branch:?}")]
    NoBranch { branch: String },
    #[error("the git configuration of this user leads it to a protocol that is not allowed: {said}")]
    Protocol { said: String },
    #[error("no space left for the mirror in the cache")]
    NoSpace,
    #[error("the mirror in the cache is damaged: {said}")]
    Cache { said: String },
    #[error("another process fetches into the same cache, for longer than {0:?}")]
    Busy(Duration),
    #[error("git failed: {said}")]
    Other { said: String },
}

/// Why a commit does not count as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    #[error("it is not signed: sign it (`git commit -S`), or set verify = \"off\"")]
    None,
    #[error("its signature is bad: it was not made for this commit, which may have been tampered with")]
    Bad,
    #[error("it is signed by {key}, which is not among those who may sign")]
    UnknownSigner { key: String },
    #[error("it is signed by {key}, which has expired")]
    Expired { key: String },
    #[error("it is signed by {key}, which was revoked")]
    Revoked { key: String },
    #[error("its signature cannot be checked: {said}")]
    CannotCheck { said: String },
    #[error("a plain folder holds no commits that could be signed")]
    NoCommit,
}

/// What is wrong with an entry of a commit's tree. Names are `<short revision>:<folder>/<file>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    #[error("{name}: a symbolic link: put the file itself there")]
    Symlink { name: String },
    #[error("{name}: a submodule: put the file itself there")]
    Submodule { name: String },
    #[error("{name}: a folder, not a file")]
    Folder { name: String },
    #[error("{name}: the file's name is not UTF-8: rename it")]
    Name { name: String },
    #[error("{name}: the files of the folder are together larger than {mib_max} MiB")]
    TooMuch { name: String, mib_max: usize },
    #[error(transparent)]
    Text(#[from] crate::desired::SourceError),
}

impl RepoError {
    /// One word for a metric's label.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NoRepository { .. } => "no_repository",
            Self::NotOurs { .. } => "not_ours",
            Self::NoBranch { .. } => "no_branch",
            Self::UnknownCommit { .. } => "unknown_commit",
            Self::NoFolder { .. } => "no_folder",
            Self::Empty { .. } => "empty",
            Self::Entries(_) | Self::Files(_) => "unreadable_files",
            Self::Changing { .. } => "changing",
            Self::Signature { fault, .. } => fault.class(),
            Self::Fetch { fault, .. } => fault.class(),
            Self::Program { .. } => "no_program",
            Self::Io { .. } => "io",
            Self::Git { .. } => "git",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FetchFault {
    fn class(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Unreachable { .. } => "unreachable",
            Self::Denied { .. } => "denied",
            Self::HostKeyUnknown | Self::HostKeyChanged => "host_key",
            Self::Certificate { .. } => "certificate",
            Self::NotFound { .. } => "not_found",
            Self::NoBranch { .. } => "no_branch",
            Self::Protocol { .. } => "protocol",
            Self::NoSpace => "no_space",
            Self::Cache { .. } => "cache",
            Self::Busy(_) => "busy",
            Self::Other { .. } => "git",
        }
    }
}

impl SignatureFault {
    fn class(&self) -> &'static str {
        match self {
            Self::None | Self::NoCommit => "unsigned",
            Self::Bad => "bad_signature",
            Self::UnknownSigner { .. } => "unknown_signer",
            Self::Expired { .. } | Self::Revoked { .. } => "signer_ended",
            Self::CannotCheck { .. } => "cannot_check",
        }
    }
}

/// Several errors in one line, each with its cause: a chain of causes has room for one only.
fn listed<E: Error>(faults: &[E]) -> String {
    let with_cause = |fault: &E| match fault.source() {
        Some(cause) => format!("{fault}: {cause}"),
        None => fault.to_string(),
    };
    faults.iter().map(with_cause).collect::<Vec<_>>().join("; ")
}

fn known_branches(known: &[String]) -> String {
    if known.is_empty() {
        return " (nor any other): push it".to_owned();
    }
    format!(": push it, or name another with --branch ({})", known.join(", "))
}
