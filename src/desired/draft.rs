//! One file as read: well-formed values with their places, references not yet resolved.
//!
//! A value that was a problem is left out or stands as its default here; that is sound because a text with problems
//! never becomes a [`crate::model::desired::Desired`].

use std::collections::BTreeMap;

use super::secret::SecretRef;
use crate::model::desired::{DesiredNode, DesiredSelector, Ensure, Guard, Located, Mode, MoveBy, Origin, Shard};
use crate::model::name::{FleetName, InstanceName, NodeName, SettingName, ShardName, TenantName, UserName};
use crate::model::password::PasswordHash;

/// Settings as written in one table.
pub(super) type WrittenSettings = BTreeMap<SettingName, Located<String>>;

/// Something that stands in a named table, or in a table that there is once.
#[derive(Debug)]
pub(super) struct Named<N, T> {
    pub(super) name: N,
    pub(super) at: Origin,
    pub(super) body: T,
}

/// All that one file says.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) fleet: Option<Located<(Option<FleetName>, Mode)>>,
    pub(super) guard: Option<Located<Guard>>,
    pub(super) defaults: Option<Located<WrittenSettings>>,
    pub(super) nodes: Vec<Named<NodeName, DesiredNode>>,
    pub(super) shards: Vec<Named<ShardName, ShardDraft>>,
    pub(super) tenants: Vec<Named<TenantName, ()>>,
    pub(super) instances: Vec<Named<InstanceName, InstanceDraft>>,
}

#[derive(Debug)]
pub(super) struct ShardDraft {
    /// The shard as it will be.
    pub(super) shard: Shard,
    /// Where each of its nodes is named.
    pub(super) nodes_at: Vec<Origin>,
}

#[derive(Debug)]
pub(super) struct InstanceDraft {
    pub(super) tenant: Option<Located<TenantName>>,
    /// Missing only beside a problem.
    pub(super) shard: Option<Located<ShardName>>,
    pub(super) primary: Option<Located<NodeName>>,
    pub(super) move_by: MoveBy,
    pub(super) port: Option<Located<u16>>,
    pub(super) protect: bool,
    pub(super) mode: Mode,
    pub(super) ensure: Ensure,
    pub(super) settings: WrittenSettings,
    pub(super) users: Vec<UserDraft>,
}

#[derive(Debug)]
pub(super) struct UserDraft {
    pub(super) name: UserName,
    /// Without the passwords that `secrets` refer to.
    pub(super) user: WrittenUser,
    pub(super) secrets: Vec<Located<SecretRef>>,
}

/// A user as far as its own table says.
#[derive(Debug)]
pub(super) struct WrittenUser {
    pub(super) at: Origin,
    pub(super) enabled: bool,
    pub(super) passwords: Vec<PasswordHash>,
    pub(super) root: DesiredSelector,
    pub(super) selectors: Vec<DesiredSelector>,
}
