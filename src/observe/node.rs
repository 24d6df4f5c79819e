//! Looking at a whole node: all members side by side, the fleet's records, what was set aside, the ports in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::LocalNode;
use super::binary::{Binary, BinaryError};
use super::member::{self, Running};
use crate::host::clock;
use crate::host::files::{self, FileError};
use crate::host::layout::Layout;
use crate::host::machine;
use crate::host::ports;
use crate::host::supervisor::SupervisorError;
use crate::model::live::{Capacity, Member, NodeFacts, SetAside};
use crate::model::name::{FleetName, InstanceName};
use crate::model::record::FleetRecord;

/// Why a node could not be seen.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} cannot be read: {problem}; put it back from a copy, or from another node of the fleet")]
    Record { path: String, problem: String },
    #[error("the table of listening ports cannot be read")]
    Ports(#[source] std::io::Error),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("looking at the node's files failed: {0}")]
    Lost(String),
}

/// What a node's folders show at the top.
struct Folders {
    records: BTreeMap<FleetName, Arc<FleetRecord>>,
    set_aside: Vec<SetAside>,
}

impl Folders {
    /// `of`: whose set-aside data is looked at.
    fn read(node: &LocalNode, of: SetAsideOf<'_>) -> Result<Self, LookError> {
        Ok(Self { records: records(&node.layout)?, set_aside: set_aside(node, of)? })
    }
}

/// Whose set-aside data is looked at: a step would otherwise read as many manifests as the node has deleted instances.
#[derive(Debug, Clone, Copy)]
enum SetAsideOf<'a> {
    Everybody,
    Nobody,
    One(&'a InstanceName),
}

impl SetAsideOf<'_> {
    fn has(self, folder: &str) -> bool {
        match self {
            Self::Everybody => true,
            Self::Nobody => false,
            Self::One(name) => folder.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-')),
        }
    }
}

/// The manifest of a set-aside folder; the folder counts when its marker has arrived, which is the last to be moved.
pub const MANIFEST: &str = "manifest.toml";
pub const SET_ASIDE_MARKER: &str = "marker.toml";

/// Looks at everything. A state folder that does not exist is an empty node.
///
/// # Errors
/// When the node as a whole cannot be seen; trouble of one member is that member's.
pub async fn look(node: &Arc<LocalNode>) -> Result<(NodeFacts, Binary), LookError> {
    let binary = node.binary().await?;
    let running = Arc::new(Running::default());
    let (folders, names) = read(node, |node| Ok((Folders::read(node, SetAsideOf::Everybody)?, names(&node.layout)?))).await?;
    // systemd takes its time to answer, and the servers need not wait for that.
    let scan = async { Ok(running.scan(node, &binary).await?) };
    let version = async { Ok(node.supervisor.version().await?) };
    let (mut members, scanned, systemd, capacity) =
        tokio::try_join!(look_at_all(node, names, &binary, &running), scan, version, capacity(node))?;
    // Servers whose files are all gone have nothing else that names them.
    let strays = scanned.keys().filter(|name| !members.contains_key(*name)).cloned().collect();
    members.extend(look_at_all(node, strays, &binary, &running).await?);
    // Behind the members: a server that was seen to be down has given its port back by then.
    let ports_in_use = read(node, |_| ports::listening().map_err(LookError::Ports)).await?;
    let facts = NodeFacts { ports_in_use, capacity, ..facts(node, &binary, members, folders, systemd) };
    Ok((facts, binary.clone()))
}

async fn look_at_all(
    node: &Arc<LocalNode>,
    names: BTreeSet<InstanceName>,
    binary: &Binary,
    running: &Arc<Running>,
) -> Result<BTreeMap<InstanceName, Arc<Member>>, LookError> {
    let looks = names.into_iter().map(|name| {
        let (node, binary, running) = (Arc::clone(node), binary.clone(), Arc::clone(running));
        // A task of its own, so that reading many replies uses all cores.
        tokio::spawn(async move { member::look(&node, &name, &binary, &running).await.map(|member| (name, Arc::new(member))) })
    });
    let mut members = BTreeMap::new();
    let mut looking = stream::iter(looks).buffer_unordered(node.limits().at_once.max(1));
    while let Some(member) = looking.next().await {
        members.extend(member.map_err(|error| LookError::Lost(error.to_string()))?);
    }
    Ok(members)
}

/// Looks at what one step needs: one member and what was set aside of it, or none, and what the node remembers.
///
/// # Errors
/// As [`look`].
pub async fn look_at(node: &Arc<LocalNode>, name: Option<&InstanceName>, binary: &Binary) -> Result<NodeFacts, LookError> {
    let mut members = BTreeMap::new();
    if let Some(name) = name
        && let Some(member) = member::look(node, name, binary, &Arc::default()).await
    {
        members.insert(name.clone(), Arc::new(member));
    }
    let systemd = async { Ok(node.supervisor.known_version().await?) };
    let of = name.cloned();
    let folders = read(node, move |node| Folders::read(node, of.as_ref().map_or(SetAsideOf::Nobody, SetAsideOf::One)));
    let (folders, systemd) = tokio::try_join!(folders, systemd)?;
    Ok(facts(node, binary, members, folders, systemd))
}

/// What is told at any look; ports and capacity only at one at everything.
fn facts(
    node: &LocalNode,
    binary: &Binary,
    members: BTreeMap<InstanceName, Arc<Member>>,
    folders: Folders,
    systemd: Option<String>,
) -> NodeFacts {
    let Folders { records, set_aside } = folders;
    NodeFacts {
        observed_at: clock::now(),
        machine: node.machine.clone(),
        binary: binary.id.clone(),
        members,
        records,
        set_aside,
        ports_in_use: BTreeSet::new(),
        systemd,
        capacity: Capacity::default(),
    }
}

async fn capacity(node: &Arc<LocalNode>) -> Result<Capacity, LookError> {
    read(node, |node| {
        let disk = machine::disk(&node.layout.data_root());
        let (disk_total_bytes, disk_free_bytes) = disk.unzip();
        Ok(Capacity {
            disk_total_bytes,
            disk_free_bytes,
            memory_total_bytes: Some(machine::memory()),
            memory_available_bytes: machine::memory_available(),
        })
    })
    .await
}

async fn read<T: Send + 'static>(
    node: &Arc<LocalNode>,
    read: impl FnOnce(&LocalNode) -> Result<T, LookError> + Send + 'static,
) -> Result<T, LookError> {
    let owned = Arc::clone(node);
    let reading = tokio::task::spawn_blocking(move || read(&owned));
    match tokio::time::timeout(node.limits().look, reading).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(LookError::Lost(error.to_string())),
        Err(_elapsed) => Err(LookError::Lost(format!("no answer from the disk within {:?}", node.limits().look))),
    }
}

/// Every name under which anything lies. What is not the name of an instance was not made by us and is not looked at.
fn names(layout: &Layout) -> Result<BTreeSet<InstanceName>, LookError> {
    let mut found = BTreeSet::new();
    for (folder, beginning, endings) in layout.listed() {
        for name in files::names(&folder)? {
            let stem = name.strip_prefix(beginning).and_then(|rest| endings.iter().find_map(|ending| rest.strip_suffix(ending)));
            found.extend(stem.and_then(|stem| InstanceName::new(stem).ok()));
        }
    }
    Ok(found)
}

/// The fleets' records. One that cannot be read hides where instances were placed, so the node counts as unseen.
fn records(layout: &Layout) -> Result<BTreeMap<FleetName, Arc<FleetRecord>>, LookError> {
    let mut records = BTreeMap::new();
    for name in files::names(layout.root())? {
        let fleet = name.strip_prefix("fleet-").and_then(|rest| rest.strip_suffix(".toml"));
        let Some(fleet) = fleet.and_then(|fleet| FleetName::new(fleet).ok()) else { continue };
        let path = layout.record(&fleet);
        let Some(text) = files::read_bounded(&path)? else { continue };
        let problem = match toml::from_str::<FleetRecord>(&text) {
            Ok(record) if record.fleet == fleet => {
                records.insert(fleet, Arc::new(record));
                continue;
            }
            Ok(record) => format!("it is the record of fleet {:?}", record.fleet),
            Err(error) => error.message().to_owned(),
        };
        return Err(LookError::Record { path: path.display().to_string(), problem });
    }
    Ok(records)
}

/// What was set aside. A folder whose manifest cannot be read is left alone and not shown.
fn set_aside(node: &LocalNode, of: SetAsideOf<'_>) -> Result<Vec<SetAside>, LookError> {
    let layout = &node.layout;
    let root = layout.set_aside_root();
    let mut found = Vec::new();
    for name in files::names(&root)?.into_iter().filter(|name| of.has(name)) {
        let folder = root.join(&name);
        if !files::exists(&folder.join(SET_ASIDE_MARKER)) {
            continue;
        }
        match node.manifests.read(&folder.join(MANIFEST)) {
            Some(kept) if layout.set_aside(&kept.instance, &kept.uid) == folder => found.push(kept),
            Some(_) | None => tracing::warn!(folder = %folder.display(), "what was set aside here has no readable manifest"),
        }
    }
    if let SetAsideOf::Everybody = of {
        node.manifests.forget_gone(found.len());
    }
    found.sort_by(|a, b| (&a.instance, &a.uid).cmp(&(&b.instance, &b.uid)));
    Ok(found)
}
