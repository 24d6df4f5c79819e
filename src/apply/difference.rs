//! What a node shows where a step expected something else, in words without secrets.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::acl::AclUser;
use crate::model::action::{self, Action};
use crate::model::change::{Half, Twin};
use crate::model::live::{Member, NodeFacts, Server};
use crate::model::plan::Subject;
use crate::model::role::Overlay;
use crate::model::spec::InstanceSpec;

/// Which state of the step was expected.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    Before,
    After,
}

/// Found and wanted, as far as the step is about it.
pub(super) fn describe(action: &Action, subject: &Subject, node: &NodeFacts, expected: Expected) -> String {
    let Subject::Instance(name) = subject else { return "the fleet's record on the node is another one".to_owned() };
    let member = match node.members.get(name).map(|member| &**member) {
        None => return format!("{name} is not on the node"),
        Some(Member::Unmarked { unmarked }) => return unmarked.clone(),
        Some(Member::Marked(member)) => member,
    };
    match action {
        Action::ChangeInstance(change) => {
            let wanted = pick(change.change.before(), change.change.after(), expected);
            twins(&member.spec, wanted, spec_difference)
        }
        Action::ChangeRole(change) => {
            let found = Twin { disk: action::role(&member.spec.disk), memory: action::role(&member.spec.memory) };
            let wanted = pick(&change.before, &change.after, expected);
            twins(&found, wanted, |found, wanted| format!("it {}, expected that it {}", words(found), words(wanted)))
        }
        Action::SetUser(change) => {
            let found = member.users.get(&change.user).cloned().unwrap_or_default();
            twins(&found, pick(change.change.before(), change.change.after(), expected), user_difference)
        }
        Action::RemoveUser { user, before } => {
            let found = member.users.get(user).cloned().unwrap_or_default();
            twins(&found, pick(before, &Twin::default(), expected), user_difference)
        }
        Action::StartInstance(opening) => {
            let wanted = pick(&opening.before, &opening.after, expected);
            let found = member.spec.disk.seen().cloned().unwrap_or_default();
            format!("the server {}; {}", state(&member.server), spec_difference(&found, wanted))
        }
        Action::RepairUnit { why: _ } => {
            member.unit_broken.clone().unwrap_or_else(|| "nothing is wrong with its unit any more".to_owned())
        }
        Action::RepairCredential { why: _ } => {
            member.credential_broken.clone().unwrap_or_else(|| "nothing is wrong with the file any more".to_owned())
        }
        Action::UpgradeInstance(upgrade) => {
            let wanted = pick(&upgrade.opening.before, &upgrade.opening.after, expected);
            let found = member.spec.disk.seen().cloned().unwrap_or_default();
            format!("the server {}; {}", runs(&member.server), spec_difference(&found, wanted))
        }
        Action::Mark(_) => "the marker says something else".to_owned(),
        Action::SaveUsers { .. } => member.acl_file_broken.clone().unwrap_or_else(|| "file and memory differ".to_owned()),
        Action::WriteRecord(_)
        | Action::CutOver(_)
        | Action::Ship(_)
        | Action::CreateInstance(_)
        | Action::ReopenInstance(_)
        | Action::DeleteInstance { .. }
        | Action::Purge { .. }
        | Action::Restore { .. } => {
            format!("the member has uid {}, the server {}", member.marker.uid, state(&member.server))
        }
    }
}

fn pick<T>(before: T, after: T, expected: Expected) -> T {
    match expected {
        Expected::Before => before,
        Expected::After => after,
    }
}

fn words(role: &Overlay) -> String {
    let fence = if role.fenced { ", fenced" } else { "" };
    match &role.follows {
        Some(primary) => format!("follows {primary}{fence}"),
        None => format!("is a primary{fence}"),
    }
}

/// What runs, where it is the program that counts.
fn runs(server: &Server) -> String {
    match server {
        Server::Up(running) if running.program_replaced => format!("is another build of {} than is installed", running.version),
        Server::Up(running) => format!("is valkey-server {}", running.version),
        Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => state(server),
    }
}

fn state(server: &Server) -> String {
    match server {
        Server::Down { why: None } => "is down".to_owned(),
        Server::Down { why: Some(why) } => format!("is down: {why}"),
        Server::Up(_) => "is up".to_owned(),
        Server::Locked { why, .. } => format!("does not let us in: {why}"),
        Server::Silent { why, .. } => format!("does not answer: {why}"),
    }
}

fn twins<T: PartialEq>(found: &Twin<T>, wanted: &Twin<T>, difference: impl Fn(&T, &T) -> String) -> String {
    let halves = [("on disk", &found.disk, &wanted.disk), ("in memory", &found.memory, &wanted.memory)];
    let mut text = String::new();
    for (place, found, wanted) in halves.into_iter().filter(|(_, found, wanted)| found != wanted) {
        let said = match (found, wanted) {
            (Half::Unseen { unseen }, _) => format!("not seen ({unseen})"),
            (Half::Absent, _) => "nothing found".to_owned(),
            (Half::Seen(found), Half::Seen(wanted)) => difference(found, wanted),
            (Half::Seen(_), Half::Absent | Half::Unseen { .. }) => "something found where nothing was expected".to_owned(),
        };
        let _infallible = write!(text, "{}{place}: {said}", if text.is_empty() { "" } else { "; " });
    }
    text
}

fn user_difference(found: &Arc<AclUser>, wanted: &Arc<AclUser>) -> String {
    format!("found {found:?}, expected {wanted:?}", found = found.to_string(), wanted = wanted.to_string())
}

fn spec_difference(found: &InstanceSpec, wanted: &InstanceSpec) -> String {
    let mut parts = Vec::new();
    for (name, value) in &wanted.settings {
        if found.settings.get(name) != Some(value) {
            let shown = found.settings.get(name).map_or("its default", String::as_str);
            parts.push(format!("{name} is {shown:?} and not {value:?}"));
        }
    }
    let extra = found.settings.iter().filter(|(name, _)| !wanted.settings.contains_key(*name));
    parts.extend(extra.map(|(name, value)| format!("{name} is {value:?} and not its default")));
    if found.foreign != wanted.foreign {
        parts.push(format!("not ours: {}", found.foreign.join(", ")));
    }
    parts.join(", ")
}
