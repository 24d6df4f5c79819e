//! The plan as a value: the steps to take now, what is held back and why, and what would be refused.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::desired::Origin;
use super::moves::Move;
use super::name::{FleetName, InstanceName, NodeName, SettingName, UserName};
use super::path::Way;
use super::preflight::Unfit;
use super::role::Endpoint;

/// Whom a step is about. Steps of one instance run in order; different instances run side by side, after the fleet's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Fleet,
    Instance(InstanceName),
}

/// What is to be done, and what cannot be done now.
#[derive(Debug, Clone)]
pub struct Plan {
    pub fleet: FleetName,
    pub revision: String,
    /// In the order of their subjects; the steps of one subject in the order they are taken.
    pub steps: Vec<Step>,
    pub held: Vec<Held>,
    /// Declarations that the nodes' own servers would refuse. Their instances are held as well.
    pub refused: Vec<Refusal>,
    pub unseen: BTreeMap<NodeName, String>,
    pub notes: Vec<Note>,
    /// The ways between nodes that nobody tried yet, and on which some of the steps rest.
    pub unknown: BTreeSet<Way>,
    /// Instances whose members are not where they shall be, in the order of their names.
    pub moves: Vec<Move>,
    /// Instances that are there and stay: what comes and goes of these is a member.
    pub stays: BTreeSet<InstanceName>,
}

/// One action on one node, with why and at what cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub subject: Subject,
    pub node: NodeName,
    pub action: Action,
    pub cause: Cause,
    /// Settings of this step that somebody else changed, in a step that has other causes too.
    #[serde(skip)]
    pub drifted: BTreeSet<SettingName>,
    /// For people; what performs a step does not ask.
    #[serde(skip)]
    pub costs: Vec<Cost>,
}

/// Why a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The state repository asks for it.
    Requested,
    /// Somebody or something else changed what was applied.
    Drift,
    /// valkeeper's own memory on the nodes; no server is touched.
    Bookkeeping,
}

/// What a step costs those who use the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cost {
    /// Every connection is dropped and the data is loaded again.
    ///
    /// Nothing where the server did not let us ask.
    Restart { connections: Option<u64>, memory_bytes: Option<u64> },
    /// Every connection is dropped, and the server comes up empty: nothing of it is on disk.
    RestartEmpty { connections: Option<u64>, memory_bytes: Option<u64> },
    /// It listens at another port or address at once: connections stay, but clients have to find it there.
    Rebinds { port: u16 },
    /// Every connection is dropped for good.
    Stop { connections: u64 },
    /// Connections of one user are closed. `at_most`: the exact number was not asked for.
    Closes { user: UserName, connections: u64, at_most: bool },
    /// A limit on connections gets tighter.
    Tightens(ConnectionLimit),
    /// A full `BGSAVE` or AOF rewrite.
    Rewrite { memory_bytes: u64 },
    /// More is in memory than the new limit allows.
    Shrinks { used_bytes: u64, limit_bytes: u64 },
    /// Writers wait for some milliseconds, and clients have to go elsewhere. `connections`: those that are closed, if known.
    SwitchOver { from: Endpoint, to: Endpoint, connections: Option<u64> },
    /// No writes are taken while a snapshot is written, carried and loaded. `bytes`: used memory.
    WritesWait { bytes: u64 },
    /// Writes after the snapshot go to the old server and are not in the new one.
    WritesLost,
    /// As much goes from node to node through the controller.
    Carries { bytes: u64 },
    /// Data is removed for good.
    DataGone { bytes: u64 },
}

/// A limit on connections. Those beyond it are closed as soon as it is set; beyond `Count` only new ones are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionLimit {
    /// How long a connection may be idle.
    Idle { seconds: u64 },
    /// What all connections may take together.
    Memory,
    /// The replies that wait for one client.
    Replies,
    /// One request.
    Request,
    /// How many there may be.
    Count { max: u64, open: u64 },
}

/// Something that is wanted and not done, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub instance: InstanceName,
    /// What is held, as an imperative: `delete`, `restart for io-threads`, `create`.
    pub what: String,
    pub reason: HeldReason,
    /// The steps that would be taken now but for this reason, as far as they could be worked out.
    pub withheld: Vec<Step>,
}

/// Why something is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldReason {
    NodeUnseen {
        node: NodeName,
        why: String,
    },
    NotAnswering {
        node: NodeName,
        why: String,
    },
    /// Files or a server on the node that are not this fleet's.
    NotOurs {
        node: NodeName,
        why: String,
    },
    /// As many restarts as allowed are under way.
    Budget {
        max_restarts: u32,
        behind: InstanceName,
    },
    /// The revision deletes more than it may.
    Approval {
        revision: String,
        deletes: usize,
        max_deletes: u32,
    },
    Protected,
    /// Its block is gone from the state repository and `prune` is off.
    Vanished,
    /// Starting the server would bring it up without its data.
    DataGone {
        why: String,
    },
    /// Nothing is on disk, so a restart would empty it.
    RestartLosesData {
        revision: String,
    },
    /// There may be keys in the databases that a smaller number takes away. `used`: how many its keys take, if known.
    KeysInDatabases {
        from: u64,
        to: u64,
        used: Option<u64>,
    },
    /// The installed server is older than the one that runs.
    Downgrade {
        runs: String,
        installed: String,
    },
    PortTaken {
        node: NodeName,
        port: u16,
        /// An instance of ours has it.
        by: Option<InstanceName>,
    },
    /// Another member of the instance has the declared port, on a node that is the same machine.
    PortShared {
        node: NodeName,
        port: u16,
    },
    NoPortFree {
        ports: std::ops::RangeInclusive<u16>,
    },
    /// The node's own server would refuse the declaration; `refused` says where it stands.
    Refused {
        problems: Vec<String>,
    },
    Loading {
        node: NodeName,
    },
    /// The roster places it where it cannot be seen, or on a node that is not declared.
    PlacedElsewhere {
        nodes: Vec<NodeName>,
    },
    /// It would not fit on the node. `needed_bytes`: with all that is there already, for memory.
    NoRoom {
        node: NodeName,
        resource: Resource,
        needed_bytes: u64,
        there_bytes: u64,
    },
    /// `drain = true`: nothing new is placed on the node.
    Draining {
        node: NodeName,
    },
    /// A person told the daemon to leave it alone for a while.
    Suspended {
        by: String,
        why: String,
        until: Timestamp,
    },
    /// `mode = "observe"`: differences are reported only.
    ObserveOnly,
    /// A replica that is to take over, or that others wait for, does not have everything yet.
    Syncing {
        node: NodeName,
        why: String,
    },
    /// More than one member takes writes: what is written to one is not in the other.
    TwoPrimaries {
        nodes: Vec<NodeName>,
    },
    /// No member takes writes, and none may be made to without a person.
    NoPrimary {
        why: String,
    },
    /// Somebody else began a `FAILOVER`.
    ForeignFailover {
        node: NodeName,
    },
    /// Members on several machines need addresses.
    NoAddress {
        node: NodeName,
    },
    /// Data or writes would not come to another member as they should.
    Unfit(Unfit),
    /// Where a member is to join, something stands that valkeeper did not make.
    ForeignTarget {
        node: NodeName,
        why: String,
    },
    /// The one that would take writes lacks what another member has: it is empty, or not as far in their history.
    FullerMember {
        node: NodeName,
        fuller: NodeName,
    },
    /// A member would change its role, and another one cannot be seen.
    PromotionUnseen {
        node: NodeName,
        why: String,
    },
}

impl HeldReason {
    /// A stable word for JSON and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NodeUnseen { .. } => "node-unseen",
            Self::NotAnswering { .. } => "not-answering",
            Self::NotOurs { .. } => "not-ours",
            Self::Budget { .. } => "budget",
            Self::Approval { .. } => "approval",
            Self::Protected => "protected",
            Self::Vanished => "vanished",
            Self::DataGone { .. } => "data-gone",
            Self::RestartLosesData { .. } => "restart-loses-data",
            Self::KeysInDatabases { .. } => "keys-in-databases",
            Self::Downgrade { .. } => "downgrade",
            Self::PortTaken { .. } => "port-taken",
            Self::PortShared { .. } => "port-shared",
            Self::NoPortFree { .. } => "no-port-free",
            Self::Refused { .. } => "refused",
            Self::Loading { .. } => "loading",
            Self::PlacedElsewhere { .. } => "placed-elsewhere",
            Self::NoRoom { .. } => "no-room",
            Self::Draining { .. } => "draining",
            Self::Suspended { .. } => "suspended",
            Self::ObserveOnly => "observe-only",
            Self::Syncing { .. } => "syncing",
            Self::TwoPrimaries { .. } => "two-primaries",
            Self::NoPrimary { .. } => "no-primary",
            Self::ForeignFailover { .. } => "foreign-failover",
            Self::NoAddress { .. } => "no-address",
            Self::Unfit(why) => why.kind(),
            Self::ForeignTarget { .. } => "foreign-target",
            Self::FullerMember { .. } => "fuller-member",
            Self::PromotionUnseen { .. } => "promotion-unseen",
        }
    }

    /// Is it a brake that a person set, so that the fleet counts as settled all the same?
    pub fn is_guard(&self) -> bool {
        match self {
            Self::Approval { .. }
            | Self::Protected
            | Self::Vanished
            | Self::RestartLosesData { .. }
            | Self::Suspended { .. }
            | Self::ObserveOnly => true,
            Self::Unfit(why) => why.is_guard(),
            Self::NodeUnseen { .. }
            | Self::NotAnswering { .. }
            | Self::NotOurs { .. }
            | Self::Budget { .. }
            | Self::DataGone { .. }
            | Self::Downgrade { .. }
            | Self::PortTaken { .. }
            | Self::PortShared { .. }
            | Self::NoPortFree { .. }
            | Self::Refused { .. }
            | Self::Loading { .. }
            | Self::KeysInDatabases { .. }
            | Self::PlacedElsewhere { .. }
            | Self::NoRoom { .. }
            | Self::Draining { .. }
            | Self::Syncing { .. }
            | Self::TwoPrimaries { .. }
            | Self::NoPrimary { .. }
            | Self::ForeignFailover { .. }
            | Self::NoAddress { .. }
            | Self::ForeignTarget { .. }
            | Self::FullerMember { .. }
            | Self::PromotionUnseen { .. } => false,
        }
    }

    /// Is a role refused because data could be lost, so that a person has to look?
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::TwoPrimaries { .. }
            | Self::NoPrimary { .. }
            | Self::ForeignFailover { .. }
            | Self::ForeignTarget { .. }
            | Self::FullerMember { .. }
            | Self::PromotionUnseen { .. } => true,
            Self::NodeUnseen { .. }
            | Self::NotAnswering { .. }
            | Self::NotOurs { .. }
            | Self::Budget { .. }
            | Self::Approval { .. }
            | Self::Protected
            | Self::Vanished
            | Self::DataGone { .. }
            | Self::RestartLosesData { .. }
            | Self::KeysInDatabases { .. }
            | Self::Downgrade { .. }
            | Self::PortTaken { .. }
            | Self::PortShared { .. }
            | Self::NoPortFree { .. }
            | Self::Refused { .. }
            | Self::Loading { .. }
            | Self::PlacedElsewhere { .. }
            | Self::NoRoom { .. }
            | Self::Draining { .. }
            | Self::Suspended { .. }
            | Self::ObserveOnly
            | Self::Syncing { .. }
            | Self::NoAddress { .. }
            | Self::Unfit(_) => false,
        }
    }
}

/// What a node can be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Memory,
    Disk,
}

/// A declaration that a node's own server would refuse, at its place in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub at: Origin,
    pub problem: String,
    pub cure: String,
}

/// Something a reader should know that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A user nobody declared and we did not create; kept because the guard says so.
    UndeclaredUser { instance: InstanceName, user: UserName },
    /// Its instances may take more memory together than the node has.
    MemoryShort { node: NodeName, declared_bytes: u64, total_bytes: u64 },
    /// More comes to the memory of a node than is available there now: it would have room if nothing else took it.
    MemoryTaken { node: NodeName, coming_bytes: u64, available_bytes: u64 },
    /// More comes to the disk of a node than is free there.
    DiskShort { node: NodeName, coming_bytes: u64, free_bytes: u64 },
    /// A member whose node is no longer of the shard stays for a while, for the sake of its clients.
    Leaves { instance: InstanceName, node: NodeName, since: Timestamp },
    /// Data of a deleted instance of this name is still kept.
    SetAside { instance: InstanceName, uid: String },
}

impl Step {
    /// Did somebody else change what it changes, or a part of that?
    pub fn is_drift(&self) -> bool {
        self.cause == Cause::Drift || !self.drifted.is_empty()
    }
}

impl Plan {
    /// What somebody else changed, whether it is put right now or held.
    pub fn drift(&self) -> impl Iterator<Item = &Step> {
        let withheld = self.held.iter().flat_map(|held| &held.withheld);
        self.steps.iter().chain(withheld).filter(|step| step.is_drift())
    }

    /// Nothing to do and nothing held but by a guard that a person set.
    pub fn is_settled(&self) -> bool {
        self.steps.is_empty() && self.unseen.is_empty() && self.held.iter().all(|held| held.reason.is_guard())
    }
}
