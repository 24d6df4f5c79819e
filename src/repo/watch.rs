//! Notices that a source on this machine may have changed: a branch moved, a file was saved.
//!
//! An event is only a hint that it is time to look: what is there is read by [`super::Repo`], and whoever relies on events alone
//! misses some (network file systems, full queues). So no event is ever passed on with what it was about. A folder that is
//! removed and made again is watched again.

#![expect(clippy::disallowed_methods, reason = "asks which folders are there, and whether they are still the same ones")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::tree::{self, At};
use super::{Location, Spec};

/// How long events are gathered before it is told: a push is many of them.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is looked whether the watched folders are still the same ones.
const REARM: Duration = Duration::from_secs(1);

/// Ends the watching when dropped.
#[must_use]
#[derive(Debug)]
pub struct Watcher {
    ended: Arc<AtomicBool>,
    hints: SyncSender<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread; where a hint waits already, that one does.
        let _ = self.hints.try_send(());
    }
}

/// Why nothing can be watched. The poll still sees every change.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be watched, so changes are seen by the poll only", path.display())]
pub struct WatchError {
    path: PathBuf,
    #[source]
    cause: notify::Error,
}

/// Calls `on_change` shortly after the source may have changed, from a thread of its own; it must not wait for long. What is not
/// there yet is watched as soon as it is. A remote cannot be watched: nothing is ever called, and that is no error.
///
/// # Errors
/// When the system has no watches left, or no threads.
pub fn watch(spec: &Spec, on_change: impl Fn() + Send + 'static) -> Result<Option<Watcher>, WatchError> {
    let target = match &spec.location {
        Location::Local(path) => Target::Repository(path.clone()),
        Location::Folder(path) => Target::Folder(path.clone()),
        Location::Remote(_) => return Ok(None),
    };
    let failed = |cause| WatchError { path: target.path().to_owned(), cause };
    // One hint that waits is as good as a thousand.
    let (hints, queue) = sync_channel(1);
    let (sender, of) = (hints.clone(), target.clone());
    let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error is a reason to look as well.
        if event.map_or(true, |event| of.is_meant(&event)) {
            let _ = sender.try_send(());
        }
    });
    let mut armed = Armed { notify: notify.map_err(failed)?, git_folder: None, folders: BTreeMap::new() };
    armed.arm(&target).map_err(failed)?;
    let ended = Arc::new(AtomicBool::new(false));
    let (of, end) = (target.clone(), Arc::clone(&ended));
    let run = move || follow(&queue, &end, &of, armed, on_change);
    thread::Builder::new().name("watch".into()).spawn(run).map_err(|cause| failed(notify::Error::io(cause)))?;
    Ok(Some(Watcher { ended, hints }))
}

fn follow(queue: &Receiver<()>, ended: &AtomicBool, target: &Target, mut armed: Armed, on_change: impl Fn()) {
    let mut complained = false;
    loop {
        let hinted = match queue.recv_timeout(REARM) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if hinted {
            thread::sleep(GATHER);
            // Emptied before anybody looks: what comes after this is a new change.
            while queue.try_recv().is_ok() {}
        }
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let moved = match armed.arm(target) {
            Ok(moved) => moved,
            Err(error) => {
                if !complained {
                    let path = target.path().display();
                    tracing::warn!(%path, %error, "cannot be watched, so changes are seen by the poll only");
                }
                complained = true;
                false
            }
        };
        if hinted || moved {
            on_change();
        }
    }
}

/// What is watched.
#[derive(Debug, Clone)]
enum Target {
    Repository(PathBuf),
    Folder(PathBuf),
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Self::Repository(path) | Self::Folder(path) => path,
        }
    }

    /// Leaves out what cannot have changed the text: above all our own reading, which would be a reason to read again, for ever.
    fn is_meant(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return false;
        }
        // Without a path: the queue of the system ran over.
        event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(|path| self.is_meant_path(path))
    }

    fn is_meant_path(&self, path: &Path) -> bool {
        match self {
            Self::Repository(_) => {
                let is_ref = path.ends_with("HEAD") || path.ends_with("packed-refs") || path.to_string_lossy().contains("/refs");
                is_ref && path.extension().is_none_or(|extension| extension != "lock")
            }
            Self::Folder(folder) => path == folder || path.extension().is_some_and(|extension| extension == "toml"),
        }
    }
}

/// The device and the number by which a folder is told from another one of its name.
type Identity = (u64, u64);

/// The folders that are watched right now. Folders and not files: a file that is replaced would be lost from sight.
struct Armed {
    notify: RecommendedWatcher,
    /// Where the repository keeps its branches, while it is there.
    git_folder: Option<PathBuf>,
    folders: BTreeMap<PathBuf, Identity>,
}

impl Armed {
    /// Watches what is there now; true if that is not what was watched before.
    fn arm(&mut self, target: &Target) -> Result<bool, notify::Error> {
        let wanted = self.wanted(target);
        let mut moved = false;
        let gone: Vec<PathBuf> =
            self.folders.keys().filter(|path| !wanted.iter().any(|(one, _)| one == *path)).cloned().collect();
        for path in gone {
            self.forget(&path);
            moved = true;
        }
        for (path, mode) in wanted {
            let now = identity(&path);
            if self.folders.get(&path).copied() == now {
                continue;
            }
            moved = true;
            self.forget(&path);
            if let Some(now) = now {
                match self.notify.watch(&path, mode) {
                    // Removed between the two looks: the next one sees it.
                    Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                    Err(error) => return Err(error),
                    Ok(()) => drop(self.folders.insert(path, now)),
                }
            }
        }
        Ok(moved)
    }

    fn forget(&mut self, path: &Path) {
        if self.folders.remove(path).is_some() {
            // The system has forgotten a folder that is gone by itself.
            let _ = self.notify.unwatch(path);
        }
    }

    fn wanted(&mut self, target: &Target) -> Vec<(PathBuf, RecursiveMode)> {
        match target {
            Target::Folder(path) if path.is_file() => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                vec![(parent.unwrap_or(Path::new(".")).to_owned(), RecursiveMode::NonRecursive)]
            }
            Target::Folder(path) => vec![(path.clone(), RecursiveMode::NonRecursive)],
            Target::Repository(path) => {
                if self.git_folder.as_ref().is_none_or(|folder| identity(&folder.join("refs")).is_none()) {
                    let at = At { path: path.clone(), shown: String::new() };
                    self.git_folder = tree::git_folder(&at).ok();
                }
                let Some(folder) = &self.git_folder else { return Vec::new() };
                vec![(folder.clone(), RecursiveMode::NonRecursive), (folder.join("refs/heads"), RecursiveMode::Recursive)]
            }
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    #[test]
    fn our_own_reading_is_no_reason_to_read_again() {
        let target = Target::Folder("/x".into());
        assert!(!target.is_meant(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/x/a.toml")));
        assert!(target.is_meant(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/x/a.toml")));
    }

    #[test]
    fn only_what_can_move_a_branch_or_change_the_text_is_told() {
        let repository = Target::Repository("/x".into());
        let modified = EventKind::Modify(ModifyKind::Any);
        for (path, meant) in [
            ("/x/.git/HEAD", true),
            ("/x/.git/packed-refs", true),
            ("/x/.git/refs/heads/a/b", true),
            ("/x/.git/refs/heads/main.lock", false),
            ("/x/.git/index", false),
            ("/x/.git/FETCH_HEAD", false),
        ] {
            assert_eq!(repository.is_meant(&event(modified, path)), meant, "{path}");
        }
        let folder = Target::Folder("/x".into());
        assert!(folder.is_meant(&event(EventKind::Create(CreateKind::File), "/x/a.toml")));
        assert!(!folder.is_meant(&event(EventKind::Create(CreateKind::File), "/x/.a.toml.swp")));
        assert!(folder.is_meant(&Event::new(EventKind::Other)));
    }
}
