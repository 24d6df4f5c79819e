//! The stage function: from how the members of one instance stand to each other, to what comes next. Every case of the
//! resumption table (facts E.4) is decided here from what is seen, so a process may die anywhere.
//!
//! Never promotes or opens on missing information, and never with two members that take writes.

use jiff::Timestamp;

use super::snapshot;
use crate::model::action::RoleStage;
use crate::model::change::{Half, Twin};
use crate::model::live::{MemberFacts, Running, Server};
use crate::model::name::NodeName;
use crate::model::plan::HeldReason;
use crate::model::role::{Endpoint, Link, Overlay};
use crate::model::size::show_size;

/// A replica that is further behind than this is waited for: the writers must not wait for it. Bytes of the replication
/// stream, which a link of 100 Mbit/s carries in 0.1 s.
const LAG_BYTES_MAX: u64 = 1 << 20;
/// A primary that is fenced for longer than this without anybody having taken over takes writes again. Seconds; a cut-over that
/// is at work waits 1.5 s for the last writes (`fleet/nodes/cut_over.rs`), so its controller died, or the new primary hangs.
const FENCE_SECONDS_MAX: i64 = 10;

/// One member, as the table looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fellow<'a> {
    pub node: &'a NodeName,
    pub endpoint: &'a Endpoint,
    pub member: &'a MemberFacts,
    /// By its node's clock.
    pub now: Timestamp,
    /// Its node is one of the instance's shard.
    pub wanted: bool,
}

/// Another role for a member, by its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub of: usize,
    pub stage: RoleStage,
    pub after: Twin<Overlay>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// One member takes writes. The turns bring others behind it.
    Led { primary: usize, turns: Vec<Turn> },
    /// A switch-over is under way: nothing else is done before this.
    Between(Turn),
    /// Nobody takes writes now; a member that does when it is started, or answers again, is not up.
    Headless,
    /// Nothing may be done about roles.
    Held(HeldReason),
}

/// Decides by what is seen of all members. `chosen`: who shall be primary where this one is or was.
pub(super) fn stage(fellows: &[Fellow<'_>], chosen: impl Fn(usize) -> usize) -> Stage {
    let failover = |fellow: &&Fellow<'_>| up(fellow.member).is_some_and(|running| running.replication.foreign_failover);
    if let Some(fellow) = fellows.iter().find(failover) {
        return Stage::Held(HeldReason::ForeignFailover { node: fellow.node.clone() });
    }
    let open = |(_, fellow): &(usize, &Fellow<'_>)| in_force(fellow) == Some(Overlay::OPEN);
    let open: Vec<usize> = fellows.iter().enumerate().filter(open).map(|(place, _)| place).collect();
    match open.as_slice() {
        // Somebody lifted the fence of a member that holds nothing of its own.
        [vessel] if fellows.get(*vessel).is_some_and(|fellow| fellow.member.marker.is_vessel()) => {
            turn(*vessel, RoleStage::Attach, Overlay::FENCED)
        }
        [primary] => whole(fellows, led(fellows, *primary)),
        [] => whole(fellows, between(fellows, chosen)),
        [..] => {
            let nodes = open.iter().filter_map(|place| fellows.get(*place)).map(|fellow| fellow.node.clone());
            Stage::Held(HeldReason::TwoPrimaries { nodes: nodes.collect() })
        }
    }
}

/// Unless it would make a member the primary, or bring one behind it, that lacks what another one has.
fn whole(fellows: &[Fellow<'_>], stage: Stage) -> Stage {
    let (primary, richer) = match &stage {
        Stage::Led { primary, turns } => {
            let turned = |of: usize| turns.iter().any(|turn| turn.of == of);
            (*primary, fuller(fellows, *primary).filter(|of| turned(*of)))
        }
        Stage::Between(Turn { of, stage: RoleStage::CallOff | RoleStage::Promote | RoleStage::Open, after: _ }) => {
            (*of, fuller(fellows, *of))
        }
        Stage::Between(_) | Stage::Headless | Stage::Held(_) => return stage,
    };
    let (Some(lacks), Some(has)) = (fellows.get(primary), richer.and_then(|of| fellows.get(of))) else { return stage };
    Stage::Held(HeldReason::FullerMember { node: lacks.node.clone(), fuller: has.node.clone() })
}

/// A member with what this one lacks: further on in the same history (a replica with its link up only seems so, because it was
/// looked at later), or with keys where this one has none and never had the other's.
fn fuller(fellows: &[Fellow<'_>], of: usize) -> Option<usize> {
    let it = up(fellows.get(of)?.member)?;
    let has_more = |other: &Running| {
        let (own, theirs) = (&it.replication, &other.replication);
        let further = own.replid == theirs.replid && theirs.link != Some(Link::Up) && theirs.offset > own.offset;
        let kin = [Some(&own.replid), own.replid2.as_ref()].contains(&Some(&theirs.replid));
        let empty = it.databases_used == Some(0) && other.databases_used.is_some_and(|used| used > 0);
        further || (empty && !kin)
    };
    let others = fellows.iter().enumerate().filter(|(place, _)| *place != of);
    others
        .filter_map(|(place, fellow)| Some((place, up(fellow.member)?)))
        .find(|(_, other)| has_more(other))
        .map(|(place, _)| place)
}

/// Could this member take over from the primary now?
///
/// # Errors
/// What it waits for.
pub(super) fn caught_up(primary: &Fellow<'_>, target: &Fellow<'_>) -> Result<(), HeldReason> {
    follows(primary, target)?;
    let wait = |why: String| Err(HeldReason::Syncing { node: target.node.clone(), why });
    let (Some(from), Some(to)) = (up(primary.member), up(target.member)) else {
        return wait("it is not up".to_owned());
    };
    // A promoted server whose first AOF is not finished would lose everything in a crash (facts E.6).
    if to.aof_rewriting {
        return wait("it writes its first append-only file".to_owned());
    }
    let lag = from.replication.offset.saturating_sub(to.replication.offset);
    if lag > LAG_BYTES_MAX { wait(format!("it is {} behind", show_size(lag))) } else { Ok(()) }
}

/// Does it follow the primary, and get what is written there?
///
/// # Errors
/// What is missing.
pub(super) fn follows(primary: &Fellow<'_>, target: &Fellow<'_>) -> Result<(), HeldReason> {
    let wait = |why: String| Err(HeldReason::Syncing { node: target.node.clone(), why });
    let (Some(from), Some(to)) = (up(primary.member), up(target.member)) else {
        return wait("it is not up".to_owned());
    };
    let follower = Overlay::follower(primary.endpoint.clone());
    if target.member.role_on_disk().as_ref() != Some(&follower) || in_force(target) != Some(follower) {
        return wait("it does not follow the primary yet".to_owned());
    }
    match &to.replication.link {
        Some(Link::Up) if to.replication.replid == from.replication.replid => Ok(()),
        Some(Link::Syncing { left_bytes: 0, read_bytes }) => {
            wait(format!("it receives the data ({} so far)", show_size(*read_bytes)))
        }
        Some(Link::Syncing { left_bytes, read_bytes: _ }) => {
            wait(format!("it receives the data ({} left)", show_size(*left_bytes)))
        }
        Some(Link::Up | Link::Down) | None => wait("its link to the primary is not up".to_owned()),
    }
}

/// The server of a member, if it answers and has its data.
pub(super) fn up(member: &MemberFacts) -> Option<&Running> {
    match &member.server {
        Server::Up(running) if !running.loading => Some(running),
        Server::Up(_) | Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => None,
    }
}

pub(super) fn in_force(fellow: &Fellow<'_>) -> Option<Overlay> {
    up(fellow.member).and_then(|_| fellow.member.role_in_force())
}

/// One member takes writes; the others are to follow it.
fn led(fellows: &[Fellow<'_>], primary: usize) -> Stage {
    let Some(leader) = fellows.get(primary) else { return Stage::Headless };
    let mut turns = Vec::new();
    if leader.member.role_on_disk() != Some(Overlay::OPEN) {
        turns.push(Turn { of: primary, stage: RoleStage::CallOff, after: Twin::both(Overlay::OPEN) });
    }
    for (of, fellow) in fellows.iter().enumerate().filter(|(of, _)| *of != primary) {
        let Some(found) = in_force(fellow) else { continue };
        let wanted = Overlay::follower(leader.endpoint.clone());
        let as_wanted = found == wanted && fellow.member.role_on_disk().as_ref() == Some(&wanted);
        let stays = is_last_copy(leader, fellow, &found) || (!fellow.wanted && snapshot::gave_away(fellows, fellow));
        if (as_wanted && fellow.member.follows_as_itself()) || stays {
            continue;
        }
        let was_primary = fellow.member.role_on_disk() == Some(Overlay::FENCED) && !fellow.member.marker.is_vessel();
        let stage = if was_primary { RoleStage::Demote } else { RoleStage::Attach };
        turns.push(Turn { of, stage, after: Twin::both(wanted) });
    }
    Stage::Led { primary, turns }
}

/// The old primary of a move whose history the new one cannot show to be its own (it was restarted, facts E.4): it stays as
/// it is until it leaves, as a copy.
fn is_last_copy(leader: &Fellow<'_>, old: &Fellow<'_>, found: &Overlay) -> bool {
    let (Some(new), Some(running)) = (up(leader.member), up(old.member)) else { return true };
    let kin = [Some(&new.replication.replid), new.replication.replid2.as_ref()].contains(&Some(&running.replication.replid));
    // A file that says that it follows already was written when they were kin.
    *found == Overlay::FENCED && old.member.role_on_disk() == Some(Overlay::FENCED) && !old.wanted && !kin
}

/// Nobody takes writes: how far did the switch-over come?
fn between(fellows: &[Fellow<'_>], chosen: impl Fn(usize) -> usize) -> Stage {
    let in_order = || fellows.iter().enumerate();
    if fellows.iter().any(|fellow| in_force(fellow).is_none()) {
        return overdue(fellows).map_or(Stage::Headless, |of| turn(of, RoleStage::CallOff, Overlay::OPEN));
    }
    let fenced = |fellow: &Fellow<'_>| in_force(fellow) == Some(Overlay::FENCED) && snapshot::may_lead(fellows, fellow);
    let on_disk = |fellow: &Fellow<'_>| fellow.member.role_on_disk();
    let file = |wanted: &Overlay| in_order().find(|(_, fellow)| fenced(fellow) && on_disk(fellow).as_ref() == Some(wanted));
    let promoted = in_order().find(|(_, fellow)| fenced(fellow) && on_disk(fellow).is_some_and(|role| role.follows.is_some()));
    if in_order().filter(|(_, fellow)| fenced(fellow) && on_disk(fellow) == Some(Overlay::FENCED)).count() > 1 {
        return held("two of its members were its primary");
    }
    match (file(&Overlay::OPEN), promoted, file(&Overlay::FENCED)) {
        // Its file was written last, the fence is still to be lifted.
        (Some((of, _)), None, _) => turn(of, RoleStage::Open, Overlay::OPEN),
        // A cut-over was called off, in the file already, after the other one was promoted: its file says that it was never opened.
        (Some((of, back)), Some((_, target)), _)
            if on_disk(target).and_then(|role| role.follows).as_ref() == Some(back.endpoint) =>
        {
            turn(of, RoleStage::Open, Overlay::OPEN)
        }
        (None, Some((of, target)), _) => open_promoted(fellows, of, target),
        (None, None, Some((of, source))) => promote(fellows, of, source, chosen(of)),
        (Some(_), Some(_), _) => held("two of its members are on their way to be the primary"),
        (None, None, None) if fellows.iter().any(|fellow| fellow.member.marker.is_vessel()) => {
            held("the member from which its data was to be carried is gone")
        }
        (None, None, None) => held("all of its members are replicas"),
    }
}

/// A primary that has been fenced for too long, and may take writes again whatever the others do, also those that do not answer.
///
/// Opening a member is written to its file before its fence is lifted (`role::in_force`). So nobody was opened whose file says
/// that it follows, not even one that was promoted and hangs: it is fenced, and when it answers again it is brought behind this one.
/// Without its file, or with a node that is not seen, nobody knows, and the fence stays (facts E.4).
fn overdue(fellows: &[Fellow<'_>]) -> Option<usize> {
    let is_closed = |fellow: &Fellow<'_>| {
        let leads = snapshot::may_lead(fellows, fellow);
        let by_file = |role: Overlay| role.fenced && (role.follows.is_some() || !leads);
        fellow.member.marker.is_vessel() || fellow.member.role_on_disk().is_some_and(by_file)
    };
    let mut rest = fellows.iter().enumerate().filter(|(_, fellow)| !is_closed(fellow));
    let (Some((of, source)), None) = (rest.next(), rest.next()) else { return None };
    if in_force(source) != Some(Overlay::FENCED) || !snapshot::may_lead(fellows, source) {
        return None;
    }
    // Nothing that is safe rests on the time. One that is in the future is a clock that was set back.
    let seconds = source.now.duration_since(source.member.marker.disturbed?).as_secs();
    (!(0..=FENCE_SECONDS_MAX).contains(&seconds)).then_some(of)
}

fn held(why: &str) -> Stage {
    Stage::Held(HeldReason::NoPrimary { why: why.to_owned() })
}

fn turn(of: usize, stage: RoleStage, after: Overlay) -> Stage {
    Stage::Between(Turn { of, stage, after: Twin::both(after) })
}

/// A replica was promoted and not opened: its file still says whom it followed.
fn open_promoted(fellows: &[Fellow<'_>], of: usize, target: &Fellow<'_>) -> Stage {
    let Some(followed) = target.member.role_on_disk().and_then(|role| role.follows) else { return Stage::Headless };
    let Some(source) = fellows.iter().find(|fellow| *fellow.endpoint == followed) else {
        return held("the member that was to hand over is gone before the new primary took over");
    };
    let (Some(new), Some(old)) = (up(target.member), up(source.member)) else { return Stage::Headless };
    let has_stepped_down = in_force(source).and_then(|role| role.follows).as_ref() == Some(target.endpoint);
    let is_fenced = in_force(source) == Some(Overlay::FENCED) && source.member.role_on_disk() == Some(Overlay::FENCED);
    let is_heir = new.replication.replid2.as_ref() == Some(&old.replication.replid);
    if has_stepped_down || (is_fenced && is_heir) {
        turn(of, RoleStage::Open, Overlay::OPEN)
    } else {
        // It was restarted, and what it has is not known to be everything.
        turn(of, RoleStage::Attach, Overlay::follower(followed))
    }
}

/// The primary is fenced and nobody was promoted.
fn promote(fellows: &[Fellow<'_>], of: usize, source: &Fellow<'_>, chosen: usize) -> Stage {
    let call_off = || turn(of, RoleStage::CallOff, Overlay::OPEN);
    let Some(target) = fellows.get(chosen).filter(|_| chosen != of) else { return call_off() };
    let (Some(from), Some(to)) = (up(source.member), up(target.member)) else { return Stage::Headless };
    if caught_up(source, target).is_err() {
        return call_off();
    }
    if to.replication.offset < from.replication.offset {
        if overdue(fellows) == Some(of) {
            return call_off();
        }
        let behind = from.replication.offset - to.replication.offset;
        let why = format!("the last {} before it takes over", show_size(behind));
        return Stage::Held(HeldReason::Syncing { node: target.node.clone(), why });
    }
    let disk = target.member.role_on_disk().map_or(Half::Absent, Half::Seen);
    let after = Twin { disk, memory: Half::Seen(Overlay::FENCED) };
    Stage::Between(Turn { of: chosen, stage: RoleStage::Promote, after })
}
