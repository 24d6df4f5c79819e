//! What has to change about the settings of a running member.

use std::collections::BTreeSet;

use super::found::Place;
use super::{Decision, Scene, guard};
use crate::model::action::{Action, SpecChange};
use crate::model::change::{Change, Half, Twin};
use crate::model::live::Running;
use crate::model::name::{InstanceName, SettingName};
use crate::model::plan::{Cause, Cost, Step, Subject};
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
    if restart {
        let what = if for_restart.is_empty() { "restart".to_owned() } else { format!("restart for {}", for_restart.join(", ")) };
        let running_with = found.cloned().unwrap_or_default();
        let Some(cost) = guard::may_restart(scene, decision, name, place, &running_with, &what) else { return };
        costs.push(cost);
    }
    let applied = &member.marker.applied.settings;
    let is_drift = |name: &&SettingName| applied.get(*name) == declared.settings.get(*name);
    let drifted: BTreeSet<_> = differing.iter().filter(is_drift).cloned().collect();
    let cause = if drifted.len() == differing.len() { Cause::Drift } else { Cause::Requested };
    let rewrites = found.is_some_and(InstanceSpec::aof) != declared.aof();
    if let Some(port) = declared.port().filter(|_| !restart && moves(&change)) {
        costs.push(Cost::Rebinds { port });
    }
    if rewrites {
        costs.push(Cost::Rewrite { memory_bytes: running.used_memory_bytes });
    }
    costs.extend(losses(place, running, declared));
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

/// What a smaller number costs in data: databases that go, and memory that does not hold what is there.
fn losses(place: &Place<'_>, running: &Running, declared: &InstanceSpec) -> Vec<Cost> {
    let number = |spec: &InstanceSpec, name: &str| -> Option<u64> {
        let usual = place.binary.settings.get(name).map(|facts| facts.default.as_str())?;
        spec.get(name).unwrap_or(usual).parse().ok()
    };
    let before = |name: &str| place.member.spec.memory.seen().and_then(|spec| number(spec, name));
    let databases = before("databases").zip(number(declared, "databases"));
    let databases = databases.filter(|(from, to)| to < from).map(|(from, to)| Cost::FewerDatabases { from, to });
    let limit = number(declared, "maxmemory").filter(|limit| *limit > 0 && before("maxmemory") != Some(*limit));
    let limit = limit.filter(|limit| *limit < running.used_memory_bytes);
    let shrinks = limit.map(|limit_bytes| Cost::Shrinks { used_bytes: running.used_memory_bytes, limit_bytes });
    databases.into_iter().chain(shrinks).collect()
}
