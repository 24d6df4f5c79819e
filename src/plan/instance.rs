//! What is to be done about one instance.

use jiff::Timestamp;

use super::found::{Place, Places};
use super::identity;
use super::open::Upgrade;
use super::wanted::{Wanted, wanted};
use super::{Decision, Scene, acl, forward, group, guard, moves, open, ports, settings};
use crate::model::action::{Action, Creation};
use crate::model::change::Change;
use crate::model::desired::{DesiredInstance, Ensure, Shard};
use crate::model::live::{Folder, MemberFacts, Running, Server};
use crate::model::marker::{Applied, Marker, Stage};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, Cost, HeldReason, Note, Step};
use crate::model::record::Seat;
use crate::model::spec::InstanceSpec;

/// What is held where nothing at all can be done about an instance.
pub(super) const ANY_CHANGE: &str = "any change";

/// Decides about one name, whatever is known of it.
pub(super) fn decide<'a>(scene: &mut Scene<'a>, name: &'a InstanceName, places: &Places<'a>) -> Decision {
    let mut decision = Decision::default();
    match places.desired {
        Some(instance) if instance.ensure == Ensure::Present => present(scene, &mut decision, name, instance, places),
        Some(_) => absent(scene, &mut decision, name, places),
        None => vanished(scene, &mut decision, name, places),
    }
    guard::rein_in(scene, &mut decision, name, places);
    if let Some(deletes) = scene.over_deletes {
        guard::hold_requests(scene, &mut decision, name, deletes);
    }
    moves::tell_what_they_wait_for(&mut decision);
    decision
}

fn absent(scene: &mut Scene<'_>, decision: &mut Decision, name: &InstanceName, places: &Places<'_>) {
    if places.ours.is_empty() {
        strike(scene, name, places.seat);
    }
    for place in primary_last(places) {
        delete(scene, decision, name, places, place);
    }
}

/// While the primary is there, a deletion that was begun can be called off.
fn primary_last<'p, 'a>(places: &'p Places<'a>) -> Vec<&'p Place<'a>> {
    let mut all: Vec<&Place<'_>> = places.ours.iter().collect();
    let leads = |member: &MemberFacts| member.role_on_disk().is_none_or(|role| role.follows.is_none());
    all.sort_by_key(|place| leads(place.member) && !place.member.marker.is_vessel());
    all
}

fn vanished(scene: &mut Scene<'_>, decision: &mut Decision, name: &InstanceName, places: &Places<'_>) {
    if places.ours.is_empty() {
        strike(scene, name, places.seat);
    }
    for place in primary_last(places) {
        // A deletion that was begun is finished, whatever the text says now.
        if scene.desired.guard.prune || place.member.marker.stage == Stage::Deleting {
            delete(scene, decision, name, places, place);
        } else {
            decision.hold(name, "delete", HeldReason::Vanished);
        }
    }
}

/// Leaves the roster once every node that it names was seen without the instance.
fn strike(scene: &mut Scene<'_>, name: &InstanceName, seat: Option<&Seat>) {
    let seen = |node: &NodeName| scene.live.seen(node).is_some();
    if seat.is_some_and(|seat| seat.nodes.iter().all(seen)) {
        scene.roster.strike(name);
    }
}

fn delete(scene: &Scene<'_>, decision: &mut Decision, name: &InstanceName, places: &Places<'_>, place: &Place<'_>) {
    let member = place.member;
    let follows = member.role_on_disk().is_some_and(|role| role.follows.is_some());
    // What holds up a replica holds up its primary: otherwise replicas alone are left, and nobody may take over.
    if !follows && !decision.held.is_empty() {
        return;
    }
    let seated = places.seat.map_or(&[][..], |seat| &seat.nodes);
    let unseen = seated.iter().find(|node| *node != place.node && scene.live.seen(node).is_none());
    if let Some(node) = unseen.filter(|_| !follows && seated.len() > 1) {
        let why = "a replica of it may be there, and the primary goes last".to_owned();
        return decision.hold(name, "delete", HeldReason::NodeUnseen { node: node.clone(), why });
    }
    if member.marker.protect && member.marker.stage != Stage::Deleting {
        return decision.hold(name, "delete", HeldReason::Protected);
    }
    if !scene.approved && nothing_to_set_aside(place) {
        let why =
            "what it holds is only in memory and cannot be set aside: copy it out (valkey-cli --rdb), then approve the revision";
        return decision.hold(name, "delete", HeldReason::DataGone { why: why.to_owned() });
    }
    match &member.server {
        Server::Silent { pid: _, why } => {
            decision.hold(name, "delete", HeldReason::NotAnswering { node: place.node.clone(), why: why.clone() });
        }
        Server::Up(_) | Server::Down { .. } | Server::Locked { .. } => {
            let action = Action::DeleteInstance { uid: member.marker.uid.clone() };
            let costs = decision.step(name, place.node, action, Cause::Requested);
            if let Server::Up(running) = &member.server {
                costs.push(Cost::Stop { connections: running.connections.total });
            }
        }
    }
}

/// Would a deletion lose data instead of setting it aside? A server that answers writes a snapshot first, if it has a
/// folder to write it to.
fn nothing_to_set_aside(place: &Place<'_>) -> bool {
    let member = place.member;
    match &member.server {
        Server::Up(_) => member.data.folder != Folder::Present,
        Server::Locked { .. } => member.data.folder != Folder::Present || !member.persists(place.binary),
        Server::Down { .. } | Server::Silent { .. } => false,
    }
}

fn present<'a>(
    scene: &mut Scene<'a>,
    decision: &mut Decision,
    name: &'a InstanceName,
    instance: &'a DesiredInstance,
    places: &Places<'a>,
) {
    let desired = scene.desired;
    // `desired/check` refuses a reference to a shard that is not declared.
    let Some(shard) = desired.shards.get(&instance.shard) else { return };
    if !places.abandoned.is_empty() {
        for (node, member) in &places.abandoned {
            let action = Action::DeleteInstance { uid: member.marker.uid.clone() };
            decision.step(name, node, action, Cause::Requested);
        }
        return;
    }
    if group::concerns(shard, places) {
        return group::decide(scene, decision, name, instance, shard, places);
    }
    let Some(node) = shard.nodes.first() else { return };
    if let Some(reason) = elsewhere(scene, node, places) {
        return decision.hold(name, ANY_CHANGE, reason);
    }
    let Some((facts, binary)) = scene.live.seen(node) else {
        let why = scene.live.why_unseen(node);
        return decision.hold(name, ANY_CHANGE, HeldReason::NodeUnseen { node: node.clone(), why });
    };
    if let Some((_, why)) = places.strange.iter().find(|(strange, _)| *strange == node) {
        return decision.hold(name, "create", HeldReason::NotOurs { node: node.clone(), why: why.clone() });
    }
    let wanted = match wanted(instance, node, binary) {
        Ok(wanted) => wanted,
        Err(refused) => {
            let problems = refused.iter().map(|refusal| format!("{} ({})", refusal.problem, refusal.cure)).collect();
            decision.refused.extend(refused);
            return decision.hold(name, ANY_CHANGE, HeldReason::Refused { problems });
        }
    };
    let address = desired.nodes.get(node).and_then(|node| node.address);
    let wish = Wish { name, instance, shard, node, seat: places.seat, address };
    match places.ours.first() {
        Some(place) if place.member.is_unborn() => {
            create(scene, decision, &wish, wanted, Some(place.member));
        }
        Some(place) => converge(scene, decision, &wish, place, wanted),
        None => {
            for kept in facts.set_aside.iter().filter(|kept| kept.instance == *name && kept.fleet == desired.fleet) {
                decision.notes.push(Note::SetAside { instance: name.clone(), uid: kept.uid.clone() });
            }
            if desired.nodes.get(node).is_some_and(|node| node.drain) {
                return decision.hold(name, "create", HeldReason::Draining { node: node.clone() });
            }
            create(scene, decision, &wish, wanted, None);
        }
    }
}

/// A declared instance and where it belongs.
struct Wish<'a> {
    name: &'a InstanceName,
    instance: &'a DesiredInstance,
    shard: &'a Shard,
    node: &'a NodeName,
    seat: Option<&'a Seat>,
    address: Option<std::net::IpAddr>,
}

/// Is the instance, or may it be, somewhere else than on its node?
fn elsewhere(scene: &Scene<'_>, node: &NodeName, places: &Places<'_>) -> Option<HeldReason> {
    let seat = places.seat?;
    let machine = scene.live.seen(node).map(|(facts, _)| facts.machine.as_str()).unwrap_or_default();
    let unsure = |other: &&NodeName| {
        *other != node && scene.live.seen(other).is_none() && !identity::is_renamed(scene.record, other, machine)
    };
    let nodes: Vec<NodeName> = seat.nodes.iter().filter(unsure).cloned().collect();
    (!nodes.is_empty()).then_some(HeldReason::PlacedElsewhere { nodes })
}

fn create(scene: &mut Scene<'_>, decision: &mut Decision, wish: &Wish<'_>, mut wanted: Wanted, begun: Option<&MemberFacts>) {
    let Wish { name, instance, shard, node, seat, address } = *wish;
    // A marker may be from before somebody else took its port; the roster was written since, and is what was shown.
    let seated = seat.filter(|seat| seat.nodes.contains(node)).map(|seat| seat.port);
    let remembered = [seated, begun.and_then(ports::current)];
    let port = match scene.ports.for_new(name, instance, shard, node, remembered) {
        Ok(port) => port,
        Err(reason) => return decision.hold(name, "create", reason),
    };
    let spec = wanted.take_spec(port, address);
    if let (None, Some((facts, binary))) = (begun, scene.live.seen(node))
        && let Err(reason) = scene.room.enter(node, facts, &spec, binary.persists(&spec), 0)
    {
        return decision.hold(name, "create", reason);
    }
    let uid = match begun {
        Some(member) => {
            scene.roster.adopt(name, seat, &member.marker.uid, node, port);
            member.marker.uid.clone()
        }
        None => {
            let kept = scene.live.seen(node).map_or(&[][..], |(facts, _)| &facts.set_aside);
            let used: Vec<&str> = kept.iter().map(|kept| kept.uid.as_str()).collect();
            scene.roster.enter(name, seat, node, port, &used)
        }
    };
    let creation = Creation {
        begins: false,
        fleet: scene.desired.fleet.clone(),
        uid,
        tenant: instance.tenant.clone(),
        protect: instance.protect,
        spec,
        users: wanted.users,
    };
    decision.step(name, node, Action::CreateInstance(Box::new(creation)), Cause::Requested);
}

fn converge(scene: &mut Scene<'_>, decision: &mut Decision, wish: &Wish<'_>, place: &Place<'_>, mut wanted: Wanted) {
    let Wish { name, instance, shard, node: _, seat, address } = *wish;
    let port = match scene.ports.for_member(name, instance, place.member, place.node) {
        Ok(Some(port)) => Ok(port),
        Ok(None) => scene.ports.for_new(name, instance, shard, place.node, [None; 2]),
        Err(reason) => Err(reason),
    };
    let port = match port {
        Ok(port) => port,
        Err(reason) => return decision.hold(name, "change the port", reason),
    };
    let spec = wanted.take_spec(port, address);
    scene.roster.adopt(name, seat, &place.member.marker.uid, place.node, port);
    settle(scene, decision, name, instance, place, &wanted, &spec, Remarks::default());
}

/// What the marker of a member is to say of a move.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Remarks {
    /// Since when it is no longer wanted.
    pub retiring: Option<Timestamp>,
    /// Its snapshot is of use.
    pub keeps_snapshot: bool,
}

/// What one member that stands needs: to run, with these settings and users.
#[expect(clippy::too_many_arguments, reason = "one call site shape for members alone and in a group")]
pub(super) fn settle(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    instance: &DesiredInstance,
    place: &Place<'_>,
    wanted: &Wanted,
    spec: &InstanceSpec,
    remarks: Remarks,
) {
    let member = place.member;
    match &member.server {
        Server::Silent { pid: _, why } => {
            let reason = HeldReason::NotAnswering { node: place.node.clone(), why: why.clone() };
            return decision.hold(name, ANY_CHANGE, reason);
        }
        Server::Up(running) if running.loading => {
            return decision.hold(name, ANY_CHANGE, HeldReason::Loading { node: place.node.clone() });
        }
        Server::Down { .. } => open::start(scene, decision, name, place, wanted, spec),
        Server::Locked { .. } => open::reopen(scene, decision, name, place, wanted, spec),
        Server::Up(running) => {
            if member.data.folder != Folder::Present {
                let why = "the data folder of the running server is gone, so its data is only in memory: copy it out \
                           (valkey-cli --rdb) before anything stops it";
                return decision.hold(name, ANY_CHANGE, HeldReason::DataGone { why: why.to_owned() });
            }
            if let Some(why) = &member.unit_broken {
                decision.step(name, place.node, Action::RepairUnit { why: why.clone() }, Cause::Drift);
            }
            up(scene, decision, name, place, running, wanted, spec);
            // Whatever restarts it, or writes its config, does this as well.
            let written = |step: &Step| matches!(step.action, Action::ChangeInstance(_) | Action::UpgradeInstance(_));
            if let Some(why) = member.credential_broken.as_ref().filter(|_| !decision.steps.iter().any(written)) {
                decision.step(name, place.node, Action::RepairCredential { why: why.clone() }, Cause::Drift);
            }
        }
    }
    mark(decision, name, instance, place, wanted, spec, remarks);
}

/// A server that runs, answers, and has its data where it belongs.
fn up(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    wanted: &Wanted,
    spec: &InstanceSpec,
) {
    let undeclared = scene.desired.guard.undeclared_users;
    // An old version need not know what users of the new one may do, nor its settings: they come with the restart.
    let users = if running.version == place.binary.version {
        acl::decide(decision, name, place, running, wanted, undeclared);
        None
    } else {
        Some(open::files(scene, place, wanted))
    };
    let is_other_version = users.is_some();
    let upgrade = open::upgrade(scene, decision, name, place, running, spec, users.unwrap_or_default());
    if is_other_version && upgrade != Upgrade::Now {
        acl::decide(decision, name, place, running, wanted, undeclared);
    }
    match upgrade {
        Upgrade::Now => {}
        Upgrade::Waits if is_other_version => {}
        Upgrade::Waits | Upgrade::Never => settings::decide(scene, decision, name, place, running, spec),
    }
}

/// Is it back at what it is there for? Who leaves never is, and so is known to have been the primary.
fn is_undisturbed(member: &MemberFacts, remarks: Remarks) -> bool {
    member.is_at_work() && remarks.retiring.is_none()
}

fn is_noted(member: &MemberFacts, instance: &DesiredInstance, wanted: &Wanted, spec: &InstanceSpec, remarks: Remarks) -> bool {
    let (marker, is_over) = (&member.marker, is_undisturbed(member, remarks));
    marker.stage == Stage::Active
        && marker.retiring == remarks.retiring
        && (marker.disturbed.is_none() || !is_over)
        && !marker.owes_farewell
        && (marker.snapshot.is_none() || remarks.keeps_snapshot)
        && marker.tenant == instance.tenant
        && marker.protect == instance.protect
        && marker.applied.settings == spec.settings
        && marker.applied.users.iter().eq(wanted.users.iter().map(|(name, want)| (name, &want.user)))
}

/// The marker says who the instance belongs to and what was asked; where nothing else writes it, this does.
fn mark(
    decision: &mut Decision,
    name: &InstanceName,
    instance: &DesiredInstance,
    place: &Place<'_>,
    wanted: &Wanted,
    spec: &InstanceSpec,
    remarks: Remarks,
) {
    if decision.steps.is_empty() && is_noted(place.member, instance, wanted, spec, remarks) {
        return;
    }
    let after_steps =
        if decision.steps.is_empty() { place.member.marker.clone() } else { forward::marker_after(&decision.steps, name, place) };
    let applied = if decision.held.is_empty() && matches!(place.member.server, Server::Up(_)) {
        let users = wanted.users.iter().map(|(user, want)| (user.clone(), want.user.clone())).collect();
        Applied { settings: spec.settings.clone(), users }
    } else {
        after_steps.applied.clone()
    };
    // A creation or a deletion that was begun and overtaken: the server runs and is wanted.
    let is_up = matches!(place.member.server, Server::Up(_));
    let stage = if is_up { Stage::Active } else { after_steps.stage };
    let owes_farewell = after_steps.owes_farewell && !is_up;
    let (tenant, protect) = (instance.tenant.clone(), instance.protect);
    let snapshot = after_steps.snapshot.clone().filter(|_| remarks.keeps_snapshot);
    // What is restarted now is disturbed by that, whatever it was before.
    let is_over = is_undisturbed(place.member, remarks) && !decision.steps.iter().any(|step| step.action.restarts());
    let disturbed = after_steps.disturbed.filter(|_| !is_over);
    let target = Marker {
        disturbed,
        tenant,
        protect,
        applied,
        stage,
        retiring: remarks.retiring,
        snapshot,
        owes_farewell,
        ..after_steps.clone()
    };
    let cause = if (&target.tenant, target.protect) == (&after_steps.tenant, after_steps.protect) {
        Cause::Bookkeeping
    } else {
        Cause::Requested
    };
    if let Some(change) = Change::new(after_steps, target) {
        decision.step(name, place.node, Action::Mark(Box::new(change)), cause);
    }
}
