//! The single effects that an action consists of, in order, and what each does to the facts.
//!
//! The node performs them one by one; the plan and the simulator carry the facts forward with the same list. A process
//! that dies between any two of them leaves facts from which planning again finds the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::action::{Action, Creation, Opening, SpecChange, WantedUsers};
use super::binary::BinaryFacts;
use super::change::{Half, Twin};
use super::live::{Connections, DataFacts, Folder, Member, MemberFacts, NodeFacts, Running, Server, SetAside};
use super::marker::{Applied, Marker, Stage};
use super::name::{DEFAULT_USER, InstanceName, OPERATOR_USER, UserName};
use super::password::{Fingerprint, PasswordHash};
use super::plan::Subject;
use super::record::FleetRecord;
use super::role::{self, Endpoint, Link, Overlay, Replication};
use super::setting::Settings;
use super::snapshot::{Seed, Ship};
use super::spec::InstanceSpec;
use super::{acl::AclUser, operator};

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
        // systemd may be about to start it from the files as they are.
        Action::StartInstance(opening) => open(opening, member, node.systemd.is_some(), unit(node)),
        Action::ReopenInstance(opening) => open(opening, member, true, unit(node)),
        Action::UpgradeInstance(upgrade) => open(&upgrade.opening, member, true, unit(node)),
        Action::RepairUnit { why: _ } => vec![Effect::WriteUnit],
        Action::RepairCredential { why: _ } => vec![credential(member.role_on_disk())],
        Action::ChangeInstance(change) => change_spec(change, member, binary, unit(node)),
        Action::ChangeRole(change) => role::change(change, member, binary),
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
        Action::Mark(change) => vec![Effect::WriteMarker(Box::new(change.after().clone()))],
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

fn open(opening: &Opening, member: &MemberFacts, stop: bool, unit: Option<Effect>) -> Vec<Effect> {
    let mut marker = member.marker.clone();
    marker.applied.settings.clone_from(&opening.after.settings);
    if let Some(users) = &opening.users {
        marker.applied.users = users.iter().map(|(name, wanted)| (name.clone(), wanted.user.clone())).collect();
    }
    if marker.stage == Stage::Deleting {
        marker.stage = Stage::Active;
    }
    let mut effects = vec![Effect::Prove(opening.after.clone())];
    effects.extend(mark(member, marker));
    if stop {
        effects.push(Effect::Stop);
    }
    if let Some(users) = &opening.users {
        effects.push(Effect::WriteUsers { users: users.clone(), without: opening.without.clone() });
    }
    if opening.before != opening.after {
        effects.push(Effect::WriteConfig(opening.after.clone()));
    }
    effects.extend(member.credential_broken.is_some().then(|| credential(Some(opening.after.overlay()))));
    effects.extend(unit);
    effects.push(Effect::Start);
    effects
}

/// File first, then memory, except for the AOF: a file that says `appendonly yes` before the first rewrite has ended, or
/// `no` while the newest data is in the AOF only, loses data at the next start (facts D).
fn change_spec(change: &SpecChange, member: &MemberFacts, binary: &BinaryFacts, unit: Option<Effect>) -> Vec<Effect> {
    let declared = &change.declared;
    let mut marker = member.marker.clone();
    marker.applied.settings.clone_from(&declared.settings);
    let mut effects = vec![Effect::Prove(declared.clone())];
    effects.extend(mark(member, marker));

    let before = member.spec.memory.seen().cloned().unwrap_or_default();
    let live = to_set(&before, declared, binary);
    let set = (!live.is_empty()).then_some(Effect::ConfigSet(live));
    let write = (member.spec.disk.seen() != Some(declared)).then(|| [Some(Effect::WriteConfig(declared.clone())), unit]);
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

/// Carries the facts of a node over one effect.
pub fn happen(node: &mut NodeFacts, subject: &Subject, effect: &Effect, binary: &BinaryFacts) {
    if let Effect::WriteRecord(record) = effect {
        node.records.insert(record.fleet.clone(), record.clone());
    }
    if let Subject::Instance(instance) = subject {
        happen_to(node, instance, effect, binary);
    }
}

fn happen_to(node: &mut NodeFacts, instance: &InstanceName, effect: &Effect, binary: &BinaryFacts) {
    match effect {
        Effect::MakeMarker(creation) => {
            let member = MemberFacts::begun(creation, node);
            node.members.insert(instance.clone(), Arc::new(Member::Marked(member)));
        }
        Effect::SetAside => set_aside(node, instance),
        Effect::Purge { uid } => node.set_aside.retain(|kept| kept.uid != *uid),
        Effect::BringBack { uid } => node.set_aside.retain(|kept| kept.uid != *uid),
        Effect::WriteRecord(_) | Effect::Prove(_) | Effect::PauseWriters | Effect::ResumeWriters | Effect::Dismiss(_) => {}
        Effect::WriteMarker(_)
        | Effect::AwaitAof
        | Effect::RewriteAof
        | Effect::Snapshot
        | Effect::DropAof
        | Effect::Ship(_)
        | Effect::MakeFolder
        | Effect::WriteUsers { .. }
        | Effect::WriteConfig(_)
        | Effect::WriteCredential { .. }
        | Effect::WriteUnit
        | Effect::Start
        | Effect::Stop
        | Effect::ConfigSet(_)
        | Effect::Follow(_)
        | Effect::SetUser { .. }
        | Effect::DropUser(_)
        | Effect::SaveUsers => {
            let port = match node.members.get_mut(instance).map(Arc::make_mut) {
                Some(Member::Marked(member)) => {
                    member.happen(effect, binary);
                    matches!(effect, Effect::Start).then(|| member.spec.disk.seen().and_then(InstanceSpec::port)).flatten()
                }
                Some(Member::Unmarked { .. }) | None => None,
            };
            node.ports_in_use.extend(port);
        }
    }
}

fn set_aside(node: &mut NodeFacts, instance: &InstanceName) {
    let Some(member) = node.member(instance) else { return };
    let kept = SetAside {
        instance: instance.clone(),
        fleet: member.marker.fleet.clone(),
        uid: member.marker.uid.clone(),
        deleted_at: node.observed_at,
        bytes: 0,
    };
    if let Some(port) = member.spec.disk.seen().and_then(InstanceSpec::port) {
        node.ports_in_use.remove(&port);
    }
    node.set_aside.retain(|older| older.uid != kept.uid || older.instance != kept.instance);
    node.set_aside.push(kept);
    node.members.remove(instance);
}

impl MemberFacts {
    fn begun(creation: &Creation, node: &NodeFacts) -> Self {
        let marker = Marker {
            fleet: creation.fleet.clone(),
            uid: creation.uid.clone(),
            machine: node.machine.clone(),
            created: node.observed_at,
            stage: Stage::Provisioning,
            tenant: creation.tenant.clone(),
            protect: creation.protect,
            operator: Fingerprint::of(creation.uid.as_bytes()),
            retiring: None,
            snapshot: None,
            seed: Seed::of_new(&creation.spec.overlay()),
            applied: applied(creation),
        };
        Self {
            marker,
            server: Server::Down { why: None },
            data: DataFacts { folder: Folder::Missing, aof: false, rdb: false },
            spec: Twin::default(),
            users: BTreeMap::new(),
            acl_file_broken: None,
            replication_password: Some(PasswordHash::of_password(node.machine.as_bytes())),
            unit_broken: None,
            credential_broken: None,
        }
    }

    fn happen(&mut self, effect: &Effect, binary: &BinaryFacts) {
        match effect {
            Effect::WriteMarker(marker) => self.marker = (**marker).clone(),
            Effect::MakeFolder => self.data.folder = Folder::Present,
            Effect::WriteUsers { users, without } => self.write_users(users, without),
            Effect::WriteConfig(spec) => {
                self.spec.disk = Half::Seen(spec.clone());
                self.credential_broken = None;
            }
            Effect::WriteCredential { .. } => self.credential_broken = None,
            Effect::WriteUnit => self.unit_broken = None,
            Effect::Start => self.start(binary),
            Effect::Stop => self.stop(binary),
            Effect::AwaitAof | Effect::RewriteAof => self.data.aof = true,
            Effect::Snapshot => self.data.rdb = true,
            Effect::DropAof => self.data.aof = false,
            Effect::Ship(ship) => ship.happen(self),
            Effect::ConfigSet(values) => self.config_set(values, binary),
            Effect::Follow(primary) => self.follow(primary.as_ref()),
            Effect::SetUser { user, to, .. } => {
                self.users.entry(user.clone()).or_default().memory = Half::Seen(to.clone());
            }
            Effect::DropUser(user) => self.users.entry(user.clone()).or_default().memory = Half::Absent,
            Effect::SaveUsers => {
                self.users.values_mut().for_each(|twin| twin.disk = twin.memory.clone());
                self.users.retain(|_, twin| *twin != Twin::default());
                self.acl_file_broken = None;
            }
            Effect::WriteRecord(_)
            | Effect::MakeMarker(_)
            | Effect::Prove(_)
            | Effect::PauseWriters
            | Effect::ResumeWriters
            | Effect::Dismiss(_)
            | Effect::SetAside
            | Effect::Purge { .. }
            | Effect::BringBack { .. } => {}
        }
    }

    fn write_users(&mut self, users: &WantedUsers, without: &[UserName]) {
        let fixed = [(DEFAULT_USER, AclUser::closed()), (OPERATOR_USER, operator::user(self.marker.operator, None))];
        let fixed = fixed.into_iter().filter_map(|(name, user)| Some((UserName::new(name).ok()?, Arc::new(user))));
        let given = users.iter().map(|(name, wanted)| (name.clone(), wanted.user.clone()));
        for (name, user) in fixed.chain(given) {
            self.users.entry(name).or_default().disk = Half::Seen(user);
        }
        for name in without {
            self.users.entry(name.clone()).or_default().disk = Half::Absent;
        }
        self.users.retain(|_, twin| *twin != Twin::default());
        self.acl_file_broken = None;
    }

    fn start(&mut self, binary: &BinaryFacts) {
        self.users.values_mut().for_each(|twin| twin.memory = twin.disk.clone());
        let declared = self.spec.disk.seen().cloned().unwrap_or_default();
        self.spec.memory = Half::Seen(InstanceSpec::new(binary.without_defaults(&declared.settings)));
        let follows = declared.overlay().follows.is_some();
        let own = self.replication_password.as_ref().filter(|_| follows && self.credential_broken.is_none());
        let replication = Replication {
            link: follows.then_some(Link::Down),
            password: own.map(PasswordHash::fingerprint),
            ..Replication::default()
        };
        // Of data that it reads nobody knows which databases it takes before it was asked.
        let databases_used = (!self.data.aof && !self.data.rdb).then_some(0);
        self.data.aof |= declared.aof();
        if self.marker.stage == Stage::Provisioning {
            self.marker.stage = Stage::Active;
        }
        self.server = Server::Up(Running {
            pid: 0,
            version: binary.version.clone(),
            loading: false,
            program_replaced: false,
            replication,
            used_memory_bytes: 0,
            input_bytes_per_second: 0,
            databases_used,
            aof_rewriting: false,
            connections: Connections::default(),
        });
    }

    fn stop(&mut self, binary: &BinaryFacts) {
        if let (Half::Seen(memory), Server::Up(_)) = (&self.spec.memory, &self.server) {
            // A server that keeps snapshots writes one before it ends.
            self.data.rdb |= binary.snapshots(memory);
        }
        self.users.values_mut().for_each(|twin| twin.memory = Half::Absent);
        self.users.retain(|_, twin| *twin != Twin::default());
        self.spec.memory = Half::Absent;
        self.server = Server::Down { why: None };
    }

    fn config_set(&mut self, values: &Settings, binary: &BinaryFacts) {
        if let Half::Seen(spec) = &mut self.spec.memory {
            let mut all = spec.settings.clone();
            all.extend(values.clone());
            spec.settings = binary.without_defaults(&all);
        }
    }
}
