//! What must always hold of instances with replicas, and of instances that move: random shards, wishes, crashes between any
//! two effects, nodes that are unseen, servers that are killed, and clients that write wherever they are let.
//! `VALKEEPER_SEED` runs one world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use valkeeper::apply::schedule::Pace;
use valkeeper::model::action::{Action, CutOverParts};
use valkeeper::model::desired::{BASE_SETTINGS, Desired, Ensure, Located, MoveBy, Origin};
use valkeeper::model::live::{Member, MemberFacts, Observed, Server};
use valkeeper::model::name::{InstanceName, NodeName, SettingName};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::plan::{HeldReason, Plan, Step, Subject};
use valkeeper::model::role::{self, Link, Overlay};
use valkeeper::model::snapshot::{Seed, Snapshot, SnapshotId};
use valkeeper::plan::plan;

use crate::chance::soak;
use crate::sim::{Fault, Sim};
use crate::world;

/// Passes within which a world without further faults must come to rest.
const PASSES_MAX: usize = 60;
const NODES: usize = 3;

#[test]
fn every_world_of_groups_settles_and_loses_nothing() {
    if let Ok(seed) = std::env::var("VALKEEPER_SEED") {
        return World::run(seed.parse().expect("VALKEEPER_SEED is a number"));
    }
    let worlds: u64 = if soak() { 30_000 } else { 1_000 };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        for thread in 0..threads {
            scope.spawn(move || (thread..worlds).step_by(threads as usize).for_each(World::run));
        }
    });
}

/// The members of many groups are restarted, while replication is slow, agents die, and answers are lost.
#[test]
fn no_more_members_are_out_by_our_hand_than_may_restart_at_once() {
    for seed in 0..if soak() { 1_000 } else { 10 } {
        let mut world = World::new(seed);
        let mut desired = world.wish(0);
        desired.shards.values_mut().for_each(|shard| shard.nodes = (0..NODES).map(world::node).collect());
        for instance in desired.instances.values_mut() {
            (instance.ensure, instance.primary) = (Ensure::Present, None);
        }
        world.settle(&desired);
        let members = desired.instances.len() * NODES;
        desired.revision = "restarts".to_owned();
        for instance in desired.instances.values_mut() {
            let (name, other) =
                (SettingName::new("tcp-backlog").unwrap(), Located { value: "77".to_owned(), at: Origin::default() });
            instance.settings.insert(name, other);
        }
        let mut restarts = 0;
        for _ in 0..members * 20 {
            let plan = plan(&desired, &world.sim.shown());
            if plan.steps.is_empty() && plan.held.is_empty() {
                break;
            }
            let disturbs = |action: &Action| action.restarts() || matches!(action, Action::CutOver(_));
            world.brakes(&desired, &plan, disturbs);
            restarts += plan.steps.iter().filter(|step| step.action.restarts()).count();
            world.make_trouble();
            world.take_all(&plan.steps, 0.1);
            *world.sim.faults.lock().unwrap() = Box::new(|| Fault::None);
            world.breathe(0.3);
            world.pass_time(0..20);
            if world.rng.random_bool(0.3) {
                world.sim.wake();
            }
        }
        world.settle(&desired);
        world.has_kept_the_laws();
        assert!(2 * restarts >= members, "seed {seed}: {restarts} restarts of {members} members");
    }
}

/// A replica works when it gets what its primary is told, anybody else when it is not fenced.
fn is_at_work(member: &MemberFacts) -> bool {
    let Server::Up(running) = &member.server else { return false };
    let follows = member.role_in_force().and_then(|role| role.follows).is_some();
    !running.loading
        && if follows { running.replication.link == Some(Link::Up) } else { member.role_in_force() != Some(Overlay::FENCED) }
}

struct World {
    seed: u64,
    rng: StdRng,
    sim: Sim,
    /// How many writes a member has, by its node and instance; they outlive its server.
    holds: BTreeMap<(NodeName, InstanceName), u64>,
    /// How many writes of an instance were acknowledged, by its identity.
    acknowledged: BTreeMap<String, u64>,
    /// How many writes are in a snapshot, and whether losing others was asked for.
    snapshots: BTreeMap<SnapshotId, (u64, bool)>,
    histories: u64,
    handed_over: u64,
    /// Members that were restarted, or fenced to hand over, and were not seen at work since.
    disturbed: BTreeSet<(NodeName, InstanceName)>,
    /// Only one world is run, and somebody wants to know why.
    tells: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let sim = Sim::new(world::empty(world::binary_once()));
        Self {
            seed,
            rng,
            sim,
            holds: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            histories: 0,
            handed_over: 0,
            disturbed: BTreeSet::new(),
            tells: std::env::var_os("VALKEEPER_SEED").is_some(),
        }
    }

    fn run(seed: u64) {
        let mut world = Self::new(seed);
        let rounds = world.rng.random_range(2..5);
        let mut desired = world.wish(0);
        for round in 0..rounds {
            desired = world.wish(round);
            for _ in 0..world.rng.random_range(0..12) {
                world.stormy_pass(&desired);
            }
        }
        world.sim.unseen.lock().unwrap().clear();
        world.settle(&desired);
        world.has_kept_the_laws();
    }

    fn has_kept_the_laws(&self) {
        let broken = self.sim.broken_laws.lock().unwrap();
        assert!(broken.is_empty(), "seed {}: {}", self.seed, broken.join("\n"));
    }

    /// Shards of one to three nodes, and instances that change theirs from round to round.
    fn wish(&mut self, round: u32) -> Desired {
        let rng = &mut self.rng;
        let mut desired = world::desired(rng, round);
        desired.guard.handover_grace = Duration::ZERO;
        desired.guard.max_deletes = 9;
        desired.guard.prune = true;
        let shards: Vec<_> = desired.shards.keys().cloned().collect();
        for shard in desired.shards.values_mut() {
            let mut nodes: Vec<NodeName> = (0..NODES).map(world::node).collect();
            nodes.shuffle(rng);
            nodes.truncate(rng.random_range(1..=NODES));
            (shard.nodes, shard.ports) = (nodes, 6400..=6449);
        }
        for instance in desired.instances.values_mut() {
            instance.shard = shards.choose(rng).unwrap().clone();
            (instance.port, instance.protect) = (None, false);
            let nodes = &desired.shards[&instance.shard].nodes;
            instance.move_by = match rng.random_range(0..10) {
                0..5 => MoveBy::Replication,
                5..9 => MoveBy::Snapshot,
                _ => MoveBy::SnapshotUnfenced,
            };
            instance.primary = rng.random_bool(0.3).then(|| nodes.choose(rng).unwrap().clone());
            // All of them keep what they have on disk: what a restart may cost is the other laws'.
            instance.settings = BASE_SETTINGS
                .iter()
                .chain(if rng.random_bool(0.3) { &[("io-threads", "2")] } else { &[("timeout", "300")] })
                .map(|(name, value)| {
                    (SettingName::new(name).unwrap(), Located { value: (*value).to_owned(), at: Origin::default() })
                })
                .collect();
        }
        desired
    }

    fn stormy_pass(&mut self, desired: &Desired) {
        let unseen = if self.rng.random_bool(0.15) {
            BTreeSet::from([world::node(self.rng.random_range(0..NODES))])
        } else {
            BTreeSet::new()
        };
        if self.tells {
            eprintln!("a pass without {unseen:?}");
        }
        *self.sim.unseen.lock().unwrap() = unseen;
        self.pass_time(0..20);
        self.trouble_servers();
        self.make_trouble();
        self.breathe(0.6);
        let plan = plan(desired, &self.sim.shown());
        self.brakes(desired, &plan, Action::restarts);
        self.take_all(&plan.steps, 0.6);
        *self.sim.faults.lock().unwrap() = Box::new(|| Fault::None);
    }

    /// Agents die, and answers are lost.
    fn make_trouble(&mut self) {
        let mut dice = StdRng::seed_from_u64(self.rng.random());
        *self.sim.faults.lock().unwrap() = Box::new(move || match dice.random_range(0..8) {
            0 => Fault::CrashAfter(dice.random_range(0..5)),
            1 => Fault::LostReply,
            2 => Fault::HangAt(dice.random_range(0..5)),
            3 => Fault::StuckAt(dice.random_range(0..5)),
            _ => Fault::None,
        });
    }

    /// By the nodes' own clocks, which know nothing of each other.
    fn pass_time(&mut self, seconds: std::ops::Range<i64>) {
        for observed in self.sim.live.lock().unwrap().nodes.values_mut() {
            if let Observed::Seen(facts) = observed {
                facts.observed_at += SignedDuration::from_secs(self.rng.random_range(seconds.clone()));
            }
        }
    }

    /// A server goes on, is stopped by a signal, or is killed; also one that hangs.
    fn trouble_servers(&mut self) {
        if self.rng.random_bool(0.3) {
            self.wake();
        }
        let place = (world::node(self.rng.random_range(0..NODES)), world::instance(self.rng.random_range(0..5)));
        if self.rng.random_bool(0.3) {
            if self.tells {
                eprintln!("kill {} on {}", place.1, place.0);
            }
            self.sim.hung.lock().unwrap().remove(&place);
            self.sim.edit(&place.0, &place.1, world::kill);
        } else if self.rng.random_bool(0.1) && self.is_up(&place) {
            if self.tells {
                eprintln!("stop {} on {}", place.1, place.0);
            }
            self.sim.hung.lock().unwrap().insert(place, None);
        }
    }

    fn is_up(&self, (node, name): &(NodeName, InstanceName)) -> bool {
        let live = self.sim.shown();
        let member = live.seen(node).and_then(|(facts, _)| facts.member(name));
        member.is_some_and(|member| matches!(member.server, Server::Up(_)))
    }

    fn take_all(&mut self, steps: &[Step], flows: f64) {
        let mut stuck = BTreeSet::new();
        for step in steps {
            // As the schedule does: nothing is made before every seen node remembers it.
            if stuck.contains(&Subject::Fleet) && step.subject != Subject::Fleet {
                return;
            }
            if !stuck.contains(&step.subject) && !self.take(step, flows).is_done() {
                stuck.insert(step.subject.clone());
            }
        }
    }

    /// As the schedule does: what failed, or was not answered, is tried again.
    fn take(&mut self, step: &Step, flows: f64) -> Outcome {
        let mut outcome = self.attempt(step, flows);
        for _ in 1..Pace::default().tries {
            if matches!(outcome, Outcome::Failed(_) | Outcome::NotReached(_)) {
                outcome = self.attempt(step, flows);
            }
        }
        outcome
    }

    fn attempt(&mut self, step: &Step, flows: f64) -> Outcome {
        let Action::CutOver(change) = &step.action else { return self.take_one(step, flows) };
        let CutOverParts { fence, call_off, promote, open, demote } = change.parts(step);
        let fenced = self.take_one(&fence, flows);
        if fenced == Outcome::AlreadyDone {
            return Outcome::Conflict("it is fenced already".into());
        }
        if !fenced.is_done() {
            return fenced;
        }
        if !self.has_all(&step.node, &change.target, step) {
            self.take_one(&call_off, flows);
            return Outcome::Pending("the new primary to catch up".into());
        }
        for part in [promote, open, demote] {
            let outcome = self.take_one(&part, flows);
            if !outcome.is_done() {
                return outcome;
            }
        }
        self.handed_over += 1;
        Outcome::Done
    }

    /// Agents and servers that hung go on. What was at work on a node by then, nobody was told.
    fn wake(&mut self) {
        let nodes: BTreeSet<NodeName> = self.sim.stuck.lock().unwrap().keys().cloned().collect();
        self.sim.wake();
        self.disturbed.retain(|(node, _)| !nodes.contains(node));
    }

    fn forget_who_works(&mut self) {
        let live = self.sim.live.lock().unwrap();
        self.disturbed.retain(|(node, name)| {
            let member = live.seen(node).and_then(|(facts, _)| facts.member(name));
            member.is_some_and(|member| member.marker.retiring.is_none() && !is_at_work(member))
        });
    }

    /// No restart is begun while as many members of other instances are out by our hand as may be. What cannot be seen is not waited
    /// for, nor what nobody brings back.
    fn brakes(&mut self, desired: &Desired, plan: &Plan, disturbs: fn(&Action) -> bool) {
        let begun: Vec<_> =
            plan.steps.iter().filter(|step| disturbs(&step.action)).map(|step| (&step.node, &step.subject)).collect();
        self.forget_who_works();
        if begun.is_empty() {
            return;
        }
        let live = self.sim.live.lock().unwrap().clone();
        let shown = self.sim.shown();
        let is_seen = |name: &InstanceName| {
            // The roster may still place it where it left.
            let mut seats = live.seen_nodes().flat_map(|(_, facts)| facts.records.values()).filter_map(|it| it.roster.get(name));
            seats.all(|seat| seat.nodes.iter().all(|node| shown.seen(node).is_some()))
        };
        let is_kept = |name: &InstanceName| desired.instances.get(name).is_some_and(|it| it.ensure == Ensure::Present);
        let is_begun = |name: &InstanceName| begun.iter().any(|(_, subject)| **subject == Subject::Instance(name.clone()));
        let counts = |name: &InstanceName| is_seen(name) && is_kept(name) && !is_begun(name);
        let out: Vec<_> = self.disturbed.iter().filter(|(_, name)| counts(name)).collect();
        if out.len() + begun.len() > desired.guard.max_restarts as usize {
            self.sim.law(format!("{begun:?} while these are out: {out:?} (max_restarts = {})", desired.guard.max_restarts));
        }
    }

    fn take_one(&mut self, step: &Step, flows: f64) -> Outcome {
        if let Subject::Instance(name) = &step.subject
            && (step.action.restarts() || step.action.kind() == "fence")
            && !self.sim.stuck.lock().unwrap().contains_key(&step.node)
        {
            self.disturbed.insert((step.node.clone(), name.clone()));
        }
        let outcome = self.sim.take(step);
        if self.tells {
            eprintln!("{}: {outcome:?}", valkeeper::plan::show::step_line(step));
        }
        self.ship();
        self.forget_who_works();
        self.breathe(flows);
        self.forget_who_works();
        outcome
    }

    /// Snapshots hold what their members held, and members what they were seeded with.
    fn ship(&mut self) {
        for (node, facts) in self.sim.shown().seen_nodes() {
            for (name, member) in &facts.members {
                let Member::Marked(member) = &**member else { continue };
                let holds = self.holds.entry((node.clone(), name.clone())).or_default();
                if let Some(made) = member.marker.snapshot.as_ref().and_then(Snapshot::made) {
                    self.snapshots.entry(made.id.clone()).or_insert((*holds, !made.fenced));
                }
                match &member.marker.seed {
                    Some(Seed::Awaited | Seed::Spoiled { .. }) => *holds = 0,
                    Some(Seed::Placed { id }) => *holds = self.snapshots[id].0,
                    Some(Seed::Opened { .. }) | None => {}
                }
            }
        }
    }

    /// What the controller asks both nodes before it promotes.
    fn has_all(&self, source: &NodeName, target: &NodeName, step: &Step) -> bool {
        let Subject::Instance(name) = &step.subject else { return false };
        let live = self.sim.shown();
        let position = |node| match live.seen(node)?.0.member(name)?.server.clone() {
            Server::Up(running) => Some(running.replication),
            Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => None,
        };
        let (Some(source), Some(target)) = (position(source), position(target)) else { return false };
        target.link == Some(Link::Up) && target.replid == source.replid && target.offset >= source.offset
    }

    /// Time passes: replication flows, here and there, and clients write wherever they are let.
    fn breathe(&mut self, flows: f64) {
        let mut live = self.sim.live.lock().unwrap();
        let all: Vec<(NodeName, InstanceName)> =
            live.seen_nodes().flat_map(|(node, facts)| facts.members.keys().map(|name| (node.clone(), name.clone()))).collect();
        self.holds.retain(|place, _| all.contains(place));
        // Whoever was killed listens no more.
        for observed in live.nodes.values_mut() {
            let Observed::Seen(facts) = observed else { continue };
            let listens = |member: &Arc<Member>| match &**member {
                Member::Marked(member) => member.spec.memory.seen().and_then(|spec| spec.port()),
                Member::Unmarked { .. } => None,
            };
            facts.ports_in_use = facts.members.values().filter_map(listens).collect();
        }
        let mut endpoints = BTreeMap::new();
        // Whoever hangs gives nothing, and takes nothing.
        let hung = self.sim.hung.lock().unwrap();
        let all: Vec<_> = all.into_iter().filter(|place| !hung.contains_key(place)).collect();
        for (node, name) in &all {
            let Some(Observed::Seen(facts)) = live.nodes.get_mut(node) else { continue };
            let Some(Member::Marked(member)) = facts.members.get_mut(name).map(Arc::make_mut) else { continue };
            let Server::Up(running) = &mut member.server else { continue };
            let Some(memory) = member.spec.memory.seen() else { continue };
            endpoints.insert((name.clone(), role::endpoint(memory).unwrap()), node.clone());
            if running.replication.replid.is_empty() {
                // A server that was started has a history of its own (facts E.4: the AOF keeps none).
                self.histories += 1;
                running.replication.replid = format!("h{}", self.histories);
                running.replication.offset = self.holds.get(&(node.clone(), name.clone())).copied().unwrap_or_default();
            }
        }
        for (node, name) in &all {
            let follows = live.seen(node).and_then(|(facts, _)| facts.member(name)?.role_in_force()?.follows);
            let source = follows.and_then(|primary| endpoints.get(&(name.clone(), primary)).cloned());
            if let Some(source) = source.filter(|_| self.rng.random_bool(flows)) {
                role::catch_up(&mut live, node, name);
                let has = self.holds.get(&(source, name.clone())).copied().unwrap_or_default();
                self.holds.insert((node.clone(), name.clone()), has);
            }
        }
        let mut open: BTreeMap<InstanceName, Vec<NodeName>> = BTreeMap::new();
        for (node, name) in &all {
            let Some(Observed::Seen(facts)) = live.nodes.get_mut(node) else { continue };
            let Some(Member::Marked(member)) = facts.members.get_mut(name).map(Arc::make_mut) else { continue };
            if member.role_in_force() != Some(Overlay::OPEN) {
                continue;
            }
            let Server::Up(running) = &mut member.server else { continue };
            open.entry(name.clone()).or_default().push(node.clone());
            let has = self.holds.entry((node.clone(), name.clone())).or_default();
            let acknowledged = self.acknowledged.entry(format!("{name} {}", member.marker.uid)).or_default();
            if self.tells {
                eprintln!("    {name} on {node}: {has} of {acknowledged}");
            }
            let seed = member.marker.seed.as_ref().and_then(Seed::opened);
            if let Some((_, lossy @ true)) = seed.and_then(|id| self.snapshots.get_mut(id)) {
                // Only what was written before it was opened may be lost.
                (*lossy, *acknowledged) = (false, *has);
            }
            if *has < *acknowledged {
                self.sim.law(format!("{name} on {node} takes writes with {has} of {acknowledged}"));
            }
            *has += 1;
            *acknowledged = (*acknowledged).max(*has);
            running.replication.offset = *has;
            running.unsaved_changes += 1;
        }
        for (name, nodes) in open.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
            self.sim.law(format!("{name} takes writes on {nodes:?}"));
        }
    }

    fn settle(&mut self, desired: &Desired) {
        self.wake();
        for _ in 0..PASSES_MAX {
            self.breathe(1.0);
            let plan = plan(desired, &self.sim.shown());
            self.brakes(desired, &plan, Action::restarts);
            if plan.steps.is_empty() && !plan.held.iter().any(|held| matches!(held.reason, HeldReason::Syncing { .. })) {
                return self.as_desired(desired, &plan);
            }
            self.take_all(&plan.steps, 1.0);
        }
        let plan = plan(desired, &self.sim.shown());
        panic!("seed {}: not settled after {PASSES_MAX} passes: {:#?} {:#?}", self.seed, plan.steps, plan.held);
    }

    fn as_desired(&self, desired: &Desired, plan: &Plan) {
        assert!(plan.held.is_empty(), "seed {}: {:?}", self.seed, plan.held);
        let live = self.sim.shown();
        for (name, wish) in &desired.instances {
            let here: BTreeMap<&NodeName, Overlay> = live
                .seen_nodes()
                .filter_map(|(node, facts)| {
                    Some((
                        node,
                        facts
                            .member(name)?
                            .role_in_force()
                            .unwrap_or_else(|| panic!("seed {}: {name} on {node} is not up", self.seed)),
                    ))
                })
                .collect();
            if wish.ensure == Ensure::Absent {
                assert!(here.is_empty(), "seed {}: {name} should be gone", self.seed);
                continue;
            }
            let shard: BTreeSet<&NodeName> = desired.shards[&wish.shard].nodes.iter().collect();
            assert_eq!(here.keys().copied().collect::<BTreeSet<_>>(), shard, "seed {}: {name} is elsewhere", self.seed);
            let open: Vec<_> = here.iter().filter(|(_, role)| role.is_open()).map(|(node, _)| *node).collect();
            assert_eq!(open.len(), 1, "seed {}: {name} {here:?}", self.seed);
            assert!(wish.primary.as_ref().is_none_or(|wished| open == [wished]), "seed {}: {name} {here:?}", self.seed);
        }
    }
}
