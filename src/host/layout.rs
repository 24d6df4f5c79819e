//! Where everything of a node lies, below a state folder or on the whole machine, and the settings of a server that follow
//! from that.
//!
//! Pure, except for [`Socket::short_path`], which opens a folder; never reads or writes a file.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::systemd::UnitName;
use crate::model::config_file::Directive;
use crate::model::name::{FleetName, InstanceName};
use crate::model::snapshot::SnapshotId;

/// The paths of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    /// Where the node's own files lie: lock, records, the facts of its binary.
    root: PathBuf,
}

/// Which kind of node it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// All of it lies below the root.
    Folder,
    /// The whole machine, below `/` or, for a try, another prefix. Debian's own instance has /etc/valkey/valkey.conf,
    /// /var/lib/valkey itself and `valkey-server@.service`: nothing here has the name of one of those.
    System { prefix: PathBuf },
}

/// The root of a layout cannot stand in a server's config file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path of the state folder {0:?} is not UTF-8; rename the folder")]
pub struct PathNotText(PathBuf);

/// The longest path a unix socket can have, in bytes: `sun_path` of `sockaddr_un` without its closing NUL (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What the folder of a member's socket begins with in system mode; systemd makes it (`RuntimeDirectory=`).
const RUN_PREFIX: &str = "valkey-";

impl Layout {
    /// The layout of a state folder, from its canonical path.
    ///
    /// # Errors
    /// When the path is not UTF-8: the server's config file is text.
    pub fn new(root: PathBuf) -> Result<Self, PathNotText> {
        if root.to_str().is_some() { Ok(Self { shape: Shape::Folder, root }) } else { Err(PathNotText(root)) }
    }

    /// The layout of a whole machine whose root folder is at `prefix`.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn system(prefix: &Path) -> Result<Self, PathNotText> {
        let layout = Self::new(prefix.join("var/lib/valkeeper"))?;
        Ok(Self { shape: Shape::System { prefix: prefix.to_owned() }, ..layout })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the state folder, or of the whole machine.
    fn below(&self, folder: &str, system: &str) -> PathBuf {
        match &self.shape {
            Shape::Folder => self.root.join(folder),
            Shape::System { prefix } => prefix.join(system),
        }
    }

    /// The folders that hold files of members, made at the first change, and who may enter them.
    pub fn folders(&self) -> Vec<(PathBuf, Room)> {
        let own = |path| (path, Room::Own);
        match self.shape {
            Shape::Folder => [self.markers(), self.configs(), self.data_root(), self.run(), self.logs(), self.set_aside_root()]
                .into_iter()
                .map(own)
                .collect(),
            // The package makes /var/lib/valkey, and systemd the folders of the sockets.
            Shape::System { .. } => {
                vec![own(self.markers()), (self.configs(), Room::ServersRead), own(self.set_aside_root())]
            }
        }
    }

    /// In system mode a folder of its own: an instance may be named `fleet-prod`, as the record of the fleet `prod` is.
    pub fn markers(&self) -> PathBuf {
        self.root.join("instances")
    }

    pub fn configs(&self) -> PathBuf {
        self.below("config", "etc/valkey/instances")
    }

    pub fn data_root(&self) -> PathBuf {
        self.below("data", "var/lib/valkey")
    }

    fn run(&self) -> PathBuf {
        self.below("run", "run")
    }

    fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// On the file system of the data, so that setting it aside is a rename. The dot keeps it from being an instance's name.
    pub fn set_aside_root(&self) -> PathBuf {
        self.below("set-aside", "var/lib/valkey/.valkeeper-set-aside")
    }

    /// Where throwaway servers have their folders: in system mode not where anybody may write.
    pub fn scratch(&self) -> Option<PathBuf> {
        match &self.shape {
            Shape::Folder => None,
            Shape::System { prefix } => Some(prefix.join("run/valkeeper")),
        }
    }

    /// Where the units of the machine lie; nothing where there is no systemd in it.
    pub fn units(&self) -> Option<PathBuf> {
        match &self.shape {
            Shape::Folder => None,
            Shape::System { prefix } => Some(prefix.join("etc/systemd/system")),
        }
    }

    /// The user database that names the server's user; nothing where servers run as whoever starts them.
    pub fn users(&self) -> Option<PathBuf> {
        match &self.shape {
            Shape::Folder => None,
            Shape::System { prefix } => Some(prefix.join("etc/passwd")),
        }
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

    /// What a replica logs in with at its primary: a piece of a server's config, for root and the one server.
    pub fn credential(&self, name: &InstanceName) -> PathBuf {
        self.markers().join(format!("{name}.replication"))
    }

    /// The line that brings it into a replica's config: in system mode what systemd hands to the unit. It is a pattern, because
    /// a server does not start without a file that it is told by name, and a replica without its password still serves reads.
    pub fn credential_include(&self, name: &InstanceName) -> Directive {
        let pattern = match self.shape {
            // Relative to the data folder, as the socket is: the path of a state folder may have characters of a pattern.
            Shape::Folder => format!("../../instances/{name}.replicatio[n]"),
            Shape::System { .. } => format!("/run/credentials/{}/replicatio[n]", UnitName::of(name)),
        };
        ("include".to_owned(), vec![pattern])
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

    /// Nothing where the supervisor knows the process.
    pub fn pid(&self, name: &InstanceName) -> Option<PathBuf> {
        matches!(self.shape, Shape::Folder).then(|| self.run().join(format!("{name}.pid")))
    }

    pub fn socket(&self, name: &InstanceName) -> Socket {
        match &self.shape {
            Shape::Folder => Socket::new(self.run(), format!("{name}.sock")),
            Shape::System { .. } => Socket::new(self.run().join(format!("{RUN_PREFIX}{name}")), "valkey.sock".to_owned()),
        }
    }

    /// Nothing where the journal has it.
    pub fn log(&self, name: &InstanceName) -> Option<PathBuf> {
        matches!(self.shape, Shape::Folder).then(|| self.logs().join(format!("{name}.log")))
    }

    /// Where data of a deleted member is kept.
    pub fn set_aside(&self, name: &InstanceName, uid: &str) -> PathBuf {
        self.set_aside_root().join(format!("{name}-{uid}"))
    }

    /// A snapshot of a member's data that leaves for another node, and one that arrives from there. A name of an instance has no
    /// dot, so these are no folders of deleted members.
    pub fn leaving(&self, name: &InstanceName) -> PathBuf {
        self.set_aside_root().join(format!("{name}.leaving.rdb"))
    }

    pub fn arriving(&self, name: &InstanceName, id: &SnapshotId) -> PathBuf {
        self.set_aside_root().join(format!("{name}.{id}.rdb"))
    }

    /// Is a file of this name one of these two of the instance?
    pub fn is_cargo_of(name: &InstanceName, file: &str) -> bool {
        file.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".rdb"))
    }

    /// What shows that something stands under a name, whoever made it.
    pub fn traces(&self, name: &InstanceName) -> Vec<PathBuf> {
        let mut traces = vec![self.data(name), self.config(name)];
        match &self.shape {
            Shape::Folder => traces.extend([Some(self.socket(name).path()), self.pid(name)].into_iter().flatten()),
            // An instance of Debian's `valkey-server@NAME.service` has the same folder below /run.
            Shape::System { prefix } => traces
                .extend([self.run().join(format!("{RUN_PREFIX}{name}")), prefix.join(format!("etc/valkey/valkey-{name}.conf"))]),
        }
        traces
    }

    /// The folders in which members leave traces, and how a name of a file there becomes the name of an instance.
    pub fn listed(&self) -> Vec<(PathBuf, &'static str, &'static [&'static str])> {
        let mut listed: Vec<(PathBuf, &str, &[&str])> =
            vec![(self.markers(), "", &[".toml"]), (self.configs(), "", &[".conf"]), (self.data_root(), "", &[""])];
        match self.shape {
            Shape::Folder => listed.push((self.run(), "", &[".sock", ".pid"])),
            Shape::System { .. } => listed.push((self.run(), RUN_PREFIX, &[""])),
        }
        listed
    }

    /// The directives that follow from the layout. `dir` comes first, so that relative paths mean the data folder. In a
    /// state folder the socket's path is relative because an absolute one may be too long; the log's is absolute so that a
    /// server whose data folder was removed can still say so.
    pub fn directives(&self, name: &InstanceName) -> Vec<Directive> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let one = |name: &str, value: String| (name.to_owned(), vec![value]);
        let (supervised, socket) = match self.shape {
            Shape::Folder => ("no", format!("../../run/{name}.sock")),
            Shape::System { .. } => ("systemd", text(self.socket(name).path())),
        };
        vec![
            one("dir", text(self.data(name))),
            one("daemonize", "no".to_owned()),
            one("supervised", supervised.to_owned()),
            one("unixsocket", socket),
            one("unixsocketperm", "700".to_owned()),
            one("pidfile", self.pid(name).map(text).unwrap_or_default()),
            one("logfile", self.log(name).map(text).unwrap_or_default()),
            one("aclfile", text(self.acl(name))),
        ]
    }
}

/// Who may enter a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Only valkeeper.
    Own,
    /// Servers may read what is in it.
    ServersRead,
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
    fn nothing_of_a_machine_has_the_place_of_the_packages_own_instance() {
        let layout = Layout::system(Path::new("/")).unwrap();
        let names = ["appendonlydir", "fleet-a", "server", "valkey"].map(|name| InstanceName::new(name).unwrap());
        let fleet = FleetName::new("a").unwrap();
        for name in &names {
            assert_ne!(layout.config(name), Path::new("/etc/valkey/valkey.conf"));
            assert_ne!(layout.data(name), Path::new("/var/lib/valkey"));
            assert_ne!(layout.socket(name).path(), Path::new("/run/valkey/valkey.sock"));
            assert_ne!(layout.marker(name), layout.record(&fleet));
        }
        let [first, ..] = &names;
        let directives = layout.directives(first);
        assert!(directives.contains(&("logfile".to_owned(), vec![String::new()])));
        assert!(directives.contains(&("supervised".to_owned(), vec!["systemd".to_owned()])));
    }

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
