//! Starting a server that is down, or that lets our operator in no more. The one question behind both: would it come up
//! with its data?

use std::sync::Arc;

use super::found::Place;
use super::wanted::Wanted;
use super::{Decision, Scene, acl, guard};
use crate::model::acl::AclUser;
use crate::model::action::{Action, Opening, Upgrade, WantedUsers};
use crate::model::binary::BinaryFacts;
use crate::model::change::Half;
use crate::model::desired::UndeclaredUsers;
use crate::model::live::{Folder, MemberFacts, Running};
use crate::model::name::{InstanceName, SettingName, UserName};
use crate::model::plan::{Cause, HeldReason};
use crate::model::spec::InstanceSpec;

/// Starts a server that is down.
pub(super) fn start(
    scene: &Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    wanted: &Wanted,
    spec: &InstanceSpec,
) {
    let member = place.member;
    let after = match startable(member, place.binary, spec) {
        Ok(after) => after,
        Err(why) => return decision.hold(name, "start", HeldReason::DataGone { why }),
    };
    if let Some(port) = after.port().filter(|port| scene.ports.listening(place.node, *port)) {
        return decision.hold(name, "start", scene.ports.taken(place.node, port, name));
    }
    let before = member.spec.disk.seen().cloned().unwrap_or_default();
    let (users, without) = files(scene, place, wanted);
    let opening = Opening { before, after, users, without };
    decision.step(name, place.node, Action::StartInstance(Box::new(opening)), Cause::Drift);
}

/// The ACL file to write before a start, if the one on disk is not right, and the users to leave out of it.
fn files(scene: &Scene<'_>, place: &Place<'_>, wanted: &Wanted) -> (Option<WantedUsers>, Vec<UserName>) {
    let member = place.member;
    let right =
        |(user, want): (&str, &Arc<AclUser>)| member.users.get(user).is_some_and(|twin| twin.disk == Half::Seen(want.clone()));
    let fixed = acl::fixed(place);
    let all = wanted.users.iter().map(|(user, want)| (user.as_str(), &want.user));
    let all_right = all.chain(fixed.iter().map(|(user, want)| (*user, &want.user))).all(right);
    let remove = scene.desired.guard.undeclared_users == UndeclaredUsers::Remove;
    let surplus = |user: &UserName| {
        let declared = wanted.users.contains_key(user) || fixed.iter().any(|(name, _)| *name == user.as_str());
        !declared && (remove || member.marker.applied.users.contains_key(user))
    };
    let on_disk = member.users.iter().filter(|(_, twin)| !twin.disk.is_absent()).map(|(user, _)| user);
    let without: Vec<_> = on_disk.filter(|user| surplus(user)).cloned().collect();
    let rewrite = !all_right || !without.is_empty() || member.acl_file_broken.is_some();
    (rewrite.then(|| wanted.users.clone()), without)
}

/// Somebody removed our operator user: the ACL file is written while the server is stopped.
pub(super) fn reopen(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    wanted: &Wanted,
    spec: &InstanceSpec,
) {
    let member = place.member;
    let disk = member.spec.disk.seen().cloned().unwrap_or_default();
    if member.data.folder != Folder::Present {
        let why = "its data folder is gone and our operator user is locked out, so its data is only in memory".to_owned();
        return decision.hold(name, "restart to let the operator in", HeldReason::DataGone { why });
    }
    let after = match startable(member, place.binary, spec) {
        Ok(after) => after,
        Err(why) => return decision.hold(name, "restart to let the operator in", HeldReason::DataGone { why }),
    };
    let what = "restart to let the operator in";
    let Some(cost) = guard::may_restart(scene, decision, name, place, member.persists(place.binary), what) else { return };
    let (_, without) = files(scene, place, wanted);
    let opening = Opening { before: disk, after, users: Some(wanted.users.clone()), without };
    let costs = decision.step(name, place.node, Action::ReopenInstance(Box::new(opening)), Cause::Drift);
    costs.push(cost);
}

/// Does it run another program than is installed, and is its AOF at rest? What an unfinished one holds would be lost.
pub(super) fn is_to_be_upgraded(place: &Place<'_>, running: &Running) -> bool {
    let aof = |half: &Half<InstanceSpec>| half.seen().is_some_and(InstanceSpec::aof);
    let spec = &place.member.spec;
    running.is_outdated(place.binary) && aof(&spec.disk) == aof(&spec.memory) && !running.aof_rewriting
}

/// Restarts a server with the program that is installed. All that its declaration asks for comes with it: what the running
/// one shows cannot be judged by another's facts.
pub(super) fn upgrade(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    wanted: &Wanted,
    spec: &InstanceSpec,
) {
    let member = place.member;
    let (from, to) = (running.version.clone(), place.binary.version.clone());
    let what = format!("restart with valkey-server {to}");
    if is_older(&to, &from) {
        return decision.hold(name, what, HeldReason::Downgrade { runs: from, installed: to });
    }
    let after = match startable(member, place.binary, spec) {
        Ok(after) => after,
        Err(why) => return decision.hold(name, what, HeldReason::DataGone { why }),
    };
    if !member.persists(place.binary) {
        let why = "it keeps nothing on disk and would come up empty with the installed server: let it save (appendonly, save), \
                   or restart it by hand when that may happen";
        return decision.hold(name, what, HeldReason::DataGone { why: why.to_owned() });
    }
    let Some(cost) = guard::may_restart(scene, decision, name, place, true, &what) else { return };
    let before = member.spec.disk.seen().cloned().unwrap_or_default();
    let (users, without) = files(scene, place, wanted);
    let opening = Opening { before, after, users, without };
    let upgrade = Upgrade { opening, from, to };
    let costs = decision.step(name, place.node, Action::UpgradeInstance(Box::new(upgrade)), Cause::Drift);
    costs.push(cost);
}

/// By the numbers of a version. What is no number is not compared.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    matches!((numbers(version), numbers(than)), (Some(one), Some(other)) if one < other)
}

/// The config a server that is down is to be started with.
///
/// The AOF follows the data, not the declaration: with a manifest the newest data is in the AOF, without one a server
/// with `appendonly yes` ignores `dump.rdb` and starts empty (facts D). What is declared is then set while it runs. Where
/// the AOF is off on disk and was never asked for, a manifest is left over from somebody's hand, and stale.
///
/// # Errors
/// Why it would come up without its data.
fn startable(member: &MemberFacts, binary: &BinaryFacts, declared: &InstanceSpec) -> Result<InstanceSpec, String> {
    let data = member.data;
    if data.folder != Folder::Present {
        return Err("its data folder is gone: bring it back, or \"valkeeper restore\" what was set aside".to_owned());
    }
    if member.is_unborn() {
        return Ok(declared.clone());
    }
    let asked_for = member.marker.applied.settings.get("appendonly").is_some_and(|value| value == "yes");
    let had_aof = member.spec.disk.seen().map_or(asked_for, InstanceSpec::aof);
    if had_aof && !data.aof {
        return Err(
            "its AOF is gone from the data folder, so it would start without its newest data: bring the files back".to_owned()
        );
    }
    let mut spec = declared.clone();
    let aof = data.aof && (had_aof || asked_for);
    spec.set(&SettingName::known("appendonly"), if aof { "yes" } else { "no" });
    keep_databases(member, binary, &mut spec);
    Ok(spec)
}

/// Fewer databases than its data may take would lose keys or stop the start: that is decided while it runs, and shows.
fn keep_databases(member: &MemberFacts, binary: &BinaryFacts, spec: &mut InstanceSpec) {
    let applied = InstanceSpec::new(member.marker.applied.settings.clone());
    let before = [member.spec.disk.seen(), Some(&applied)].into_iter().flatten();
    let before = before.filter_map(|before| binary.number(before, "databases")).max();
    if let Some(before) = before.filter(|before| binary.number(spec, "databases").is_some_and(|wanted| wanted < *before)) {
        spec.set(&SettingName::known("databases"), before.to_string());
    }
}
