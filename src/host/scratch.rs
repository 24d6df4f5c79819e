//! Throwaway servers: of the node's own binary, in an empty scratch folder, on a unix socket only, never over live data.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::clock::{Deadline, Poll};
use super::layout::Socket;
use super::process::{self, Handle, LOG_TAIL_BYTES, SAFE_PATH, tail};
use super::valkey::{Connection, ValkeyError, reach};
use crate::model::config_file::{Directive, render};

/// Why there is no throwaway server.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("no scratch folder can be made in {0}")]
    Folder(PathBuf, #[source] io::Error),
    #[error("{0} cannot be started")]
    Spawn(PathBuf, #[source] io::Error),
    /// It ended by itself; its own words.
    #[error("{0}")]
    Ended(String),
    #[error("a throwaway server does not answer")]
    Silent(#[source] ValkeyError),
}

/// A throwaway server. Killed and removed when dropped.
pub struct Scratch {
    pub connection: Connection,
    _server: Child,
    _folder: TempDir,
    /// Locked for as long as we live: a later process knows by it that nobody uses the folder any more.
    _owner: File,
}

/// Where throwaway folders begin; what a killed valkeeper left behind is known by it.
const PREFIX: &str = "valkeeper-scratch-";
const CONFIG: &str = "scratch.conf";
const LOG: &str = "scratch.log";
const OWNER: &str = "owner";
/// Younger folders may belong to a process that has not locked its owner file yet.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(60);

impl Scratch {
    /// Starts `binary` with these directives and nothing of ours but the socket, and waits until it answers.
    ///
    /// # Errors
    /// Its own words, if it refuses the directives.
    pub async fn start(binary: &Path, below: &Path, directives: &[Directive], limit: Duration) -> Result<Self, ScratchError> {
        let end = Deadline::after(limit);
        let mut poll = Poll::default();
        let folder_error = |error| ScratchError::Folder(below.to_owned(), error);
        sweep_once(below, binary).await;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(below).map_err(folder_error)?;
        let owner = File::create(folder.path().join(OWNER)).map_err(folder_error)?;
        owner.lock().map_err(folder_error)?;
        let mut all = directives.to_vec();
        for (name, value) in [("port", "0"), ("unixsocket", "s.sock")] {
            all.push((name.to_owned(), vec![value.to_owned()]));
        }
        std::fs::write(folder.path().join(CONFIG), render("a throwaway server of valkeeper", &all)).map_err(folder_error)?;
        let log = File::create(folder.path().join(LOG)).map_err(folder_error)?;
        let mut server = Command::new(binary)
            .arg(CONFIG)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", SAFE_PATH)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(folder_error)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ScratchError::Spawn(binary.to_owned(), error))?;
        let socket = Socket::new(folder.path().to_owned(), "s.sock".to_owned());
        let connection = loop {
            match Self::connect(&socket, limit).await {
                Ok(connection) => break connection,
                Err(error @ (ValkeyError::Absent | ValkeyError::Refused)) => {
                    if matches!(server.try_wait(), Ok(Some(_))) {
                        return Err(ScratchError::Ended(tail(&folder.path().join(LOG), LOG_TAIL_BYTES)));
                    }
                    if !poll.again(end).await {
                        return Err(ScratchError::Silent(error));
                    }
                }
                Err(error) => return Err(ScratchError::Silent(error)),
            }
        };
        Ok(Self { connection, _server: server, _folder: folder, _owner: owner })
    }

    async fn connect(socket: &Socket, limit: Duration) -> Result<Connection, ValkeyError> {
        let mut connection = Connection::over(reach(socket, limit).await?, limit).await?;
        connection.ask(vec!["PING"]).await?;
        Ok(connection)
    }
}

/// A process that was killed could not end its throwaway servers: the first one of a later process does.
async fn sweep_once(below: &Path, binary: &Path) {
    static SWEPT: Once = Once::new();
    let (below, binary) = (below.to_owned(), binary.to_owned());
    // What cannot be removed now is found again by the next process.
    let _swept = tokio::task::spawn_blocking(move || SWEPT.call_once(|| sweep(&below, &binary))).await;
}

fn sweep(below: &Path, binary: &Path) {
    let Ok(below) = fs::canonicalize(below) else { return };
    let folders: Vec<PathBuf> = fs::read_dir(&below).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let leftovers: Vec<(PathBuf, Option<File>)> = folders.into_iter().filter_map(leftover).collect();
    if leftovers.is_empty() {
        return;
    }
    let servers = process::servers_below(&below, binary);
    for (folder, _owner) in leftovers {
        if let Some(handle) = servers.get(&folder).and_then(|pid| {
            let handle = Handle::open(*pid)?;
            (process::works_in(*pid, &folder) == Some(true)).then_some(handle)
        }) {
            handle.kill();
        }
        let _next_time = fs::remove_dir_all(&folder);
    }
}

/// A throwaway folder of ours that is old and that no living process holds; with its owner file, locked now by us.
fn leftover(folder: PathBuf) -> Option<(PathBuf, Option<File>)> {
    folder.file_name()?.to_str()?.starts_with(PREFIX).then_some(())?;
    let meta = fs::symlink_metadata(&folder).ok()?;
    let old = meta.modified().ok()?.elapsed().ok()? > LEFTOVER_AGE_MIN;
    // The scratch folder is open to everybody, and so are names in it.
    (meta.is_dir() && old && meta.uid() == rustix::process::geteuid().as_raw()).then_some(())?;
    match File::open(folder.join(OWNER)) {
        Ok(owner) => owner.try_lock().ok().map(|()| (folder, Some(owner))),
        Err(error) => (error.kind() == io::ErrorKind::NotFound).then_some((folder, None)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn folder(below: &Path, name: &str, old: bool) -> PathBuf {
        let folder = below.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(OWNER), "").unwrap();
        let age = if old { LEFTOVER_AGE_MIN * 2 } else { Duration::ZERO };
        File::open(&folder).unwrap().set_modified(SystemTime::now() - age).unwrap();
        folder
    }

    #[test]
    fn only_what_nobody_uses_is_swept() {
        let below = tempfile::tempdir().unwrap();
        let left = folder(below.path(), "valkeeper-scratch-left", true);
        let used = folder(below.path(), "valkeeper-scratch-used", true);
        let owner = File::open(used.join(OWNER)).unwrap();
        owner.lock().unwrap();
        let young = folder(below.path(), "valkeeper-scratch-young", false);
        let other = folder(below.path(), "something-else", true);
        std::os::unix::fs::symlink(&other, below.path().join("valkeeper-scratch-link")).unwrap();
        sweep(below.path(), Path::new("/usr/bin/valkey-server"));
        assert!(!left.exists());
        assert!(used.exists() && young.exists() && other.join(OWNER).exists());
    }
}
