//! The stage function of a move by snapshot: from what the source and the new member show to what comes next. As with
//! `migration.rs`, every row is decided from what is seen, so a process may die anywhere.
//!
//! S is the member that takes writes, or took them last; T the one on the new shard, a *vessel*: a fenced primary that was made
//! for this and holds nothing of its own until it is opened. The note is what the marker of S says of a snapshot; it counts if it was
//! written under the fence, or if losing writes was asked for.
//!
//! | S | note of S | T | next |
//! | --- | --- | --- | --- |
//! | open | any | missing | make T, fenced and empty |
//! | open | any | takes writes, or follows S in vain | fence it, following nobody |
//! | open | any | a fenced copy | note that it is a vessel |
//! | open | any | vessel | fence S |
//! | open, writes may be lost | does not count | vessel | write a snapshot |
//! | open, writes may be lost | counts | without it | carry it |
//! | open, writes may be lost | counts | with it | fence S |
//! | fenced | does not count | vessel | write a snapshot |
//! | fenced | counts | without it, also down | carry it, and start T with it |
//! | fenced | counts | with it | open T: the point of no return |
//! | fenced | any | missing, or no vessel | open S again |
//! | fenced | of what T was opened with | any | S never takes writes again; T is the primary |
//! | down, loading, silent | any | any | wait |
//!
//! The last but one is kept by [`may_lead`]: T's marker says that it is opened before anything else of it does. Calling off
//! takes the note away before the fence is lifted (`Marker::enter_role`), so what T was seeded with is then of no note.

use super::migration::{Fellow, Turn, in_force};
use crate::model::action::RoleStage;
use crate::model::change::Twin;
use crate::model::desired::MoveBy;
use crate::model::live::Server;
use crate::model::role::{Link, Overlay};
use crate::model::snapshot::{Made, Seed, Snapshot};

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Turn(Turn),
    /// The new member held the data once, and is to hold it again: nothing in it counts from now on.
    Empty,
    /// A snapshot of the source.
    Take {
        fenced: bool,
    },
    Carry(Made),
    /// The snapshot of the source is broken, or was broken on its way, or is not all of the data: another one is needed.
    Void,
    /// One of the two is not up: its own decision brings it there.
    Wait,
}

/// May this member be the primary again, or is its data somewhere else, or nowhere yet?
pub(super) fn may_lead(fellows: &[Fellow<'_>], fellow: &Fellow<'_>) -> bool {
    // A member that leaves was no primary when its time began.
    !fellow.member.marker.is_vessel() && !gave_away(fellows, fellow) && fellow.member.marker.retiring.is_none()
}

/// Was another member opened with this one's data?
pub(super) fn gave_away(fellows: &[Fellow<'_>], fellow: &Fellow<'_>) -> bool {
    let Some(made) = fellow.member.marker.snapshot.as_ref().and_then(Snapshot::made) else { return false };
    fellows.iter().any(|other| other.member.marker.seed.as_ref().and_then(Seed::opened) == Some(&made.id))
}

/// The member from which the data has to be carried to the shard: nothing where it is there already, gets there by
/// replication, or is not known to be all.
pub(super) fn source(fellows: &[Fellow<'_>], move_by: MoveBy) -> Option<usize> {
    match move_by {
        MoveBy::Replication => return None,
        MoveBy::Snapshot | MoveBy::SnapshotUnfenced => {}
    }
    let with = |role: Overlay| {
        let is = move |fellow: &&Fellow<'_>| in_force(fellow).as_ref() == Some(&role);
        fellows.iter().enumerate().filter(move |(_, fellow)| is(fellow))
    };
    let is_fenced = |fellow: &Fellow<'_>| fellow.member.role_on_disk() == Some(Overlay::FENCED) && may_lead(fellows, fellow);
    let open: Vec<usize> = with(Overlay::OPEN).map(|(place, _)| place).collect();
    let fenced: Vec<usize> = with(Overlay::FENCED).filter(|(_, fellow)| is_fenced(fellow)).map(|(place, _)| place).collect();
    // A switch-over by replication that came so far is finished first. One that does not answer may be the primary: only what was
    // never opened, or gave its data away, is known not to be.
    let promoted = |fellow: &Fellow<'_>| fellow.member.role_on_disk().is_some_and(|role| role != Overlay::FENCED);
    let apart = |fellow: &Fellow<'_>| fellow.member.marker.is_vessel() || gave_away(fellows, fellow);
    let unclear = |fellow: &Fellow<'_>| in_force(fellow).is_none() && !apart(fellow);
    if open.is_empty() && (with(Overlay::FENCED).any(|(_, fellow)| promoted(fellow)) || fellows.iter().any(unclear)) {
        return None;
    }
    let (([place], _) | ([], [place])) = (open.as_slice(), fenced.as_slice()) else { return None };
    let fellow = fellows.get(*place)?;
    // One that is down, and would take writes if it were started, was made the primary since: a switch-over was cut short.
    let leads = |other: &Fellow<'_>| in_force(other).is_none() && other.member.role_on_disk().is_none_or(|role| role.is_open());
    if open.is_empty() && fellows.iter().any(leads) {
        return None;
    }
    let replicates = |other: &Fellow<'_>| other.wanted && is_linked(fellow, other);
    let carries = !fellow.wanted && !fellow.member.marker.is_vessel() && !fellows.iter().any(replicates);
    carries.then_some(*place)
}

/// Does this member get the data from the source by itself?
fn is_linked(source: &Fellow<'_>, other: &Fellow<'_>) -> bool {
    let follows = in_force(other).and_then(|role| role.follows).as_ref() == Some(source.endpoint);
    let link = super::migration::up(other.member).and_then(|running| running.replication.link.as_ref());
    follows && matches!(link, Some(Link::Up | Link::Syncing { .. }))
}

/// What comes next between the source and the new member, if there is one.
pub(super) fn next(fellows: &[Fellow<'_>], source: usize, target: Option<usize>, move_by: MoveBy) -> Next {
    let turn = |of, stage, after: Overlay| Next::Turn(Turn { of, stage, after: Twin::both(after) });
    let Some(from) = fellows.get(source) else { return Next::Wait };
    let is_open = in_force(from) == Some(Overlay::OPEN);
    let call_off = || turn(source, RoleStage::CallOff, Overlay::OPEN);
    let Some((place, to)) = target.and_then(|place| Some((place, fellows.get(place)?))) else {
        return if is_open { Next::Wait } else { call_off() };
    };
    // A vessel that is down and is to be filled need not read first what it holds.
    let down = matches!(to.member.server, Server::Down { .. }) && to.member.marker.is_vessel();
    let Some(found) = in_force(to).or((down && !is_open).then_some(Overlay::FENCED)) else { return Next::Wait };
    if found != Overlay::FENCED || to.member.role_on_disk() != Some(Overlay::FENCED) {
        return if is_open { turn(place, RoleStage::Attach, Overlay::FENCED) } else { call_off() };
    }
    if !to.member.marker.is_vessel() {
        return if is_open { Next::Empty } else { call_off() };
    }
    let may_lose = move_by == MoveBy::SnapshotUnfenced;
    // One that was written under a fence that is gone is not of now.
    let counts = |made: &&Made| if made.fenced { !is_open } else { may_lose };
    let made = from.member.marker.snapshot.as_ref().and_then(Snapshot::made).filter(counts);
    let has = |made: &Made| to.member.marker.seed == Some(Seed::Placed { id: made.id.clone() });
    let spoiled = |made: &Made| to.member.marker.seed == Some(Seed::Spoiled { id: made.id.clone() });
    // Somebody lifted the fence meanwhile, and put it back.
    let overtaken = |made: &Made| made.fenced && super::migration::up(from.member).is_some_and(|up| up.unsaved_changes > 0);
    match (made, is_open) {
        (Some(made), _) if spoiled(made) || overtaken(made) => Next::Void,
        (_, true) if !may_lose => turn(source, RoleStage::Fence, Overlay::FENCED),
        (Some(made), _) if has(made) && down => Next::Wait,
        (None, _) => Next::Take { fenced: !is_open },
        (Some(made), _) if !has(made) => Next::Carry(made.clone()),
        (Some(_), true) => turn(source, RoleStage::Fence, Overlay::FENCED),
        (Some(_), false) => turn(place, RoleStage::Open, Overlay::OPEN),
    }
}
