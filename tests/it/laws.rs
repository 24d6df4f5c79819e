//! What must always hold, in random worlds: random wishes, faults between any two effects, unseen nodes, people who
//! meddle. `VALKEEPER_SEED` runs one world; `VALKEEPER_WORLDS` says how
//! many; otherwise it is 3,000, and 100,000 in a soak.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use valkeeper::model::change::Half;
use valkeeper::model::desired::{Desired, Ensure};
use valkeeper::model::live::{Live, Server};
use valkeeper::model::plan::{HeldReason, Plan, Step};
use valkeeper::plan::{approve, carry, plan, show};

use crate::sim::{Fault, Sim};
use crate::world;

/// Passes within which a world without further faults must come to rest.
const PASSES_MAX: usize = 40;

#[test]
fn every_world_settles_and_keeps_the_laws() {
    if let Ok(seed) = std::env::var("VALKEEPER_SEED") {
        return world_of(seed.parse().expect("VALKEEPER_SEED is a number"));
    }
    let usual = if std::env::var_os("VALKEEPER_SOAK").is_some() { 100_000 } else { 3_000 };
    let worlds: u64 =
        std::env::var("VALKEEPER_WORLDS").map_or(usual, |count| count.parse().expect("VALKEEPER_WORLDS is a number"));
    println!("worlds: seeds 0 to {}", worlds - 1);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        for thread in 0..threads {
            scope.spawn(move || (thread..worlds).step_by(threads as usize).for_each(world_of));
        }
    });
}

fn world_of(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let binary = world::binary_once();
    let sim = Sim::new(world::empty(binary));
    let rounds = rng.random_range(1..4);
    let mut desired = world::desired(&mut rng, 0);
    for round in 0..rounds {
        if round > 0 {
            desired = world::desired(&mut rng, round);
        }
        for _ in 0..rng.random_range(0..4) {
            stormy_pass(&mut rng, &sim, &desired);
            sim.fill();
        }
    }
    sim.unseen.lock().unwrap().clear();
    settle(seed, &sim, &desired);
    let broken = sim.broken_laws.lock().unwrap();
    assert!(broken.is_empty(), "seed {seed}: {}", broken.join("\n"));
}

/// A pass in which everything may go wrong.
fn stormy_pass(rng: &mut StdRng, sim: &Sim, desired: &Desired) {
    if rng.random_bool(0.4) {
        world::meddle(rng, sim);
    }
    *sim.unseen.lock().unwrap() =
        if rng.random_bool(0.2) { BTreeSet::from([world::node(rng.random_range(0..3))]) } else { BTreeSet::new() };
    if rng.random_bool(0.1) {
        take_all(sim, &approve(desired, &sim.shown()));
        *sim.loss_allowed.lock().unwrap() = true;
    }
    let mut dice = StdRng::seed_from_u64(rng.random());
    *sim.faults.lock().unwrap() = Box::new(move || match dice.random_range(0..10) {
        0 => Fault::CrashAfter(dice.random_range(0..7)),
        1 => Fault::LostReply,
        _ => Fault::None,
    });
    let plan = checked_plan(sim, desired);
    take_all(sim, &plan.steps);
    *sim.faults.lock().unwrap() = Box::new(|| Fault::None);
}

/// Takes steps as the schedule does: what follows a step that did not succeed is left for the next pass.
fn take_all(sim: &Sim, steps: &[Step]) {
    let mut stuck = BTreeSet::new();
    for step in steps {
        if !stuck.contains(&step.subject) && !sim.take(step).is_done() {
            stuck.insert(step.subject.clone());
        }
    }
}

/// Plans, and holds the plan to what every plan must keep.
fn checked_plan(sim: &Sim, desired: &Desired) -> Plan {
    let live = sim.shown();
    let made = plan(desired, &live);
    let again = plan(desired, &live);
    if made.steps != again.steps || made.held != again.held {
        sim.law("two plans of the same facts differ".into());
    }
    if made.steps.iter().any(|step| live.seen(&step.node).is_none()) {
        sim.law("a step on an unseen node".into());
    }
    let restarting = |kind: &str| kind.ends_with("restart") || matches!(kind, "reopen-instance" | "upgrade-instance");
    let restarts = made.steps.iter().filter(|step| restarting(step.action.kind()));
    if restarts.count() > desired.guard.max_restarts as usize {
        sim.law("more restarts than the budget".into());
    }
    prefixes(sim, desired, &live, &made);
    made
}

/// After the first k steps, planning again gives the rest.
fn prefixes(sim: &Sim, desired: &Desired, live: &Live, made: &Plan) {
    let essence = |step: &Step| {
        let mut identity = show::identity(step);
        if let Some(change) = identity.get_mut("change").and_then(|change| change.as_object_mut()) {
            change.remove("before");
        }
        identity.to_string()
    };
    let real = |steps: &[Step]| -> BTreeSet<String> {
        steps.iter().filter(|step| !matches!(step.action.kind(), "mark" | "write-record" | "save-users")).map(essence).collect()
    };
    for k in 1..made.steps.len().min(6) {
        let mut after = live.clone();
        let (first, rest) = made.steps.split_at(k);
        carry(&mut after, first);
        let again = plan(desired, &after);
        let missing: Vec<_> = real(rest).difference(&real(&again.steps)).cloned().collect();
        // What waited for a restart may come in its place now.
        let mut held = made.held.iter().chain(&again.held);
        if !missing.is_empty() && held.all(|held| !matches!(held.reason, HeldReason::Budget { .. })) {
            let made: Vec<_> = made.steps.iter().map(show::step_line).collect();
            let now: Vec<_> = again.steps.iter().map(show::step_line).collect();
            sim.law(format!("after {k} of {made:?} these are planned no more: {missing:?}; but {now:?} {:?}", again.held));
        }
    }
}

fn settle(seed: u64, sim: &Sim, desired: &Desired) {
    for _ in 0..PASSES_MAX {
        let plan = checked_plan(sim, desired);
        if plan.steps.is_empty() {
            return as_desired(seed, sim, desired, &plan);
        }
        take_all(sim, &plan.steps);
    }
    let plan = checked_plan(sim, desired);
    panic!("seed {seed}: not settled after {PASSES_MAX} passes: {:#?}", plan.steps);
}

/// At rest, what is not held is as it was asked for; judged without the planner.
fn as_desired(seed: u64, sim: &Sim, desired: &Desired, plan: &Plan) {
    let live = sim.shown();
    if plan.held.is_empty() {
        let mut records = live.seen_nodes().flat_map(|(_, facts)| facts.records.values());
        assert!(records.all(|record| record.approvals.is_empty()), "seed {seed}: an approval outlives what it was given for");
    }
    for (name, wish) in &desired.instances {
        let held = plan.held.iter().any(|held| held.instance == *name);
        let node = &desired.shards[&wish.shard].nodes[0];
        let (facts, binary) = live.seen(node).unwrap();
        let member = facts.member(name);
        if held {
            continue;
        }
        if wish.ensure == Ensure::Absent {
            assert!(member.is_none(), "seed {seed}: {name} should be gone");
            continue;
        }
        let member = member.unwrap_or_else(|| panic!("seed {seed}: {name} is missing"));
        assert!(matches!(member.server, Server::Up(_)), "seed {seed}: {name} is not up");
        let memory = member.spec.memory.seen().unwrap();
        for (setting, value) in &wish.settings {
            let (setting, value) = binary.canonical(setting, &value.value).unwrap().unwrap();
            let found = memory.settings.get(&setting).map(String::as_str).or(binary.default_of(&setting));
            assert_eq!(found, Some(value.as_str()), "seed {seed}: {name} {setting}");
        }
        for (user, wanted) in &wish.users {
            let twin = &member.users[user];
            assert!(twin.disk == twin.memory && twin.disk != Half::Absent, "seed {seed}: {name} {user}");
            let passwords: Vec<_> = wanted.passwords().iter().map(|hash| hash.fingerprint()).collect();
            assert_eq!(twin.memory.seen().unwrap().passwords(), passwords, "seed {seed}: {name} {user}");
        }
        assert!(member.users["default"].memory.seen().is_some_and(|user| !user.enabled), "seed {seed}: default is open");
    }
}
