//! What the state repository says, checked: every name refers to something, every value is well formed.
//!
//! What only a node's own server can judge (which settings, commands and categories exist) is still in the words that
//! were written, each with its place, so that the plan can refuse it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::acl::{AclUser, Selector, WordError};
use super::action::WantedUser;
use super::name::{FleetName, InstanceName, NodeName, SettingName, ShardName, TenantName, UserName};
use super::password::PasswordHash;

/// A place in the source: a file by its position in the list of files, and a range of bytes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Origin {
    pub file: u32,
    pub start: u32,
    pub end: u32,
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub struct Located<T> {
    pub value: T,
    pub at: Origin,
}

/// The whole of what is wanted.
#[derive(Debug, Clone)]
pub struct Desired {
    pub fleet: FleetName,
    /// Which text this is: a digest of the declared state, or (from git) the commit.
    pub revision: String,
    pub mode: Mode,
    pub guard: Guard,
    pub nodes: BTreeMap<NodeName, DesiredNode>,
    pub shards: BTreeMap<ShardName, Shard>,
    pub tenants: BTreeSet<TenantName>,
    pub instances: BTreeMap<InstanceName, DesiredInstance>,
}

/// The brakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Delete an instance whose block vanished.
    pub prune: bool,
    /// How many instances one revision may delete without an approval.
    pub max_deletes: u32,
    /// How many members may restart at once.
    pub max_restarts: u32,
    /// How long data of a deleted member is kept.
    pub retain_deleted: Duration,
    /// How long a member stays, following the primary, when its node is no longer one of the shard's.
    pub handover_grace: Duration,
    pub undeclared_users: UndeclaredUsers,
    pub without_room: WithoutRoom,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            prune: false,
            max_deletes: 1,
            max_restarts: 1,
            retain_deleted: Duration::from_secs(7 * 24 * 60 * 60),
            handover_grace: Duration::from_secs(60 * 60),
            undeclared_users: UndeclaredUsers::Keep,
            without_room: WithoutRoom::Hold,
        }
    }
}

/// What happens to users that nobody declared and valkeeper did not create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndeclaredUsers {
    Keep,
    Remove,
}

/// What happens to an instance for which a node has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutRoom {
    Hold,
    /// It is made all the same, and the plan says that the node is short of memory.
    Warn,
}

#[derive(Debug, Clone)]
pub struct DesiredNode {
    pub at: Origin,
    pub reach: Reach,
    /// Where other nodes and clients reach its instances; they bind loopback and this.
    pub address: Option<std::net::IpAddr>,
    /// Nothing new is placed on it.
    pub drain: bool,
}

/// How a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// A folder on this machine, as written.
    Local(String),
    /// A destination that ssh_config understands.
    Ssh(String),
}

impl DesiredNode {
    /// Is it in this machine, as every local node is? Such nodes share their ports.
    pub fn is_local(&self) -> bool {
        match self.reach {
            Reach::Local(_) => true,
            Reach::Ssh(_) => false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Shard {
    pub at: Origin,
    /// The first is the primary of a new instance.
    pub nodes: Vec<NodeName>,
    pub ports: std::ops::RangeInclusive<u16>,
}

#[derive(Debug, Clone)]
pub struct DesiredInstance {
    pub at: Origin,
    pub tenant: Option<TenantName>,
    pub shard: ShardName,
    pub ensure: Ensure,
    pub protect: bool,
    pub mode: Mode,
    pub port: Option<u16>,
    /// The node that shall be primary; nothing: whichever is, as long as it is on the shard.
    pub primary: Option<NodeName>,
    pub move_by: MoveBy,
    /// As written, `[defaults]` and valkeeper's own defaults merged in; without `port` and `bind`.
    pub settings: BTreeMap<SettingName, Located<String>>,
    pub users: BTreeMap<UserName, DesiredUser>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensure {
    Present,
    Absent,
}

/// How the data goes from one shard to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MoveBy {
    #[default]
    Replication,
    /// As a snapshot that travels through the controller; no writes are taken from before it is written until the new member
    /// is open.
    Snapshot,
    /// The same, and writes go on meanwhile: those after the snapshot are lost.
    SnapshotUnfenced,
}

/// Is drift put right, or only reported?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Correct,
    Observe,
}

/// A user as written, and in the server's form, which follows from the words alone; whether the commands exist is the
/// node's own server's to say.
#[derive(Debug, Clone)]
pub struct DesiredUser {
    pub at: Origin,
    pub enabled: bool,
    pub root: DesiredSelector,
    pub selectors: Vec<DesiredSelector>,
    /// Follows from the rest and from the passwords, which are nowhere else.
    pub(crate) wanted: Result<WantedUser, WordError>,
}

impl DesiredUser {
    /// Brings the words to the server's form, once for all plans.
    pub fn new(
        at: Origin,
        enabled: bool,
        passwords: Vec<PasswordHash>,
        root: DesiredSelector,
        selectors: Vec<DesiredSelector>,
    ) -> Self {
        let wanted = form(enabled, passwords, &root, &selectors);
        Self { at, enabled, root, selectors, wanted }
    }

    /// The user in the server's form.
    ///
    /// # Errors
    /// A word that no server takes. `desired/` lets none through.
    pub fn wanted(&self) -> Result<&WantedUser, &WordError> {
        self.wanted.as_ref()
    }

    pub fn passwords(&self) -> &[PasswordHash] {
        self.wanted.as_ref().map_or(&[], |wanted| &wanted.hashes)
    }
}

fn form(
    enabled: bool,
    passwords: Vec<PasswordHash>,
    root: &DesiredSelector,
    selectors: &[DesiredSelector],
) -> Result<WantedUser, WordError> {
    let mut user = AclUser::closed();
    user.enabled = enabled;
    passwords.iter().for_each(|hash| user.add_password(hash.fingerprint()));
    user.root = root.form()?;
    for selector in selectors {
        user.add_selector(selector.form()?);
    }
    Ok(WantedUser { user: Arc::new(user), hashes: passwords.into() })
}

impl DesiredSelector {
    fn form(&self) -> Result<Selector, WordError> {
        let mut selector = Selector::nothing();
        let privileges = self.privileges.iter().map(|word| &word.value);
        self.keys.iter().chain(&self.channels).chain(privileges).try_for_each(|word| selector.apply(word, None))?;
        Ok(selector)
    }
}

/// The words of a user's root permissions, or of one selector.
#[derive(Debug, Clone)]
pub struct DesiredSelector {
    /// In order; order has meaning.
    pub privileges: Vec<Located<String>>,
    /// In the server's form (`~x`, `%R~x`).
    pub keys: Vec<String>,
    pub channels: Vec<String>,
}

/// The settings that valkeeper gives an instance unless told otherwise (design section 2). `maxmemory` in bytes: 64 MiB.
pub const BASE_SETTINGS: &[(&str, &str)] =
    &[("appendonly", "yes"), ("maxmemory", "67108864"), ("maxmemory-policy", "allkeys-lru")];
