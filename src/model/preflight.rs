//! What can be wrong before data is sent to another member, or writes are (facts E.5). Each is looked at while the plan is made,
//! and holds what would come to grief.

use super::name::NodeName;
use super::role::Endpoint;

/// Why a member cannot join, or take over, as things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// The port of the server `to`, on node `of`, was tried from node `from`.
    NoPath { from: NodeName, to: Endpoint, of: NodeName, why: String },
    /// It cannot read what the newer server of the others sends.
    OlderServer { node: NodeName, installed: String, runs: String },
    /// Keys of databases that the new one lacks would stop it, or end up in its database 0.
    FewerDatabases { source: NodeName, there: u64, target: NodeName, here: u64 },
    /// It would throw keys out as soon as it is the primary.
    TooSmall { node: NodeName, max_bytes: u64, source: NodeName, used_bytes: u64 },
    /// More is written while it receives the data than may wait for it, so that it would begin again and again.
    BufferTooSmall { source: NodeName, used_bytes: u64, sync_seconds: u64, waiting_bytes: u64, limit_bytes: u64 },
    /// Nothing of it is on disk: if its server ends on the way, the new one follows an empty one.
    KeepsNothing { source: NodeName, revision: String },
}

impl Unfit {
    /// A stable word for JSON and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoPath { .. } => "no-path",
            Self::OlderServer { .. } => "older-server",
            Self::FewerDatabases { .. } => "fewer-databases",
            Self::TooSmall { .. } => "too-small",
            Self::BufferTooSmall { .. } => "buffer-too-small",
            Self::KeepsNothing { .. } => "keeps-nothing",
        }
    }

    /// Does it wait for the word of a person?
    pub fn is_guard(&self) -> bool {
        match self {
            Self::KeepsNothing { .. } => true,
            Self::NoPath { .. }
            | Self::OlderServer { .. }
            | Self::FewerDatabases { .. }
            | Self::TooSmall { .. }
            | Self::BufferTooSmall { .. } => false,
        }
    }
}
