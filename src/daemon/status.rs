//! What the daemon says of itself: one value behind `status`, `/readyz` and the metrics. No secret is in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::moves::Move;
use crate::model::name::{InstanceName, NodeName, ShardName, TenantName};
use crate::model::record::{Settled, Suspension};

/// The daemon at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub fleet: Option<String>,
    pub started: Timestamp,
    pub configuration: ConfigurationStatus,
    pub source: SourceStatus,
    /// What the fleet's record says was last settled.
    pub settled: Option<Settled>,
    /// Somebody else acts on the nodes: this daemon only watches.
    pub watching: Option<String>,
    pub suspended: Option<Suspension>,
    pub last_pass: Option<PassStatus>,
    pub next_pass: Option<Timestamp>,
    pub nodes: BTreeMap<NodeName, NodeStatus>,
    pub instances: BTreeMap<InstanceName, InstanceStatus>,
}

/// The daemon's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// When the one in force was read.
    pub read: Timestamp,
    /// What is wrong with one that was to be read since, so that the old one stays.
    pub refused: Option<String>,
}

/// Where the wanted state comes from, and how far it could be followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub location: String,
    pub branch: Option<String>,
    pub folder: String,
    /// The newest revision seen, good or not.
    pub head: Option<String>,
    /// The revision in force.
    pub desired: Option<String>,
    /// Who signed the revision in force, if signatures are asked for.
    pub signed_by: Option<String>,
    /// Why the source could not be read, or why its newest revision is not in force.
    pub problem: Option<Problem>,
    pub last_fetch: Option<Timestamp>,
    /// Since when an answer of the source is waited for; what was read before is in force meanwhile.
    pub asked_since: Option<Timestamp>,
}

/// Something that is wrong, since when, and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub kind: ProblemKind,
    pub message: String,
    pub since: Timestamp,
    pub count: u64,
}

/// Why a revision is not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProblemKind {
    Fetch,
    Read,
    Verify,
    Rewound,
    Invalid,
}

/// One pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassStatus {
    pub number: u64,
    pub at: Timestamp,
    pub seconds: f64,
    pub result: PassResult,
    pub done: u64,
    pub failed: u64,
    pub held: u64,
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassResult {
    /// Everything is as desired, or held by a guard that a person set.
    Settled,
    /// Something was done, or is still to be done.
    Progress,
    /// Something failed, or could not be seen.
    Troubled,
    /// There is no revision in force yet.
    Blind,
    /// Somebody else acts.
    Watching,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub seen: bool,
    pub message: Option<String>,
    pub version: Option<String>,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub state: State,
    pub since: Timestamp,
    pub message: Option<String>,
    pub tenant: Option<TenantName>,
    pub shard: Option<ShardName>,
    pub node: Option<NodeName>,
    pub port: Option<u16>,
    pub version: Option<String>,
    /// Steps that are due because somebody else changed it.
    pub drift: u64,
    /// Steps that are due because the state repository asks for them.
    pub requested: u64,
    pub held: Vec<HeldStatus>,
    /// Its members by node, where it has several, or has to do with a role.
    #[serde(default)]
    pub members: BTreeMap<NodeName, MemberStatus>,
    /// While its members, or its primary, are not where they shall be.
    #[serde(default)]
    pub moving: Option<Move>,
    pub suspended: Option<Suspension>,
    /// When a failed instance is tried again.
    pub retry_at: Option<Timestamp>,
    pub attempts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldStatus {
    pub what: String,
    pub reason: String,
    pub message: String,
    /// A role is refused because data could be lost: a person has to look.
    #[serde(default)]
    pub alarm: bool,
}

/// One of several members of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    pub role: MemberRole,
    /// Of a replica: is its link to the primary up?
    pub link_up: Option<bool>,
    /// How far a replica is behind its primary in the stream of writes, where both follow the same history.
    pub lag_bytes: Option<u64>,
    /// Of a fenced primary, while no other member takes writes: since it was first seen so.
    pub fenced_seconds: Option<u64>,
}

/// What a member is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberRole {
    Primary,
    Replica,
    /// A primary that takes no writes.
    Fenced,
    /// Its server does not tell.
    Unknown,
}

/// The life of an instance: `pending → provisioning → active | failed`, `active → deleting → deleted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Provisioning,
    Active,
    Failed,
    Deleting,
    Deleted,
}

impl Status {
    /// Before the first pass.
    pub fn at_start(started: Timestamp, source: SourceStatus) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fleet: None,
            started,
            configuration: ConfigurationStatus { read: started, refused: None },
            source,
            settled: None,
            watching: None,
            suspended: None,
            last_pass: None,
            next_pass: None,
            nodes: BTreeMap::new(),
            instances: BTreeMap::new(),
        }
    }
}

impl State {
    pub const ALL: [Self; 6] = [Self::Pending, Self::Provisioning, Self::Active, Self::Failed, Self::Deleting, Self::Deleted];

    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }
}

impl MemberRole {
    pub fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Fenced => "fenced",
            Self::Unknown => "unknown",
        }
    }
}

impl PassResult {
    pub const ALL: [Self; 5] = [Self::Settled, Self::Progress, Self::Troubled, Self::Blind, Self::Watching];

    pub fn word(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Progress => "progress",
            Self::Troubled => "troubled",
            Self::Blind => "blind",
            Self::Watching => "watching",
        }
    }
}

impl ProblemKind {
    pub const ALL: [Self; 5] = [Self::Fetch, Self::Read, Self::Verify, Self::Rewound, Self::Invalid];

    pub fn word(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Read => "read",
            Self::Verify => "verify",
            Self::Rewound => "rewound",
            Self::Invalid => "invalid",
        }
    }
}
