//! What a member carries to say whose it is, and what was last asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::acl::AclUser;
use super::name::{FleetName, InstanceName, REPLICA_USER, TenantName, UserName};
use super::password::{Fingerprint, Secret};
use super::setting::Settings;
use super::snapshot::{Seed, Snapshot};

/// The marker of a member, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub fleet: FleetName,
    /// Which incarnation of the name this is.
    pub uid: String,
    pub machine: String,
    pub created: Timestamp,
    pub stage: Stage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// Refuses deletion, also when the block is gone from the TOML.
    #[serde(default)]
    pub protect: bool,
    /// Of the operator's password.
    pub operator: Fingerprint,
    /// Since when its node is no longer one of the instance's shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring: Option<Timestamp>,
    /// Since when it is not at its work by our hand, by the node's own clock: it was restarted, or fenced to hand its role over.
    /// Nothing: it was seen at work since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disturbed: Option<Timestamp>,
    /// It began to follow another member, and the connections of its clients are still to be closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owes_farewell: bool,
    /// Of its data, for a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Where its data comes from, if it was made for a move by snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Seed>,
    #[serde(default)]
    pub applied: Applied,
}

/// How far the member's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Being created: its server has never run.
    Provisioning,
    Active,
    Deleting,
}

impl Stage {
    pub fn word(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Deleting => "deleting",
        }
    }
}

/// What the state repository last asked for. Where live differs from it, somebody else changed it: that is drift; where
/// desired differs from it, the change was requested. It also says which users we made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Applied {
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub users: BTreeMap<UserName, Arc<AclUser>>,
}

impl MarkerFile {
    /// The password with which this member follows another one. It is made from the operator's, so that there is nothing
    /// more to keep, and every member has one, also one that is older than replicas are.
    pub fn replication_password(&self) -> Secret {
        self.operator_password.derived("replication")
    }

    /// The piece of a server's config with which it follows from its start.
    pub fn credential(&self) -> Secret {
        let password = self.replication_password();
        Secret::new(format!("primaryuser {REPLICA_USER}\nprimaryauth {}\n", password.reveal()))
    }
}

/// The marker as it is on disk, mode 0600.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MarkerFile {
    pub instance: InstanceName,
    /// The operator's password: it never leaves the node.
    pub operator_password: Secret,
    #[serde(flatten)]
    pub marker: Marker,
}
