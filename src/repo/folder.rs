//! Reads text from a plain folder, or a plain file: for those without git yet, and for `check`, `plan` and `apply` of a path.
//!
//! Nothing outside of the folder is read: a link may point to a file beside it, and not further. Never writes.

#![expect(clippy::disallowed_methods, reason = "reads the files that a person names")]

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Revision;
use super::error::RepoError;
use crate::desired::{FILE_BYTES_MAX, Source, SourceError};

/// Why a file of the text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: cannot be read", path.display())]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: leads out of the folder {}: put the file itself there", path.display(), folder.display())]
    LeadsOut { path: PathBuf, folder: PathBuf },
    #[error("{}: not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error(transparent)]
    Text(#[from] SourceError),
}

/// Reads a file, or all `*.toml` files of a folder in the order of their names; files whose names start with a dot, and
/// folders below it, are left out.
///
/// # Errors
/// All files that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Source>, Vec<ReadError>> {
    if !path.is_dir() {
        return read_file(path).map(|source| vec![source]).map_err(|error| vec![error]);
    }
    let io_error = |cause| vec![ReadError::Io { path: path.to_owned(), cause }];
    let folder = path.canonicalize().map_err(io_error)?;
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    for file in toml_files(path).map_err(io_error)? {
        match stays_inside(&file, &folder).and_then(|()| read_file(&file)) {
            Ok(source) => sources.push(source),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

/// The text, and its digest as a revision: a plain folder has no other.
pub(super) fn read_with_revision(path: &Path) -> Result<(Revision, Vec<Source>), RepoError> {
    let sources = read(path).map_err(RepoError::Files)?;
    if sources.is_empty() {
        return Err(RepoError::Empty { place: path.display().to_string(), folder: ".".to_owned() });
    }
    let revision = digest(sources.iter().map(|source| (source.name.as_str(), source.text.as_bytes())));
    Ok((Revision(revision), sources))
}

/// The text of a revision, if the folder still shows that one.
pub(super) fn read_revision(path: &Path, wanted: &Revision) -> Result<Vec<Source>, RepoError> {
    let (revision, sources) = read_with_revision(path)?;
    if revision == *wanted { Ok(sources) } else { Err(RepoError::Changing { path: path.to_owned() }) }
}

/// A digest over names and texts, each with its length before it, so that no two folders have one digest. 64 hex digits.
pub(super) fn digest<'a>(parts: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    for (name, text) in parts {
        for bytes in [name.as_bytes(), text] {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
    base16ct::lower::encode_string(&hash.finalize())
}

fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn stays_inside(file: &Path, folder: &Path) -> Result<(), ReadError> {
    let target = file.canonicalize().map_err(|cause| ReadError::Io { path: file.to_owned(), cause })?;
    if target.starts_with(folder) {
        Ok(())
    } else {
        Err(ReadError::LeadsOut { path: file.to_owned(), folder: folder.to_owned() })
    }
}

fn read_file(path: &Path) -> Result<Source, ReadError> {
    let io_error = |cause| ReadError::Io { path: path.to_owned(), cause };
    // Asked before opening: opening a named pipe would wait for somebody to write.
    if !fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let bytes = read_at_most(path, FILE_BYTES_MAX).map_err(io_error)?;
    Ok(Source::from_bytes(path.display().to_string(), bytes)?)
}

/// Reads a file, but not more than one byte beyond the limit.
///
/// # Errors
/// When it cannot be read.
pub fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_folder_is_read_in_order_of_names_without_hidden_files() {
        let folder = folder();
        for name in ["b.toml", "a.toml", ".#a.toml", "c.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("sub")).unwrap();
        let texts: Vec<_> = read(folder.path()).unwrap().into_iter().map(|source| source.text).collect();
        assert_eq!(texts, ["a.toml", "b.toml"]);
    }

    #[test]
    fn all_files_that_cannot_be_read_are_named() {
        let (folder, outside) = (folder(), folder());
        let path = |name: &str| folder.path().join(name);
        fs::write(outside.path().join("x.toml"), "").unwrap();
        symlink(outside.path().join("x.toml"), path("a.toml")).unwrap();
        symlink(path("nowhere"), path("b.toml")).unwrap();
        fs::create_dir(path("c.toml")).unwrap();
        fs::write(path("d.toml"), b"\xff").unwrap();
        fs::write(path("e.toml"), "").unwrap();
        symlink(path("e.toml"), path("f.toml")).unwrap();
        let errors: Vec<_> = read(folder.path()).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 4, "{errors:?}");
        for (error, says) in
            errors.iter().zip(["a.toml: leads out", "b.toml: cannot be read", "c.toml: not a file", "d.toml:1: not"])
        {
            assert!(error.contains(says), "{error}");
        }
        assert!(matches!(read(&path("nowhere")).unwrap_err()[..], [ReadError::Io { .. }]));
    }

    #[test]
    fn two_folders_that_differ_have_two_digests() {
        let of = |parts: &[(&'static str, &'static [u8])]| digest(parts.iter().copied());
        assert_eq!(of(&[("a", b"x")]), of(&[("a", b"x")]));
        assert_ne!(of(&[("a", b"x")]), of(&[("ax", b"")]));
        assert_ne!(of(&[("a", b"x"), ("b", b"")]), of(&[("a", b""), ("b", b"x")]));
    }
}
