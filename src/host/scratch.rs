//! Throwaway servers: of the node's own binary, in an empty scratch folder, on a unix socket only, never over live data.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::clock::{Deadline, Poll};
use super::files;
use super::layout::Socket;
use super::lock::{self, Guard};
use super::machine::Account;
use super::process::{Handle, LOG_TAIL_BYTES, SAFE_PATH, raise_own_files, servers_below, tail};
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

/// Where throwaway servers run, and as whom: a binary that is only tried out never gets more than the real one.
#[derive(Debug, Clone)]
pub struct Bench {
    pub below: PathBuf,
    /// Nothing: as this process.
    pub account: Option<Account>,
}

/// A throwaway server. Killed and removed when dropped.
pub struct Scratch {
    pub connection: Connection,
    _server: Child,
    _folder: TempDir,
    /// Held while we live, so that others can tell this folder from one that was left behind.
    _owner: Guard,
}

/// Where throwaway folders begin; what a killed valkeeper left behind is known by it.
const PREFIX: &str = "valkeeper-scratch-";
const CONFIG: &str = "scratch.conf";
const LOG: &str = "scratch.log";
const OWNER: &str = "owner";
/// How old a folder is before it may count as left behind.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(60);

impl Scratch {
    /// Starts `binary` with these directives and nothing of ours but the socket, and waits until it answers.
    ///
    /// # Errors
    /// Its own words, if it refuses the directives.
    pub async fn start(binary: &Path, bench: &Bench, directives: &[Directive], limit: Duration) -> Result<Self, ScratchError> {
        let end = Deadline::after(limit);
        let mut poll = Poll::default();
        let Bench { below, account } = bench;
        let folder_error = |error| ScratchError::Folder(below.to_owned(), error);
        if account.is_some() {
            // A login may have a lower limit than units have.
            raise_own_files();
            // Ours alone to write to, and for the other user to pass.
            files::make_folder_for(below, 0o711, None).map_err(|error| folder_error(error.error))?;
        }
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(below)
            .map_err(folder_error)?;
        let owner = lock::acquire(&folder.path().join(OWNER), "valkeeper");
        let owner = owner.map_err(|error| folder_error(io::Error::other(error)))?;
        let mut all = directives.to_vec();
        for (name, value) in [("port", "0"), ("unixsocket", "s.sock")] {
            all.push((name.to_owned(), vec![value.to_owned()]));
        }
        fs::write(folder.path().join(CONFIG), render("a throwaway server of valkeeper", &all)).map_err(folder_error)?;
        let log = fs::File::create(folder.path().join(LOG)).map_err(folder_error)?;
        let mut command = Command::new(binary);
        if let Some(Account { user, group }) = account {
            for path in [folder.path().to_owned(), folder.path().join(CONFIG), folder.path().join(LOG)] {
                rustix::fs::chown(&path, Some(*user), Some(*group)).map_err(|error| folder_error(error.into()))?;
            }
            command.uid(user.as_raw()).gid(group.as_raw());
        }
        let mut server = command
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

/// Ends and removes throwaway servers whose valkeeper was killed before it could. What is another user's, or in use, stays.
pub fn sweep(bench: &Bench, binary: &Path) {
    let Bench { below, account } = bench;
    let mine = account.map_or_else(rustix::process::getuid, |account| account.user).as_raw();
    let left = files::names(below).unwrap_or_default().into_iter().filter(|name| name.starts_with(PREFIX));
    for folder in left.map(|name| below.join(name)) {
        // A young one may belong to a process that has made its owner file and not locked it yet.
        let old = |meta: &fs::Metadata| meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFTOVER_AGE_MIN));
        let is_left = |meta: fs::Metadata| meta.is_dir() && meta.uid() == mine && old(&meta);
        if !fs::symlink_metadata(&folder).is_ok_and(is_left) || !files::exists(&folder.join(OWNER)) {
            continue;
        }
        let Ok(_abandoned) = lock::acquire(&folder.join(OWNER), "a sweep of valkeeper") else { continue };
        if let Some(handle) = servers_below(below, binary).get(&folder).and_then(|pid| Handle::open(*pid)) {
            handle.kill();
        }
        if let Err(error) = files::remove_folder(&folder) {
            tracing::debug!(%error, "a throwaway folder stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_behind_is_swept_and_what_is_in_use_is_not() {
        let below = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let folder = below.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            folder
        };
        let (left, used, new) = (folder("left"), folder("used"), folder("new"));
        drop(lock::acquire(&left.join(OWNER), "gone").unwrap());
        drop(lock::acquire(&new.join(OWNER), "about to lock it").unwrap());
        let _used = lock::acquire(&used.join(OWNER), "here").unwrap();
        for folder in [&left, &used] {
            let long_ago = std::time::SystemTime::now() - LEFTOVER_AGE_MIN * 2;
            fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
        }
        fs::create_dir(below.path().join("another")).unwrap();
        sweep(&Bench { below: below.path().to_owned(), account: None }, Path::new("/usr/bin/valkey-server"));
        assert!(!left.exists() && used.exists() && new.exists() && below.path().join("another").exists());
    }
}
