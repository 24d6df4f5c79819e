//! From what is desired to what it names on this machine: passwords, and the folders of local nodes. The text itself is
//! read by [`crate::repo`].
//!
//! A state repository names paths, and it must not reach beyond the roots that the command line names: every path is
//! resolved, symbolic links included, and refused if it leads out. Only the hash of a password leaves this file.

#![expect(clippy::disallowed_methods, reason = "what a person names at the command line is read here")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::desired::{SecretRef, Secrets};
use crate::fleet::nodes::{Means, Nodes, Place};
use crate::host::machine;
use crate::host::ssh::Ssh;
use crate::model::desired::{Desired, Reach};
use crate::model::name::NodeName;
use crate::model::password::PasswordHash;
use crate::observe::{Limits, Surroundings};
use crate::repo::folder::read_at_most;
pub use crate::repo::folder::{ReadError, read};

/// The largest password file, in bytes. A larger one is the wrong file.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// The folders that paths in the text are resolved against, and that they must stay below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// For `password = { file = … }`; nothing: files may not be named at all, as from a git repository.
    pub secrets: Option<PathBuf>,
    /// For `local = …` of a node.
    pub local: PathBuf,
}

impl Roots {
    /// The roots for a text at `path`: those that the command line names, or else the folder of the text.
    pub fn new(path: &Path, secrets: Option<PathBuf>, local: Option<PathBuf>) -> Self {
        let folder = || if path.is_dir() { path.to_owned() } else { parent(path) };
        Self { secrets: Some(secrets.unwrap_or_else(folder)), local: local.unwrap_or_else(folder) }
    }
}

/// The folder of a file; `.` for a bare name.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// The largest file of ours (a saved plan, live facts) that is read, in bytes: facts of 5,000 instances are some 30 MB.
const OURS_BYTES_MAX: usize = 1 << 30;

/// Reads a file that valkeeper wrote: a saved plan, live facts.
///
/// # Errors
/// When it is not a file with text that can be read.
pub fn read_ours(path: &Path) -> Result<String, ReadError> {
    let io_error = |cause| ReadError::Io { path: path.to_owned(), cause };
    if !fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let bytes = read_at_most(path, OURS_BYTES_MAX).map_err(io_error)?;
    String::from_utf8(bytes).map_err(|error| io_error(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// Is it a file (and not a folder)? It need not be readable.
pub fn is_file(path: &Path) -> bool {
    path.is_file()
}

/// The name of the person at the command line, as far as the environment tells; or else the number of the user.
pub fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    let number = || fs::metadata("/proc/self").map_or("unknown user".to_owned(), |process| format!("user {}", process.uid()));
    named.unwrap_or_else(number)
}

/// Who acts, for those who find the nodes taken: a node may be reached from several machines.
pub fn holder(command: &str) -> String {
    format!("valkeeper {command} (process {} on {}, {})", std::process::id(), machine::host_name(), user())
}

/// Reads the passwords that the text refers to.
pub fn read_secrets(wanted: &[SecretRef], roots: &Roots) -> Secrets {
    let read = |reference: &SecretRef| match reference {
        SecretRef::File(name) => match &roots.secrets {
            Some(root) => read_secret_file(name, root),
            None => Err(format!("{name:?}: a repository may name files only below a folder that --secrets-root names")),
        },
        SecretRef::Env(name) => match std::env::var_os(name) {
            Some(value) => hash_secret(value.into_encoded_bytes()).map_err(|why| format!("environment variable {name} {why}")),
            None => Err(format!("environment variable {name} is not set")),
        },
    };
    Secrets::Read(wanted.iter().map(|reference| (reference.clone(), read(reference))).collect::<BTreeMap<_, _>>())
}

fn read_secret_file(name: &str, root: &Path) -> Result<PasswordHash, String> {
    let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    let root = root.canonicalize().map_err(|error| failed(root, &error))?;
    let written = root.join(name);
    let path = written.canonicalize().map_err(|error| failed(&written, &error))?;
    if !path.starts_with(&root) {
        return Err(format!("{name:?} is not below {}: name another folder with --secrets-root", root.display()));
    }
    if !path.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    let bytes = read_at_most(&path, SECRET_BYTES_MAX).map_err(|error| failed(&path, &error))?;
    hash_secret(bytes).map_err(|why| format!("{} {why}", path.display()))
}

/// The hash of a password as it stands in a file: one line break at its end does not belong to it.
///
/// # Errors
/// When there is none, more than one line, or more than a password is long; as the end of a sentence about the place.
pub fn hash_secret(mut bytes: Vec<u8>) -> Result<PasswordHash, &'static str> {
    let stripped = bytes.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    let password = stripped.unwrap_or(&bytes);
    let hash = match password {
        [] => Err("is empty"),
        long if long.len() > SECRET_BYTES_MAX => Err("is too long for a password"),
        lines if lines.contains(&b'\n') => Err("holds more than one line"),
        password => Ok(PasswordHash::of_password(password)),
    };
    // The clear text is not needed any more; what is freed may be seen again.
    bytes.fill(0);
    std::hint::black_box(&bytes);
    hash
}

/// The folder of a local node, below the local root, which is made if it is missing only later.
///
/// # Errors
/// When it is not below the root, with the cure.
pub fn local_folder(written: &str, roots: &Roots) -> Result<PathBuf, String> {
    let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    let root = roots.local.canonicalize().map_err(|error| failed(&roots.local, &error))?;
    let escapes = || format!("{written:?} is not below {}: name another folder with --local-root", root.display());
    let path = tidy(&root.join(written)).filter(|path| path.starts_with(&root)).ok_or_else(escapes)?;
    // Links are followed as far as the path exists; what does not exist yet cannot be a link.
    let existing = path.ancestors().find(|part| part.symlink_metadata().is_ok()).unwrap_or(&root);
    let dangles = |error: &io::Error| error.kind() == io::ErrorKind::NotFound && existing.is_symlink();
    let resolved = existing.canonicalize().map_err(|error| match dangles(&error) {
        true => format!("{} is a symbolic link that leads nowhere: put the real folder in its place", existing.display()),
        false => failed(existing, &error),
    })?;
    if !resolved.starts_with(&root) {
        return Err(escapes());
    }
    match path.strip_prefix(existing) {
        Ok(rest) if rest.as_os_str().is_empty() => Ok(resolved),
        Ok(rest) => Ok(resolved.join(rest)),
        Err(_) => Err(escapes()),
    }
}

/// The path without `.` and `..`; nothing if it climbs above `/`.
fn tidy(path: &Path) -> Option<PathBuf> {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop().then_some(())?;
            }
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => tidy.push(component),
        }
    }
    Some(tidy)
}

/// Where each node is.
pub type Places = BTreeMap<NodeName, Place>;

/// Where the nodes are. A folder that may not be used makes its node unseen.
pub fn places(desired: &Desired, roots: &Roots) -> Places {
    let place = |reach: &Reach| match reach {
        Reach::Local(folder) => local_folder(folder, roots).map_or_else(Place::Beyond, Place::Folder),
        Reach::Ssh(destination) => Place::Ssh(destination.clone()),
    };
    desired.nodes.iter().map(|(name, node)| (name.clone(), place(&node.reach))).collect()
}

/// The nodes at these places; members of other fleets are never touched. Those of `before` keep their connections.
pub fn fleet(desired: &Desired, places: &Places, before: Option<&Nodes>) -> Nodes {
    let surroundings = Surroundings::of_this_process(Limits::default());
    Nodes::renewed(places, &Means { surroundings, ssh: ssh() }, before).only(desired.fleet.clone())
}

/// The `ssh` of this process: as git has GIT_SSH, `VALKEEPER_SSH` names a program that is called as ssh would be.
pub fn ssh() -> Ssh {
    Ssh::new(std::env::var_os("VALKEEPER_SSH").filter(|name| !name.is_empty()))
}

/// A secret of one line in a file, such as that of a hook.
///
/// # Errors
/// When it cannot be read, is empty, or is more than a line; without showing it.
pub fn read_secret_line(path: &Path, limit: usize) -> io::Result<String> {
    let bytes = read_at_most(path, limit)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains('\n') || text.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: takes one line of text", path.display())));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn roots(folder: &Path) -> Roots {
        Roots::new(folder, None, None)
    }

    fn secret(reference: SecretRef, root: &Path) -> Result<PasswordHash, String> {
        match read_secrets(std::slice::from_ref(&reference), &roots(root)) {
            Secrets::Read(mut read) => read.remove(&reference).unwrap(),
            Secrets::Placeholder => Err("not read".to_owned()),
        }
    }

    #[test]
    fn one_line_break_does_not_belong_to_a_password() {
        let folder = folder();
        for (text, password) in [("x\n", "x"), ("x", "x"), ("x\r\n", "x"), (" x ", " x ")] {
            fs::write(folder.path().join("secret"), text).unwrap();
            let hash = secret(SecretRef::File("secret".into()), folder.path());
            assert_eq!(hash, Ok(PasswordHash::of_password(password.as_bytes())), "{text:?}");
        }
        for (text, why) in [("", "empty"), ("\n", "empty"), ("a\nb\n", "more than one line"), (&"x".repeat(65_537), "too long")] {
            fs::write(folder.path().join("secret"), text).unwrap();
            let error = secret(SecretRef::File("secret".into()), folder.path()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn secrets_outside_the_root_are_not_read() {
        let (folder, outside) = (folder(), folder());
        let elsewhere = outside.path().join("secret");
        fs::write(&elsewhere, "hunter2").unwrap();
        symlink(&elsewhere, folder.path().join("link")).unwrap();
        let climbing = format!("../{}/secret", outside.path().file_name().unwrap().display());
        for name in ["link", &climbing, elsewhere.to_str().unwrap()] {
            let error = secret(SecretRef::File(name.into()), folder.path()).unwrap_err();
            assert!(error.contains("--secrets-root") && !error.contains("hunter2"), "{error}");
        }
        assert!(secret(SecretRef::File("missing".into()), folder.path()).unwrap_err().contains("missing"));
        assert!(secret(SecretRef::File(".".into()), folder.path()).unwrap_err().contains("not a file"));
        assert!(secret(SecretRef::Env("VALKEEPER_SURELY_UNSET".into()), folder.path()).unwrap_err().contains("is not set"));
    }

    #[test]
    fn a_local_folder_stays_below_its_root() {
        let (folder, outside) = (folder(), folder());
        let root = folder.path().canonicalize().unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        fs::create_dir(root.join("in")).unwrap();
        symlink(root.join("in"), root.join("link")).unwrap();
        let found = |written: &str| local_folder(written, &roots(folder.path()));
        assert_eq!(found("./state"), Ok(root.join("state")));
        assert_eq!(found("a/../b/c"), Ok(root.join("b/c")));
        assert_eq!(found("link/x"), Ok(root.join("in/x")));
        assert_eq!(found(root.join("x").to_str().unwrap()), Ok(root.join("x")));
        for bad in ["..", "../x", "/tmp", "a/../../x", "out", "out/x", "/../../.."] {
            assert!(found(bad).unwrap_err().contains("--local-root"), "{bad}");
        }
    }
}
