//! Where everything of a local node lies below its state folder, and the settings of a server that follow from that.
//!
//! Pure, except for [`Socket::short_path`], which opens a folder; never reads or writes a file.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::model::config_file::Directive;
use crate::model::name::{FleetName, InstanceName};

/// The paths of a local node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// The root of a layout cannot stand in a server's config file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path of the state folder {0:?} is not UTF-8; rename the folder")]
pub struct PathNotText(PathBuf);

/// The longest path a unix socket can have, in bytes: `sun_path` of `sockaddr_un` without its closing NUL (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Layout {
    /// The layout below a canonical path.
    ///
    /// # Errors
    /// When the path is not UTF-8: the server's config file is text.
    pub fn new(root: PathBuf) -> Result<Self, PathNotText> {
        if root.to_str().is_some() { Ok(Self { root }) } else { Err(PathNotText(root)) }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folders that hold files of members, made at the first change.
    pub fn folders(&self) -> [PathBuf; 6] {
        [self.markers(), self.configs(), self.data_root(), self.run(), self.logs(), self.set_aside_root()]
    }

    pub fn markers(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub fn configs(&self) -> PathBuf {
        self.root.join("config")
    }

    pub fn data_root(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub fn set_aside_root(&self) -> PathBuf {
        self.root.join("set-aside")
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn record(&self, fleet: &FleetName) -> PathBuf {
        self.root.join(format!("fleet-{fleet}.toml"))
    }

    pub fn marker(&self, name: &InstanceName) -> PathBuf {
        self.markers().join(format!("{name}.toml"))
    }

    pub fn config(&self, name: &InstanceName) -> PathBuf {
        self.configs().join(format!("{name}.conf"))
    }

    pub fn data(&self, name: &InstanceName) -> PathBuf {
        self.data_root().join(name.as_str())
    }

    pub fn acl(&self, name: &InstanceName) -> PathBuf {
        self.data(name).join("users.acl")
    }

    pub fn pid(&self, name: &InstanceName) -> PathBuf {
        self.run().join(format!("{name}.pid"))
    }

    pub fn socket(&self, name: &InstanceName) -> Socket {
        Socket::new(self.run(), format!("{name}.sock"))
    }

    pub fn log(&self, name: &InstanceName) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// Where data of a deleted member is kept.
    pub fn set_aside(&self, name: &InstanceName, uid: &str) -> PathBuf {
        self.set_aside_root().join(format!("{name}-{uid}"))
    }

    /// The directives that follow from the layout. `dir` comes first, so that relative paths mean the data folder. The
    /// socket's is relative because an absolute one may be too long; the log's is absolute so that a server whose data
    /// folder was removed can still say so.
    pub fn directives(&self, name: &InstanceName) -> Vec<Directive> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let one = |name: &str, value: String| (name.to_owned(), vec![value]);
        vec![
            one("dir", text(self.data(name))),
            one("daemonize", "no".to_owned()),
            one("supervised", "no".to_owned()),
            one("unixsocket", format!("../../run/{name}.sock")),
            one("unixsocketperm", "700".to_owned()),
            one("pidfile", text(self.pid(name))),
            one("logfile", text(self.log(name))),
            one("aclfile", text(self.acl(name))),
        ]
    }
}

/// A unix socket in a folder.
#[derive(Debug, Clone)]
pub struct Socket {
    folder: PathBuf,
    file: String,
}

impl Socket {
    pub fn new(folder: PathBuf, file: String) -> Self {
        Self { folder, file }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.file)
    }

    /// A path that fits into a socket address, however deep the folder lies.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn short_path(&self) -> io::Result<ShortPath> {
        let path = self.path();
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(ShortPath { path, _folder: None });
        }
        let folder = openat(CWD, &self.folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(&self.file);
        Ok(ShortPath { path, _folder: Some(folder) })
    }
}

/// A path that is good while this lives.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl ShortPath {
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_that_is_too_long_takes_a_short_way() {
        let deep = tempfile::tempdir().unwrap();
        let folder = deep.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let socket = Socket::new(folder.clone(), "a.sock".into());
        let _listening = {
            let short = socket.short_path().unwrap();
            assert!(short.as_path().as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
            std::os::unix::net::UnixListener::bind(short.as_path()).unwrap()
        };
        assert!(folder.join("a.sock").exists());
        assert!(std::os::unix::net::UnixStream::connect(socket.short_path().unwrap().as_path()).is_ok());
    }
}
