//! What has to change about the users of a running member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Decision;
use super::found::Place;
use super::wanted::Wanted;
use crate::model::acl::{AclUser, loss};
use crate::model::action::{Action, UserChange, WantedUser};
use crate::model::change::{Change, Half, Twin};
use crate::model::desired::UndeclaredUsers;
use crate::model::live::Running;
use crate::model::name::{DEFAULT_USER, InstanceName, OPERATOR_USER, REPLICA_USER, UserName};
use crate::model::operator;
use crate::model::plan::{Cause, Cost, Note};

/// The users every member has beside the declared ones: a closed `default`, and our operator.
pub(super) fn fixed(place: &Place<'_>) -> [(&'static str, WantedUser); 2] {
    let user = |user: AclUser| WantedUser { user: Arc::new(user), hashes: Arc::from([]) };
    let operator = operator::user(place.member.marker.operator, Some(&place.binary.acl));
    [(DEFAULT_USER, user(AclUser::closed())), (OPERATOR_USER, user(operator))]
}

/// Are the fixed users as they should be, in both halves? Nearly always, so nothing is built to find out.
fn fixed_are_right(place: &Place<'_>) -> bool {
    let both = |user: &str, right: &dyn Fn(&AclUser) -> bool| {
        let twin = place.member.users.get(user);
        twin.is_some_and(|twin| [&twin.disk, &twin.memory].into_iter().all(|half| half.seen().is_some_and(|user| right(user))))
    };
    let closed = AclUser::closed();
    let password = place.member.marker.operator;
    both(DEFAULT_USER, &|user| *user == closed) && both(OPERATOR_USER, &|user| operator::is(user, place.operator, password))
}

/// Steps for users, settings left aside.
pub(super) fn decide(
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    wanted: &Wanted,
    undeclared: UndeclaredUsers,
) {
    let before = decision.steps.len();
    let mut unsaved = BTreeSet::new();
    let nothing = Twin::default();
    for (user, want) in &wanted.users {
        let found = place.member.users.get(user).unwrap_or(&nothing);
        let asked = || place.member.marker.applied.users.get(user) != Some(&want.user);
        set(decision, name, place, running, (user, want), found, asked, &mut unsaved);
    }
    if !fixed_are_right(place) {
        for (user, want) in fixed(place) {
            let Ok(user) = UserName::new(user) else { continue };
            let found = place.member.users.get(&user).unwrap_or(&nothing);
            set(decision, name, place, running, (&user, &want), found, || false, &mut unsaved);
        }
    }
    // What is neither on disk nor in memory is there no more, whoever still lists it.
    for (user, found) in strangers(place, wanted).into_iter().filter(|(_, found)| **found != nothing) {
        match unwanted(place, user, undeclared) {
            None => decision.notes.push(Note::UndeclaredUser { instance: name.clone(), user: user.clone() }),
            // Only in the file: writing that anew is all it takes, and another step may do that already.
            Some(_) if found.memory.is_absent() => {
                unsaved.insert(user.clone());
            }
            Some(cause) => remove(decision, name, place, running, user, found, cause),
        }
    }
    // Whatever sets or removes a user saves the file as well.
    let saved = decision.steps.len() > before;
    if !saved && (!unsaved.is_empty() || place.member.acl_file_broken.is_some()) {
        let wrong = unsaved.into_iter().collect();
        let action = Action::SaveUsers { wrong, why: place.member.acl_file_broken.clone() };
        decision.step(name, place.node, action, Cause::Drift);
    }
}

fn strangers<'a>(place: &Place<'a>, wanted: &Wanted) -> BTreeMap<&'a UserName, &'a Twin<Arc<AclUser>>> {
    let declared = |user: &UserName| wanted.users.contains_key(user) || [DEFAULT_USER, OPERATOR_USER].contains(&user.as_str());
    place.member.users.iter().filter(|(user, _)| !declared(user)).collect()
}

#[expect(clippy::too_many_arguments, reason = "one call site shape for declared and fixed users")]
fn set(
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    (user, want): (&UserName, &WantedUser),
    found: &Twin<Arc<AclUser>>,
    asked: impl Fn() -> bool,
    unsaved: &mut BTreeSet<UserName>,
) {
    let is = |half: &Half<Arc<AclUser>>| half.seen() == Some(&want.user);
    if is(&found.memory) {
        if !is(&found.disk) {
            unsaved.insert(user.clone());
        }
        return;
    }
    let lost = found.memory.seen().map(|memory| loss(memory, &want.user, &place.binary.acl)).unwrap_or_default();
    let Some(change) = Change::new(found.clone(), Twin::both(want.user.clone())) else { return };
    let close = !lost.is_empty();
    let change = UserChange { user: user.clone(), change, wanted: want.clone(), close };
    // Whose passwords these are follows from which members there are; nobody could have foreseen them.
    let ours = user.as_str() == REPLICA_USER;
    let cause = match (ours, asked()) {
        (true, true) => Cause::Bookkeeping,
        (false, true) => Cause::Requested,
        // A newer release of ours may need more.
        (_, false) if is_earlier_operator(place, user, &found.memory) => Cause::Bookkeeping,
        (_, false) => Cause::Drift,
    };
    let costs = decision.step(name, place.node, Action::SetUser(Box::new(change)), cause);
    if close {
        costs.push(closes(running, user));
    }
}

fn is_earlier_operator(place: &Place<'_>, user: &UserName, found: &Half<Arc<AclUser>>) -> bool {
    let earlier = |found: &Arc<AclUser>| operator::is_earlier(found, place.member.marker.operator);
    user.as_str() == OPERATOR_USER && found.seen().is_some_and(earlier)
}

/// Why a user that is not declared has to go; nothing: it may stay.
fn unwanted(place: &Place<'_>, user: &UserName, undeclared: UndeclaredUsers) -> Option<Cause> {
    let created_by_us = place.member.marker.applied.users.contains_key(user);
    match (created_by_us, undeclared) {
        (true, _) if user.as_str() == REPLICA_USER => Some(Cause::Bookkeeping),
        (true, _) => Some(Cause::Requested),
        (false, UndeclaredUsers::Remove) => Some(Cause::Drift),
        (false, UndeclaredUsers::Keep) => None,
    }
}

fn remove(
    decision: &mut Decision,
    name: &InstanceName,
    place: &Place<'_>,
    running: &Running,
    user: &UserName,
    found: &Twin<Arc<AclUser>>,
    cause: Cause,
) {
    let costs = decision.step(name, place.node, Action::RemoveUser { user: user.clone(), before: found.clone() }, cause);
    if found.memory.seen().is_some() {
        costs.push(closes(running, user));
    }
}

fn closes(running: &Running, user: &UserName) -> Cost {
    let (connections, at_most) = match &running.connections.by_user {
        Some(by_user) => (by_user.get(user.as_str()).copied().unwrap_or(0), false),
        None => (running.connections.total, true),
    };
    Cost::Closes { user: user.clone(), connections, at_most }
}
