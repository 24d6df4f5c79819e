//! A move as people follow it: its script, with what is done, what is now and what is to come. The same value is behind the
//! plan, the progress of `apply`, the daemon's status and the metrics.
//!
//! Owns the words of the stages. Never decides: `plan/moves.rs` makes it from the facts, and how fast it goes is entered by those
//! who look more than once (`reconcile/pace.rs`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::name::{InstanceName, NodeName};

/// An instance whose members are not where they shall be, or whose primary is not the one it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub instance: InstanceName,
    /// The primary that hands over, or did; nothing: the primary stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Site>,
    /// The one that takes over, or did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Site>,
    /// The stages that this move has, in their order.
    pub script: Vec<Act>,
    /// How far the present stage is, where that can be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// Why it does not go on by a step now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Wait>,
    /// Who is still connected to servers that will leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remaining: Vec<Remaining>,
    /// Nothing where it was looked at only once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

/// What nobody but somebody else, or time, can bring about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// A stable word: of what is held ([`HeldReason::kind`]), or [`Wait::CLIENTS`].
    ///
    /// [`HeldReason::kind`]: super::plan::HeldReason::kind
    pub reason: String,
    /// For people.
    pub why: String,
}

impl Wait {
    /// The clients of a server that leaves have time to go elsewhere.
    pub const CLIENTS: &'static str = "clients";
}

/// A member and where clients reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub node: NodeName,
    /// Address and port. Nothing: it is not made yet, and cannot be now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// One stage of the script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub stage: MoveStage,
    /// Where it takes place; for the cut-over the old and the new primary.
    pub nodes: Vec<NodeName>,
    pub progress: Progress,
}

/// The stages of a move, in their order (design, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveStage {
    /// Members are made where there is none.
    Join,
    /// Replicas get what the primary has.
    CatchUp,
    /// In a move by snapshot: the old primary takes no writes from here on.
    Fence,
    /// Its snapshot is written.
    Save,
    /// The snapshot goes to the new member, which starts with it.
    Carry,
    /// The old primary is fenced, and the new one gets its last writes.
    CutOver,
    Promote,
    /// The new primary takes writes: the point of no return.
    Open,
    /// The old primary follows the new one, and sends its clients there.
    Demote,
    /// Members on nodes that are no longer wanted go, when their clients had time to.
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    Done,
    Now,
    ToCome,
}

/// How much of what has come to a replica, or into the snapshot that is to move. In the unit of what it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    pub node: NodeName,
    pub of: Flow,
    pub done: u64,
    pub total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// The whole dataset, of a size that the primary told.
    Dataset,
    /// The whole dataset, sent straight from memory (`repl-diskless-sync`): its size is known when it ends. The total is the memory
    /// that the primary uses, which is seldom less.
    DatasetOfUnknownSize,
    /// The stream of writes: the offsets of replica and primary in it.
    Stream,
    /// The keys of a server that writes its snapshot: how large that will be is known when it is written.
    Keys,
}

/// In what something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Keys,
}

impl Flow {
    pub fn unit(self) -> Unit {
        match self {
            Self::Dataset | Self::DatasetOfUnknownSize | Self::Stream => Unit::Bytes,
            Self::Keys => Unit::Keys,
        }
    }
}

/// Clients of a server that leaves when its time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    pub node: NodeName,
    pub address: String,
    /// What it says to writes: `READONLY or REDIRECT` as a replica, `NOREPLICAS` as a fenced primary.
    pub answers: String,
    pub connections: u64,
    /// Nothing: its time has not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How fast the present stage goes, by a clock that never jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    pub seconds_in_stage: u64,
    /// The first is 1; one more whenever a step of the present stage was tried in vain.
    pub attempt: u32,
    /// How fast what is done grows, in the unit of the amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u64>,
    /// Nothing where it does not come nearer to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

impl Move {
    /// The stage that it is at.
    pub fn now(&self) -> Option<&Act> {
        self.script.iter().find(|act| act.progress == Progress::Now)
    }
}

impl Amount {
    pub fn left(&self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

impl MoveStage {
    pub const ALL: [Self; 10] = [
        Self::Join,
        Self::CatchUp,
        Self::Fence,
        Self::Save,
        Self::Carry,
        Self::CutOver,
        Self::Promote,
        Self::Open,
        Self::Demote,
        Self::Leave,
    ];

    /// The same where writes go on until the snapshot is in its place.
    pub const UNFENCED: [Self; 10] = [
        Self::Join,
        Self::CatchUp,
        Self::Save,
        Self::Carry,
        Self::Fence,
        Self::CutOver,
        Self::Promote,
        Self::Open,
        Self::Demote,
        Self::Leave,
    ];

    /// As in JSON and in labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::CatchUp => "catch-up",
            Self::Fence => "fence",
            Self::Save => "save",
            Self::Carry => "carry",
            Self::CutOver => "cut-over",
            Self::Promote => "promote",
            Self::Open => "open",
            Self::Demote => "demote",
            Self::Leave => "leave",
        }
    }
}

impl Progress {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Now => "now",
            Self::ToCome => "to come",
        }
    }
}
