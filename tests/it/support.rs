//! A node in a temporary folder whose servers end with it, and the steps that tests take on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use valkeeper::fleet::nodes::{Means, Nodes, Place};
use valkeeper::fleet::{Execute as _, Observe as _};
use valkeeper::host::ssh::Ssh;
use valkeeper::host::tell::Tell;
use valkeeper::model::acl::{AclUser, split_words};
use valkeeper::model::action::{Action, Creation, RoleChange, RoleStage, SpecChange, UserChange, WantedUser, WantedUsers};
use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::change::{Change, Half, Twin};
use valkeeper::model::live::{Member, MemberFacts, NodeFacts, Observed, Server};
use valkeeper::model::name::{FleetName, InstanceName, NodeName, SettingName, UserName};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::password::PasswordHash;
use valkeeper::model::plan::{Cause, Step, Subject};
use valkeeper::model::record::FleetRecord;
use valkeeper::model::role::{Endpoint, Overlay};
use valkeeper::model::setting::Settings;
use valkeeper::model::spec::InstanceSpec;
use valkeeper::observe::{Limits, Surroundings};

pub const SERVER: &str = "/usr/bin/valkey-server";
pub const UID: &str = "0123456789abcdef";

/// A node, alone in its fleet.
pub struct World {
    folder: Option<TempDir>,
    pub state: PathBuf,
    pub fleet: Nodes,
}

pub fn name(text: &str) -> InstanceName {
    InstanceName::new(text).unwrap()
}

pub fn user_name(text: &str) -> UserName {
    UserName::new(text).unwrap()
}

fn node_name() -> NodeName {
    NodeName::new("here").unwrap()
}

pub fn surroundings() -> Surroundings {
    let limits = Limits { look: Duration::from_secs(2), step: Duration::from_secs(20), at_once: 64 };
    Surroundings { server: Some(SERVER.into()), scratch: std::env::temp_dir(), limits }
}

pub fn fleet_at(state: &Path, surroundings: &Surroundings) -> Nodes {
    Nodes::new(
        &BTreeMap::from([(node_name(), Place::Folder(state.to_owned()))]),
        &Means { surroundings: surroundings.clone(), ssh: Ssh::new(None) },
    )
}

/// A port that is free now and that no other test of this run gets: below those the kernel gives to clients.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100).unwrap() * 200;
    loop {
        let port = 11_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

pub fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(name, value)| (SettingName::new(name).unwrap(), (*value).to_owned())).collect()
}

/// A small instance: RDB and AOF off, so that it starts fast.
pub fn plain(port: u16) -> InstanceSpec {
    InstanceSpec::new(settings(&[
        ("port", &port.to_string()),
        ("bind", "127.0.0.1"),
        ("save", ""),
        ("appendonly", "no"),
        ("maxmemory", "67108864"),
        ("maxmemory-policy", "allkeys-lru"),
    ]))
}

pub fn with(spec: &InstanceSpec, pairs: &[(&str, &str)]) -> InstanceSpec {
    let mut spec = spec.clone();
    spec.settings.extend(settings(pairs));
    spec
}

pub fn wanted(password: &str, rules: &str) -> WantedUser {
    let hash = PasswordHash::of_password(password.as_bytes());
    let mut user = AclUser::closed();
    user.enabled = true;
    user.add_password(hash.fingerprint());
    for word in split_words(rules).unwrap() {
        user.apply(&word, None).unwrap();
    }
    WantedUser { user: Arc::new(user), hashes: Arc::new([hash]) }
}

pub fn app_user() -> WantedUsers {
    [(user_name("app"), wanted("secret", "~app:* +@all -flushall"))].into()
}

impl World {
    pub async fn new() -> Self {
        Self::named("state").await
    }

    pub async fn named(below: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join(below);
        let mut world = Self::at(&state).await;
        world.folder = Some(folder);
        world
    }

    /// On a machine that is busy with many of them: nothing here is about time limits.
    pub async fn patient() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let limits = Limits { look: Duration::from_secs(30), step: Duration::from_secs(60), at_once: 64 };
        let fleet = fleet_at(&state, &Surroundings { limits, ..surroundings() });
        fleet.acquire("a test").await.unwrap();
        Self { folder: Some(folder), state, fleet }
    }

    /// In a folder that somebody else removes.
    pub async fn at(state: &Path) -> Self {
        let fleet = fleet_at(state, &surroundings());
        fleet.acquire("a test").await.unwrap();
        Self { folder: None, state: state.to_owned(), fleet }
    }

    /// Everything there is to see; the node has to be visible.
    pub async fn look(&self) -> (NodeFacts, Arc<BinaryFacts>) {
        let live = self.fleet.observe().await;
        let binary = live.binaries.values().next().cloned();
        match live.nodes.into_values().next().unwrap() {
            Observed::Seen(facts) => (facts, binary.unwrap()),
            Observed::Unseen { unseen } => panic!("{unseen}"),
        }
    }

    pub async fn member(&self, of: &str) -> MemberFacts {
        let (facts, _) = self.look().await;
        match facts.members.get(&name(of)).map(|member| (**member).clone()) {
            Some(Member::Marked(member)) => member,
            other => panic!("{other:?}"),
        }
    }

    pub async fn unmarked(&self, of: &str) -> String {
        let (facts, _) = self.look().await;
        match facts.members.get(&name(of)).map(|member| (**member).clone()) {
            Some(Member::Unmarked { unmarked }) => unmarked,
            other => panic!("{other:?}"),
        }
    }

    pub async fn take(&self, subject: Subject, action: Action) -> Outcome {
        let step = Step { subject, node: node_name(), action, cause: Cause::Requested, drifted: [].into(), costs: Vec::new() };
        self.fleet.perform(&step, &Tell::nobody()).await
    }

    pub async fn on(&self, of: &str, action: Action) -> Outcome {
        self.take(Subject::Instance(name(of)), action).await
    }

    /// Enters an instance in the record and makes it.
    pub async fn create(&self, of: &str, spec: &InstanceSpec, users: WantedUsers) -> Outcome {
        let enter = self.enter(of).await;
        assert!(enter.is_done(), "{enter}");
        self.on(of, creation(spec, users)).await
    }

    pub async fn enter(&self, of: &str) -> Outcome {
        let (facts, _) = self.look().await;
        let before = facts.records.get(&fleet()).cloned();
        let mut after = before.as_deref().cloned().unwrap_or_else(|| FleetRecord::new(fleet()));
        after.generation += 1;
        after.roster.insert(
            name(of),
            valkeeper::model::record::Seat {
                uid: UID.to_owned(),
                nodes: vec![node_name()],
                port: 6400,
                ports: Default::default(),
            },
        );
        self.take(Subject::Fleet, Action::WriteRecord(Change::new(before, Some(Arc::new(after))).unwrap())).await
    }

    /// Makes it follow a server that does not answer, and take writes again.
    pub async fn follow(&self, of: &str) -> Outcome {
        let (facts, _) = self.look().await;
        let spec = facts.member(&name(of)).unwrap().spec.clone();
        let nobody = Endpoint::new("127.0.0.1".parse().unwrap(), 1);
        let (before, after) = (Twin::both(Overlay::OPEN), Twin::both(Overlay::follower(nobody)));
        let declared = spec.disk.seen().unwrap().clone();
        let fenced = Twin::both(Overlay::FENCED);
        let stages = [
            (RoleStage::Attach, &before, &after),
            (RoleStage::Open, &after, &before),
            (RoleStage::Fence, &before, &fenced),
            (RoleStage::CallOff, &fenced, &before),
        ];
        for (stage, before, after) in stages {
            let (before, after, declared) = (before.clone(), after.clone(), declared.clone());
            let outcome = self.on(of, Action::ChangeRole(Box::new(RoleChange { stage, before, after, declared }))).await;
            if outcome != Outcome::Done {
                return outcome;
            }
        }
        Outcome::Done
    }

    /// Changes settings as a plan would.
    pub async fn change(&self, of: &str, declared: &InstanceSpec, restart: bool) -> Outcome {
        let (facts, binary) = self.look().await;
        let before = facts.member(&name(of)).unwrap().spec.clone();
        let memory = InstanceSpec::new(binary.without_defaults(&declared.settings));
        let after = Twin { disk: Half::Seen(declared.clone()), memory: Half::Seen(memory) };
        let change = Change::new(before, after).unwrap();
        self.on(of, Action::ChangeInstance(Box::new(SpecChange { change, declared: declared.clone(), restart }))).await
    }

    pub async fn set_user(&self, of: &str, user: &str, to: &WantedUser, close: bool) -> Outcome {
        let before = self.member(of).await.users.get(user).cloned().unwrap_or_default();
        let change = Change::new(before, Twin::both(Arc::clone(&to.user))).unwrap();
        let change = UserChange { user: user_name(user), change, wanted: to.clone(), close };
        self.on(of, Action::SetUser(Box::new(change))).await
    }

    pub async fn pid(&self, of: &str) -> u32 {
        match self.member(of).await.server {
            Server::Up(running) => running.pid,
            other @ (Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. }) => panic!("{other:?}"),
        }
    }

    pub fn file(&self, path: &str) -> PathBuf {
        self.state.join(path)
    }

    /// `valkey-cli` as the operator of an instance, over its socket.
    pub fn operator(&self, of: &str, words: &[&str]) -> String {
        let marker = fs::read_to_string(self.file(&format!("instances/{of}.toml"))).unwrap();
        let line = marker.lines().find(|line| line.starts_with("operator_password")).unwrap();
        self.cli(of, "valkeeper", line.split('"').nth(1).unwrap(), words)
    }

    pub fn cli(&self, of: &str, user: &str, password: &str, words: &[&str]) -> String {
        let run = self.file("run");
        let output = Command::new("valkey-cli")
            .current_dir(run)
            .env("REDISCLI_AUTH", password)
            .env("VALKEYCLI_AUTH", password)
            .args(["-s", &format!("{of}.sock"), "--user", user])
            .args(words)
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
    }
}

pub fn fleet() -> FleetName {
    FleetName::new("test").unwrap()
}

pub fn creation(spec: &InstanceSpec, users: WantedUsers) -> Action {
    Action::CreateInstance(Box::new(Creation {
        begins: false,
        fleet: fleet(),
        uid: UID.to_owned(),
        tenant: None,
        protect: false,
        spec: spec.clone(),
        users,
    }))
}

pub fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Ends the servers that work below this folder, and no others.
pub fn stop_all(state: &Path) {
    let Ok(root) = fs::canonicalize(state) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let works_in = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let server = fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == "valkey-server");
        if let (true, true, Some(pid)) = (server, works_in.starts_with(&root), pid) {
            let _gone_already = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        stop_all(&self.state);
        drop(self.folder.take());
    }
}

/// A client that asks again and again over one connection, and ends when that is closed.
pub struct Client {
    process: Child,
}

impl Client {
    pub fn polling(world: &World) -> Self {
        let process = Command::new("valkey-cli")
            .current_dir(world.file("run"))
            .env("REDISCLI_AUTH", "secret")
            .env("VALKEYCLI_AUTH", "secret")
            .args(["-s", "a.sock", "--user", "app", "-r", "-1", "-i", "0.05", "get", "app:x"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The id of the client's connection: a new one is a new connection.
pub async fn connection_id(world: &World) -> String {
    for _ in 0..100 {
        let list = world.operator("a", &["client", "list"]);
        if let Some(line) = list.lines().find(|line| line.contains("user=app")) {
            return line.split(' ').next().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the client does not connect")
}

/// A small file system of its own; nothing where this process may not mount one.
pub struct Tmpfs {
    pub folder: tempfile::TempDir,
}

impl Tmpfs {
    pub fn new(size: &str) -> Option<Self> {
        Self::below(&std::env::temp_dir(), size)
    }

    /// In a new folder below this one.
    pub fn below(folder: &Path, size: &str) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("disk").tempdir_in(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(folder.path());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self { folder });
        }
        eprintln!("skipped: a tmpfs cannot be mounted here (it takes root)");
        None
    }

    pub fn read_only(&self) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", "remount,ro"]).arg(self.folder.path()).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        stop_all(self.folder.path());
        let _left_to_the_machine = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
