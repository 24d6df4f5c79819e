//! The right to act on a node: one process at a time, given back by the kernel when that process dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::files::FileError;

/// How much of the holder's text is read. Bytes.
const HOLDER_BYTES_MAX: u64 = 512;

/// The right to act. Given back when dropped.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

/// Why there is no right to act.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it; their own words.
    #[error("it is held by {0}")]
    Held(String),
    #[error(transparent)]
    File(#[from] FileError),
}

/// Takes the right to act, and says in the file who has it.
///
/// # Errors
/// Who holds it, if somebody does.
pub fn acquire(path: &Path, holder: &str) -> Result<Guard, LockError> {
    let failed = |error| FileError { doing: "cannot lock", path: path.to_owned(), error };
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags);
    let mut file = options.open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LockError::Held(read_holder(file))),
        Err(TryLockError::Error(error)) => return Err(failed(error).into()),
    }
    let mut write = || {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(holder.as_bytes())
    };
    write().map_err(failed)?;
    Ok(Guard { _file: file })
}

fn read_holder(file: File) -> String {
    let mut text = String::new();
    match file.take(HOLDER_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "another process, which has not said its name yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_learns_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = acquire(&path, "apply by anna, pid 7").unwrap();
        assert!(matches!(acquire(&path, "x"), Err(LockError::Held(who)) if who == "apply by anna, pid 7"));
        drop(first);
        drop(acquire(&path, "short").unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
    }
}
