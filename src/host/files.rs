//! Files that survive a crash whole: atomic writes, bounded reads, renames that are on disk when they return.
//!
//! Never follows a symbolic link where it writes or removes: a link in the state folder could lead anywhere.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, OFlags, Uid};

/// The largest file that is read whole; markers, configs and ACL files are far smaller. Bytes.
pub const READ_BYTES_MAX: u64 = 4 << 20;

/// What went wrong with a file, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {}", cure(.error))]
pub struct FileError {
    pub doing: &'static str,
    pub path: PathBuf,
    /// Said in other words above, so it is no cause that would be said again.
    pub error: io::Error,
}

/// The error and what helps.
fn cure(error: &io::Error) -> String {
    use io::ErrorKind;
    let known: [(bool, &str); 5] = [
        (error.kind() == ErrorKind::StorageFull, "no space is left on its disk; free some"),
        (error.kind() == ErrorKind::ReadOnlyFilesystem, "its file system is read-only; mount it writable"),
        (error.kind() == ErrorKind::PermissionDenied, "permission denied; give the folder to the user that valkeeper runs as"),
        (error.kind() == ErrorKind::QuotaExceeded, "the disk quota is used up"),
        (
            error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()),
            "it is a symbolic link, which is never followed here; put the real file or folder in its place",
        ),
    ];
    known.iter().find(|(is, _)| *is).map_or_else(|| error.to_string(), |(_, words)| (*words).to_owned())
}

pub(super) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| FileError { doing, path, error }
}

/// Reads a whole text file; nothing if there is none.
///
/// # Errors
/// When it cannot be read, is no plain file, not UTF-8, or larger than [`READ_BYTES_MAX`].
pub fn read_bounded(path: &Path) -> Result<Option<String>, FileError> {
    let failed = |error| at("cannot read", path)(error);
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is not a plain file")));
    }
    // With room for all of it and a byte more, one read finds all and the next one the end; a look at a node reads five files a member.
    let room = usize::try_from(meta.len().min(READ_BYTES_MAX)).unwrap_or_default() + 1;
    let mut bytes = Vec::with_capacity(room);
    file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > READ_BYTES_MAX {
        return Err(failed(io::Error::other(format!("it is larger than {READ_BYTES_MAX} bytes"))));
    }
    String::from_utf8(bytes).map(Some).map_err(|_bytes| failed(io::Error::other("it is not UTF-8 text")))
}

/// The mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;

/// May only its owner read it? A file that is not there nobody can read.
pub fn is_private(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.mode() & 0o7777 == PRIVATE)
}

/// Begins the name of a file that is being written.
const NEW: &str = ".new-";

/// Removes what writers that were killed left in a folder. Only while nobody else writes there.
pub fn sweep_new(folder: &Path) {
    for name in names(folder).unwrap_or_default().iter().filter(|name| name.starts_with(NEW)) {
        if let Err(error) = fs::remove_file(folder.join(name)) {
            tracing::debug!(%error, name, "a file that was never finished stays");
        }
    }
}

/// Replaces a file in one go: a reader and a crash see the old one or the new one.
///
/// # Errors
/// When the new one cannot be written; the old one is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace_for(path, bytes, mode, None)
}

/// Whose a file or folder is. Nothing in a place: as it is for what we make ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub user: Option<Uid>,
    pub group: Option<Gid>,
}

/// [`replace`], and gives the new file to this owner before it has its name.
///
/// # Errors
/// As [`replace`].
pub fn replace_for(path: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> Result<(), FileError> {
    let failed = |error| at("cannot write", path)(error);
    let folder = folder_of(path).ok_or_else(|| failed(io::Error::other("it has no folder")))?;
    refuse_link(folder)?;
    refuse_special(path)?;
    let mut new =
        tempfile::Builder::new().prefix(NEW).permissions(Permissions::from_mode(mode)).tempfile_in(folder).map_err(failed)?;
    new.write_all(bytes).map_err(failed)?;
    if let Some(Owner { user, group }) = owner {
        rustix::fs::fchown(new.as_file(), user, group).map_err(|error| failed(error.into()))?;
        // The kernel may take bits away from what changes hands.
        new.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    }
    new.as_file().sync_data().map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(folder)
}

/// Makes a folder that only we can enter, and those above it that are missing. An existing one is left as it is.
///
/// # Errors
/// When it cannot be made, or something else is in its place.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    refuse_link(path)?;
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("cannot make the folder", path))?;
    folder_of(path).map_or(Ok(()), sync_folder)
}

/// Makes a folder that everybody may look into, as those of units are. Its own folder has to be there.
///
/// # Errors
/// As [`make_folder`].
pub fn make_open_folder(path: &Path) -> Result<(), FileError> {
    make_folder_for(path, 0o755, None)
}

/// Makes a folder for this owner; those above it that are missing are for everybody to pass. One that is there gets this owner
/// and mode: half of it may be what a crash left.
///
/// # Errors
/// As [`make_folder`].
pub fn make_folder_for(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), FileError> {
    let failed = |error| at("cannot make the folder", path)(error);
    refuse_link(path)?;
    if is_folder_for(path, mode, owner) {
        return Ok(());
    }
    let above = folder_of(path);
    above.map_or(Ok(()), |above| fs::DirBuilder::new().recursive(true).mode(0o755).create(above)).map_err(failed)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    // Before it is as it is wanted: one that is has been on disk since.
    above.map_or(Ok(()), sync_folder)?;
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if let Some(Owner { user, group }) = owner {
        rustix::fs::fchown(&folder, user, group).map_err(|error| failed(error.into()))?;
    }
    folder.set_permissions(Permissions::from_mode(mode)).map_err(failed)
}

fn is_folder_for(path: &Path, mode: u32, owner: Option<Owner>) -> bool {
    let Owner { user, group } = owner.unwrap_or(Owner { user: None, group: None });
    fs::symlink_metadata(path).is_ok_and(|meta| {
        let whose = user.is_none_or(|user| user.as_raw() == meta.uid()) && group.is_none_or(|group| group.as_raw() == meta.gid());
        meta.is_dir() && meta.mode() & 0o7777 == mode && whose
    })
}

/// Removes a folder if nothing is in it.
pub fn remove_empty_folder(path: &Path) {
    if let Err(error) = fs::remove_dir(path) {
        tracing::debug!(%error, folder = %path.display(), "the folder stays");
    }
}

/// Moves a file or folder within one file system; nothing happens if it is not there.
///
/// # Errors
/// When it cannot be moved.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    match fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !exists(from) => return Ok(()),
        Err(error) => return Err(at("cannot move", from)(error)),
    }
    folder_of(from).map_or(Ok(()), sync_folder)?;
    folder_of(to).map_or(Ok(()), sync_folder)
}

/// Moves a small file to where it may be on another file system: it is whole in one place or the other, or in both.
///
/// # Errors
/// As [`rename`]; or when the file is larger than [`READ_BYTES_MAX`].
pub fn carry(from: &Path, to: &Path) -> Result<(), FileError> {
    match rename(from, to) {
        Err(error) if error.error.kind() == io::ErrorKind::CrossesDevices => {}
        done => return done,
    }
    let Some(text) = read_bounded(from)? else { return Ok(()) };
    let meta = fs::symlink_metadata(from).map_err(at("cannot move", from))?;
    let owner = Owner { user: Some(Uid::from_raw(meta.uid())), group: Some(Gid::from_raw(meta.gid())) };
    replace_for(to, text.as_bytes(), meta.mode() & 0o7777, Some(owner))?;
    remove(from)
}

/// Is there anything under this name, a dangling link included?
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Removes a file; it is fine if there is none.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => folder_of(path).map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("cannot remove", path)(error)),
    }
}

/// Removes a folder with all that is in it, without following links; it is fine if there is none.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => folder_of(path).map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("cannot remove", path)(error)),
    }
}

/// The folder a path is in; `.` for a bare name.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

pub(super) fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    folder_of(path).map_or(Ok(()), sync_folder)
}

/// A rename or a new name is on disk only when its folder is (fsync(2)).
fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|open| open.sync_all()).map_err(at("cannot write", folder))
}

fn refuse_link(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() => Err(at("cannot write", path)(rustix::io::Errno::LOOP.into())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A device or a pipe would be gone for everybody if a file took its name.
fn refuse_special(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
            Err(at("cannot write", path)(io::Error::other("it is not a plain file")))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// What changes when a file is replaced or written to.
pub type Stamp = Option<(u64, i64, i64)>;

pub fn stamp(file: &Path) -> Stamp {
    fs::metadata(file).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// The names in a folder; none if it does not exist. What is no text cannot be a name of ours.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("cannot read the folder", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at("cannot read the folder", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// How much a folder holds, with all below it. Bytes; what cannot be read counts as nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(read_bounded(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.path().join(".new-x"), "").unwrap();
        sweep_new(folder.path());
        assert_eq!(names(folder.path()).unwrap(), ["a"]);
    }

    #[test]
    fn links_are_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        assert!(replace(&link.join("a"), b"x", 0o600).unwrap_err().to_string().contains("symbolic link"));
        assert!(make_folder(&link).is_err());
        let file = folder.path().join("file");
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(read_bounded(&file).unwrap_err().to_string().contains("symbolic link"));
        replace(&file, b"mine", 0o600).unwrap();
        assert!(!fs::symlink_metadata(&file).unwrap().file_type().is_symlink());
        assert_eq!(names(outside.path()).unwrap().len(), 0);
    }

    #[test]
    fn what_is_not_a_small_text_is_an_error_and_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(read_bounded(&path).unwrap().is_none());
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read_bounded(&path).is_err());
        File::create(&path).unwrap().set_len(READ_BYTES_MAX + 1).unwrap();
        assert!(read_bounded(&path).is_err());
        assert!(read_bounded(folder.path()).is_err());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(replace(&socket, b"x", 0o600).unwrap_err().to_string().contains("not a plain file"));
    }
}
