//! Reads commits, by libgit2: where a branch stands, what is in a folder of a tree, what came before. Never touches a working
//! copy, and never follows a link or a submodule: what was reviewed is what is read.

use std::path::{Path, PathBuf};

use git2::{BranchType, Commit, ErrorCode, ObjectType, Oid, Repository, RepositoryOpenFlags, Tree, TreeEntry};

use super::error::{EntryFault, RepoError};
use super::{Head, Revision, one_line};
use crate::desired::{FILE_BYTES_MAX, Source, SourceError};

/// How large the files of one folder may be together, in bytes: 256 MiB. They are in memory all at once.
const FOLDER_BYTES_MAX: usize = 256 << 20;
/// How many branches are named when one is not found.
const KNOWN_BRANCHES_MAX: usize = 8;
/// How much of a commit's summary and author is kept. Characters.
const SUMMARY_CHARS_MAX: usize = 120;

/// The kinds of a tree's entry (`man gitdatamodel`, "mode").
const MODE_FOLDER: i32 = 0o040_000;
const MODE_SYMLINK: i32 = 0o120_000;
const MODE_SUBMODULE: i32 = 0o160_000;

/// A repository on this machine.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub path: PathBuf,
    /// As people know it: a mirror stands for its remote.
    pub shown: String,
}

impl At {
    fn error(&self, doing: &'static str) -> impl Fn(git2::Error) -> RepoError {
        let place = self.shown.clone();
        move |cause| RepoError::Git { doing, place: place.clone(), cause }
    }

    /// Opens exactly this repository, never one of a folder above.
    pub fn open(&self) -> Result<Repository, RepoError> {
        let opened = Repository::open_ext(&self.path, RepositoryOpenFlags::NO_SEARCH, std::iter::empty::<&Path>());
        opened.map_err(|error| {
            let path = self.path.clone();
            // The list is libgit2's, and may grow.
            if error.code() == ErrorCode::NotFound {
                RepoError::NoRepository { path }
            } else if error.code() == ErrorCode::Owner {
                RepoError::NotOurs { path }
            } else {
                self.error("open the repository")(error)
            }
        })
    }

    fn commit<'repo>(&self, repository: &'repo Repository, revision: &Revision) -> Result<Commit<'repo>, RepoError> {
        let unknown = || RepoError::UnknownCommit { place: self.shown.clone(), revision: revision.clone() };
        let oid = Oid::from_str(revision.as_str()).map_err(|_error| unknown())?;
        repository
            .find_commit(oid)
            .map_err(|error| if error.code() == ErrorCode::NotFound { unknown() } else { self.error("read the commit")(error) })
    }
}

/// Where a reference stands; `branch` is what it is to people.
pub(super) fn head(at: &At, reference: &str, branch: &str) -> Result<Head, RepoError> {
    let repository = at.open()?;
    let found = repository.find_reference(reference).map_err(|error| {
        if error.code() != ErrorCode::NotFound {
            return at.error("read the branch")(error);
        }
        RepoError::NoBranch { place: at.shown.clone(), branch: branch.to_owned(), known: branches(&repository) }
    })?;
    let commit = found.peel_to_commit().map_err(at.error("read the newest commit of the branch"))?;
    let summary = String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned();
    let author = String::from_utf8_lossy(commit.author().name_bytes()).into_owned();
    Ok(Head {
        revision: Revision(commit.id().to_string()),
        summary: one_line(&summary, SUMMARY_CHARS_MAX),
        author: one_line(&author, SUMMARY_CHARS_MAX),
        committed_at: jiff::Timestamp::from_second(commit.time().seconds()).ok(),
    })
}

fn branches(repository: &Repository) -> Vec<String> {
    let Ok(branches) = repository.branches(Some(BranchType::Local)) else { return Vec::new() };
    let name = |branch: git2::Branch<'_>| Some(one_line(&String::from_utf8_lossy(branch.name_bytes().ok()?), SUMMARY_CHARS_MAX));
    branches.flatten().filter_map(|(branch, _)| name(branch)).take(KNOWN_BRANCHES_MAX).collect()
}

/// The TOML files of a folder. All that is wrong with them is told at once.
pub(super) fn read(at: &At, revision: &Revision, folder: &str) -> Result<Vec<Source>, RepoError> {
    let repository = at.open()?;
    let tree = tree_of(at, &repository, revision, folder)?;
    let prefix = if folder.is_empty() { format!("{}:", revision.short()) } else { format!("{}:{folder}/", revision.short()) };
    let mut entries: Vec<TreeEntry<'_>> = tree.iter().filter(|entry| is_toml(entry.name_bytes())).collect();
    entries.sort_by(|one, other| one.name_bytes().cmp(other.name_bytes()));
    if entries.is_empty() {
        return Err(RepoError::Empty { place: at.shown.clone(), folder: shown_folder(folder) });
    }
    let (mut sources, mut faults, mut total) = (Vec::new(), Vec::new(), 0);
    for entry in &entries {
        let name = format!("{prefix}{}", one_line(&String::from_utf8_lossy(entry.name_bytes()), 255));
        if let Some(fault) = unfit(entry, &name) {
            faults.push(fault);
            continue;
        }
        // Asked before it is read: a packed file may be small, and unpacked fill the memory.
        let odb = repository.odb().map_err(at.error("read the objects"))?;
        let (bytes, kind) = odb.read_header(entry.id()).map_err(at.error("read a file of the commit"))?;
        total += bytes;
        if bytes > FILE_BYTES_MAX {
            faults.push(SourceError::TooLarge { name }.into());
        } else if total > FOLDER_BYTES_MAX {
            faults.push(EntryFault::TooMuch { name, mib_max: FOLDER_BYTES_MAX >> 20 });
            break;
        } else if kind == ObjectType::Blob {
            let blob = repository.find_blob(entry.id()).map_err(at.error("read a file of the commit"))?;
            match Source::from_bytes(name, blob.content().to_vec()) {
                Ok(source) => sources.push(source),
                Err(fault) => faults.push(fault.into()),
            }
        } else {
            faults.push(EntryFault::Folder { name });
        }
    }
    if faults.is_empty() { Ok(sources) } else { Err(RepoError::Entries(faults)) }
}

/// The same rule as for a plain folder: `*.toml`, and nothing hidden.
fn is_toml(name: &[u8]) -> bool {
    name.ends_with(b".toml") && !name.starts_with(b".")
}

fn unfit(entry: &TreeEntry<'_>, name: &str) -> Option<EntryFault> {
    let name = name.to_owned();
    match entry.filemode() {
        MODE_SYMLINK => Some(EntryFault::Symlink { name }),
        MODE_SUBMODULE => Some(EntryFault::Submodule { name }),
        MODE_FOLDER => Some(EntryFault::Folder { name }),
        _file => std::str::from_utf8(entry.name_bytes()).is_err().then_some(EntryFault::Name { name }),
    }
}

fn tree_of<'repo>(at: &At, repository: &'repo Repository, revision: &Revision, folder: &str) -> Result<Tree<'repo>, RepoError> {
    let root = at.commit(repository, revision)?.tree().map_err(at.error("read the tree of the commit"))?;
    if folder.is_empty() {
        return Ok(root);
    }
    let missing = || RepoError::NoFolder { place: at.shown.clone(), folder: shown_folder(folder), revision: revision.clone() };
    let entry = root
        .get_path(Path::new(folder))
        .map_err(|error| if error.code() == ErrorCode::NotFound { missing() } else { at.error("read the folder")(error) })?;
    if entry.filemode() != MODE_FOLDER {
        return Err(missing());
    }
    repository.find_tree(entry.id()).map_err(at.error("read the folder"))
}

fn shown_folder(folder: &str) -> String {
    if folder.is_empty() { ".".to_owned() } else { folder.to_owned() }
}

/// Is `old` the same as `new`, or among its ancestors?
pub(super) fn descends(at: &At, new: &Revision, old: &Revision) -> Result<bool, RepoError> {
    let repository = at.open()?;
    let (new, old) = (at.commit(&repository, new)?.id(), at.commit(&repository, old)?.id());
    if new == old {
        return Ok(true);
    }
    repository.graph_descendant_of(new, old).map_err(at.error("compare two commits"))
}

/// First parents, newest first, without `from` itself. What it costs does not depend on how long history is.
pub(super) fn earlier(at: &At, from: &Revision, limit: usize) -> Result<Vec<Revision>, RepoError> {
    let repository = at.open()?;
    let mut commit = at.commit(&repository, from)?;
    let mut found = Vec::new();
    while found.len() < limit && commit.parent_count() > 0 {
        commit = match commit.parent(0) {
            Ok(parent) => parent,
            Err(error) if error.code() == ErrorCode::NotFound => break,
            Err(error) => return Err(at.error("walk through the history")(error)),
        };
        found.push(Revision(commit.id().to_string()));
    }
    Ok(found)
}

/// The block that signs a commit, as its author wrote it; nothing if there is none.
pub(super) fn signature_block(at: &At, revision: &Revision) -> Result<Option<String>, RepoError> {
    let repository = at.open()?;
    let commit = at.commit(&repository, revision)?.id();
    match repository.extract_signature(&commit, None) {
        Ok((block, _signed)) => Ok(Some(String::from_utf8_lossy(&block).into_owned())),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(at.error("read the signature")(error)),
    }
}

/// The folders that change when a branch does: of the repository itself, and of all its branches.
pub(super) fn git_folder(at: &At) -> Result<PathBuf, RepoError> {
    Ok(at.open()?.commondir().to_owned())
}
