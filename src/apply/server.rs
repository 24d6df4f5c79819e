//! One member under one step: its marker, its server, and what can go wrong with them.

use std::sync::Arc;

use crate::host::clock::Deadline;
use crate::host::files::{self, FileError};
use crate::host::supervisor::{Attempt, Server, SupervisorError};
use crate::host::tell::Tell;
use crate::host::valkey::{Connection, Reply, ValkeyError, Words, reach};
use crate::model::marker::{Marker, MarkerFile};
use crate::model::name::{InstanceName, OPERATOR_USER};
use crate::observe::binary::Binary;
use crate::observe::disk::{self, MarkerOnDisk};
use crate::observe::{LocalNode, chain};

/// Why an effect did not come to its end.
#[derive(Debug)]
pub(super) enum Halt {
    /// It goes on by itself; the next look decides.
    Pending(String),
    Failed(String),
    /// The settings were tried and are not taken; nothing was touched.
    Refused(String),
}

impl From<FileError> for Halt {
    fn from(error: FileError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ValkeyError> for Halt {
    fn from(error: ValkeyError) -> Self {
        Self::Failed(format!("the server: {}", chain(&error)))
    }
}

impl From<SupervisorError> for Halt {
    fn from(error: SupervisorError) -> Self {
        Self::Failed(chain(&error))
    }
}

pub(super) fn failed<T>(why: impl Into<String>) -> Result<T, Halt> {
    Err(Halt::Failed(why.into()))
}

/// A member that a step is about, while the step is performed.
pub(super) struct Acting {
    pub node: Arc<LocalNode>,
    pub name: InstanceName,
    pub binary: Binary,
    /// When the step has to be over.
    pub end: Deadline,
    /// Its marker was made a moment ago, so no server of it can run yet.
    pub is_new: bool,
    /// Who watches.
    pub tell: Tell,
    connection: Option<Connection>,
}

impl Acting {
    pub(super) fn new(node: Arc<LocalNode>, name: InstanceName, binary: Binary, end: Deadline, tell: Tell) -> Self {
        Self { node, name, binary, end, is_new: false, tell, connection: None }
    }

    /// What the supervisor is asked about.
    pub(super) fn server(&self) -> Server<'_> {
        self.node.server(&self.name, &self.binary)
    }

    /// What the server said since then.
    pub(super) async fn words(&self, since: &Attempt) -> String {
        self.node.supervisor.words(self.server(), since).await
    }

    /// Does something with files where it holds up nobody else.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&LocalNode, &InstanceName) -> Result<T, Halt> + Send + 'static,
    ) -> Result<T, Halt> {
        let (node, name) = (Arc::clone(&self.node), self.name.clone());
        match tokio::task::spawn_blocking(move || work(&node, &name)).await {
            Ok(result) => result,
            Err(error) => failed(format!("working with files failed: {error}")),
        }
    }

    /// The marker as it is now, with the operator's password.
    pub(super) async fn marker(&self) -> Result<MarkerFile, Halt> {
        self.on_disk(read_marker).await
    }

    /// Commands to the server in one round trip, logged in as the operator.
    pub(super) async fn ask(&mut self, commands: &[Words<'_>]) -> Result<Vec<Result<Reply, ValkeyError>>, Halt> {
        let end = self.end;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let marker = self.marker().await?;
                let stream = reach(&self.node.layout.socket(&self.name), end.left()).await?;
                let mut connection = Connection::over(stream, end.left()).await?;
                connection.log_in(OPERATOR_USER, &marker.operator_password).await?;
                self.connection.insert(connection)
            }
        };
        connection.set_timeout(end.left());
        Ok(connection.ask_all(commands).await?)
    }

    /// One command whose reply has to be no error.
    pub(super) async fn say(&mut self, words: Words<'_>) -> Result<Reply, Halt> {
        match self.ask(&[words]).await?.into_iter().next() {
            Some(reply) => Ok(reply?),
            None => failed("the server gave no reply"),
        }
    }

    /// The server ended or is about to: the next command needs a new connection.
    pub(super) fn hang_up(&mut self) {
        self.connection = None;
    }
}

pub(super) fn read_marker(node: &LocalNode, name: &InstanceName) -> Result<MarkerFile, Halt> {
    match disk::marker(&node.layout, name) {
        MarkerOnDisk::Ours(file) => Ok(*file),
        MarkerOnDisk::Unmarked(why) => failed(why),
        MarkerOnDisk::Absent => failed(format!("the marker {} is gone", node.layout.marker(name).display())),
    }
}

/// Writes a marker over the one that is there; its operator password stays.
pub(super) fn write_marker(node: &LocalNode, name: &InstanceName, marker: Marker) -> Result<(), Halt> {
    let file = MarkerFile { marker, ..read_marker(node, name)? };
    write_marker_file(node, &file)
}

pub(super) fn write_marker_file(node: &LocalNode, file: &MarkerFile) -> Result<(), Halt> {
    let text = toml::to_string(file).map_err(|error| Halt::Failed(format!("the marker cannot be written: {error}")))?;
    Ok(files::replace(&node.layout.marker(&file.instance), text.as_bytes(), 0o600)?)
}
