//! Starting a server that is down, or that lets our operator in no more. The one question behind both: would it come up
//! with its data?

use std::sync::Arc;

use super::found::Place;
use super::wanted::Wanted;
use super::{Decision, Scene, acl, guard};
use crate::model::acl::AclUser;
use crate::model::action::{self, Action, Opening, WantedUsers};
use crate::model::binary::BinaryFacts;
use crate::model::change::Half;
use crate::model::desired::UndeclaredUsers;
use crate::model::live::{Folder, MemberFacts, Running};
use crate::model::name::{InstanceName, SettingName, UserName};
use crate::model::plan::{Cause, HeldReason};
use crate::model::snapshot::Seed;
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
pub(super) fn files(scene: &Scene<'_>, place: &Place<'_>, wanted: &Wanted) -> (Option<WantedUsers>, Vec<UserName>) {
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

/// When a running server gives way to the installed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    Now,
    /// Other restarts come first.
    Waits,
    /// It is the installed one, or may not give way to it.
    Never,
}

/// Restarts a server with the program that is installed, if it runs another one. `users`: what goes into the ACL file.
pub(super) fn upgrade(
    scene: &mut Scene<'_>,
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    spec: &InstanceSpec,
    (users, without): (Option<WantedUsers>, Vec<UserName>),
) -> Upgrade {
    let member = place.member;
    let aof = |half: &Half<InstanceSpec>| half.seen().is_some_and(InstanceSpec::aof);
    // What an AOF holds that is not finished would be lost.
    let at_rest = aof(&member.spec.disk) == aof(&member.spec.memory) && !running.aof_rewriting;
    if !running.is_outdated(place.binary) || !at_rest {
        return Upgrade::Never;
    }
    let (from, to) = (running.version.clone(), place.binary.version.clone());
    let what = format!("restart with valkey-server {to}");
    let after = match upgradable(place, &from, spec) {
        Ok(after) => after,
        Err(reason) => {
            decision.hold(name, what, reason);
            return Upgrade::Never;
        }
    };
    let Some(cost) = guard::may_restart(scene, decision, name, place, true, &what) else { return Upgrade::Waits };
    let before = member.spec.disk.seen().cloned().unwrap_or_default();
    let upgrade = action::Upgrade { opening: Opening { before, after, users, without }, from, to };
    decision.step(name, place.node, Action::UpgradeInstance(Box::new(upgrade)), Cause::Drift).push(cost);
    Upgrade::Now
}

/// The config that the installed server is to be started with.
///
/// # Errors
/// Why it would not come up with the data. An approved revision is no consent to that: nobody asked for this restart.
fn upgradable(place: &Place<'_>, from: &str, spec: &InstanceSpec) -> Result<InstanceSpec, HeldReason> {
    let installed = &place.binary.version;
    if is_older(installed, from) {
        return Err(HeldReason::Downgrade { runs: from.to_owned(), installed: installed.clone() });
    }
    if !place.member.persists(place.binary) {
        let why = "it keeps nothing on disk and would come up empty with the installed server: let it save (appendonly, save), \
                   or restart it by hand when that may happen";
        return Err(HeldReason::DataGone { why: why.to_owned() });
    }
    startable(place.member, place.binary, spec).map_err(|why| HeldReason::DataGone { why })
}

/// By the numbers of a version. What is no number is not compared.
pub(super) fn is_older(version: &str, than: &str) -> bool {
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
    // One that awaits its data from elsewhere has none to lose.
    if member.is_unborn() || matches!(member.marker.seed, Some(Seed::Awaited | Seed::Spoiled { .. })) {
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
