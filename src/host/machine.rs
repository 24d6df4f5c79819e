//! Which machine this is.

use std::fs;
use std::path::Path;

use rand::RngExt as _;
use rand::distr::Alphanumeric;

use crate::model::password::{Fingerprint, Secret};

/// Letters and digits of a new password: 40 of 62 are over 230 bits, so that its unsalted hash tells nothing.
const PASSWORD_CHARS: usize = 40;

/// This machine and this folder, as markers name them: the machine's own id (machine-id(5)), or its host name where there is
/// none, as in some containers.
pub fn identity(root: &Path) -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = if id.trim().is_empty() { rustix::system::uname().nodename().to_string_lossy().into_owned() } else { id };
    Fingerprint::of(format!("{}\0{}", id.trim(), root.display()).as_bytes()).to_string()
}

/// A new password that nobody knows.
pub fn new_password() -> Secret {
    Secret::new(rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARS).map(char::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_folder_is_another_identity() {
        assert_eq!(identity(Path::new("/a")), identity(Path::new("/a")));
        assert_ne!(identity(Path::new("/a")), identity(Path::new("/b")));
    }

    #[test]
    fn passwords_are_long_and_differ() {
        assert_eq!(new_password().reveal().len(), PASSWORD_CHARS);
        assert_ne!(new_password(), new_password());
    }
}
