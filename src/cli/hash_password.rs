//! `valkeeper hash-password`: a password to the hash that `password_sha256` takes. The password is never an argument:
//! arguments can be seen by everyone on the machine.

use std::io::{self, IsTerminal as _, Read as _, Write};

use dialoguer::Password;

use crate::roots::{SECRET_BYTES_MAX, hash_secret};

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashPasswordError {
    #[error("the password could not be asked for")]
    Prompt(#[from] dialoguer::Error),
    #[error("the password could not be read, or its hash not written")]
    Io(#[from] io::Error),
    #[error("the password {0}: give it on standard input, as one line")]
    Refused(&'static str),
}

/// Asks for a password twice if standard input is a terminal, or else takes all of standard input; prints the hash.
///
/// # Errors
/// When there is no password, or it is empty or more than one line.
pub fn hash_password(out: &mut impl Write) -> Result<(), HashPasswordError> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let prompt = Password::new().with_prompt("Password").with_confirmation("Again", "These are not the same.");
        prompt.interact()?.into_bytes()
    } else {
        let mut bytes = Vec::new();
        stdin.lock().take(SECRET_BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
        bytes
    };
    let hash = hash_secret(password).map_err(HashPasswordError::Refused)?;
    Ok(writeln!(out, "{}", hash.reveal())?)
}
