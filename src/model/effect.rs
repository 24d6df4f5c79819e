//! The single effects that an action consists of, in order; what each does to the facts is in `effect/happen.rs`.
//!
//! The node performs them one by one; the plan and the simulator carry the facts forward with the same list. A process
//! that dies between any two of them leaves facts from which planning again finds the rest.

mod happen;

pub use happen::happen;

use std::sync::Arc;

use jiff::Timestamp;

use super::acl::AclUser;
use super::action::{Action, Creation, Opening, SpecChange, WantedUsers};
use super::binary::BinaryFacts;
use super::live::{MemberFacts, NodeFacts, Server};
use super::marker::{Applied, Marker, Stage};
use super::name::{DEFAULT_USER, OPERATOR_USER, UserName};
use super::plan::Subject;
use super::record::FleetRecord;
use super::role::{self, Endpoint, Overlay};
use super::setting::Settings;
use super::snapshot::Ship;
use super::spec::InstanceSpec;

/// The smallest thing that happens on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    WriteRecord(Arc<FleetRecord>),
    /// A new marker, with a new operator password.
    MakeMarker(Box<Creation>),
    WriteMarker(Box<Marker>),
    /// Starts a throwaway server of the node's own binary with these settings, away from the data: a config that the
    /// server refuses never reaches the instance.
    Prove(InstanceSpec),
    MakeFolder,
    /// Writes the ACL file of a server that is not running. `without`: users that are left out; others are kept.
    WriteUsers {
        users: WantedUsers,
        without: Vec<UserName>,
    },
    /// Writes the config file, and the file of the password where that config follows another member.
    WriteConfig(InstanceSpec),
    /// Writes the file of the password with which it follows, or removes it.
    WriteCredential {
        follows: bool,
    },
    /// Writes the files of the systemd unit that the config file asks for, where they differ, and switches the unit on.
    WriteUnit,
    Start,
    Stop,
    ConfigSet(Settings),
    /// Follows this server, with the member's own password; or nobody.
    Follow(Option<Endpoint>),
    /// Holds writes back for a moment, so that writers are late instead of refused. It ends by itself, and cannot be seen.
    PauseWriters,
    ResumeWriters,
    /// Closes the connections of these users: not all of them would notice that the server follows another one now. A publisher
    /// would go on speaking to whoever listens here (facts E.6).
    Dismiss(Vec<UserName>),
    /// Waits until an AOF is complete, so that the file may say `appendonly yes` (facts D).
    AwaitAof,
    /// Writes the AOF anew, with what is in memory now and nothing of its history.
    RewriteAof,
    /// Makes a `dump.rdb` before the AOF is switched off.
    Snapshot,
    /// Removes the files of an AOF that is being switched off: a later start must not take them for the newest data.
    DropAof,
    /// Of a move by snapshot.
    Ship(Ship),
    SetUser {
        user: UserName,
        to: Arc<AclUser>,
        words: UserWords,
        close: bool,
    },
    DropUser(UserName),
    SaveUsers,
    /// Moves data, config and marker of a stopped member to where deleted data is kept.
    SetAside,
    Purge {
        uid: String,
    },
    BringBack {
        uid: String,
    },
}

impl Effect {
    /// What is being done, for people who watch.
    pub fn doing(&self) -> String {
        match self {
            Self::WriteRecord(_) => "writing the fleet's record".to_owned(),
            Self::MakeMarker(_) | Self::WriteMarker(_) => "writing its marker".to_owned(),
            Self::Prove(_) => "proving its settings".to_owned(),
            Self::MakeFolder => "making its data folder".to_owned(),
            Self::WriteUsers { .. } => "writing its ACL file".to_owned(),
            Self::WriteConfig(_) => "writing its config file".to_owned(),
            Self::WriteCredential { .. } => "writing the file of its replication password".to_owned(),
            Self::WriteUnit => "writing its unit".to_owned(),
            Self::Start => "starting its server".to_owned(),
            Self::Stop => "stopping its server".to_owned(),
            Self::ConfigSet(_) => "setting what can be set live".to_owned(),
            Self::Follow(Some(primary)) => format!("following {primary}"),
            Self::Follow(None) => "following nobody any more".to_owned(),
            Self::PauseWriters => "holding back its writers".to_owned(),
            Self::ResumeWriters => "letting its writers go on".to_owned(),
            Self::Dismiss(_) => "closing its clients' connections".to_owned(),
            Self::AwaitAof => "waiting for its append-only file".to_owned(),
            Self::RewriteAof => "writing its append-only file anew".to_owned(),
            Self::Snapshot => "writing a snapshot".to_owned(),
            Self::DropAof => "removing its append-only file".to_owned(),
            Self::Ship(ship) => ship.doing().to_owned(),
            Self::SetUser { user, .. } => format!("setting user {user}"),
            Self::DropUser(user) => format!("removing user {user}"),
            Self::SaveUsers => "saving its users".to_owned(),
            Self::SetAside => "setting its data aside".to_owned(),
            Self::Purge { .. } => "removing data that was kept".to_owned(),
            Self::BringBack { .. } => "bringing its data back".to_owned(),
        }
    }
}

/// Where the words of a `SETUSER` come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserWords {
    Given(super::action::WantedUser),
    /// The operator: only the node knows its password.
    Operator,
}

/// The effects of an action, from the facts as they are now. Empty where the node stands elsewhere.
pub fn effects(action: &Action, subject: &Subject, node: &NodeFacts, binary: &BinaryFacts) -> Vec<Effect> {
    let member = match subject {
        Subject::Fleet => None,
        Subject::Instance(instance) => node.member(instance),
    };
    let Some(member) = member else {
        return effects_without_member(action, node);
    };
    match action {
        Action::WriteRecord(change) => change.after().clone().map(Effect::WriteRecord).into_iter().collect(),
        Action::CreateInstance(creation) => create(creation, Some(member), unit(node)),
        Action::StartInstance(opening) => open(opening, member, node, None),
        Action::ReopenInstance(opening) => open(opening, member, node, Some(node.observed_at)),
        Action::UpgradeInstance(upgrade) => open(&upgrade.opening, member, node, Some(node.observed_at)),
        Action::RepairUnit { why: _ } => vec![Effect::WriteUnit],
        Action::RepairCredential { why: _ } => vec![credential(member.role_on_disk())],
        Action::ChangeInstance(change) => change_spec(change, member, binary, node),
        Action::ChangeRole(change) => role::change(change, member, binary, node.observed_at, unit(node)),
        // Its parts are steps of their own.
        Action::CutOver(_) => Vec::new(),
        Action::Ship(shipping) => shipping.effects(member, unit(node)),
        Action::SetUser(change) => {
            let to = change.wanted.user.clone();
            let internal = matches!(change.user.as_str(), OPERATOR_USER | DEFAULT_USER);
            let words =
                if change.user.as_str() == OPERATOR_USER { UserWords::Operator } else { UserWords::Given(change.wanted.clone()) };
            let mut marker = member.marker.clone();
            if !internal {
                marker.applied.users.insert(change.user.clone(), to.clone());
            }
            let set = Effect::SetUser { user: change.user.clone(), to, words, close: change.close };
            mark(member, marker).into_iter().chain([set, Effect::SaveUsers]).collect()
        }
        Action::RemoveUser { user, before: _ } => {
            let mut marker = member.marker.clone();
            marker.applied.users.remove(user);
            [Effect::DropUser(user.clone()), Effect::SaveUsers].into_iter().chain(mark(member, marker)).collect()
        }
        Action::SaveUsers { .. } => vec![Effect::SaveUsers],
        Action::Mark(change) => {
            let marker = Effect::WriteMarker(Box::new(change.after().clone()));
            // First, so that a crash in between tells them again.
            role::farewell(change, member).into_iter().chain([marker]).collect()
        }
        Action::DeleteInstance { .. } => {
            let marker = Marker { stage: Stage::Deleting, ..member.marker.clone() };
            // What only memory holds would be gone with the process, and nothing would be set aside.
            let snapshot = (matches!(member.server, Server::Up(_)) && !member.persists(binary)).then_some(Effect::Snapshot);
            // One that never ran has nothing to lose: whether it is taken away or made after all, a crash here is no matter.
            let marked = if member.is_unborn() { None } else { mark(member, marker) };
            marked.into_iter().chain(snapshot).chain([Effect::Stop, Effect::SetAside]).collect()
        }
        Action::Purge { uid } => vec![Effect::Purge { uid: uid.clone() }],
        Action::Restore { .. } => Vec::new(),
    }
}

/// Where systemd keeps the servers, a config goes with the unit that it asks for.
fn unit(node: &NodeFacts) -> Option<Effect> {
    node.systemd.is_some().then_some(Effect::WriteUnit)
}

fn effects_without_member(action: &Action, node: &NodeFacts) -> Vec<Effect> {
    match action {
        Action::WriteRecord(change) => change.after().clone().map(Effect::WriteRecord).into_iter().collect(),
        Action::CreateInstance(creation) => create(creation, None, unit(node)),
        Action::Purge { uid } => vec![Effect::Purge { uid: uid.clone() }],
        Action::Restore { uid } => vec![Effect::BringBack { uid: uid.clone() }],
        Action::StartInstance(_)
        | Action::ReopenInstance(_)
        | Action::UpgradeInstance(_)
        | Action::RepairUnit { .. }
        | Action::RepairCredential { .. }
        | Action::ChangeInstance(_)
        | Action::ChangeRole(_)
        | Action::CutOver(_)
        | Action::Ship(_)
        | Action::SetUser(_)
        | Action::RemoveUser { .. }
        | Action::SaveUsers { .. }
        | Action::Mark(_)
        | Action::DeleteInstance { .. } => Vec::new(),
    }
}

fn mark(member: &MemberFacts, marker: Marker) -> Option<Effect> {
    (member.marker != marker).then(|| Effect::WriteMarker(Box::new(marker)))
}

/// The marker names everything first, so that whatever a crash leaves is known to be ours.
fn create(creation: &Creation, begun: Option<&MemberFacts>, unit: Option<Effect>) -> Vec<Effect> {
    let mut effects = vec![Effect::Prove(creation.spec.clone())];
    match begun {
        None => effects.push(Effect::MakeMarker(Box::new(creation.clone()))),
        Some(member) => {
            let marker = Marker { applied: applied(creation), stage: Stage::Provisioning, ..member.marker.clone() };
            effects.extend(mark(member, marker));
        }
    }
    if creation.begins {
        return effects;
    }
    effects.extend([
        Effect::MakeFolder,
        Effect::WriteUsers { users: creation.users.clone(), without: Vec::new() },
        Effect::WriteConfig(creation.spec.clone()),
    ]);
    effects.extend(unit);
    effects.push(Effect::Start);
    effects
}

/// What a start with this role needs.
fn credential(role: Option<Overlay>) -> Effect {
    Effect::WriteCredential { follows: role.is_some_and(|role| role.follows.is_some()) }
}

/// What a creation asks for, as the marker remembers it.
pub fn applied(creation: &Creation) -> Applied {
    let users = creation.users.iter().map(|(name, wanted)| (name.clone(), wanted.user.clone())).collect();
    Applied { settings: creation.spec.settings.clone(), users }
}

/// `restarts`: it runs, and what time it is.
fn open(opening: &Opening, member: &MemberFacts, node: &NodeFacts, restarts: Option<Timestamp>) -> Vec<Effect> {
    let mut marker = member.marker.clone();
    marker.disturbed = restarts.or(marker.disturbed);
    marker.applied.settings.clone_from(&opening.after.settings);
    if let Some(users) = &opening.users {
        marker.applied.users = users.iter().map(|(name, wanted)| (name.clone(), wanted.user.clone())).collect();
    }
    if marker.stage == Stage::Deleting {
        marker.stage = Stage::Active;
    }
    let mut effects = vec![Effect::Prove(opening.after.clone())];
    effects.extend(mark(member, marker.clone()));
    // Where it is down, systemd may be about to start it from the files as they are.
    if restarts.is_some() || node.systemd.is_some() {
        effects.push(Effect::Stop);
    }
    if let Some(users) = &opening.users {
        effects.push(Effect::WriteUsers { users: users.clone(), without: opening.without.clone() });
    }
    if opening.before != opening.after {
        effects.push(Effect::WriteConfig(opening.after.clone()));
    }
    effects.extend(member.credential_broken.is_some().then(|| credential(Some(opening.after.overlay()))));
    effects.extend(unit(node));
    effects.push(Effect::Start);
    effects.extend(works_again(marker, &opening.after));
    effects
}

/// Who takes writes is at work as soon as it is up. A replica has to catch up first: that the next looks see.
fn works_again(marker: Marker, spec: &InstanceSpec) -> Option<Effect> {
    let is_back = marker.disturbed.is_some() && spec.overlay().is_open();
    is_back.then(|| Effect::WriteMarker(Box::new(Marker { disturbed: None, stage: Stage::Active, ..marker })))
}

/// File first, then memory, except for the AOF: a file that says `appendonly yes` before the first rewrite has ended, or
/// `no` while the newest data is in the AOF only, loses data at the next start (facts D).
fn change_spec(change: &SpecChange, member: &MemberFacts, binary: &BinaryFacts, node: &NodeFacts) -> Vec<Effect> {
    let declared = &change.declared;
    let mut marker = member.marker.clone();
    marker.disturbed = change.restart.then_some(node.observed_at).or(marker.disturbed);
    marker.applied.settings.clone_from(&declared.settings);
    let mut effects = vec![Effect::Prove(declared.clone())];
    effects.extend(mark(member, marker.clone()));

    let before = member.spec.memory.seen().cloned().unwrap_or_default();
    let live = to_set(&before, declared, binary);
    let set = (!live.is_empty()).then_some(Effect::ConfigSet(live));
    let write = (member.spec.disk.seen() != Some(declared)).then(|| [Some(Effect::WriteConfig(declared.clone())), unit(node)]);
    let write: Vec<Effect> = write.into_iter().flatten().flatten().collect();
    match (before.aof(), declared.aof()) {
        (false, true) => {
            effects.extend(set);
            effects.push(Effect::AwaitAof);
            effects.extend(write);
        }
        (true, false) => {
            effects.push(Effect::Snapshot);
            effects.extend(write);
            effects.push(Effect::DropAof);
            effects.extend(set);
        }
        (true, true) if binary.number(declared, "databases") < binary.number(&before, "databases") => {
            // Its history may name databases that go: their keys would end up in another one, or stop the server (facts D).
            effects.push(Effect::RewriteAof);
            effects.extend(write);
            effects.extend(set);
        }
        (true, true) if !write.is_empty() => {
            // The AOF may have been switched on a moment ago, by us before a crash or by hand.
            effects.push(Effect::AwaitAof);
            effects.extend(write);
            effects.extend(set);
        }
        (true, true) | (false, false) => {
            effects.extend(write);
            effects.extend(set);
        }
    }
    effects.extend(member.credential_broken.is_some().then(|| credential(Some(declared.overlay()))));
    if change.restart {
        effects.extend([Effect::Stop, Effect::Start]);
        effects.extend(works_again(marker, declared));
    }
    effects
}

/// What `CONFIG SET` has to set so that memory follows the declared settings: values, or defaults where one was removed.
pub fn to_set(memory: &InstanceSpec, declared: &InstanceSpec, binary: &BinaryFacts) -> Settings {
    let wanted = binary.without_defaults(&declared.settings);
    let removed = memory.settings.keys().filter(|name| !wanted.contains_key(*name));
    let defaults = removed.filter_map(|name| Some((name.clone(), binary.default_of(name)?.to_owned())));
    let changed = wanted.iter().filter(|(name, value)| memory.settings.get(*name) != Some(*value));
    let all = changed.map(|(name, value)| (name.clone(), value.clone())).chain(defaults);
    all.filter(|(name, _)| binary.settings.get(name).is_some_and(|facts| facts.runtime)).collect()
}
