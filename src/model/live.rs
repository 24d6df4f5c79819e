//! What the nodes show: facts, each with "could not be seen" kept apart from "is not there".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::acl::AclUser;
use super::binary::BinaryFacts;
use super::change::Twin;
use super::marker::{Marker, Stage};
use super::name::{FleetName, InstanceName, NodeName, UserName};
use super::password::{PasswordHash, of_random_bits};
use super::path::Paths;
use super::reason_or;
use super::record::FleetRecord;
use super::role::Replication;
use super::spec::InstanceSpec;

/// Seen, or the reason why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Observed<T> {
    Unseen { unseen: String },
    Seen(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Observed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match reason_or::read(deserializer, "unseen")? {
            Ok(facts) => Self::Seen(facts),
            Err(unseen) => Self::Unseen { unseen },
        })
    }
}

/// What all nodes show at one look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Live {
    pub nodes: BTreeMap<NodeName, Observed<NodeFacts>>,
    /// The binaries found on the nodes, by id.
    #[serde(default)]
    pub binaries: BTreeMap<BinaryId, Arc<BinaryFacts>>,
    /// The ways between nodes that were asked for.
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    pub paths: Paths,
}

impl Live {
    /// The facts of a node that was seen, with its binary.
    pub fn seen(&self, node: &NodeName) -> Option<(&NodeFacts, &BinaryFacts)> {
        match self.nodes.get(node)? {
            Observed::Seen(facts) => Some((facts, self.binaries.get(&facts.binary)?)),
            Observed::Unseen { .. } => None,
        }
    }

    /// Why a node was not seen.
    pub fn why_unseen(&self, node: &NodeName) -> String {
        match self.nodes.get(node) {
            Some(Observed::Unseen { unseen }) => unseen.clone(),
            Some(Observed::Seen(_)) | None => "it was not looked at".to_owned(),
        }
    }

    /// All nodes that were seen, in the order of their names.
    pub fn seen_nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeFacts)> {
        self.nodes.iter().filter_map(|(name, node)| match node {
            Observed::Seen(facts) => Some((name, facts)),
            Observed::Unseen { .. } => None,
        })
    }
}

/// Which build of valkey-server: its version and a fingerprint of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BinaryId(pub String);

/// What one node shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node's own clock; ages are differences to it.
    pub observed_at: Timestamp,
    /// Which machine (and, for a local node, which folder) this is; markers carry it.
    pub machine: String,
    pub binary: BinaryId,
    #[serde(default)]
    pub members: BTreeMap<InstanceName, Arc<Member>>,
    #[serde(default)]
    pub records: BTreeMap<FleetName, Arc<FleetRecord>>,
    #[serde(default)]
    pub set_aside: Vec<SetAside>,
    /// TCP ports on which anything listens, ours included.
    #[serde(default)]
    pub ports_in_use: BTreeSet<u16>,
    /// The version of systemd, where that keeps the servers running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<String>,
    #[serde(default, skip_serializing_if = "Capacity::is_unknown")]
    pub capacity: Capacity,
}

/// What a node has room for; nothing where it could not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Capacity {
    /// Of the file system with the data folders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_total_bytes: Option<u64>,
    /// What a server could still write to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// What programs could still take without swapping, caches given up (`MemAvailable` of proc_meminfo(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_available_bytes: Option<u64>,
}

impl Capacity {
    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

impl NodeFacts {
    /// The facts of a member that carries a marker, whoever's.
    pub fn member(&self, name: &InstanceName) -> Option<&MemberFacts> {
        match &**self.members.get(name)? {
            Member::Marked(facts) => Some(facts),
            Member::Unmarked { .. } => None,
        }
    }
}

/// What stands on a node under an instance's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "it is always behind an Arc")]
pub enum Member {
    /// Files that valkeeper did not make, or whose marker cannot be read: never touched.
    Unmarked {
        unmarked: String,
    },
    Marked(MemberFacts),
}

/// One `valkey-server` process of an instance, its files and its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    pub marker: Marker,
    pub server: Server,
    pub data: DataFacts,
    #[serde(default)]
    pub spec: Twin<InstanceSpec>,
    /// Every user found, `default` and the operator included.
    #[serde(default)]
    pub users: BTreeMap<UserName, Twin<Arc<AclUser>>>,
    /// What is wrong with the ACL file as a whole, if anything: missing, or a line that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_file_broken: Option<String>,
    /// Of the password with which it follows another member.
    #[serde(default, with = "of_random_bits", skip_serializing_if = "Option::is_none")]
    pub replication_password: Option<PasswordHash>,
    /// What is wrong with its systemd unit, if anything: its files edited or removed, switched off, not read by systemd yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_broken: Option<String>,
    /// What is wrong with the file of the password with which it follows another member from its start, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_broken: Option<String>,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match reason_or::read(deserializer, "unmarked")? {
            Ok(facts) => Self::Marked(facts),
            Err(unmarked) => Self::Unmarked { unmarked },
        })
    }
}

impl MemberFacts {
    /// A creation was begun and its server has never run: it may be made anew. Where a server runs, or data lies, somebody
    /// may have written to it, whatever the marker says: a crash can come between the first start and the marker.
    pub fn is_unborn(&self) -> bool {
        let data = self.data.aof || self.data.rdb;
        self.marker.stage == Stage::Provisioning && matches!(self.server, Server::Down { .. }) && !data
    }

    /// Does its server keep its data over a stop, as it is set now (or, where that is unseen, as its file says)?
    pub fn persists(&self, binary: &BinaryFacts) -> bool {
        let spec = self.spec.memory.seen().or(self.spec.disk.seen());
        spec.is_none_or(|spec| binary.persists(spec))
    }
}

/// The process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "nearly all are up, and behind an Arc with their member")]
pub enum Server {
    Down {
        /// The last words of its log, if it ended by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    Up(Running),
    /// It runs and answers, but not to our operator user.
    Locked {
        pid: u32,
        why: String,
    },
    /// It runs, but did not answer in time.
    Silent {
        pid: u32,
        why: String,
    },
}

impl Server {
    /// A server that reads its data: no more is known of it.
    pub fn loading(pid: u32, version: String) -> Self {
        Self::Up(Running {
            pid,
            version,
            loading: true,
            replication: Replication::default(),
            used_memory_bytes: 0,
            input_bytes_per_second: 0,
            program_replaced: false,
            databases_used: None,
            unsaved_changes: 0,
            saving: None,
            aof_rewriting: false,
            connections: Connections::default(),
        })
    }

    /// Its state in a word, as in the form that is printed of it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Up(_) => "up",
            Self::Locked { .. } => "locked",
            Self::Silent { .. } => "silent",
        }
    }
}

/// A server that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub pid: u32,
    pub version: String,
    /// Still reading its data: it answers INFO only.
    #[serde(default)]
    pub loading: bool,
    /// The file that it was started from was replaced by another build, or removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub program_replaced: bool,
    #[serde(default)]
    pub replication: Replication,
    pub used_memory_bytes: u64,
    /// What comes from all its clients, as it was last measured. Bytes a second.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_bytes_per_second: u64,
    /// How many databases its keys take: one more than the highest that holds any. Nothing: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases_used: Option<u64>,
    /// Writes since its last snapshot; what expires does not count (`rdb_changes_since_last_save`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unsaved_changes: u64,
    /// It writes a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving: Option<Saving>,
    /// An AOF rewrite runs or is due.
    #[serde(default)]
    pub aof_rewriting: bool,
    #[serde(default)]
    pub connections: Connections,
}

/// How far a snapshot is that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saving {
    pub done_keys: u64,
    pub total_keys: u64,
}

impl Running {
    /// Does it run something else than what is installed?
    pub fn is_outdated(&self, installed: &BinaryFacts) -> bool {
        self.version != installed.version || self.program_replaced
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The client connections, our own left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Connections {
    pub total: u64,
    /// Not asked for when there are very many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_user: Option<BTreeMap<String, u64>>,
}

/// What is in the data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    pub folder: Folder,
    /// An AOF manifest is there: a server with `appendonly yes` loads it, and starts empty without (facts D).
    pub aof: bool,
    /// A `dump.rdb` is there.
    pub rdb: bool,
    /// How much of a snapshot has arrived that is carried here, beside the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived_bytes: Option<u64>,
}

impl DataFacts {
    pub const MISSING: Self = Self { folder: Folder::Missing, aof: false, rdb: false, arrived_bytes: None };
}

/// The data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Folder {
    Present,
    Missing,
    /// A folder is there, but the running server works in another one that was removed.
    Replaced,
}

/// Data of a deleted member, kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    pub instance: InstanceName,
    pub fleet: FleetName,
    pub uid: String,
    pub deleted_at: Timestamp,
    pub bytes: u64,
    /// It followed another member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub followed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_another_release_may_say_less_of_its_room_or_more() {
        let said = r#"{"memory_total_bytes":9,"of_a_later_release":true}"#;
        let expected = Capacity { memory_total_bytes: Some(9), ..Capacity::default() };
        assert_eq!(serde_json::from_str::<Capacity>(said).unwrap(), expected);
    }
}
