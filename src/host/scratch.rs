//! Throwaway servers: of the node's own binary, in an empty scratch folder, on a unix socket only, never over live data.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::clock::{Deadline, Poll};
use super::layout::Socket;
use super::process::{LOG_TAIL_BYTES, SAFE_PATH, tail};
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
}

/// Where throwaway folders begin; what a killed valkeeper left behind is known by it.
const PREFIX: &str = "valkeeper-scratch-";
const CONFIG: &str = "scratch.conf";
const LOG: &str = "scratch.log";

impl Scratch {
    /// Starts `binary` with these directives and nothing of ours but the socket, and waits until it answers.
    ///
    /// # Errors
    /// Its own words, if it refuses the directives.
    pub async fn start(binary: &Path, below: &Path, directives: &[Directive], limit: Duration) -> Result<Self, ScratchError> {
        let end = Deadline::after(limit);
        let mut poll = Poll::default();
        let folder_error = |error| ScratchError::Folder(below.to_owned(), error);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(below).map_err(folder_error)?;
        let mut all = directives.to_vec();
        for (name, value) in [("port", "0"), ("unixsocket", "s.sock")] {
            all.push((name.to_owned(), vec![value.to_owned()]));
        }
        std::fs::write(folder.path().join(CONFIG), render("a throwaway server of valkeeper", &all)).map_err(folder_error)?;
        let log = std::fs::File::create(folder.path().join(LOG)).map_err(folder_error)?;
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
        Ok(Self { connection, _server: server, _folder: folder })
    }

    async fn connect(socket: &Socket, limit: Duration) -> Result<Connection, ValkeyError> {
        let mut connection = Connection::over(reach(socket, limit).await?, limit).await?;
        connection.ask(vec!["PING"]).await?;
        Ok(connection)
    }
}
