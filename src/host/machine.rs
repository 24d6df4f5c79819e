//! Which machine this is.

use std::fs;
use std::path::Path;

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use rustix::fs::{Gid, Uid};

use super::files::{self, FileError};
use crate::model::password::{Fingerprint, Secret};

/// Letters and digits of a new password: 40 of 62 are over 230 bits, so that its unsalted hash tells nothing.
const PASSWORD_CHARS: usize = 40;

/// This machine and this folder, as markers name them: the machine's own id (machine-id(5)), or its host name where there is
/// none, as in some containers.
pub fn identity(root: &Path) -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = if id.trim().is_empty() { host_name() } else { id };
    Fingerprint::of(format!("{}\0{}", id.trim(), root.display()).as_bytes()).to_string()
}

/// What people call this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A user of this machine, with its first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub user: Uid,
    pub group: Gid,
}

/// Looks a user up in this passwd(5) file; nothing if it has none of this name.
///
/// # Errors
/// When the file cannot be read.
pub fn account(users: &Path, name: &str) -> Result<Option<Account>, FileError> {
    let text = files::read_bounded(users)?.unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { user: Uid::from_raw(user), group: Gid::from_raw(group) })
    };
    Ok(text.lines().find_map(of))
}

/// How large the file system is that holds a folder (or what is above it, where that is missing yet), and how much of it
/// those who are not root may still write. Bytes; nothing where it cannot be told.
pub fn disk(folder: &Path) -> Option<(u64, u64)> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// The memory of this machine. Bytes.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// How much of it programs could still take without swapping. Bytes; nothing where the kernel does not tell.
pub fn memory_available() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Of the lines of proc_meminfo(5), whose `kB` are of 1,024 bytes.
fn available(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A new password that nobody knows.
pub fn new_password() -> Secret {
    Secret::new(rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARS).map(char::from).collect())
}

/// 128 random bits in hex: a name that nothing had before.
pub fn new_name() -> String {
    base16ct::lower::encode_string(&rand::rng().random::<[u8; 16]>())
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
    fn available_memory_is_told_by_the_kernel() {
        assert_eq!(available("MemTotal:  9 kB\nMemFree:    1 kB\nMemAvailable:       3 kB\n"), Some(3072));
        assert_eq!(["", "MemAvailable: much\n", "MemAvailable: 3 MB\n"].map(available), [None; 3]);
        assert!(memory_available().unwrap() < memory());
    }

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = tempfile::NamedTempFile::new().unwrap();
        fs::write(users.path(), "root:x:0:0:root:/root:/bin/sh\nvalkey2:x:7:8::/:\nvalkey:x:102:103::/var/lib/valkey:\n")
            .unwrap();
        let found = account(users.path(), "valkey").unwrap().unwrap();
        assert_eq!((found.user.as_raw(), found.group.as_raw()), (102, 103));
        assert_eq!(account(users.path(), "nobody").unwrap(), None);
    }

    #[test]
    fn passwords_are_long_and_differ() {
        assert_eq!(new_password().reveal().len(), PASSWORD_CHARS);
        assert_ne!(new_password(), new_password());
    }
}
