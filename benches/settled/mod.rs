//! Large fleets that are as they are wanted, as values.

use std::collections::BTreeMap;
use std::sync::Arc;

use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::desired::{
    BASE_SETTINGS, Desired, DesiredInstance, DesiredNode, DesiredSelector, DesiredUser, Ensure, Guard, Located, Origin, Reach,
    Shard,
};
use valkeeper::model::live::{BinaryId, Live, NodeFacts, Observed};
use valkeeper::model::name::{FleetName, InstanceName, NodeName, SettingName, ShardName, UserName};
use valkeeper::model::password::PasswordHash;
use valkeeper::plan::{carry, plan};

/// What valkey-server 8.0.1 said of itself.
pub fn binary() -> BinaryFacts {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/binaries/8.0.1.json");
    let text = std::fs::read_to_string(path).expect("the facts of valkey-server 8.0.1");
    serde_json::from_str(&text).expect("facts")
}

/// A fleet of so many instances, with as many on each node.
pub fn wanted(instances: usize, per_node: usize) -> Desired {
    let nodes: Vec<NodeName> = nodes(instances, per_node);
    let shard = |node: usize| ShardName::new(&format!("s{node}")).expect("a name");
    Desired {
        fleet: FleetName::new("bench").expect("a name"),
        revision: "bench".into(),
        mode: Default::default(),
        guard: Guard::default(),
        nodes: nodes
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    DesiredNode { at: Origin::default(), reach: Reach::Ssh(name.to_string()), address: None, drain: false },
                )
            })
            .collect(),
        shards: nodes
            .iter()
            .enumerate()
            .map(|(n, name)| (shard(n), Shard { at: Origin::default(), nodes: vec![name.clone()], ports: 6400..=7399 }))
            .collect(),
        tenants: Default::default(),
        instances: (0..instances)
            .map(|n| (InstanceName::new(&format!("instance-{n}")).expect("a name"), instance(n, shard(n / per_node))))
            .collect(),
    }
}

/// Facts that show exactly what is wanted: made by carrying the facts of empty nodes over the plan's own steps.
pub fn shown(desired: &Desired, binary: &BinaryFacts) -> Live {
    let id = BinaryId("8.0.1".into());
    let facts = |name: &NodeName| NodeFacts {
        observed_at: "2026-11-20T00:00:00Z".parse().expect("a time"),
        machine: name.to_string(),
        binary: id.clone(),
        members: BTreeMap::new(),
        records: BTreeMap::new(),
        set_aside: Vec::new(),
        ports_in_use: Default::default(),
        systemd: None,
        capacity: Default::default(),
    };
    let mut live = Live {
        nodes: desired.nodes.keys().map(|name| (name.clone(), Observed::Seen(facts(name)))).collect(),
        binaries: [(id.clone(), Arc::new(binary.clone()))].into(),
        paths: Default::default(),
    };
    // The record would be a copy a node; what is measured is one node's worth of it, shared.
    let first = plan(desired, &live);
    carry(&mut live, &first.steps);
    live
}

fn nodes(instances: usize, per_node: usize) -> Vec<NodeName> {
    (0..instances.div_ceil(per_node)).map(|n| NodeName::new(&format!("n{n}")).expect("a name")).collect()
}

fn instance(n: usize, shard: ShardName) -> DesiredInstance {
    let set = |name: &str, value: &str| {
        (SettingName::new(name).expect("a name"), Located { value: value.to_owned(), at: Origin::default() })
    };
    let mut settings: BTreeMap<_, _> = BASE_SETTINGS.iter().map(|(name, value)| set(name, value)).collect();
    settings.extend([set("timeout", "300"), set("client-output-buffer-limit", "pubsub 32mb 8mb 60")]);
    let user = |u: usize| {
        let word = |word: &str| Located { value: word.to_owned(), at: Origin::default() };
        let passwords = vec![PasswordHash::of_password(format!("{n}-{u}").as_bytes())];
        let root = DesiredSelector {
            privileges: vec![word("+@all"), word("-@dangerous"), word("+config|get")],
            keys: vec![format!("~app{u}:*"), "%R~shared:*".into()],
            channels: vec![format!("&app{u}:*")],
        };
        DesiredUser::new(Origin::default(), true, passwords, root, Vec::new())
    };
    DesiredInstance {
        primary: None,
        move_by: Default::default(),
        at: Origin::default(),
        tenant: None,
        shard,
        ensure: Ensure::Present,
        mode: Default::default(),
        protect: false,
        port: None,
        settings,
        users: (0..3).map(|u| (UserName::new(&format!("user{u}")).expect("a name"), user(u))).collect(),
    }
}
