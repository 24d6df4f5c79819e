//! Our program on a host: which file it is here, whether that is what lies there, and bringing it over.

#![expect(clippy::disallowed_methods, reason = "the program that is sent to hosts is read here")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::survey::{Root, Survey};
use crate::host::ssh::{Destination, Remote, RunError};

/// Beside this program: the builds for other machines, by the word that `uname -m` has for them (`make portable`).
const PORTABLE: &str = "valkeeper-linux-";

/// A build of valkeeper to send.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    bytes: Vec<u8>,
    /// SHA-256, in hex.
    pub digest: String,
}

/// Why there is no program to send, or it is not there now.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{0} cannot be read")]
    Read(PathBuf, #[source] io::Error),
    #[error(
        "there is no build of valkeeper for {machine}: put it beside this program as {name}, or name it with --program \
         (`make portable` builds it)"
    )]
    NoBuild { machine: String, name: String },
    #[error(
        "the host cannot run this build of valkeeper: {0}; build one that runs on any Linux with `make portable`, and put it beside \
         this program or name it with --program"
    )]
    DoesNotRun(String),
    #[error(
        "{0} may run the agent there and nothing else (deploy/sudoers-valkeeper), which is right for every day: prepare, upgrade and \
         leave the node with a login that is root, or may be"
    )]
    NoRights(String),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Whether the rights of a login have to be had by sudo.
fn by_sudo(survey: &Survey) -> Result<bool, ProgramError> {
    match survey.root {
        Root::Is => Ok(false),
        Root::BySudo => Ok(true),
        Root::ForAgent | Root::No => Err(ProgramError::NoRights(survey.user.clone())),
    }
}

impl Program {
    /// The build for a host: the one that was named, a portable one beside `own`, or `own` itself.
    ///
    /// # Errors
    /// When there is none for its kind of machine.
    pub fn choose(named: Option<&Path>, own: &Path, survey: &Survey) -> Result<Self, ProgramError> {
        if let Some(named) = named {
            return Self::read(named);
        }
        let name = format!("{PORTABLE}{}", survey.machine);
        let beside = own.with_file_name(&name);
        if beside.is_file() {
            return Self::read(&beside);
        }
        if survey.system == "Linux" && survey.machine == std::env::consts::ARCH {
            return Self::read(own);
        }
        Err(ProgramError::NoBuild { machine: format!("{} {}", survey.system, survey.machine), name })
    }

    fn read(path: &Path) -> Result<Self, ProgramError> {
        let bytes = fs::read(path).map_err(|error| ProgramError::Read(path.to_owned(), error))?;
        let digest = base16ct::lower::encode_string(&Sha256::digest(&bytes));
        Ok(Self { path: path.to_owned(), bytes, digest })
    }

    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Is it what lies on the host?
    pub fn is_there(&self, survey: &Survey) -> bool {
        survey.program.as_ref().is_some_and(|(digest, _)| *digest == self.digest)
    }

    /// Puts it on the host, in one rename, after it has run there once. The one that runs there now goes on running.
    ///
    /// # Errors
    /// When it does not arrive whole, or does not run there: then what was there stays.
    pub async fn install(&self, to: &Destination, survey: &Survey) -> Result<(), ProgramError> {
        let remote = Remote::Install { sudo: by_sudo(survey)? };
        match to.run(remote, &self.bytes).await {
            Ok(_version) => Ok(()),
            Err(RunError::Status { status: _, words, said: _ }) => Err(ProgramError::DoesNotRun(words)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes our program off a host.
///
/// # Errors
/// When the host refuses.
pub async fn remove(to: &Destination, survey: &Survey) -> Result<(), ProgramError> {
    to.run(Remote::Remove { sudo: by_sudo(survey)? }, b"").await?;
    Ok(())
}
