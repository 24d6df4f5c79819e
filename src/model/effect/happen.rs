//! What each effect does to the facts: the plan and the simulator carry them forward by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Effect, applied};
use crate::model::acl::AclUser;
use crate::model::action::{Creation, WantedUsers};
use crate::model::binary::BinaryFacts;
use crate::model::change::{Half, Twin};
use crate::model::live::{Connections, DataFacts, Folder, Member, MemberFacts, NodeFacts, Running, Server, SetAside};
use crate::model::marker::{Marker, Stage};
use crate::model::name::{DEFAULT_USER, InstanceName, OPERATOR_USER, UserName};
use crate::model::operator;
use crate::model::password::{Fingerprint, PasswordHash};
use crate::model::plan::Subject;
use crate::model::role::{Link, Replication};
use crate::model::setting::Settings;
use crate::model::snapshot::Seed;
use crate::model::spec::InstanceSpec;

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
        followed: member.role_applied().follows.is_some(),
    };
    let (port, is_vessel) = (member.spec.disk.seen().and_then(InstanceSpec::port), member.marker.is_vessel());
    if let Some(port) = port {
        node.ports_in_use.remove(&port);
    }
    let is_older = |older: &SetAside| older.uid == kept.uid && older.instance == kept.instance;
    // A vessel holds nothing that could take the place of an earlier copy.
    if !(is_vessel && node.set_aside.iter().any(is_older)) {
        node.set_aside.retain(|older| !is_older(older));
        node.set_aside.push(kept);
    }
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
            disturbed: None,
            owes_farewell: false,
            snapshot: None,
            seed: Seed::of_new(&creation.spec.overlay()),
            applied: applied(creation),
        };
        Self {
            marker,
            server: Server::Down { why: None },
            data: DataFacts::MISSING,
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
            Effect::Snapshot => self.has_saved(),
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

    /// All that it holds is in a snapshot.
    pub(in crate::model) fn has_saved(&mut self) {
        self.data.rdb = true;
        if let Server::Up(running) = &mut self.server {
            running.unsaved_changes = 0;
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
            unsaved_changes: 0,
            saving: None,
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
