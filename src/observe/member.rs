//! Looking at one member: its files and its server, within a time limit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::binary::Binary;
use super::disk::{self, MarkerOnDisk, UsersOnDisk};
use super::memory::{self, Memory};
use super::{LocalNode, chain};
use crate::host::clock::Deadline;
use crate::host::files::Stamp;
use crate::host::process;
use crate::host::supervisor::{Runs, Supervisor, SupervisorError};
use crate::host::unit::Template;
use crate::host::valkey::{Connection, ValkeyError, reach};
use crate::model::acl::AclUser;
use crate::model::change::{Half, Twin};
use crate::model::live::{DataFacts, Folder, Member, MemberFacts, Server};
use crate::model::marker::{MarkerFile, Stage};
use crate::model::name::{InstanceName, UserName};
use crate::model::spec::InstanceSpec;

/// How often a server that has no socket yet is tried again.
const SOCKET_WAIT: Duration = Duration::from_millis(5);
const STILL_LOADING: &str = "it is still loading its data";

/// What runs on the node, and what its members share: looked up at most once for one look at it.
#[derive(Debug, Default)]
pub struct Running {
    found: OnceCell<BTreeMap<InstanceName, Runs>>,
    template: OnceLock<Template>,
}

impl Running {
    /// Looks all of it up, servers too of which no file is left.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn scan(&self, node: &LocalNode, binary: &Binary) -> Result<&BTreeMap<InstanceName, Runs>, SupervisorError> {
        let scan = || node.supervisor.running(&node.layout, &binary.path);
        self.found.get_or_try_init(scan).await
    }

    /// What runs in the place of a member without a marker; only if all was looked up.
    fn stray(&self, name: &InstanceName, binary: &Binary) -> Option<String> {
        match self.found.get()?.get(name)? {
            Runs::Process(pid) => process::is_server(*pid, &binary.path).then(|| format!("process {pid} is a server that works")),
            Runs::Unit(unit) => Some(format!("{unit} has a server that works")),
        }
    }

    /// The server of this member. Processes are looked up once for all; systemd knows each.
    async fn find(&self, node: &LocalNode, name: &InstanceName, binary: &Binary) -> Result<Option<u32>, SupervisorError> {
        let known = match node.supervisor {
            Supervisor::Processes => Some(self.scan(node, binary).await?),
            Supervisor::Systemd(_) => None,
        };
        node.supervisor.find(node.server(name, binary), known).await
    }
}

/// The files of a member.
struct Disk {
    marker: MarkerOnDisk,
    spec: Half<InstanceSpec>,
    users: UsersOnDisk,
    data: DataFacts,
    unit_broken: Option<String>,
    credential_broken: Option<String>,
    unit_files: Vec<Stamp>,
}

/// What stands under this name; nothing if nothing does. Never takes longer than the limit of a look, and a bit.
pub async fn look(node: &Arc<LocalNode>, name: &InstanceName, binary: &Binary, running: &Arc<Running>) -> Option<Member> {
    let end = Deadline::after(node.limits().look);
    let disk = match read_disk(node, name, binary, running, end).await {
        Ok(disk) => disk,
        Err(why) => return Some(Member::Unmarked { unmarked: why }),
    };
    let marker = match disk.marker {
        MarkerOnDisk::Absent => {
            let what = running.stray(name, binary)?;
            return Some(Member::Unmarked { unmarked: stray(&what, &node.layout.data(name)) });
        }
        MarkerOnDisk::Unmarked(unmarked) => return Some(Member::Unmarked { unmarked }),
        MarkerOnDisk::Ours(marker) => *marker,
    };
    let mut seen = look_at_server(node, name, binary, running, &marker, end).await;
    if let Server::Up(running) = &mut seen.server {
        running.program_replaced = process::runs_another_program(running.pid, &binary.path);
    }
    let unit_broken = match disk.unit_broken {
        None => node.supervisor.unread(node.server(name, binary), disk.unit_files).await,
        broken => broken,
    };
    let mut data = disk.data;
    if let Some(pid) = seen.server.pid()
        && data.folder == Folder::Present
        && process::works_in(pid, &node.layout.data(name)) == Some(false)
    {
        data.folder = Folder::Replaced;
    }
    let replication_password = Some(marker.replication_password().hash());
    Some(Member::Marked(MemberFacts {
        marker: marker.marker,
        server: seen.server,
        data,
        spec: Twin { disk: disk.spec, memory: seen.spec },
        users: join(&disk.users, seen.users),
        acl_file_broken: disk.users.broken,
        replication_password,
        unit_broken,
        credential_broken: disk.credential_broken,
    }))
}

/// Somebody removed the folder, or all of the state, under a running server.
fn stray(what: &str, folder: &Path) -> String {
    format!(
        "{what} in {}, and no marker says whose it is; if that folder was removed, its data is only \
         in memory: copy it out (valkey-cli --rdb), then stop it",
        folder.display()
    )
}

async fn read_disk(
    node: &Arc<LocalNode>,
    name: &InstanceName,
    binary: &Binary,
    running: &Arc<Running>,
    end: Deadline,
) -> Result<Disk, String> {
    let (node, name, binary, running) = (Arc::clone(node), name.clone(), binary.clone(), Arc::clone(running));
    let limit = node.limits().look;
    let read = tokio::task::spawn_blocking(move || {
        let marker = disk::marker(&node.layout, &name);
        let MarkerOnDisk::Ours(ours) = &marker else {
            let data = DataFacts::MISSING;
            let (spec, users) = (Half::Absent, UsersOnDisk::default());
            let (unit_broken, credential_broken, unit_files) = (None, None, Vec::new());
            return Disk { marker, spec, users, data, unit_broken, credential_broken, unit_files };
        };
        let spec = disk::spec(&node.layout, &name, &binary.facts);
        let credential_broken = spec.seen().and_then(|spec| disk::credential(&node.layout, &name, ours, spec));
        let unit = node.unit_files(&name, spec.seen(), &binary);
        let template = running.template.get_or_init(|| Template::read(&node.layout));
        // Before what they say is looked at: a change that comes between is then seen by the next look.
        let unit_files = unit.as_ref().map(|unit| unit.stamps(template)).unwrap_or_default();
        let unit_broken = unit.and_then(|unit| unit.trouble(template));
        let (users, data) = (disk::users(&node.layout, &name), disk::data(&node.layout, &name, &ours.marker));
        Disk { marker, spec, users, data, unit_broken, credential_broken, unit_files }
    });
    match end.bound(read).await {
        Some(Ok(disk)) => Ok(disk),
        Some(Err(error)) => Err(format!("its files could not be read: {error}")),
        None => Err(format!("its files could not be read within {limit:?}; is its disk hanging?")),
    }
}

/// What the server showed.
struct Seen {
    server: Server,
    spec: Half<InstanceSpec>,
    users: Result<BTreeMap<UserName, Arc<AclUser>>, Option<String>>,
}

impl Seen {
    fn nothing(server: Server) -> Self {
        Self { server, spec: Half::Absent, users: Ok(BTreeMap::new()) }
    }

    fn unseen(server: Server, why: &str) -> Self {
        Self { server, spec: Half::Unseen { unseen: why.to_owned() }, users: Err(Some(why.to_owned())) }
    }
}

async fn look_at_server(
    node: &Arc<LocalNode>,
    name: &InstanceName,
    binary: &Binary,
    running: &Arc<Running>,
    marker: &MarkerFile,
    end: Deadline,
) -> Seen {
    let layout = node.layout.directives(name);
    let (pid, error) = loop {
        match reach_server(node, name, binary, running, end).await {
            Reached::Down => return Seen::nothing(Server::Down { why: why_down(node, name, binary, marker).await }),
            Reached::Hangs(pid, error) => break (pid, error),
            Reached::Hidden(error) => {
                let why = chain(&error);
                return Seen::unseen(Server::Silent { pid: 0, why: why.clone() }, &why);
            }
            Reached::Open(mut connection) => {
                let pid = connection.pid.unwrap_or_default();
                match ask(&mut connection, marker, &layout, binary, end).await {
                    Ok(memory) => return from_memory(memory),
                    // A server that is ending, or was killed just now, is down in a moment.
                    Err(ValkeyError::Gone) if end.left() > SOCKET_WAIT => tokio::time::sleep(SOCKET_WAIT).await,
                    Err(error) => break (pid, error),
                }
            }
        }
    };
    if matches!(error, ValkeyError::Timeout(_)) && node.supervisor.still_loads(node.server(name, binary), pid).await {
        return Seen::unseen(Server::loading(pid, binary.facts.version.clone()), STILL_LOADING);
    }
    match &error {
        ValkeyError::NoAuth(why) | ValkeyError::NoPermission(why) => {
            Seen::unseen(Server::Locked { pid, why: why.clone() }, "the operator user is not let in")
        }
        ValkeyError::Absent
        | ValkeyError::Refused
        | ValkeyError::Io(_)
        | ValkeyError::Timeout(_)
        | ValkeyError::Gone
        | ValkeyError::Loading
        | ValkeyError::Said(_)
        | ValkeyError::Strange(_) => {
            let why = match &error {
                ValkeyError::Timeout(_) => format!("it did not answer within {:?}", node.limits().look),
                ValkeyError::Absent | ValkeyError::Refused => format!(
                    "process {pid} runs, and its socket {} is not open: stop that process (kill {pid} lets it save its data as it is \
                     set to), and the next apply starts it again",
                    node.layout.socket(name).path().display()
                ),
                ValkeyError::Io(_)
                | ValkeyError::NoAuth(_)
                | ValkeyError::NoPermission(_)
                | ValkeyError::Gone
                | ValkeyError::Loading
                | ValkeyError::Said(_)
                | ValkeyError::Strange(_) => chain(&error),
            };
            Seen::unseen(Server::Silent { pid, why: why.clone() }, &why)
        }
    }
}

enum Reached {
    Open(Connection),
    Hangs(u32, ValkeyError),
    Down,
    /// Its supervisor cannot be asked, so nobody knows whether it runs.
    Hidden(SupervisorError),
}

/// Connects; where nothing listens, tells a server that is down from one that has no socket (yet).
async fn reach_server(
    node: &Arc<LocalNode>,
    name: &InstanceName,
    binary: &Binary,
    running: &Arc<Running>,
    end: Deadline,
) -> Reached {
    let socket = node.layout.socket(name);
    let mut known = None;
    loop {
        let error = match reach(&socket, end.left()).await {
            Ok(stream) => match Connection::over(stream, end.left()).await {
                Ok(connection) => return Reached::Open(connection),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if known.is_none() {
            known = match running.find(node, name, binary).await {
                Ok(known) => known,
                Err(why) => return Reached::Hidden(why),
            };
        }
        let Some(pid) = known else { return Reached::Down };
        if !process::is_server(pid, &binary.path) {
            return Reached::Down;
        }
        if end.left() <= SOCKET_WAIT {
            return Reached::Hangs(pid, error);
        }
        tokio::time::sleep(SOCKET_WAIT).await;
    }
}

async fn ask(
    connection: &mut Connection,
    marker: &MarkerFile,
    layout: &[crate::model::config_file::Directive],
    binary: &Binary,
    end: Deadline,
) -> Result<Memory, ValkeyError> {
    memory::look(connection, &marker.operator_password, layout, &binary.facts, end).await
}

fn from_memory(memory: Memory) -> Seen {
    let loading = || STILL_LOADING.to_owned();
    Seen {
        server: Server::Up(memory.running),
        spec: memory.spec.map_or_else(|| Half::Unseen { unseen: loading() }, Half::Seen),
        users: memory.users.ok_or_else(|| Some(loading())),
    }
}

/// The last words of a server that ended by itself.
async fn why_down(node: &LocalNode, name: &InstanceName, binary: &Binary, marker: &MarkerFile) -> Option<String> {
    match marker.marker.stage {
        Stage::Active => node.supervisor.why_down(node.server(name, binary)).await,
        Stage::Provisioning | Stage::Deleting => None,
    }
}

/// The users of both halves, side by side.
fn join(
    disk: &UsersOnDisk,
    memory: Result<BTreeMap<UserName, Arc<AclUser>>, Option<String>>,
) -> BTreeMap<UserName, Twin<Arc<AclUser>>> {
    let mut users: BTreeMap<UserName, Twin<Arc<AclUser>>> = BTreeMap::new();
    for (name, user) in &disk.users {
        users.entry(name.clone()).or_default().disk = Half::Seen(Arc::clone(user));
    }
    match memory {
        Ok(memory) => {
            for (name, user) in memory {
                let twin = users.entry(name).or_default();
                let same = twin.disk.seen().filter(|disk| ***disk == *user).cloned();
                twin.memory = Half::Seen(same.unwrap_or(user));
            }
        }
        Err(why) => {
            let unseen = why.unwrap_or_default();
            users.values_mut().for_each(|twin| twin.memory = Half::Unseen { unseen: unseen.clone() });
        }
    }
    if disk.unreadable {
        let unseen = disk.broken.clone().unwrap_or_default();
        let lost = users.values_mut().filter(|twin| twin.disk.is_absent());
        lost.for_each(|twin| twin.disk = Half::Unseen { unseen: unseen.clone() });
    }
    users
}

impl Server {
    /// The process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Down { .. } => None,
            Self::Up(running) => Some(running.pid),
            Self::Locked { pid, .. } | Self::Silent { pid, .. } => Some(*pid),
        }
    }
}
