//! An instance with several members, or on its way from one node to another: who joins, follows, takes over and leaves.
//! The order of roles is `migration.rs`'s; what one member needs by itself is decided as for any other.

mod carried;
mod carried_script;
mod hand_over;
mod script;
mod seats;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::found::{Place, Places};
use super::instance::{self, ANY_CHANGE, Remarks};
use super::migration::{self, Fellow, Stage, Turn};
use super::preflight::{self, Source, Target};
use super::wanted::{Wanted, wanted};
use super::{Decision, Scene, identity, ports};
use crate::model::action::{self, Action, Creation, RoleChange, RoleStage};
use crate::model::binary::BinaryFacts;
use crate::model::change::Twin;
use crate::model::desired::{DesiredInstance, MoveBy, Shard};
use crate::model::live::{Live, MemberFacts, Server};
use crate::model::marker::Marker;
use crate::model::name::{InstanceName, NodeName, REPLICA_USER, SettingName, UserName};
use crate::model::password::PasswordHash;
use crate::model::plan::{Cause, Cost, HeldReason, Note};
use crate::model::record::Seat;
use crate::model::role::{self, Endpoint, Overlay};
use crate::model::spec::InstanceSpec;

/// Is it more than one member on the one node of its shard?
pub(super) fn concerns(shard: &Shard, places: &Places<'_>) -> bool {
    let [node] = shard.nodes.as_slice() else { return true };
    places.ours.iter().any(|place| place.node != node || place.member.has_role_of_ours())
}

/// A member that stands, with what is declared for it.
struct Standing<'a> {
    place: Place<'a>,
    wanted: Wanted,
    /// Its settings without a role.
    declared: InstanceSpec,
    endpoint: Endpoint,
    on_shard: bool,
    /// Another one has its data, or it awaits that of another one: it follows nobody.
    is_apart: bool,
}

/// The instance and where it belongs.
struct Group<'a> {
    name: &'a InstanceName,
    instance: &'a DesiredInstance,
    shard: &'a Shard,
    seat: Option<&'a Seat>,
    members: Vec<Standing<'a>>,
    /// Nodes of the shard on which it has no member yet, or one whose creation was begun.
    missing: Vec<(&'a NodeName, Option<&'a MemberFacts>)>,
    unseen: Vec<&'a NodeName>,
    /// Where creations were begun, with the ports they have: they keep their seats until they are made or cleared away.
    begun: Vec<(NodeName, u16)>,
    /// From which member the data is carried to the shard.
    source: Option<usize>,
}

pub(super) fn decide<'a>(
    scene: &mut Scene<'a>,
    decision: &mut Decision,
    name: &'a InstanceName,
    instance: &'a DesiredInstance,
    shard: &'a Shard,
    places: &Places<'a>,
) {
    if let Some((node, why)) = places.strange.iter().find(|(node, _)| shard.nodes.contains(node)) {
        return decision.hold(name, "join", HeldReason::ForeignTarget { node: (*node).clone(), why: why.clone() });
    }
    let meet = instance.move_by == MoveBy::Replication || shard.nodes.len() > 1;
    if let (true, Err(reason)) = (meet, reachable(scene, shard, places)) {
        return decision.hold(name, "join", reason);
    }
    let mut group = match Group::of(scene, decision, name, instance, shard, places) {
        Ok(group) => group,
        Err(reason) => return decision.hold(name, ANY_CHANGE, reason),
    };
    let never_ran = |place: &&Place<'_>| place.member.is_unborn() && !shard.nodes.contains(place.node);
    for place in places.ours.iter().filter(never_ran) {
        let action = Action::DeleteInstance { uid: place.member.marker.uid.clone() };
        decision.step(name, place.node, action, Cause::Requested);
    }
    if group.members.is_empty() {
        group.hold_unseen(scene, decision, false);
        return group.begin(scene, decision);
    }
    group.part();
    group.introduce();
    if group.carried(scene, decision) {
        return;
    }
    let fellows = group.fellows();
    let stage = migration::stage(&fellows, |primary| group.chosen(primary));
    group.hold_unseen(scene, decision, group.would_change_roles(&stage));
    match stage.clone() {
        Stage::Led { primary, turns } => group.led(scene, decision, primary, &turns),
        Stage::Between(turn) if group.unseen.is_empty() => group.take(decision, &turn),
        Stage::Between(_) => {}
        Stage::Headless => (0..group.members.len()).for_each(|place| group.converge(scene, decision, place, None, None)),
        Stage::Held(reason @ HeldReason::TwoPrimaries { .. }) => decision.hold(name, "any change of roles", reason),
        // Without all of them nobody knows.
        Stage::Held(_) if !group.unseen.is_empty() => {}
        Stage::Held(reason) => decision.hold(name, "any change of roles", reason),
    }
    let added = group.joining(decision);
    group.seat(scene, &added);
    decision.moves.extend(group.script(scene, decision, &stage));
}

/// Members on different machines need addresses at which they reach each other.
fn reachable(scene: &Scene<'_>, shard: &Shard, places: &Places<'_>) -> Result<(), HeldReason> {
    let nodes: Vec<&NodeName> = shard.nodes.iter().chain(places.ours.iter().map(|place| place.node)).collect();
    let is_one = nodes.windows(2).all(|pair| match pair {
        [one, other] => ports::machine(scene.desired, one) == ports::machine(scene.desired, other),
        _ => true,
    });
    let nowhere = |node: &&&NodeName| scene.desired.nodes.get(**node).is_none_or(|node| node.address.is_none());
    match nodes.iter().find(nowhere).filter(|_| !is_one) {
        Some(node) => Err(HeldReason::NoAddress { node: (*node).clone() }),
        None => Ok(()),
    }
}

fn address(scene: &Scene<'_>, node: &NodeName) -> Option<IpAddr> {
    scene.desired.nodes.get(node).and_then(|node| node.address)
}

fn endpoint(scene: &Scene<'_>, node: &NodeName, port: u16) -> Endpoint {
    Endpoint::new(address(scene, node).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port)
}

impl<'a> Standing<'a> {
    fn fellow(&self) -> Fellow<'_> {
        let Place { node, facts, member, .. } = self.place;
        Fellow { node, endpoint: &self.endpoint, member, now: facts.observed_at, wanted: self.on_shard }
    }
}

impl<'a> Group<'a> {
    fn of(
        scene: &mut Scene<'a>,
        decision: &mut Decision,
        name: &'a InstanceName,
        instance: &'a DesiredInstance,
        shard: &'a Shard,
        places: &Places<'a>,
    ) -> Result<Self, HeldReason> {
        let mut group = Self {
            name,
            instance,
            shard,
            seat: places.seat,
            members: Vec::new(),
            missing: Vec::new(),
            unseen: Vec::new(),
            begun: Vec::new(),
            source: None,
        };
        for place in &places.ours {
            if place.member.is_unborn() {
                group.begun.extend(ports::current(place.member).map(|port| (place.node.clone(), port)));
                continue;
            }
            let mut wanted = judged(decision, instance, place.node, place.binary)?;
            let port = match scene.ports.for_member(name, instance, place.member, place.node)? {
                Some(port) => port,
                None => scene.ports.for_new(name, instance, shard, place.node, [None; 2])?,
            };
            let declared = prompt(wanted.take_spec(port, address(scene, place.node)), place.binary);
            // Others reach it where it listens now.
            let listens = ports::current(place.member).unwrap_or(port);
            let endpoint = endpoint(scene, place.node, listens);
            let on_shard = shard.nodes.contains(place.node);
            group.members.push(Standing { place: *place, wanted, declared, endpoint, on_shard, is_apart: false });
        }
        let live: &'a Live = scene.live;
        for node in &shard.nodes {
            match live.seen(node) {
                None => group.unseen.push(node),
                Some(_) if group.members.iter().any(|member| member.place.node == node) => {}
                Some(_) => {
                    let begun = places.ours.iter().find(|place| place.node == node).map(|place| place.member);
                    group.missing.push((node, begun));
                }
            }
        }
        let machines: Vec<&str> = live.seen_nodes().map(|(_, facts)| facts.machine.as_str()).collect();
        let renamed = |node: &NodeName| machines.iter().any(|machine| identity::is_renamed(scene.record, node, machine));
        let seated = places.seat.map_or(&[][..], |seat| &seat.nodes);
        let lost = seated.iter().filter(|node| !shard.nodes.contains(node) && live.seen(node).is_none() && !renamed(node));
        group.unseen.extend(lost);
        Ok(group)
    }

    fn fellows(&self) -> Vec<Fellow<'_>> {
        self.members.iter().map(Standing::fellow).collect()
    }

    /// Each member lets the others follow it.
    fn introduce(&mut self) {
        let is_dual_channel = self.is_dual_channel();
        let password = |member: &Standing<'_>| member.place.member.replication_password.clone().filter(|_| !member.is_apart);
        let all: Vec<Option<PasswordHash>> = self.members.iter().map(password).collect();
        let begun = self.missing.iter().filter_map(|(_, begun)| begun.filter(|member| member.role_applied().follows.is_some()));
        let begun: Vec<PasswordHash> = begun.filter_map(|member| member.replication_password.clone()).collect();
        for (place, member) in self.members.iter_mut().enumerate().filter(|(_, member)| !member.is_apart) {
            let others = all.iter().enumerate().filter(|(other, _)| *other != place);
            let mut others: Vec<PasswordHash> = others.filter_map(|(_, hash)| hash.clone()).chain(begun.clone()).collect();
            others.sort_unstable();
            if let (false, Ok(user)) = (others.is_empty(), UserName::new(REPLICA_USER)) {
                member.wanted.users.insert(user, role::user(&others, is_dual_channel));
            }
        }
    }

    fn is_dual_channel(&self) -> bool {
        self.instance.settings.get(role::DUAL_CHANNEL).is_some_and(|declared| declared.value == "yes")
    }

    /// Who shall be primary where this member is: the one that is asked for, else whoever it is on the shard, else the first
    /// of the shard that there is.
    fn chosen(&self, primary: usize) -> usize {
        let on = |node: &NodeName| self.members.iter().position(|member| member.place.node == node);
        if let Some(asked) = &self.instance.primary {
            return on(asked).unwrap_or(primary);
        }
        match self.members.get(primary) {
            Some(member) if member.on_shard => primary,
            Some(_) | None => self.shard.nodes.iter().find_map(on).unwrap_or(primary),
        }
    }

    /// No member anywhere: the first one is the primary, and the others follow it.
    fn begin(&mut self, scene: &mut Scene<'a>, decision: &mut Decision) {
        if !self.unseen.is_empty() {
            return;
        }
        let asked = self.instance.primary.as_ref();
        let first = asked.and_then(|asked| self.missing.iter().position(|(node, _)| *node == asked)).unwrap_or(0);
        if first >= self.missing.len() {
            return;
        }
        let (node, begun) = self.missing.remove(first);
        let set_aside = scene.live.seen_nodes().flat_map(|(_, facts)| &facts.set_aside);
        let used: Vec<&str> = set_aside.map(|kept| kept.uid.as_str()).collect();
        let uid = match begun {
            Some(member) => member.marker.uid.clone(),
            None => scene.roster.uid(self.name, self.seat, &used),
        };
        let remembered = begun.and_then(ports::current);
        let Some(port) = self.create(scene, decision, (node, begun), &uid, remembered, &Overlay::OPEN, None) else { return };
        let leader = Overlay::follower(endpoint(scene, node, port));
        let mut added = vec![(node.clone(), port)];
        let runs = scene.live.seen(node).map(|(_, binary)| binary.version.clone()).unwrap_or_default();
        for joining in std::mem::take(&mut self.missing) {
            let judged = scene.live.seen(joining.0).map_or(Ok(()), |(_, binary)| preflight::version(&runs, joining.0, binary));
            if let Err(reason) = judged {
                decision.hold(self.name, "join", reason);
                continue;
            }
            let own = self.create(scene, decision, joining, &uid, Some(port), &leader, None);
            added.extend(own.map(|port| (joining.0.clone(), port)));
        }
        self.seat_as(scene, &uid, port, added);
    }

    /// Makes a member; gives its port. `source`: whose data it gets, if there is any yet.
    #[expect(clippy::too_many_arguments, reason = "one call site shape for the first member and those that join it")]
    fn create(
        &self,
        scene: &mut Scene<'a>,
        decision: &mut Decision,
        (node, begun): (&'a NodeName, Option<&'a MemberFacts>),
        uid: &str,
        port: Option<u16>,
        role: &Overlay,
        source: Option<usize>,
    ) -> Option<u16> {
        let Self { name, instance, shard, .. } = *self;
        let what = if role.is_open() { "create" } else { "join" };
        if scene.desired.nodes.get(node).is_some_and(|node| node.drain) {
            decision.hold(name, what, HeldReason::Draining { node: node.clone() });
            return None;
        }
        let (facts, binary) = scene.live.seen(node)?;
        let made = judged(decision, instance, node, binary).and_then(|mut wanted| {
            let seated = self.seat.filter(|seat| seat.nodes.contains(node)).map(|seat| seat.port_on(node));
            let port = scene.ports.for_fellow(name, instance, shard, node, [seated, port])?;
            let spec = role.over(&prompt(wanted.take_spec(port, address(scene, node)), binary));
            if let Some(Standing { place, endpoint, on_shard, .. }) = source.and_then(|source| self.members.get(source)) {
                let (source, target) = (Source { place, endpoint, is_left: !on_shard }, Target { node, binary, spec: &spec });
                // Whoever follows nobody gets its data otherwise.
                match role.follows {
                    Some(_) => preflight::join(scene, decision, source, target)?,
                    None => preflight::receive(place, target)?,
                }
            }
            if begun.is_none() {
                let data_bytes = source.map_or(0, |source| self.used_bytes(source));
                scene.room.enter(node, facts, &spec, binary.persists(&spec), data_bytes)?;
            }
            Ok((port, spec, wanted.users))
        });
        let (port, spec, mut users) = match made {
            Ok(made) => made,
            Err(reason) => {
                decision.hold(name, what, reason);
                return None;
            }
        };
        let known = self.members.iter().filter(|member| role.follows.is_some() && !member.is_apart);
        let others: Vec<PasswordHash> = known.filter_map(|member| member.place.member.replication_password.clone()).collect();
        if let (false, Ok(user)) = (others.is_empty(), UserName::new(REPLICA_USER)) {
            users.insert(user, role::user(&others, self.is_dual_channel()));
        }
        let creation = Creation {
            begins: begun.is_none() && role.follows.is_some() && !self.members.is_empty(),
            fleet: scene.desired.fleet.clone(),
            uid: uid.to_owned(),
            tenant: instance.tenant.clone(),
            protect: instance.protect,
            spec,
            users,
        };
        scene.ports.enter(node, port);
        decision.step(name, node, Action::CreateInstance(Box::new(creation)), Cause::Requested);
        Some(port)
    }

    /// One member takes writes: everybody is brought up to date, further ones join; then, if nothing else is to do, the
    /// primary hands over, or members leave.
    fn led(&mut self, scene: &mut Scene<'a>, decision: &mut Decision, primary: usize, turns: &[Turn]) {
        let Some(leader) = self.members.get(primary).map(|member| member.endpoint.clone()) else { return };
        let (uid, port) = match self.members.get(primary) {
            Some(member) => (member.place.member.marker.uid.clone(), ports::current(member.place.member)),
            None => return,
        };
        let mut busy = None;
        for (place, member) in self.members.iter().enumerate().filter(|(place, _)| *place != primary) {
            let lags = self.members.get(primary).and_then(|first| migration::follows(&first.fellow(), &member.fellow()).err());
            if member.on_shard && !turns.iter().any(|turn| turn.of == place) {
                busy = busy.or(lags);
            }
        }
        // Replicas first, the primary last.
        let others = (0..self.members.len()).filter(|place| *place != primary);
        for place in others.chain([primary]) {
            match turns.iter().find(|turn| turn.of == place) {
                Some(turn) => self.take(decision, turn),
                None => self.converge(scene, decision, place, Some((primary, &leader)), busy.clone()),
            }
            // Each is back in sync before the next one goes.
            if let Some(step) = decision.steps.iter().find(|step| step.action.restarts()) {
                let why = "it is restarted first".to_owned();
                busy = busy.or(Some(HeldReason::Syncing { node: step.node.clone(), why }));
            }
        }
        if self.stand_in(scene, decision, primary) {
            return;
        }
        let role = Overlay::follower(leader);
        for joining in self.missing.clone() {
            let _port = self.create(scene, decision, joining, &uid, port, &role, Some(primary));
        }
        if !decision.steps.is_empty() || !decision.held.is_empty() {
            return;
        }
        match busy {
            Some(reason) => decision.hold(self.name, "follow", reason),
            None if self.unseen.is_empty() => self.hand_over(scene, decision, primary),
            None => {}
        }
    }

    /// Takes one turn.
    fn take(&self, decision: &mut Decision, turn: &Turn) {
        let Some(member) = self.members.get(turn.of) else { return };
        let spec = &member.place.member.spec;
        let change = RoleChange {
            stage: turn.stage,
            before: Twin { disk: action::role(&spec.disk), memory: action::role(&spec.memory) },
            after: turn.after.clone(),
            declared: member.declared.clone(),
        };
        let cause = match turn.stage {
            RoleStage::Attach => Cause::Drift,
            RoleStage::Fence | RoleStage::CallOff | RoleStage::Promote | RoleStage::Open | RoleStage::Demote => Cause::Requested,
        };
        decision.step(self.name, member.place.node, Action::ChangeRole(Box::new(change)), cause);
    }

    /// What one member needs by itself, its role left as it is; or it leaves. `leader`: who takes writes, and where.
    fn converge(
        &self,
        scene: &mut Scene<'a>,
        decision: &mut Decision,
        place: usize,
        leader: Option<(usize, &Endpoint)>,
        busy: Option<HeldReason>,
    ) {
        let Some(member) = self.members.get(place) else { return };
        let facts = member.place.member;
        let on_disk = facts.role_on_disk();
        let is_down = matches!(facts.server, Server::Down { .. });
        let settled = is_down || facts.role_in_force().is_none() || facts.role_in_force() == on_disk;
        let role = match leader {
            Some(_) | None if member.is_apart && is_down => Overlay::FENCED,
            Some((primary, endpoint)) if primary != place && is_down => Overlay::follower(endpoint.clone()),
            Some(_) | None => on_disk.unwrap_or_default(),
        };
        if !settled && !self.gave_away(place) {
            return;
        }
        let retiring = match leader {
            Some((primary, _)) if primary != place && !member.on_shard => {
                let since = facts.marker.retiring.unwrap_or(member.place.facts.observed_at);
                if self.leave(scene, decision, primary, member, since) {
                    return;
                }
                // Until the new primary is open, a replica's clients have nowhere to go.
                let handed_over = self.members.get(primary).is_some_and(|leader| leader.on_shard);
                (handed_over || role.follows.is_none()).then(|| {
                    decision.notes.push(Note::Leaves { instance: self.name.clone(), node: member.place.node.clone(), since });
                    since
                })
            }
            Some(_) => None,
            // Nobody knows yet.
            None => facts.marker.retiring,
        };
        if !settled {
            // Somebody made it follow, maybe in vain. Its data is elsewhere, so that is no matter: its time goes on.
            return self.note(decision, place, |marker| Marker { retiring, ..marker });
        }
        let carries = self.source == Some(place) && self.instance.move_by == MoveBy::SnapshotUnfenced;
        let remarks = Remarks { retiring, keeps_snapshot: carries || role == Overlay::FENCED };
        let spec = role.over(&member.declared);
        scene.unready = busy;
        // A member of its own decision: what the others need must not be taken for its.
        let mut own = Decision::default();
        instance::settle(scene, &mut own, self.name, self.instance, &member.place, &member.wanted, &spec, remarks);
        decision.extend(own);
        scene.unready = None;
    }

    /// Deletes a member whose node is no longer of the shard, when its clients had time to follow.
    fn leave(
        &self,
        scene: &Scene<'_>,
        decision: &mut Decision,
        primary: usize,
        member: &Standing<'_>,
        since: jiff::Timestamp,
    ) -> bool {
        let stays = self.members.get(primary).is_some_and(|leader| leader.on_shard);
        let age = Duration::try_from(member.place.facts.observed_at.duration_since(since)).unwrap_or_default();
        let is_due = member.place.member.marker.retiring.is_some() && age >= scene.desired.guard.handover_grace;
        // Nobody was ever sent to a vessel, and nothing is in it that is not elsewhere.
        let is_vessel = member.place.member.marker.is_vessel();
        let (stays, is_due) = (stays || is_vessel, is_due || is_vessel);
        if !stays || !is_due || !self.unseen.is_empty() {
            return false;
        }
        let action = Action::DeleteInstance { uid: member.place.member.marker.uid.clone() };
        let costs = decision.step(self.name, member.place.node, action, Cause::Requested);
        if let Server::Up(running) = &member.place.member.server {
            costs.push(Cost::Stop { connections: running.connections.total });
        }
        true
    }
}

/// A primary waits 5 s before it sends its data, in case more replicas come: in a group it is not to, unless that is declared.
fn prompt(mut spec: InstanceSpec, binary: &BinaryFacts) -> InstanceSpec {
    let delay = SettingName::known("repl-diskless-sync-delay");
    if spec.get(delay.as_str()).is_none() && binary.settings.contains_key(&delay) {
        spec.set(&delay, "0");
    }
    spec
}

/// What is wanted on this node, or that its server would refuse it.
fn judged(
    decision: &mut Decision,
    instance: &DesiredInstance,
    node: &NodeName,
    binary: &BinaryFacts,
) -> Result<Wanted, HeldReason> {
    wanted(instance, node, binary).map_err(|refused| {
        let problems = refused.iter().map(|refusal| format!("{} ({})", refusal.problem, refusal.cure)).collect();
        decision.refused.extend(refused);
        HeldReason::Refused { problems }
    })
}
