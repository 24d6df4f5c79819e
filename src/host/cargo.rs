//! The files of snapshots on their way between nodes: read and written in pieces, summed up, put in place.
//!
//! They lie where only valkeeper may go, on the file system of the data, so that a server cannot put a link in their place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use tokio::process::{Child, Command};

use super::clock::Deadline;
use super::files::{self, FileError, Owner, Stamp, at};
use super::held::lock;
use super::layout::Layout;
use super::machine::Account;
use super::process::SAFE_PATH;
use super::tell::Tell;
use crate::model::name::InstanceName;
use crate::model::size::show_size;

/// How much is summed up before the time is looked at. Bytes: some 3 ms where the processor has no help for it.
const PIECE_BYTES: usize = 1 << 20;

fn open(path: &Path, options: &mut OpenOptions, doing: &'static str) -> Result<File, FileError> {
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = options.custom_flags(flags).open(path).map_err(at(doing, path))?;
    if file.metadata().map_err(at(doing, path))?.is_file() {
        Ok(file)
    } else {
        Err(at(doing, path)(io::Error::other("it is not a plain file")))
    }
}

/// Opens one to read it.
///
/// # Errors
/// When it is not there, or no plain file.
pub fn open_to_read(path: &Path) -> Result<File, FileError> {
    open(path, OpenOptions::new().read(true), "cannot read")
}

/// Gives a file a second name, in the place of what had it.
///
/// # Errors
/// When the file is not there, or the other name is on another file system.
pub fn keep(file: &Path, name: &Path) -> Result<(), FileError> {
    files::remove(name)?;
    fs::hard_link(file, name).map_err(at("cannot keep", file))?;
    files::sync_folder_of(name)
}

/// How long it is; nothing if it is not there. Bytes.
///
/// # Errors
/// When it is no plain file.
pub fn length(path: &Path) -> Result<Option<u64>, FileError> {
    match open_to_read(path) {
        Ok(file) => Ok(Some(file.metadata().map_err(at("cannot read", path))?.len())),
        Err(error) if error.error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// How much has arrived of a snapshot that is carried to this instance; nothing if none is, or it cannot be told. Bytes.
pub fn arrived(layout: &Layout, name: &InstanceName) -> Option<u64> {
    let arriving = all_of(layout, name).ok()?.filter(|path| *path != layout.leaving(name));
    arriving.into_iter().find_map(|path| length(&path).ok().flatten())
}

/// A piece from this place on, no longer than `most`; shorter only at the end. Bytes.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path, from: u64, most: usize) -> Result<Vec<u8>, FileError> {
    let file = open_to_read(path)?;
    let mut piece = vec![0; most];
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(at("cannot read", path)(error)),
        }
    }
    piece.truncate(filled);
    Ok(piece)
}

/// Writes a piece where the file ends; gives its new length. What a crash leaves of it is found when it is summed up. Bytes.
///
/// # Errors
/// When the file does not end there, or cannot be written.
pub fn append(path: &Path, from: u64, piece: &[u8]) -> Result<u64, FileError> {
    let doing = "cannot write";
    let file = open(path, OpenOptions::new().write(true).create(true).mode(0o600), doing)?;
    let length = file.metadata().map_err(at(doing, path))?.len();
    if length != from {
        return Err(at(doing, path)(io::Error::other(format!("it has {length} bytes, and what comes begins at {from}"))));
    }
    file.write_all_at(piece, from).map_err(at(doing, path))?;
    Ok(from + piece.len() as u64)
}

/// Moves it to where a server finds it, all of it on disk.
///
/// # Errors
/// When it cannot be moved.
pub fn place(from: &Path, to: &Path, mode: u32, owner: Option<Owner>) -> Result<(), FileError> {
    let doing = "cannot move";
    let file = open(from, OpenOptions::new().read(true).write(true), doing)?;
    if let Some(Owner { user, group }) = owner {
        rustix::fs::fchown(&file, user, group).map_err(|error| at(doing, from)(error.into()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at(doing, from))?;
    file.sync_all().map_err(at(doing, from))?;
    files::rename(from, to)
}

/// Has the server's own tool read a snapshot. It parses what a server wrote, so it does that as the user of the servers, who
/// may not open the file by its name.
///
/// # Errors
/// When the file cannot be read, or the tool cannot be started.
pub fn begin_check(tool: &Path, path: &Path, account: Option<Account>) -> Result<Child, FileError> {
    let file = open_to_read(path)?;
    let mut command = Command::new(tool);
    if let Some(Account { user, group }) = account {
        command.uid(user.as_raw()).gid(group.as_raw());
    }
    command.arg("/proc/self/fd/0").env_clear().env("PATH", SAFE_PATH).current_dir("/").process_group(0).kill_on_drop(true);
    command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(at("cannot start", tool))
}

/// Removes what lies of this instance's snapshots, but for one.
///
/// # Errors
/// When it cannot be removed.
pub fn clear(layout: &Layout, name: &InstanceName, but: Option<&Path>) -> Result<(), FileError> {
    all_of(layout, name)?.filter(|path| Some(path.as_path()) != but).try_for_each(|path| files::remove(&path))
}

/// What lies of this instance's snapshots.
fn all_of(layout: &Layout, name: &InstanceName) -> Result<impl Iterator<Item = PathBuf>, FileError> {
    let root = layout.set_aside_root();
    let ours = files::names(&root)?.into_iter().filter(|file| Layout::is_cargo_of(name, file));
    Ok(ours.map(move |file| root.join(file)))
}

/// Sums of files that were begun: a long one goes on with the next step. What a process that ends had begun is begun again.
#[derive(Debug, Default)]
pub struct Sums(Arc<Mutex<BTreeMap<PathBuf, Sum>>>);

#[derive(Debug, Clone)]
struct Sum {
    /// Another file under the same name is summed up from its beginning.
    of: Stamp,
    done: u64,
    hash: Sha256,
}

impl Sums {
    /// Nobody asks for the sum of this file any more.
    pub fn forget(&self, path: &Path) {
        lock(&self.0).remove(path);
    }

    /// The SHA-256 of a file in hex, and its length in bytes; nothing yet, when the time is over before.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn sum(&self, path: &Path, end: Deadline, tell: &Tell) -> Result<Option<(String, u64)>, FileError> {
        let of = files::stamp(path);
        let known = lock(&self.0).remove(path);
        let mut sum = known.filter(|sum| sum.of == of).unwrap_or_else(|| Sum { of, done: 0, hash: Sha256::new() });
        loop {
            let path_of_piece = path.to_owned();
            let work = tokio::task::spawn_blocking(move || {
                let piece = read(&path_of_piece, sum.done, PIECE_BYTES)?;
                sum.hash.update(&piece);
                sum.done += piece.len() as u64;
                Ok((sum, piece.len() < PIECE_BYTES))
            });
            let is_all;
            (sum, is_all) = match work.await {
                Ok(done) => done?,
                Err(error) => return Err(at("cannot sum up", path)(io::Error::other(error))),
            };
            if is_all || end.is_over() {
                lock(&self.0).insert(path.to_owned(), sum.clone());
                let digest: [u8; 32] = sum.hash.finalize().into();
                return Ok(is_all.then(|| (base16ct::lower::encode_string(&digest), sum.done)));
            }
            tell.say(format!("checking the snapshot ({} so far)", show_size(sum.done)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pieces_are_appended_where_the_file_ends_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert_eq!(append(&path, 0, b"abc").unwrap(), 3);
        assert_eq!(append(&path, 3, b"de").unwrap(), 5);
        assert!(append(&path, 3, b"x").is_err() && append(&path, 9, b"x").is_err());
        assert_eq!(read(&path, 1, 3).unwrap(), b"bcd");
        assert_eq!(read(&path, 4, 3).unwrap(), b"e");
        assert_eq!(read(&path, 9, 3).unwrap(), b"");
        assert_eq!((length(&path).unwrap(), length(&folder.path().join("b")).unwrap()), (Some(5), None));
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(read(&folder.path().join("link"), 0, 3).is_err());
    }

    #[tokio::test]
    async fn a_sum_goes_on_where_it_was_and_begins_anew_for_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, vec![7; PIECE_BYTES * 2]).unwrap();
        let sums = Sums::default();
        let (over, ample) = (Deadline::after(Duration::ZERO), Deadline::after(Duration::from_secs(60)));
        assert_eq!(sums.sum(&path, over, &Tell::nobody()).await.unwrap(), None);
        let whole = Sums::default().sum(&path, ample, &Tell::nobody()).await.unwrap();
        assert_eq!(sums.sum(&path, ample, &Tell::nobody()).await.unwrap(), whole);
        assert_eq!(sums.sum(&path, over, &Tell::nobody()).await.unwrap(), whole, "what is summed up takes no time");
        assert_eq!(whole.unwrap().1, PIECE_BYTES as u64 * 2);
        fs::write(folder.path().join("b"), b"abc").unwrap();
        fs::rename(folder.path().join("b"), &path).unwrap();
        let other = sums.sum(&path, ample, &Tell::nobody()).await.unwrap().unwrap();
        assert_eq!(other, ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(), 3));
    }
}
