//! What has to change about the settings of a running member.

use std::collections::BTreeSet;

use super::found::Place;
use super::{Decision, Scene, guard, limits};
use crate::model::action::{Action, SpecChange};
use crate::model::change::{Change, Half, Twin};
use crate::model::live::Running;
use crate::model::name::{InstanceName, SettingName};
use crate::model::plan::{Cause, Cost, HeldReason, Step, Subject};
use crate::model::spec::InstanceSpec;

/// Steps for the settings of a running member.
pub(super) fn decide(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    declared: &InstanceSpec,
) {
    let member = place.member;
    let found = member.spec.memory.seen();
    if member.spec.disk.seen() == Some(declared) && found.is_some_and(|memory| place.binary.is_in_force(memory, declared)) {
        return;
    }
    let memory = InstanceSpec::new(place.binary.without_defaults(&declared.settings));
    let after = Twin { disk: Half::Seen(declared.clone()), memory: Half::Seen(memory) };
    let Some(change) = Change::new(member.spec.clone(), after) else { return };
    let differing = differing(&change);
    let fixed_at_start = |name: &&SettingName| place.binary.settings.get(*name).is_some_and(|facts| !facts.runtime);
    let in_memory = |name: &&SettingName| {
        found.and_then(|spec| spec.settings.get(*name)) != memory_of(&change).and_then(|spec| spec.settings.get(*name))
    };
    let for_restart: Vec<&str> = differing.iter().filter(fixed_at_start).filter(in_memory).map(|name| name.as_str()).collect();
    let foreign = found.is_some_and(|spec| !spec.foreign.is_empty());
    let restart = foreign || !for_restart.is_empty();
    let mut costs = Vec::new();
    let what = if for_restart.is_empty() { "restart".to_owned() } else { format!("restart for {}", for_restart.join(", ")) };
    if let Some((from, to)) = databases_that_go(place, running, declared) {
        let used = running.databases_used;
        return decision.hold(name, what, HeldReason::KeysInDatabases { from, to, used });
    }
    if let Err(reason) = scene.room.change(place.node, member, declared) {
        return decision.hold(name, "change settings", reason);
    }
    if restart {
        // What can be set live is set before the stop, persistence too.
        let persists = place.binary.persists(declared);
        let Some(cost) = guard::may_restart(scene, decision, name, place, persists, &what) else { return };
        costs.push(cost);
    }
    let applied = &member.marker.applied.settings;
    let is_drift = |name: &&SettingName| applied.get(*name) == declared.settings.get(*name);
    let drifted: BTreeSet<_> = differing.iter().filter(is_drift).cloned().collect();
    let cause = if drifted.len() == differing.len() { Cause::Drift } else { Cause::Requested };
    let aof = found.is_some_and(InstanceSpec::aof);
    let fewer = found.is_some_and(|found| place.binary.number(declared, "databases") < place.binary.number(found, "databases"));
    let rewrites = aof != declared.aof() || (aof && fewer);
    if let Some(port) = declared.port().filter(|_| !restart && moves(&change)) {
        costs.push(Cost::Rebinds { port });
    }
    if let Some(found) = found.filter(|_| !restart) {
        let limits = limits::tightened(place.binary, found, declared, running.connections.total);
        costs.extend(limits.into_iter().map(Cost::Tightens));
    }
    if rewrites {
        costs.push(Cost::Rewrite { memory_bytes: running.used_memory_bytes });
    }
    costs.extend(shrinks(place, running, declared));
    let action = Action::ChangeInstance(Box::new(SpecChange { change, declared: declared.clone(), restart }));
    let subject = Subject::Instance(name.clone());
    decision.steps.push(Step { subject, node: place.node.clone(), action, cause, drifted, costs });
}

fn memory_of(change: &Change<Twin<InstanceSpec>>) -> Option<&InstanceSpec> {
    change.after().memory.seen()
}

/// Will the running server listen elsewhere?
fn moves(change: &Change<Twin<InstanceSpec>>) -> bool {
    let at = |twin: &Twin<InstanceSpec>| {
        twin.memory.seen().map(|spec| (spec.get("port").map(str::to_owned), spec.get("bind").map(str::to_owned)))
    };
    at(change.before()) != at(change.after())
}

/// The settings that differ on disk or in memory.
fn differing(change: &Change<Twin<InstanceSpec>>) -> BTreeSet<SettingName> {
    let mut names = BTreeSet::new();
    let (before, after) = (change.before(), change.after());
    for (found, wanted) in [(&before.disk, &after.disk), (&before.memory, &after.memory)] {
        let empty = InstanceSpec::default();
        let (found, wanted) = (found.seen().unwrap_or(&empty), wanted.seen().unwrap_or(&empty));
        let all = found.settings.keys().chain(wanted.settings.keys());
        names.extend(all.filter(|name| found.settings.get(*name) != wanted.settings.get(*name)).cloned());
    }
    names
}

/// The numbers of databases before and after, if some go that may hold keys.
fn databases_that_go(place: &Place<'_>, running: &Running, declared: &InstanceSpec) -> Option<(u64, u64)> {
    let number = |spec: &InstanceSpec| place.binary.number(spec, "databases");
    let (from, to) = (number(place.member.spec.memory.seen()?)?, number(declared)?);
    (to < from && running.databases_used.is_none_or(|used| used > to)).then_some((from, to))
}

/// More is in memory than will be allowed.
fn shrinks(place: &Place<'_>, running: &Running, declared: &InstanceSpec) -> Option<Cost> {
    let limit_bytes = place.binary.number(declared, "maxmemory")?;
    let before = place.member.spec.memory.seen().and_then(|spec| place.binary.number(spec, "maxmemory"));
    let used_bytes = running.used_memory_bytes;
    (limit_bytes > 0 && before != Some(limit_bytes) && limit_bytes < used_bytes)
        .then_some(Cost::Shrinks { used_bytes, limit_bytes })
}
