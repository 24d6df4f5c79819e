//! Looking at one node: its binary, its members, their files and servers. Changes nothing, decides nothing.
//!
//! [`LocalNode`] is a node on this machine; [`node`] looks at all of it, [`member`] at one member: its files ([`disk`])
//! and its server ([`memory`]).

#![expect(clippy::disallowed_methods, reason = "what a folder holds is what this room looks at")]

pub mod binary;
pub mod disk;
mod foreign;
mod manifests;
pub mod member;
pub mod memory;
pub mod node;
mod probe;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use binary::{Binary, BinaryError, BinaryMemory};
use manifests::Manifests;

use crate::host::files::{FileError, Owner};
use crate::host::layout::{Layout, PathNotText};
use crate::host::machine::{self, Account};
use crate::host::scratch::Bench;
use crate::host::supervisor::{Server, Supervisor};
use crate::host::unit::{Allowance, UnitFiles};
use crate::model::name::InstanceName;
use crate::model::spec::InstanceSpec;

/// How long things may take on a node, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For looking at one member, from connecting to the last reply.
    pub look: Duration,
    /// For one step.
    pub step: Duration,
    /// Members looked at side by side.
    pub at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { look: Duration::from_secs(2), step: Duration::from_secs(30), at_once: 64 }
    }
}

/// What a local node needs to know of its surroundings; nothing below reads the environment.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The program `valkey-server`, if there is one.
    pub server: Option<PathBuf>,
    /// Where throwaway servers have their folders.
    pub scratch: PathBuf,
    pub limits: Limits,
}

/// A node that this process can reach by itself: a folder, or all of this machine.
#[derive(Debug)]
pub struct LocalNode {
    pub layout: Layout,
    pub supervisor: Supervisor,
    /// Whom servers run as; nothing: as whoever started them.
    pub server_user: Option<Account>,
    pub surroundings: Surroundings,
    /// Which machine and folder this is; markers carry it.
    pub machine: String,
    binary: BinaryMemory,
    manifests: Manifests,
}

/// Why a folder cannot be a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Path(#[from] PathNotText),
    #[error("the state folder {0} cannot be reached: {1}; give it to the user that valkeeper runs as")]
    Unreachable(PathBuf, io::Error),
    #[error("this machine has no user {SERVER_USER}, as whom servers run: install the package valkey-server")]
    NoUser,
    #[error(transparent)]
    File(#[from] FileError),
}

/// The user that the package of the server makes.
const SERVER_USER: &str = "valkey";

impl LocalNode {
    /// The node below this state folder, which need not exist yet.
    ///
    /// # Errors
    /// When the path cannot be resolved or is not UTF-8.
    pub fn new(state: &Path, surroundings: Surroundings) -> Result<Self, NodeError> {
        let root = canonical(state).map_err(|error| NodeError::Unreachable(state.to_owned(), error))?;
        let layout = Layout::new(root)?;
        let machine = machine::identity(layout.root());
        let supervisor = Supervisor::Processes;
        Ok(Self {
            layout,
            supervisor,
            server_user: None,
            surroundings,
            machine,
            binary: BinaryMemory::default(),
            manifests: Manifests::default(),
        })
    }

    /// The node that is this whole machine: its servers run under systemd, and this process has to be root. `prefix` is `/`
    /// but for a try.
    ///
    /// # Errors
    /// When the machine has no user for the servers.
    pub fn system(prefix: &Path, surroundings: Surroundings) -> Result<Self, NodeError> {
        let layout = Layout::system(prefix)?;
        let machine = machine::identity(layout.root());
        let server_user = match layout.users() {
            Some(users) => Some(machine::account(&users, SERVER_USER)?.ok_or(NodeError::NoUser)?),
            None => None,
        };
        let supervisor = Supervisor::Systemd(Box::default());
        Ok(Self {
            layout,
            supervisor,
            server_user,
            surroundings,
            machine,
            binary: BinaryMemory::default(),
            manifests: Manifests::default(),
        })
    }

    /// Where throwaway servers run, and as whom.
    pub fn bench(&self) -> Bench {
        let below = self.layout.scratch().unwrap_or_else(|| self.surroundings.scratch.clone());
        Bench { below, account: self.server_user }
    }

    /// Whom a file belongs to that servers read and never write; nothing: to this process.
    pub fn readable_by_servers(&self) -> Option<Owner> {
        self.server_user.map(|account| Owner { user: None, group: Some(account.group) })
    }

    /// Whom a file belongs to that is the server's own.
    pub fn owned_by_servers(&self) -> Option<Owner> {
        self.server_user.map(|account| Owner { user: Some(account.user), group: Some(account.group) })
    }

    /// The server of a member, for the supervisor.
    pub fn server<'a>(&'a self, name: &'a InstanceName, binary: &'a Binary) -> Server<'a> {
        Server { layout: &self.layout, name, binary: &binary.path }
    }

    /// The unit files that a member is to have, by its config file on disk; nothing where there is no systemd.
    pub fn unit_files(&self, name: &InstanceName, spec: Option<&InstanceSpec>, binary: &Binary) -> Option<UnitFiles> {
        let allowance = Allowance::of(spec.unwrap_or(&InstanceSpec::default()), &binary.facts);
        UnitFiles::of(&self.layout, name, &binary.path, allowance)
    }

    pub fn limits(&self) -> Limits {
        self.surroundings.limits
    }

    /// The node's server binary and what it knows.
    ///
    /// # Errors
    /// When there is none, or it cannot be asked.
    pub async fn binary(&self) -> Result<Binary, BinaryError> {
        let path = self.surroundings.server.as_deref().ok_or(BinaryError::NotInstalled)?;
        self.binary.get(path, self.layout.root(), &self.bench(), self.limits().step).await
    }
}

/// The real path of a folder of which the last parts need not exist yet.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link that leads nowhere is there, and is no folder of ours.
            if fs::symlink_metadata(path).is_ok() {
                return Err(error);
            }
            let absolute = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Err(error) };
            Ok(canonical(parent)?.join(name))
        }
        Err(error) => Err(error),
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_need_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(folder.path()).unwrap();
        assert_eq!(canonical(&folder.path().join("a/b")).unwrap(), real.join("a/b"));
        std::os::unix::fs::symlink(folder.path().join("nowhere"), folder.path().join("link")).unwrap();
        assert!(canonical(&folder.path().join("link")).is_err());
    }
}
