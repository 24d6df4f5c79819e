//! The simulator: nodes in memory that take actions effect by effect, with faults between any two. It serves the laws
//! only; `contract.rs` holds it and a real server to the same suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use valkeeper::fleet::{Execute, Held, Observe};
use valkeeper::host::tell::Tell;
use valkeeper::model::action::{Action, CutOverParts, Standing};
use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::change::Half;
use valkeeper::model::effect::{Effect, effects, happen};
use valkeeper::model::live::{Folder, Live, Member, MemberFacts, NodeFacts, Observed, Server};
use valkeeper::model::marker::Stage;
use valkeeper::model::name::{InstanceName, NodeName};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::path::{Path, Paths, Way};
use valkeeper::model::plan::{Step, Subject};
use valkeeper::model::snapshot::{Ship, Shipping, Snapshot, SnapshotId};
use valkeeper::model::spec::InstanceSpec;

/// What goes wrong with one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The node's agent dies after this many effects.
    CrashAfter(usize),
    /// Everything is done, and the answer is lost.
    LostReply,
    /// The agent hangs before this effect on a role, for as long as it keeps the right to act on its node; its controller is gone. What is left of
    /// the step it does when it goes on.
    StuckAt(usize),
    /// The server hangs at this effect. What it was told waits for it, and it does that first when it goes on.
    HangAt(usize),
}

/// The simulated nodes.
pub struct Sim {
    pub live: Mutex<Live>,
    pub unseen: Mutex<BTreeSet<NodeName>>,
    pub faults: Mutex<Box<dyn FnMut() -> Fault + Send>>,
    /// Members that hold data which must never be lost.
    pub treasured: Mutex<BTreeSet<(NodeName, InstanceName, String)>>,
    /// Members whose AOF is off in memory: a manifest of theirs is stale.
    pub aof_off: Mutex<BTreeSet<(NodeName, InstanceName)>>,
    /// How many databases the keys of a member take, by its uid; one, if nothing is said.
    pub databases: Mutex<BTreeMap<String, u64>>,
    /// Deleted members, as their files lie aside.
    pub attic: Mutex<BTreeMap<String, MemberFacts>>,
    /// A person approved a revision that may empty instances.
    pub loss_allowed: Mutex<bool>,
    pub broken_laws: Mutex<Vec<String>>,
    /// How many snapshots were written.
    pub snapshots: Mutex<u64>,
    /// Members whose servers hang, with what they were told last.
    pub hung: Mutex<BTreeMap<(NodeName, InstanceName), Option<Effect>>>,
    /// Nodes where an agent hangs, with what it is still to do.
    pub stuck: Mutex<BTreeMap<NodeName, (Subject, Vec<Effect>)>>,
}

impl Sim {
    pub fn new(live: Live) -> Self {
        Self {
            live: Mutex::new(live),
            unseen: Mutex::default(),
            faults: Mutex::new(Box::new(|| Fault::None)),
            treasured: Mutex::default(),
            aof_off: Mutex::default(),
            databases: Mutex::default(),
            attic: Mutex::default(),
            loss_allowed: Mutex::default(),
            broken_laws: Mutex::default(),
            snapshots: Mutex::default(),
            hung: Mutex::default(),
            stuck: Mutex::default(),
        }
    }

    pub fn shown(&self) -> Live {
        let mut live = self.live.lock().unwrap().clone();
        for (node, name) in self.hung.lock().unwrap().keys() {
            if let Some(member) = member_mut(&mut live, node, name) {
                fall_silent(member);
            }
        }
        // The next agent does not get the right to act, and so is not believed (`fleet/session.rs`).
        for node in self.unseen.lock().unwrap().iter().chain(self.stuck.lock().unwrap().keys()) {
            live.nodes.insert(node.clone(), Observed::Unseen { unseen: "simulated".into() });
        }
        live
    }

    /// One attempt at one step, with whatever fault is due.
    pub fn take(&self, step: &Step) -> Outcome {
        if let Action::CutOver(change) = &step.action {
            let CutOverParts { fence, call_off: _, promote, open, demote } = change.parts(step);
            let not_done = [fence, promote, open, demote].iter().map(|part| self.take(part)).find(|outcome| !outcome.is_done());
            return not_done.unwrap_or(Outcome::Done);
        }
        if let Some(seed) = step.seed() {
            return if self.has_snapshot(step) { self.take(&seed) } else { Outcome::Failed("no such snapshot".into()) };
        }
        if self.unseen.lock().unwrap().contains(&step.node) {
            self.law(format!("a step on the unseen node {}: {step:?}", step.node));
            return Outcome::NotReached("unseen".into());
        }
        if self.stuck.lock().unwrap().contains_key(&step.node) {
            return Outcome::NotReached("another agent has the right to act".into());
        }
        if self.hangs(step) {
            return Outcome::Failed("its server does not answer".into());
        }
        let fault = (self.faults.lock().unwrap())();
        let mut live = self.live.lock().unwrap();
        let Live { nodes, binaries, paths: _ } = &mut *live;
        let Some(Observed::Seen(node)) = nodes.get_mut(&step.node) else { return Outcome::NotReached("no such node".into()) };
        let binary = binaries[&node.binary].clone();
        match step.action.standing(&step.subject, node) {
            Standing::After => return Outcome::AlreadyDone,
            Standing::Elsewhere => return Outcome::Conflict(format!("{step:?}")),
            Standing::Before => {}
        }
        let list = effects(&step.action, &step.subject, node, &binary);
        for (index, effect) in list.clone().into_iter().enumerate() {
            if fault == Fault::StuckAt(index) && matches!(step.action, Action::ChangeRole(_)) {
                let left = (step.subject.clone(), list[index..].to_vec());
                self.stuck.lock().unwrap().insert(step.node.clone(), left);
                return Outcome::NotReached("its agent hangs".into());
            }
            if fault == Fault::CrashAfter(index) {
                return Outcome::NotReached("crashed".into());
            }
            if fault == Fault::HangAt(index) && self.hang(step, &effect) {
                return Outcome::NotReached("its server does not answer".into());
            }
            self.watch_start(step, node, &effect);
            self.watch_last_writes(step, node, &effect, &binary);
            self.put_aside(step, node, &effect);
            happen(node, &step.subject, &effect, &binary);
            self.bring_back(step, node, &effect);
            self.name_snapshot(step, node, &effect);
            self.watch_stop(step, node, &effect);
            self.read_data(step, node, &effect);
        }
        if fault == Fault::LostReply {
            return Outcome::NotReached("the reply was lost".into());
        }
        match step.action.standing(&step.subject, node) {
            Standing::After => Outcome::Done,
            Standing::Before | Standing::Elsewhere => Outcome::NotKept(format!("{step:?}")),
        }
    }

    fn hangs(&self, step: &Step) -> bool {
        let Subject::Instance(name) = &step.subject else { return false };
        !matches!(step.action, Action::Mark(_)) && self.hung.lock().unwrap().contains_key(&(step.node.clone(), name.clone()))
    }

    /// Only what a server is told can find it hanging.
    fn hang(&self, step: &Step, effect: &Effect) -> bool {
        let Subject::Instance(name) = &step.subject else { return false };
        let is_told = matches!(effect, Effect::ConfigSet(_) | Effect::Follow(_));
        if is_told {
            self.hung.lock().unwrap().insert((step.node.clone(), name.clone()), Some(effect.clone()));
        }
        is_told
    }

    /// Agents and servers that hung go on.
    pub fn wake(&self) {
        let mut live = self.live.lock().unwrap();
        let Live { nodes, binaries, paths: _ } = &mut *live;
        for (node, (subject, left)) in std::mem::take(&mut *self.stuck.lock().unwrap()) {
            let Some(Observed::Seen(facts)) = nodes.get_mut(&node) else { continue };
            let binary = binaries[&facts.binary].clone();
            left.iter().for_each(|effect| happen(facts, &subject, effect, &binary));
        }
        for ((node, name), told) in std::mem::take(&mut *self.hung.lock().unwrap()) {
            let Some(Observed::Seen(facts)) = nodes.get_mut(&node) else { continue };
            if let Some(effect) = told {
                let binary = binaries[&facts.binary].clone();
                happen(facts, &Subject::Instance(name), &effect, &binary);
            }
        }
    }

    /// The facts of deleted data are few; what comes back with it is remembered here, as the files would.
    fn put_aside(&self, step: &Step, node: &NodeFacts, effect: &Effect) {
        if let (Effect::SetAside, Subject::Instance(name)) = (effect, &step.subject)
            && let Some(member) = node.member(name)
        {
            self.attic.lock().unwrap().insert(member.marker.uid.clone(), member.clone());
        }
    }

    fn bring_back(&self, step: &Step, node: &mut NodeFacts, effect: &Effect) {
        if let (Effect::BringBack { uid }, Subject::Instance(name)) = (effect, &step.subject)
            && let Some(mut member) = self.attic.lock().unwrap().remove(uid)
        {
            member.marker.stage = Stage::Active;
            node.members.insert(name.clone(), Arc::new(Member::Marked(member)));
        }
    }

    /// Every snapshot has a name of its own; `happen` has no dice.
    fn name_snapshot(&self, step: &Step, node: &mut NodeFacts, effect: &Effect) {
        let (Effect::Ship(Ship::Sum), Subject::Instance(name)) = (effect, &step.subject) else { return };
        let mut count = self.snapshots.lock().unwrap();
        *count += 1;
        if let Some(Member::Marked(member)) = node.members.get_mut(name).map(Arc::make_mut)
            && let Some(Snapshot::Made(made)) = &mut member.marker.snapshot
        {
            made.id = SnapshotId::new(&format!("{:032x}", *count)).unwrap();
        }
    }

    /// Is what a step is to carry still at its source?
    fn has_snapshot(&self, step: &Step) -> bool {
        let (Action::Ship(shipping), Subject::Instance(name)) = (&step.action, &step.subject) else { return false };
        let Shipping::Carry { source, made } = &**shipping else { return false };
        let shown = self.shown();
        let note =
            shown.seen(source).and_then(|(facts, _)| facts.member(name)).and_then(|member| member.marker.snapshot.as_ref());
        note.and_then(Snapshot::made) == Some(made)
    }

    fn treasured<'a>(&self, step: &'a Step, node: &'a NodeFacts) -> Option<(&'a InstanceName, &'a MemberFacts)> {
        let Subject::Instance(name) = &step.subject else { return None };
        let member = node.member(name)?;
        let key = (step.node.clone(), name.clone(), member.marker.uid.clone());
        self.treasured.lock().unwrap().contains(&key).then_some((name, member))
    }

    /// A server that starts must come up with its newest data: in the AOF where there is one, else in the dump.
    fn watch_start(&self, step: &Step, node: &NodeFacts, effect: &Effect) {
        let Some((name, member)) = self.treasured(step, node) else { return };
        if *effect != Effect::Start {
            return;
        }
        let aof = member.spec.disk.seen().is_some_and(|spec| spec.aof());
        let data = member.data;
        let key = (step.node.clone(), name.clone());
        let stale = self.aof_off.lock().unwrap().contains(&key);
        if data.folder != Folder::Present || (aof && (!data.aof || stale)) || (!aof && !data.rdb) {
            self.law(format!("{name} was started without its data ({data:?}, appendonly {aof}): {step:?}"));
        }
    }

    /// A server that is stopped must write what came since the last snapshot; a deletion makes a snapshot of its own.
    fn watch_last_writes(&self, step: &Step, node: &NodeFacts, effect: &Effect, binary: &BinaryFacts) {
        let Some((name, member)) = self.treasured(step, node) else { return };
        let deletes = matches!(step.action, Action::DeleteInstance { .. });
        if *effect == Effect::Stop && !deletes && !member.persists(binary) && !*self.loss_allowed.lock().unwrap() {
            self.law(format!("{name} was stopped without writing its data down: {step:?}"));
        }
    }

    /// A server that started shows which databases its keys take: they must be among those it has.
    fn read_data(&self, step: &Step, node: &mut NodeFacts, effect: &Effect) {
        let (Effect::Start, Subject::Instance(name)) = (effect, &step.subject) else { return };
        let Some(Member::Marked(member)) = node.members.get_mut(name).map(Arc::make_mut) else { return };
        let used = self.databases.lock().unwrap().get(&member.marker.uid).copied().unwrap_or_default();
        let has = member.spec.disk.seen().map_or(16, databases);
        if used > has && !*self.loss_allowed.lock().unwrap() {
            self.law(format!("{name} was started with {has} databases where its keys take {used}: {step:?}"));
        }
        if let Server::Up(running) = &mut member.server {
            running.databases_used = Some(used);
        }
    }

    fn watch_stop(&self, step: &Step, node: &NodeFacts, effect: &Effect) {
        if let (Subject::Instance(name), Effect::ConfigSet(_) | Effect::Start) = (&step.subject, effect) {
            let on = node.member(name).and_then(|member| member.spec.memory.seen()).is_some_and(|spec| spec.aof());
            let key = (step.node.clone(), name.clone());
            if on {
                self.aof_off.lock().unwrap().remove(&key)
            } else {
                self.aof_off.lock().unwrap().insert(key)
            };
        }
        let Some((name, member)) = self.treasured(step, node) else { return };
        let kept = member.data.folder == Folder::Present && (member.data.aof || member.data.rdb);
        if *effect == Effect::Stop && !kept && !*self.loss_allowed.lock().unwrap() {
            self.law(format!("{name} was stopped with its data only in memory: {step:?}"));
        }
    }

    pub fn law(&self, broken: String) {
        self.broken_laws.lock().unwrap().push(broken);
    }

    /// Changes one member by hand, as a person would.
    pub fn edit(&self, node: &NodeName, name: &InstanceName, change: impl FnOnce(&mut MemberFacts)) {
        let mut live = self.live.lock().unwrap();
        let Some(Observed::Seen(facts)) = live.nodes.get_mut(node) else { return };
        if let Some(Member::Marked(member)) = facts.members.get_mut(name).map(Arc::make_mut) {
            change(member);
        }
    }

    /// A person destroyed the data: nobody can be blamed for its loss any more.
    pub fn forget(&self, node: &NodeName, name: &InstanceName) {
        self.treasured.lock().unwrap().retain(|(on, instance, _)| (on, instance) != (node, name));
    }

    /// Keys come to a database of a running member, and leave the higher ones.
    pub fn spread(&self, node: &NodeName, name: &InstanceName, share: f64) {
        let databases_of = &self.databases;
        self.edit(node, name, |member| {
            let has = member.spec.memory.seen().map_or(16, databases);
            if let Server::Up(running) = &mut member.server {
                let used = (has as f64 * share).ceil() as u64;
                running.databases_used = Some(used);
                databases_of.lock().unwrap().insert(member.marker.uid.clone(), used);
            }
        });
    }

    /// Every running member that keeps data gets some now.
    pub fn fill(&self) {
        let mut live = self.live.lock().unwrap();
        let mut treasured = self.treasured.lock().unwrap();
        for (node, observed) in &mut live.nodes {
            let Observed::Seen(facts) = observed else { continue };
            for (name, member) in &mut facts.members {
                let Member::Marked(member) = Arc::make_mut(member) else { continue };
                let (Server::Up(_), Half::Seen(_)) = (&member.server, &member.spec.memory) else { continue };
                if !(member.data.aof || member.data.rdb) {
                    continue;
                }
                treasured.insert((node.clone(), name.clone(), member.marker.uid.clone()));
            }
        }
    }
}

fn member_mut<'a>(live: &'a mut Live, node: &NodeName, name: &InstanceName) -> Option<&'a mut MemberFacts> {
    let Some(Observed::Seen(facts)) = live.nodes.get_mut(node) else { return None };
    match facts.members.get_mut(name).map(Arc::make_mut) {
        Some(Member::Marked(member)) => Some(member),
        Some(Member::Unmarked { .. }) | None => None,
    }
}

/// As a server is seen that runs and does not answer.
fn fall_silent(member: &mut MemberFacts) {
    let why = "it did not answer";
    member.server = Server::Silent { pid: 1, why: why.into() };
    member.spec.memory = Half::Unseen { unseen: why.into() };
    member.users.values_mut().for_each(|twin| twin.memory = Half::Unseen { unseen: why.into() });
}

fn databases(spec: &InstanceSpec) -> u64 {
    spec.get("databases").map_or(16, |number| number.parse().unwrap())
}

impl Observe for Sim {
    async fn observe(&self) -> Live {
        self.shown()
    }

    async fn try_ways(&self, ways: &BTreeSet<Way>) -> Paths {
        let mut paths = Paths::default();
        ways.iter().for_each(|way| paths.enter(way.clone(), Path::Open));
        paths
    }
}

impl Execute for Sim {
    async fn perform(&self, step: &Step, _tell: &Tell) -> Outcome {
        self.take(step)
    }

    async fn acquire(&self, _holder: &str) -> Result<(), Held> {
        Ok(())
    }
}
