//! The pure plan with nothing to do, on large fleets: time, growth and memory. Prints figures and ratios; asserts none.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark reads the clock and its input, and fails loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::desired::{
    BASE_SETTINGS, Desired, DesiredInstance, DesiredNode, DesiredSelector, DesiredUser, Ensure, Guard, Located, Origin, Reach,
    Shard,
};
use valkeeper::model::live::{BinaryId, Live, NodeFacts, Observed};
use valkeeper::model::name::{FleetName, InstanceName, NodeName, SettingName, ShardName, UserName};
use valkeeper::model::password::PasswordHash;
use valkeeper::plan::{carry, plan};

/// Instances on one node: a host with 500 is a full one.
const PER_NODE: usize = 500;

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/binaries/8.0.1.json");
    let text = std::fs::read_to_string(path).expect("the facts of valkey-server 8.0.1");
    let binary: BinaryFacts = serde_json::from_str(&text).expect("facts");
    let small = measure(10_000, &binary);
    let large = measure(100_000, &binary);
    println!("growth 10,000 -> 100,000: {:.1}x (linear is 10x, the bound 12x)", large.as_secs_f64() / small.as_secs_f64());
    println!("peak memory of this process: {} MiB (the bound 2048 MiB)", peak_kib() / 1024);
}

/// The median of five plans.
fn measure(instances: usize, binary: &BinaryFacts) -> Duration {
    let (desired, live) = settled(instances, binary);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            let made = plan(&desired, &live);
            let took = begun.elapsed();
            assert!(made.steps.is_empty() && made.held.is_empty(), "there is nothing to do");
            took
        })
        .collect();
    times.sort_unstable();
    println!(
        "plan, nothing to do, {instances} instances with 3 users each: {:.3} s (the bound 1 s at 100,000)",
        times[2].as_secs_f64()
    );
    times[2]
}

/// A fleet, and facts that show exactly it: made by carrying the facts of empty nodes over the plan's own steps.
fn settled(instances: usize, binary: &BinaryFacts) -> (Desired, Live) {
    let nodes: Vec<NodeName> =
        (0..instances.div_ceil(PER_NODE)).map(|n| NodeName::new(&format!("n{n}")).expect("a name")).collect();
    let shard = |node: usize| ShardName::new(&format!("s{node}")).expect("a name");
    let desired = Desired {
        fleet: FleetName::new("bench").expect("a name"),
        revision: "bench".into(),
        mode: Default::default(),
        guard: Guard::default(),
        nodes: nodes
            .iter()
            .map(|name| {
                (
                    name.clone(),
                    DesiredNode { at: Origin::default(), reach: Reach::Local(format!("./{name}")), address: None, drain: false },
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
            .map(|n| (InstanceName::new(&format!("instance-{n}")).expect("a name"), instance(n, shard(n / PER_NODE))))
            .collect(),
    };
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
        nodes: nodes.iter().map(|name| (name.clone(), Observed::Seen(facts(name)))).collect(),
        binaries: [(id.clone(), Arc::new(binary.clone()))].into(),
    };
    // The record would be a copy a node; what is measured is one node's worth of it, shared.
    let first = plan(&desired, &live);
    carry(&mut live, &first.steps);
    (desired, live)
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

/// The most memory this process ever held. KiB, from `VmHWM` of /proc/self/status.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
