//! What a member is to the other members of its instance: whom it follows, whether it is fenced, how its replication stands.
//!
//! Owns the forms of role and fence in a server's settings, and what changing them consists of (facts E.3). Never decides
//! which member has which role: that is `plan/group.rs`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::acl::AclUser;
use super::action::{RoleChange, RoleStage, WantedUser};
use super::binary::BinaryFacts;
use super::change::{Change, Half, Twin};
use super::effect::Effect;
use super::live::{Live, Member, MemberFacts, NodeFacts, Observed, Server};
use super::marker::Marker;
use super::name::{InstanceName, NodeName, OPERATOR_USER, REPLICA_USER, SettingName, UserName};
use super::password::{Fingerprint, PasswordHash};
use super::setting::Settings;
use super::spec::InstanceSpec;

/// A primary that waits for this many replicas answers every write with NOREPLICAS (facts E.3).
const FENCE: &str = "1000000";
/// With a lag of 0 the fence would be off (facts E.3). Seconds.
const FENCE_LAG: &str = "10";
const FENCE_SETTING: &str = "min-replicas-to-write";
const FENCE_LAG_SETTING: &str = "min-replicas-max-lag";
const ROLE_SETTING: &str = "replicaof";
/// The rights that one member needs at another to follow it; `ping` for servers other than 8.0 (facts E.5).
const RIGHTS: &[&str] = &["+psync", "+replconf", "+ping"];
/// The setting with which a replica gets the whole dataset over a second connection, and the right that it needs for it (facts E.5).
pub const DUAL_CHANNEL: &str = "dual-channel-replication-enabled";
const DUAL_CHANNEL_RIGHT: &str = "+sync";

/// Where a server is reached by the other members, as `replicaof` has it: address and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(String);

impl Endpoint {
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self(format!("{address} {port}"))
    }

    /// Nothing for what was not made from an address, such as a host name that somebody set by hand.
    pub fn socket(&self) -> Option<SocketAddr> {
        let (host, port) = self.0.split_once(' ')?;
        Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
    }

    /// Host and port, as the server's command takes them.
    pub fn words(&self) -> Vec<&str> {
        self.0.split(' ').collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(' ') {
            Some((host, port)) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some((host, port)) => write!(f, "{host}:{port}"),
            None => f.write_str(&self.0),
        }
    }
}

/// Role and fence, as a config file or a server shows them beside the declared settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Overlay {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Endpoint>,
    #[serde(default)]
    pub fenced: bool,
}

impl Overlay {
    /// A primary that takes writes.
    pub const OPEN: Self = Self { follows: None, fenced: false };
    /// A primary that takes none.
    pub const FENCED: Self = Self { follows: None, fenced: true };

    /// A replica; it is fenced too, so that it is closed in whatever way it might come to be a primary.
    pub fn follower(of: Endpoint) -> Self {
        Self { follows: Some(of), fenced: true }
    }

    /// What these settings show.
    pub fn of(spec: &InstanceSpec) -> Self {
        let follows = spec.get(ROLE_SETTING).filter(|value| !value.is_empty()).map(|value| Endpoint(value.to_owned()));
        // With a lag of 0 nobody is waited for, however many there should be.
        let fenced = spec.get(FENCE_SETTING) == Some(FENCE) && spec.get(FENCE_LAG_SETTING) != Some("0");
        Self { follows, fenced }
    }

    pub fn is_open(&self) -> bool {
        *self == Self::OPEN
    }

    /// The declared settings with role and fence put over them.
    pub fn over(&self, declared: &InstanceSpec) -> InstanceSpec {
        let mut spec = declared.clone();
        if self.fenced {
            spec.set(&SettingName::known(FENCE_SETTING), FENCE);
            spec.set(&SettingName::known(FENCE_LAG_SETTING), FENCE_LAG);
        }
        if let Some(endpoint) = &self.follows {
            spec.set(&SettingName::known(ROLE_SETTING), endpoint.0.clone());
        }
        spec
    }
}

/// How a server's replication stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Replication {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// Which history of writes this is.
    #[serde(default)]
    pub replid: String,
    /// The history that it had as a replica, before it was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replid2: Option<String>,
    /// How far it is in its history. Bytes.
    #[serde(default)]
    pub offset: u64,
    /// Somebody else's `FAILOVER` is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign_failover: bool,
    /// Of the password with which it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Fingerprint>,
}

/// The link of a replica to its primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    Up,
    Down,
    /// It receives the whole dataset.
    Syncing {
        /// 0 where the primary sends it without telling how much it is (`repl-diskless-sync`).
        left_bytes: u64,
        #[serde(default)]
        read_bytes: u64,
    },
}

/// Would a declared setting be taken for the fence?
pub fn is_fence(name: &SettingName, value: &str) -> bool {
    name.as_str() == FENCE_SETTING && value == FENCE
}

/// The user as which members follow each other, with the passwords of these.
pub fn user(passwords: &[PasswordHash], is_dual_channel: bool) -> WantedUser {
    let mut user = AclUser::closed();
    user.enabled = true;
    passwords.iter().for_each(|hash| user.add_password(hash.fingerprint()));
    for word in RIGHTS.iter().chain(is_dual_channel.then_some(&DUAL_CHANNEL_RIGHT)) {
        // These commands are as old as replication; a server that lacks one would refuse the user, and say so.
        let _known = user.root.apply(word, None);
    }
    WantedUser { user: user.into(), hashes: passwords.into() }
}

/// The address at which others reach a server with these settings: what it binds beside loopback.
pub fn endpoint(spec: &InstanceSpec) -> Option<Endpoint> {
    let bound = spec.get("bind").unwrap_or_default().split(' ').filter_map(|word| word.parse::<IpAddr>().ok());
    Some(Endpoint::new(bound.reduce(|_, later| later)?, spec.port()?))
}

impl InstanceSpec {
    pub fn overlay(&self) -> Overlay {
        Overlay::of(self)
    }
}

impl Marker {
    pub fn role_applied(&self) -> Overlay {
        Overlay::of(&InstanceSpec::new(self.applied.settings.clone()))
    }
}

impl MemberFacts {
    /// The role in force, if the server shows it.
    pub fn role_in_force(&self) -> Option<Overlay> {
        self.spec.memory.seen().map(Overlay::of)
    }

    /// The role that a restart would bring, if the file can be read.
    pub fn role_on_disk(&self) -> Option<Overlay> {
        self.spec.disk.seen().map(Overlay::of)
    }

    /// Was it a replica, or fenced, by our hand? Somebody else's `REPLICAOF` is drift.
    pub fn has_role_of_ours(&self) -> bool {
        self.role_applied() != Overlay::OPEN
    }

    /// The role that it was given last, as its marker says.
    pub fn role_applied(&self) -> Overlay {
        self.marker.role_applied()
    }

    /// Does it do what it is there for? A replica gets what its primary is told; anybody else takes writes.
    pub fn is_at_work(&self) -> bool {
        let (Server::Up(running), Some(role)) = (&self.server, self.role_in_force()) else { return false };
        let is_linked = || running.replication.link == Some(Link::Up);
        !running.loading && if role.follows.is_some() { is_linked() } else { !role.fenced }
    }

    /// Does it follow with the password that the others know it by?
    pub fn follows_as_itself(&self) -> bool {
        let Server::Up(running) = &self.server else { return false };
        let own = self.replication_password.as_ref().map(PasswordHash::fingerprint);
        own.is_none() || running.replication.password == own
    }

    pub(super) fn follow(&mut self, endpoint: Option<&Endpoint>) {
        let own = self.replication_password.as_ref().map(PasswordHash::fingerprint);
        if let (Half::Seen(spec), Server::Up(running)) = (&mut self.spec.memory, &mut self.server) {
            let now = &mut running.replication;
            match endpoint {
                Some(endpoint) => {
                    spec.settings.insert(SettingName::known(ROLE_SETTING), endpoint.0.clone());
                    now.link = Some(Link::Down);
                    now.replid2 = None;
                    now.password = own;
                }
                None => {
                    spec.settings.remove(ROLE_SETTING);
                    if now.link.take().is_some() {
                        now.replid2 = Some(std::mem::take(&mut now.replid));
                        now.replid = format!("{}'", now.replid2.as_deref().unwrap_or_default());
                    }
                    now.password = None;
                }
            }
        }
    }
}

/// What replication does by itself in time: the member on this node, if it follows another one that runs, has all of it.
pub fn catch_up(live: &mut Live, node: &NodeName, instance: &InstanceName) {
    let member = |facts: &NodeFacts| facts.member(instance).cloned();
    let Some(follower) = live.seen(node).and_then(|(facts, _)| member(facts)) else { return };
    let Some(primary) = follower.role_in_force().and_then(|role| role.follows) else { return };
    let followed = |(_, facts): (&NodeName, &NodeFacts)| {
        let candidate = facts.member(instance)?;
        let is_it = candidate.spec.memory.seen().and_then(endpoint).as_ref() == Some(&primary);
        let Server::Up(running) = &candidate.server else { return None };
        is_it.then(|| running.replication.clone())
    };
    let Some(source) = live.seen_nodes().find_map(followed) else { return };
    let Some(Observed::Seen(facts)) = live.nodes.get_mut(node) else { return };
    if let Some(Member::Marked(member)) = facts.members.get_mut(instance).map(Arc::make_mut)
        && let Server::Up(running) = &mut member.server
    {
        running.replication.link = Some(Link::Up);
        running.replication.replid = source.replid;
        running.replication.offset = source.offset;
    }
}

/// The effects of a change of role.
pub(super) fn change(
    change: &RoleChange,
    member: &MemberFacts,
    binary: &BinaryFacts,
    now: Timestamp,
    unit: Option<Effect>,
) -> Vec<Effect> {
    let mut effects = in_force(change, member, binary, now);
    // A unit hands its password to a server that follows. That counts from the next start only, so nobody waits for it.
    effects.extend(unit.filter(|_| matches!(change.stage, RoleStage::Attach | RoleStage::Open | RoleStage::Demote)));
    effects
}

/// The file first, so that a restart at any moment comes up closed or as it was (facts E.3); the fence before a role that could
/// write, and lifted last.
fn in_force(change: &RoleChange, member: &MemberFacts, binary: &BinaryFacts, now: Timestamp) -> Vec<Effect> {
    let mut effects = Vec::new();
    let (before, after) = (&change.before, &change.after);
    let follows = |role: &Half<Overlay>| role.seen().map(|role| role.follows.is_some());
    let steps_down = follows(&before.memory) == Some(false) && follows(&after.memory) == Some(true);
    let mut last = None;
    if let Half::Seen(role) = &after.disk {
        let file = (before.disk != after.disk).then(|| role.over(&change.declared));
        let mut marker = member.marker.clone();
        marker.enter_role(change.stage, &before.memory.seen().cloned().unwrap_or_default(), role);
        if change.stage == RoleStage::Fence {
            marker.disturbed = Some(now);
        }
        if let Some(file) = &file {
            marker.applied.settings.clone_from(&file.settings);
        }
        let (told, back) = (Marker { owes_farewell: false, ..marker.clone() }, Marker { disturbed: None, ..marker.clone() });
        let is_back = change.stage == RoleStage::CallOff && marker.disturbed.is_some();
        last = steps_down.then_some(told).or(is_back.then_some(back));
        marker.owes_farewell = steps_down;
        effects.extend((marker != member.marker).then(|| Effect::WriteMarker(Box::new(marker))));
        effects.extend(file.map(Effect::WriteConfig));
    }
    let (Half::Seen(was), Half::Seen(role)) = (&before.memory, &after.memory) else { return effects };
    // Writers are late instead of refused. Safety never rests on it: a pause ends by itself, and cannot be seen (facts E.3).
    effects.extend((change.stage == RoleStage::Fence).then_some(Effect::PauseWriters));
    if role.fenced && !was.fenced {
        effects.push(Effect::ConfigSet(fence(role, &change.declared, binary)));
    }
    if role.follows != was.follows || (role.follows.is_some() && !member.follows_as_itself()) {
        effects.push(Effect::Follow(role.follows.clone()));
    }
    if was.fenced && !role.fenced {
        effects.push(Effect::ConfigSet(fence(role, &change.declared, binary)));
    }
    effects.extend(matches!(change.stage, RoleStage::CallOff | RoleStage::Demote).then_some(Effect::ResumeWriters));
    if steps_down {
        // Last: who was held back hears READONLY or REDIRECT first, and so knows that the write was not taken.
        effects.push(Effect::Dismiss(clients(member)));
    }
    effects.extend(last.map(|marker| Effect::WriteMarker(Box::new(marker))));
    effects
}

/// A member that gave its data away as a snapshot follows nobody: that it leaves is all that its clients can be told. One that
/// follows may have died, or its controller, before they were told.
pub(super) fn farewell(change: &Change<Marker>, member: &MemberFacts) -> Option<Effect> {
    let (before, after, role) = (change.before(), change.after(), member.role_in_force()?);
    let leaves = before.retiring.is_none() && after.retiring.is_some() && role == Overlay::FENCED;
    let is_owed = before.owes_farewell && !after.owes_farewell && role.follows.is_some();
    (leaves || is_owed).then(|| Effect::Dismiss(clients(member)))
}

/// All whose connections are clients': neither ours, nor those of other members.
fn clients(member: &MemberFacts) -> Vec<UserName> {
    let is_ours = |user: &UserName| [OPERATOR_USER, REPLICA_USER].contains(&user.as_str());
    let in_memory = |(user, twin): (&UserName, &Twin<Arc<AclUser>>)| twin.memory.seen().map(|_| user.clone());
    member.users.iter().filter_map(in_memory).filter(|user| !is_ours(user)).collect()
}

/// The two settings of the fence as this role has them; lifted, they are what is declared.
fn fence(role: &Overlay, declared: &InstanceSpec, binary: &BinaryFacts) -> Settings {
    let spec = Overlay { follows: None, fenced: role.fenced }.over(declared);
    let value = |name: &'static str| {
        let value = spec.get(name).or(binary.default_of(&SettingName::known(name)))?;
        Some((SettingName::known(name), value.to_owned()))
    };
    [FENCE_SETTING, FENCE_LAG_SETTING].into_iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_put_over_settings_is_read_back() {
        let declared = InstanceSpec::new([(SettingName::known(FENCE_SETTING), "1".to_owned())].into());
        let follower = Overlay::follower(Endpoint::new("127.0.0.1".parse().unwrap(), 6400));
        for role in [Overlay::OPEN, Overlay::FENCED, follower] {
            assert_eq!(Overlay::of(&role.over(&declared)), role);
        }
        assert_eq!(Overlay::OPEN.over(&declared), declared);
    }

    #[test]
    fn a_fence_without_lag_is_none() {
        let mut spec = Overlay::FENCED.over(&InstanceSpec::default());
        spec.set(&SettingName::known(FENCE_LAG_SETTING), "0");
        assert_eq!(Overlay::of(&spec), Overlay::OPEN);
    }

    #[test]
    fn members_follow_with_the_least_rights() {
        assert_eq!(user(&[], false).user.to_string(), "on sanitize-payload resetchannels -@all +psync +replconf +ping");
        assert!(user(&[], true).user.to_string().ends_with(" +ping +sync"));
    }
}
