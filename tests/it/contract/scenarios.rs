//! The simulator and a real node go through the same scenarios and show the same facts after each move, so that what the
//! laws prove of the one holds for the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use valkeeper::fleet::{Execute, Held, Observe};
use valkeeper::host::tell::Tell;
use valkeeper::model::acl::{AclUser, split_words};
use valkeeper::model::action::Action;
use valkeeper::model::change::{Half, Twin};
use valkeeper::model::live::{BinaryId, Connections, Folder, Live, Member, MemberFacts, NodeFacts, Observed, Running, Server};
use valkeeper::model::name::{NodeName, SettingName};
use valkeeper::model::operator;
use valkeeper::model::outcome::Outcome;
use valkeeper::model::password::Fingerprint;
use valkeeper::model::path::{Paths, Way};
use valkeeper::model::plan::{Cause, Step, Subject};
use valkeeper::plan::{plan, show};

use super::{parse, settle};
use crate::sim::Sim;
use crate::support::*;
use crate::world;

/// Something that happens to a node.
#[derive(Debug, Clone, Copy)]
enum Move {
    /// This is declared of the instance (or nothing, if its block is gone), and applied until it is settled.
    Apply(&'static str),
    /// Somebody sets a setting of the running server.
    Set(&'static str, &'static str),
    /// Somebody adds a line to the config file: a setting and its value.
    Write(&'static str, &'static str),
    /// Somebody adds a line that is none of ours to the config file.
    WriteForeign(&'static str),
    /// Somebody changes a user of the running server, and saves nothing.
    SetUser(&'static str, &'static str),
    DropUser(&'static str),
    /// The operator's password is gone from the running server.
    LockOut,
    /// The server is killed.
    Kill,
    /// The data folder is removed.
    RemoveData,
    /// What was set aside is brought back.
    Restore,
}

use Move::{Apply, DropUser, Kill, LockOut, RemoveData, Restore, Set, SetUser, Write, WriteForeign};

const PLAIN: &str = "";
const USERS: &str = "[instances.a.users.app]\npassword_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"\n\
                     privileges = [\"+@all\", \"-flushall\"]\nkey_pattern = [\"~app:*\", \"%R~x\"]\n";
const LESS: &str = "[instances.a.users.app]\npassword_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"\n\
                    privileges = [\"+@read\", \"+config|get\"]\n[[instances.a.users.app.selectors]]\nprivileges = [\"+set\"]\nkey_pattern = \"~y\"\n";
const LIVE: &str = "max_memory_mb = 128\nconfig = { timeout = 300, notify-keyspace-events = \"KEA\", save = \"900 1\" }\n";
const RESTART: &str = "config = { databases = 32, timeout = 300 }\n";
const NO_AOF: &str = "config = { appendonly = false }\n";
const MEMORY_ONLY: &str = "config = { appendonly = false, save = \"\" }\n";
/// Of a server that lets us in no more nobody knows whether it snapshots when it is stopped; this one does not.
const NO_SNAPSHOTS: &str = "config = { save = \"\" }\n";
const TENANT: &str = "tenant = \"t\"\nprotect = true\n";

const SCENARIOS: &[(&str, &[Move])] = &[
    ("settings come and go", &[Apply(PLAIN), Apply(LIVE), Apply(PLAIN), Apply(RESTART), Apply(PLAIN)]),
    ("users come, change and go", &[Apply(USERS), Apply(LESS), Apply(USERS), Apply(PLAIN)]),
    (
        "settings change by hand",
        &[Apply(LIVE), Set("timeout", "77"), Set("hz", "50"), Apply(LIVE), Write("maxmemory", "1mb"), Apply(LIVE)],
    ),
    ("lines that are not ours", &[Apply(PLAIN), WriteForeign("rename-command FLUSHALL x"), Apply(PLAIN)]),
    ("users change by hand", &[Apply(USERS), SetUser("app", "on +flushall"), Apply(USERS), DropUser("app"), Apply(USERS)]),
    ("a stranger comes", &[Apply(USERS), SetUser("stray", "on nopass ~* +@all"), Apply(USERS), DropUser("stray"), Apply(USERS)]),
    ("default is opened", &[Apply(USERS), SetUser("default", "on nopass ~* &* +@all"), Apply(USERS)]),
    ("a server dies", &[Apply(USERS), Kill, Apply(USERS), Kill, Apply(LESS), Kill, Apply(RESTART)]),
    ("the operator is locked out", &[Apply(NO_SNAPSHOTS), LockOut, Apply(NO_SNAPSHOTS)]),
    ("the AOF comes and goes", &[Apply(NO_AOF), Apply(PLAIN), Apply(NO_AOF), Kill, Apply(PLAIN)]),
    ("a server dies without its AOF", &[Apply(NO_AOF), Kill, Apply(NO_AOF)]),
    (
        "the AOF is switched by hand",
        &[Apply(PLAIN), Set("appendonly", "no"), Apply(PLAIN), Apply(NO_AOF), Set("appendonly", "yes"), Apply(NO_AOF)],
    ),
    ("nothing is on disk", &[Apply(MEMORY_ONLY), Kill, Apply(MEMORY_ONLY), Apply(PLAIN)]),
    ("a deleted instance comes back", &[Apply(USERS), Apply("ensure = \"absent\"\n"), Restore, Apply(USERS)]),
    ("a deleted instance is made anew", &[Apply(USERS), Apply("ensure = \"absent\"\n"), Apply(PLAIN)]),
    ("tenants and protection", &[Apply(PLAIN), Apply(TENANT), Apply("ensure = \"absent\"\n"), Apply(PLAIN)]),
    ("data goes while the server is down", &[Apply(PLAIN), Kill, RemoveData, Apply(PLAIN)]),
    ("data goes under a server", &[Apply(PLAIN), RemoveData, Apply(PLAIN)]),
];

/// Most of a scenario is waiting for a server to start or to end.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_and_a_real_node_show_the_same() {
    let all = SCENARIOS.iter().map(|(title, moves)| compare(title, moves));
    stream::iter(all).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn compare(title: &str, moves: &[Move]) {
    let port = free_port();
    let (real, simulated) = (Node::Real(World::patient().await), Node::simulated());
    for (number, step) in moves.iter().enumerate() {
        let place = format!("{title}, move {}: {step:?}", number + 1);
        let planned = (real.make(step, port).await, simulated.make(step, port).await);
        assert_eq!(planned.0, planned.1, "{place}: the real node on the left has another plan");
        let (real, simulated) = (real.shown(port).await, simulated.shown(port).await);
        assert!(real == simulated, "{place}\n{}", difference(&real, &simulated));
    }
}

enum Node {
    Real(World),
    Simulated(Box<Sim>),
}

fn difference(real: &NodeFacts, simulated: &NodeFacts) -> String {
    let [real, simulated] = [real, simulated].map(|facts| toml::to_string(facts).unwrap());
    let only = |these: &str, those: &str, side: &str| {
        let lines = these.lines().filter(|line| !those.lines().any(|other| other == *line));
        lines.map(|line| format!("{side}: {line}\n")).collect::<String>()
    };
    only(&real, &simulated, "real") + &only(&simulated, &real, "simulated")
}

fn here() -> NodeName {
    NodeName::new("here").unwrap()
}

fn declared(of_instance: &str, port: u16) -> String {
    format!(
        "[fleet]\nname = \"test\"\n[nodes.here]\nlocal = \"./state\"\n[shards.s]\nnodes = [\"here\"]\nports = \"1024-65535\"\n\
         [tenants.t]\n[instances.a]\nshard = \"s\"\nport = {port}\n{of_instance}"
    )
}

impl Observe for Node {
    async fn observe(&self) -> Live {
        match self {
            Self::Real(world) => world.fleet.observe().await,
            Self::Simulated(sim) => sim.observe().await,
        }
    }

    async fn try_ways(&self, ways: &BTreeSet<Way>) -> Paths {
        match self {
            Self::Real(world) => world.fleet.try_ways(ways).await,
            Self::Simulated(sim) => sim.try_ways(ways).await,
        }
    }
}

impl Execute for Node {
    async fn perform(&self, step: &Step, tell: &Tell) -> Outcome {
        match self {
            Self::Real(world) => world.fleet.perform(step, tell).await,
            Self::Simulated(sim) => sim.perform(step, tell).await,
        }
    }

    async fn acquire(&self, holder: &str) -> Result<(), Held> {
        match self {
            Self::Real(world) => world.fleet.acquire(holder).await,
            Self::Simulated(sim) => sim.acquire(holder).await,
        }
    }
}

impl Node {
    fn simulated() -> Self {
        let facts = NodeFacts {
            observed_at: "2026-11-20T00:00:00Z".parse().unwrap(),
            machine: "simulated".to_owned(),
            binary: BinaryId("8.0.1".to_owned()),
            members: BTreeMap::new(),
            records: BTreeMap::new(),
            set_aside: Vec::new(),
            ports_in_use: [].into(),
            systemd: None,
            capacity: Default::default(),
        };
        let binaries = [(facts.binary.clone(), Arc::new(world::binary_once().clone()))].into();
        Self::Simulated(Box::new(Sim::new(Live {
            nodes: [(here(), Observed::Seen(facts))].into(),
            binaries,
            paths: Paths::default(),
        })))
    }

    /// Makes a move; gives the steps and what is held, where something is planned.
    async fn make(&self, step: &Move, port: u16) -> Vec<String> {
        match (self, step) {
            (_, Apply(of_instance)) => {
                let desired = parse(&declared(of_instance, port));
                let plan = plan(&desired, &self.observe().await);
                settle(&desired, self).await;
                let held = plan.held.iter().map(|held| format!("held: {}: {}", held.what, held.reason.kind()));
                return plan.steps.iter().map(show::step_line).chain(held).collect();
            }
            (_, Restore) => {
                let live = self.observe().await;
                let uid = live.seen_nodes().next().unwrap().1.set_aside[0].uid.clone();
                let subject = Subject::Instance(name("a"));
                let action = Action::Restore { uid };
                let step = Step { subject, node: here(), action, cause: Cause::Requested, drifted: [].into(), costs: Vec::new() };
                assert_eq!(self.perform(&step, &Tell::nobody()).await, Outcome::Done);
            }
            (Self::Real(world), by_hand) => really(world, by_hand).await,
            (Self::Simulated(sim), by_hand) => {
                sim.edit(&here(), &name("a"), |member| pretend(member, by_hand));
                if let (Kill, Some(Observed::Seen(facts))) = (by_hand, sim.live.lock().unwrap().nodes.get_mut(&here())) {
                    facts.ports_in_use.clear();
                }
            }
        }
        Vec::new()
    }

    /// The facts without what differs from look to look.
    async fn shown(&self, port: u16) -> NodeFacts {
        let live = self.observe().await;
        let mut facts = match live.nodes.into_values().next().unwrap() {
            Observed::Seen(facts) => facts,
            Observed::Unseen { unseen } => panic!("the node is not seen: {unseen}"),
        };
        facts.observed_at = jiff::Timestamp::UNIX_EPOCH;
        facts.machine = String::new();
        facts.binary = BinaryId(String::new());
        facts.capacity = Default::default();
        facts.ports_in_use.retain(|used| *used == port);
        for kept in &mut facts.set_aside {
            (kept.bytes, kept.deleted_at) = (0, jiff::Timestamp::UNIX_EPOCH);
        }
        facts.records.values_mut().for_each(|record| Arc::make_mut(record).machines.clear());
        for member in facts.members.values_mut() {
            if let Member::Marked(member) = Arc::make_mut(member) {
                still(member);
            }
        }
        facts
    }
}

fn still(member: &mut MemberFacts) {
    let nobody = Fingerprint::of(b"");
    let found = member.marker.operator;
    member.replication_password = None;
    member.marker.machine = String::new();
    member.marker.created = jiff::Timestamp::UNIX_EPOCH;
    member.marker.operator = nobody;
    member.server = match &member.server {
        Server::Up(running) => Server::Up(Running {
            pid: 0,
            used_memory_bytes: 0,
            input_bytes_per_second: 0,
            saving: None,
            aof_rewriting: false,
            connections: Connections::default(),
            replication: Default::default(),
            ..running.clone()
        }),
        Server::Down { .. } => Server::Down { why: None },
        Server::Locked { .. } => Server::Locked { pid: 0, why: String::new() },
        Server::Silent { .. } => Server::Silent { pid: 0, why: String::new() },
    };
    member.spec.disk = quiet(&member.spec.disk);
    member.spec.memory = quiet(&member.spec.memory);
    let (ours, stand_in) = (operator::user(found, None), Arc::new(operator::user(nobody, None)));
    for twin in member.users.values_mut() {
        for half in [&mut twin.disk, &mut twin.memory] {
            *half = match &*half {
                Half::Seen(user) if **user == ours => Half::Seen(Arc::clone(&stand_in)),
                other @ (Half::Seen(_) | Half::Absent | Half::Unseen { .. }) => quiet(other),
            };
        }
    }
    member.acl_file_broken = member.acl_file_broken.as_ref().map(|_| String::new());
}

fn quiet<T: Clone>(half: &Half<T>) -> Half<T> {
    match half {
        Half::Unseen { .. } => Half::Unseen { unseen: String::new() },
        Half::Seen(value) => Half::Seen(value.clone()),
        Half::Absent => Half::Absent,
    }
}

/// What somebody does to a real node.
async fn really(world: &World, by_hand: &Move) {
    match by_hand {
        Set(setting, value) => {
            assert_eq!(world.operator("a", &["config", "set", setting, value]), "OK");
            while (*setting, *value) == ("appendonly", "yes") && !world.member("a").await.data.aof {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Write(setting, value) => append(world, &format!("{setting} {value}")),
        WriteForeign(line) => append(world, line),
        SetUser(user, words) => {
            let words: Vec<&str> = ["acl", "setuser", user].into_iter().chain(words.split(' ')).collect();
            assert_eq!(world.operator("a", &words), "OK");
        }
        DropUser(user) => assert_eq!(world.operator("a", &["acl", "deluser", user]), "1"),
        LockOut => assert_eq!(world.operator("a", &["acl", "setuser", "valkeeper", "resetpass"]), "OK"),
        Kill => {
            signal(world.pid("a").await, "-9");
            while !matches!(world.member("a").await.server, Server::Down { .. }) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        RemoveData => fs::remove_dir_all(world.file("data/a")).unwrap(),
        Apply(_) | Restore => panic!("not by hand"),
    }
}

fn append(world: &World, line: &str) {
    let path = world.file("config/a.conf");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{line}\n")).unwrap();
}

/// What the same leaves in the simulator.
fn pretend(member: &mut MemberFacts, by_hand: &Move) {
    let binary = world::binary_once();
    let canonical = |setting: &str, value: &str| binary.canonical(&SettingName::new(setting).unwrap(), value).unwrap().unwrap();
    match by_hand {
        Set(setting, value) => {
            let (setting, value) = canonical(setting, value);
            member.data.aof |= (setting.as_str(), value.as_str()) == ("appendonly", "yes");
            let Half::Seen(spec) = &mut member.spec.memory else { panic!("it is not up") };
            spec.settings.insert(setting, value);
            spec.settings = binary.without_defaults(&spec.settings);
        }
        Write(setting, value) => {
            let (setting, value) = canonical(setting, value);
            let Half::Seen(spec) = &mut member.spec.disk else { panic!("it has no config") };
            spec.settings.insert(setting, value);
        }
        WriteForeign(line) => {
            let Half::Seen(spec) = &mut member.spec.disk else { panic!("it has no config") };
            spec.foreign.push((*line).to_owned());
        }
        SetUser(user, words) => {
            let twin = member.users.entry(user_name(user)).or_default();
            let mut changed = twin.memory.seen().map_or_else(AclUser::closed, |user| (**user).clone());
            split_words(words).unwrap().iter().for_each(|word| changed.apply(word, Some(&binary.acl)).unwrap());
            twin.memory = Half::Seen(Arc::new(changed));
        }
        DropUser(user) => {
            member.users.get_mut(*user).unwrap().memory = Half::Absent;
            member.users.retain(|_, twin| *twin != Twin::default());
        }
        LockOut => {
            let unseen = || Half::Unseen { unseen: String::new() };
            member.server = Server::Locked { pid: 0, why: String::new() };
            member.spec.memory = Half::Unseen { unseen: String::new() };
            member.users.values_mut().for_each(|twin| twin.memory = unseen());
        }
        Kill => {
            member.server = Server::Down { why: None };
            member.spec.memory = Half::Absent;
            member.users.values_mut().for_each(|twin| twin.memory = Half::Absent);
            member.users.retain(|_, twin| *twin != Twin::default());
        }
        RemoveData => {
            member.data.folder = Folder::Missing;
            (member.data.aof, member.data.rdb) = (false, false);
            member.users.values_mut().for_each(|twin| twin.disk = Half::Absent);
            member.users.retain(|_, twin| *twin != Twin::default());
            member.acl_file_broken = Some(String::new());
        }
        Apply(_) | Restore => panic!("not by hand"),
    }
}
