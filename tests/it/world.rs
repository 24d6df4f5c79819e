//! Random worlds: what somebody wants, and what somebody does by hand. Everything follows from the seed.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use valkeeper::model::acl::AclUser;
use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::change::{Half, Twin};
use valkeeper::model::desired::{
    BASE_SETTINGS, Desired, DesiredInstance, DesiredNode, DesiredSelector, DesiredUser, Ensure, Guard, Located, Origin, Reach,
    Shard, UndeclaredUsers,
};
use valkeeper::model::live::{BinaryId, Folder, Live, NodeFacts, Observed, Server};
use valkeeper::model::name::{FleetName, InstanceName, NodeName, SettingName, ShardName, TenantName, UserName};
use valkeeper::model::password::PasswordHash;

use crate::sim::Sim;

pub fn binary() -> BinaryFacts {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/binaries/8.0.1.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub fn binary_once() -> &'static BinaryFacts {
    static BINARY: std::sync::LazyLock<BinaryFacts> = std::sync::LazyLock::new(binary);
    &BINARY
}

pub fn node(index: usize) -> NodeName {
    NodeName::new(&format!("n{index}")).unwrap()
}

pub fn instance(index: usize) -> InstanceName {
    InstanceName::new(&format!("i{index}")).unwrap()
}

const NODES: usize = 3;
const INSTANCES: usize = 5;

/// Nodes with nothing on them.
pub fn empty(binary: &BinaryFacts) -> Live {
    let id = BinaryId("8.0.1".into());
    let facts = |index: usize| NodeFacts {
        observed_at: "2026-11-20T00:00:00Z".parse().unwrap(),
        machine: format!("machine{index}"),
        binary: id.clone(),
        members: BTreeMap::new(),
        records: BTreeMap::new(),
        set_aside: Vec::new(),
        ports_in_use: Default::default(),
        systemd: index.is_multiple_of(2).then(|| "252".to_owned()),
        capacity: Default::default(),
    };
    Live {
        nodes: (0..NODES).map(|index| (node(index), Observed::Seen(facts(index)))).collect(),
        binaries: [(id.clone(), Arc::new(binary.clone()))].into(),
        paths: Default::default(),
    }
}

/// A random wish. `revision` makes it another one.
pub fn desired(rng: &mut StdRng, revision: u32) -> Desired {
    let shard = |index: usize| ShardName::new(&format!("s{index}")).unwrap();
    let ports = [6400..=6409, 6400..=6402, 6500..=6509];
    Desired {
        fleet: FleetName::new("sim").unwrap(),
        revision: format!("r{revision}"),
        mode: Default::default(),
        guard: Guard {
            prune: rng.random_bool(0.5),
            max_deletes: rng.random_range(0..3),
            max_restarts: rng.random_range(1..3),
            undeclared_users: *[UndeclaredUsers::Keep, UndeclaredUsers::Remove].choose(rng).unwrap(),
            ..Guard::default()
        },
        nodes: (0..NODES)
            .map(|index| {
                (
                    node(index),
                    DesiredNode {
                        at: Origin::default(),
                        reach: Reach::Local(format!("./n{index}")),
                        address: None,
                        drain: false,
                    },
                )
            })
            .collect(),
        shards: (0..NODES)
            .map(|index| (shard(index), Shard { at: Origin::default(), nodes: vec![node(index)], ports: ports[index].clone() }))
            .collect(),
        tenants: [TenantName::new("t0").unwrap(), TenantName::new("t1").unwrap()].into(),
        instances: (0..INSTANCES)
            .filter(|_| rng.random_bool(0.8))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|index| (instance(index), wish(rng, shard(index % NODES), index as u16)))
            .collect(),
    }
}

/// Two instances never declare one port: `desired/` refuses that.
fn wish(rng: &mut StdRng, shard: ShardName, index: u16) -> DesiredInstance {
    let mut settings: BTreeMap<SettingName, Located<String>> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        settings.insert(SettingName::new(name).unwrap(), Located { value: value.to_owned(), at: Origin::default() });
    };
    BASE_SETTINGS.iter().for_each(|(name, value)| set(name, value));
    let pool: &[(&str, &[&str])] = &[
        ("maxmemory", &["64mb", "128mb"]),
        ("appendonly", &["yes", "no"]),
        ("save", &["", "900 1", "3600 1 300 100 60 10000"]),
        ("databases", &["4", "16", "32"]),
        ("io-threads", &["1", "2"]),
        ("timeout", &["0", "300"]),
        ("notify-keyspace-events", &["", "KEA"]),
        ("client-output-buffer-limit", &["pubsub 32mb 8mb 60", "replica 1gb 512mb 60"]),
    ];
    for (name, values) in pool {
        if rng.random_bool(0.4) {
            set(name, values.choose(rng).unwrap());
        }
    }
    DesiredInstance {
        at: Origin::default(),
        tenant: rng.random_bool(0.5).then(|| TenantName::new("t0").unwrap()),
        shard,
        mode: Default::default(),
        ensure: if rng.random_bool(0.1) { Ensure::Absent } else { Ensure::Present },
        protect: rng.random_bool(0.1),
        primary: None,
        move_by: Default::default(),
        port: rng.random_bool(0.2).then(|| 6420 + 2 * index + rng.random_range(0..2)),
        settings,
        users: (0..3)
            .filter(|_| rng.random_bool(0.6))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|index| (UserName::new(&format!("u{index}")).unwrap(), user(rng)))
            .collect(),
    }
}

fn user(rng: &mut StdRng) -> DesiredUser {
    let selectors = if rng.random_bool(0.2) { vec![selector(rng)] } else { Vec::new() };
    let passwords = vec![PasswordHash::of_password(&[rng.random_range(0..4u8)])];
    DesiredUser::new(Origin::default(), rng.random_bool(0.9), passwords, selector(rng), selectors)
}

fn selector(rng: &mut StdRng) -> DesiredSelector {
    let words = ["+@all", "-flushall", "+get", "-@dangerous", "+config|get", "+select|0", "+@read", "-get", "+set"];
    let privileges: Vec<&str> = (0..rng.random_range(0..4)).map(|_| *words.choose(rng).unwrap()).collect();
    let mut some = |words: &[&str]| words.iter().filter(|_| rng.random_bool(0.4)).map(ToString::to_string).collect::<Vec<_>>();
    let (keys, channels) = (some(&["~a:*", "~b", "%R~c:*"]), some(&["&news", "&x:*"]));
    DesiredSelector {
        privileges: privileges.into_iter().map(|word| Located { value: word.to_owned(), at: Origin::default() }).collect(),
        keys,
        channels,
    }
}

/// Somebody does something on a node by hand.
pub fn meddle(rng: &mut StdRng, sim: &Sim) {
    let (node, name) = (node(rng.random_range(0..NODES)), instance(rng.random_range(0..INSTANCES)));
    let setting = |name: &str| SettingName::new(name).unwrap();
    match rng.random_range(0..13) {
        0 => sim.edit(&node, &name, |member| {
            if let Half::Seen(spec) = &mut member.spec.memory {
                spec.settings.insert(setting("timeout"), "77".into());
            }
        }),
        1 => sim.edit(&node, &name, |member| {
            if let Half::Seen(spec) = &mut member.spec.disk {
                spec.settings.insert(setting("maxmemory"), "1".into());
                spec.foreign.push("include /etc/passwd".into());
            }
        }),
        2 => sim.edit(&node, &name, kill),
        3 => sim.edit(&node, &name, |member| {
            member.users.values_mut().take(2).for_each(|twin| twin.disk = Half::Absent);
            // Nobody finds a user that is nowhere.
            member.users.retain(|_, twin| *twin != Twin::default());
            member.acl_file_broken = Some("line 1: nonsense".into());
        }),
        4 => sim.edit(&node, &name, |member| {
            if matches!(member.server, Server::Up(_)) {
                let user = UserName::new(["u0", "stray", "default"][rng.random_range(0..3)]).unwrap();
                let mut open = AclUser::closed();
                open.enabled = true;
                open.root.apply("+@all", None).unwrap();
                member.users.entry(user).or_default().memory = Half::Seen(Arc::new(open));
            }
        }),
        5 => sim.edit(&node, &name, |member| {
            if matches!(member.server, Server::Up(_)) {
                let pid = 1;
                member.server = Server::Locked { pid, why: "WRONGPASS".into() };
                member.spec.memory = Half::Unseen { unseen: "locked".into() };
                member.users.values_mut().for_each(|twin| twin.memory = Half::Unseen { unseen: "locked".into() });
            }
        }),
        6 => {
            sim.forget(&node, &name);
            sim.edit(&node, &name, |member| member.data.folder = Folder::Missing);
        }
        7 => sim.edit(&node, &name, |member| member.spec.disk = Half::Absent),
        9 => sim.spread(&node, &name, rng.random()),
        8 => sim.edit(&node, &name, |member| {
            if let Half::Seen(spec) = &mut member.spec.memory {
                spec.foreign.push("logfile /elsewhere".into());
            }
        }),
        10 => sim.edit(&node, &name, |member| {
            // The package was upgraded.
            if let Server::Up(running) = &mut member.server {
                match rng.random_range(0..3) {
                    0 => running.version = "7.9.0".into(),
                    _ => running.program_replaced = true,
                }
            }
        }),
        11 => sim.edit(&node, &name, |member| match rng.random() {
            true => member.unit_broken = Some("edited".into()),
            false => member.credential_broken = Some("edited".into()),
        }),
        _ => {
            let mut live = sim.live.lock().unwrap();
            if let Some(Observed::Seen(facts)) = live.nodes.get_mut(&node) {
                facts.ports_in_use.insert(rng.random_range(6400..6404));
            }
        }
    }
}

pub fn kill(member: &mut valkeeper::model::live::MemberFacts) {
    if !matches!(member.server, Server::Up(_)) {
        return;
    }
    member.server = Server::Down { why: Some("killed".into()) };
    member.spec.memory = Half::Absent;
    member.users.values_mut().for_each(|twin| twin.memory = Half::Absent);
    member.users.retain(|_, twin| !twin.disk.is_absent());
}
