//! References to passwords that are not in the text, and what became of them. Never holds a clear password.

use std::collections::BTreeMap;

use crate::model::password::PasswordHash;

/// Where a password is read from on the controller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretRef {
    /// A file, as written.
    File(String),
    /// An environment variable.
    Env(String),
}

/// The hashes behind the references.
#[derive(Debug, Clone)]
pub enum Secrets {
    /// Every reference stands for one fixed hash: for checking where the secrets are not at hand.
    Placeholder,
    /// Each reference with its hash, or why it could not be read (a lower-case fragment without the secret).
    Read(BTreeMap<SecretRef, Result<PasswordHash, String>>),
}

impl Secrets {
    pub(super) fn get(&self, wanted: &SecretRef) -> Result<PasswordHash, String> {
        match self {
            Self::Placeholder => Ok(PasswordHash::of_password(b"a placeholder that no server is ever given")),
            Self::Read(read) => read.get(wanted).cloned().unwrap_or_else(|| Err("it was not read".to_owned())),
        }
    }
}
