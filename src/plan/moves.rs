//! The script of a move, for people: which stages it has, which is now, how far that is. From the same facts as the stages
//! themselves (`migration.rs`); nothing is decided by it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Decision;
use super::migration::{self, Fellow, Stage, Turn, up};
use super::show::held_reason;
use crate::model::action::{Action, RoleStage};
use crate::model::moves::{Act, Amount, Flow, Move, MoveStage, Progress, Remaining, Site, Wait};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::Cause;
use crate::model::role::{Link, Overlay};
use crate::model::snapshot::{Made, Seed, Snapshot};

/// What is known of an instance with several members, and decided about it.
pub(super) struct Scene<'a> {
    pub name: &'a InstanceName,
    pub fellows: &'a [Fellow<'a>],
    pub stage: &'a Stage,
    /// Who is to take over from the one that is, or was, the primary.
    pub target: Option<&'a NodeName>,
    /// Where members are still to be made, with the addresses that they will have.
    pub missing: Vec<(&'a NodeName, Option<String>)>,
    /// Not all of its members could be looked at.
    pub has_unseen: bool,
    pub grace: Duration,
}

/// Where the instance stands.
#[derive(Clone, Copy)]
struct Standing<'a> {
    now: MoveStage,
    source: Option<&'a Fellow<'a>>,
    target: Option<&'a NodeName>,
    /// The new primary takes writes.
    is_over: bool,
    /// The primary changes, or did.
    hands_over: bool,
    /// It did by this snapshot: nothing was replicated from the old one.
    by: Option<&'a Made>,
}

/// The script, if the members are not all where and what they shall be.
pub(super) fn script(scene: &Scene<'_>) -> Option<Move> {
    let standing = standing(scene)?;
    let leaving = scene.leaving(standing.source);
    let site = |node: &NodeName| scene.site(node);
    let (from, to) = if standing.hands_over {
        (standing.source.map(|source| site(source.node)), standing.target.map(site))
    } else {
        (None, None)
    };
    let stages = if standing.by.is_some_and(|made| !made.fenced) { MoveStage::UNFENCED } else { MoveStage::ALL };
    let script = stages.into_iter().filter_map(|stage| scene.act(stage, &standing, &leaving)).collect();
    let stays = |fellow: &&&Fellow<'_>| standing.is_over || !standing.hands_over && Some(fellow.node) != scene.leader();
    let remaining = leaving.iter().filter(stays).map(|fellow| scene.remaining(fellow)).collect();
    Some(Move {
        instance: scene.name.clone(),
        from,
        to,
        script,
        amount: scene.amount(&standing),
        waits_for: None,
        remaining,
        pace: None,
    })
}

/// Says of each move that no step takes further what it waits for.
pub(super) fn tell_what_they_wait_for(decision: &mut Decision) {
    let Decision { steps, held, moves, refused: _, notes: _, unknown: _ } = decision;
    if steps.iter().any(|step| step.cause != Cause::Bookkeeping) {
        return;
    }
    let wait = |reason: &str, why: String| Wait { reason: reason.to_owned(), why };
    let first = held.first().map(|held| wait(held.reason.kind(), held_reason(&held.reason)));
    for it in moves {
        let until = it.remaining.iter().filter_map(|remaining| remaining.until).max();
        let leaves = it.now().is_some_and(|act| act.stage == MoveStage::Leave);
        let time = until
            .filter(|_| leaves)
            .map(|until| wait(Wait::CLIENTS, format!("its clients to go elsewhere, until {until:.0} (guard.handover_grace)")));
        it.waits_for = first.clone().or(time);
    }
}

fn standing<'a>(scene: &Scene<'a>) -> Option<Standing<'a>> {
    match scene.stage {
        Stage::Led { primary, turns } => led(scene, scene.fellows.get(*primary)?, turns),
        Stage::Between(turn) => between(scene, turn),
        Stage::Headless | Stage::Held(_) => stopped(scene),
    }
}

/// One member takes writes.
fn led<'a>(scene: &Scene<'a>, leader: &'a Fellow<'a>, turns: &[Turn]) -> Option<Standing<'a>> {
    let target = scene.target.filter(|target| *target != leader.node);
    let others = || scene.fellows.iter().filter(|fellow| fellow.node != leader.node);
    let demoted = turns.iter().find(|turn| turn.stage == RoleStage::Demote).and_then(|turn| scene.fellows.get(turn.of));
    let lags = |fellow: &Fellow<'_>| fellow.wanted && migration::follows(leader, fellow).is_err();
    let is_ready = |node: &NodeName| others().any(|fellow| fellow.node == node && migration::caught_up(leader, fellow).is_ok());
    let by = |fellow: &&Fellow<'_>| given(leader, fellow).is_some();
    // Of several that leave, the one that was fenced to hand over was the primary.
    let gone = || others().filter(|fellow| !fellow.wanted);
    let handed_over = || gone().find(|fellow| fellow.member.marker.disturbed.is_some());
    let old = gone().find(by).or_else(handed_over).or_else(|| gone().next());
    let now = match target {
        _ if !scene.missing.is_empty() => MoveStage::Join,
        _ if demoted.is_some() => MoveStage::Demote,
        _ if others().any(lags) => MoveStage::CatchUp,
        Some(target) if is_ready(target) => MoveStage::CutOver,
        Some(_) => MoveStage::CatchUp,
        None if old.is_some() => MoveStage::Leave,
        None => return None,
    };
    // Who was promoted has the history of its predecessor as its second one.
    let has_followed =
        target.is_none() && old.is_some() && up(leader.member).is_some_and(|now| now.replication.replid2.is_some());
    Some(if target.is_some() {
        Standing { now, source: Some(leader), target, is_over: false, hands_over: true, by: None }
    } else {
        let by = old.and_then(|old| given(leader, old));
        let hands_over = demoted.is_some() || has_followed || by.is_some();
        Standing { now, source: demoted.or(old), target: Some(leader.node), is_over: true, hands_over, by }
    })
}

/// The snapshot with which this one was opened, if the other one gave it.
fn given<'a>(leader: &Fellow<'_>, old: &Fellow<'a>) -> Option<&'a Made> {
    let made = old.member.marker.snapshot.as_ref().and_then(Snapshot::made)?;
    (leader.member.marker.seed.as_ref().and_then(Seed::opened) == Some(&made.id)).then_some(made)
}

/// A switch-over is under way.
fn between<'a>(scene: &Scene<'a>, turn: &Turn) -> Option<Standing<'a>> {
    let actor = scene.fellows.get(turn.of)?;
    let other =
        || scene.fellows.iter().find(|fellow| fellow.node != actor.node && fellow.member.role_on_disk() == Some(Overlay::FENCED));
    let follows = || {
        let followed = actor.member.role_on_disk().and_then(|role| role.follows)?;
        scene.fellows.iter().find(|fellow| *fellow.endpoint == followed)
    };
    let (now, source, target) = match turn.stage {
        RoleStage::CallOff | RoleStage::Fence => (MoveStage::CutOver, Some(actor), scene.target.filter(|to| *to != actor.node)),
        RoleStage::Promote => (MoveStage::Promote, other(), Some(actor.node)),
        RoleStage::Open => (MoveStage::Open, other().or_else(follows), Some(actor.node)),
        RoleStage::Demote => (MoveStage::Demote, Some(actor), scene.target),
        RoleStage::Attach => (MoveStage::CatchUp, follows().or_else(other), Some(actor.node)),
    };
    Some(Standing { now, source, target, is_over: false, hands_over: target.is_some(), by: None })
}

/// Nobody takes writes, or nothing may be done about it.
fn stopped<'a>(scene: &Scene<'a>) -> Option<Standing<'a>> {
    let fenced = scene.fellows.iter().find(|fellow| fellow.member.role_on_disk() == Some(Overlay::FENCED));
    let leader = scene.fellows.iter().find(|fellow| fellow.member.role_on_disk() == Some(Overlay::OPEN));
    let is_elsewhere = !scene.missing.is_empty() || scene.fellows.iter().any(|fellow| !fellow.wanted);
    let (now, source) = match (fenced, leader) {
        (Some(source), _) => (MoveStage::CutOver, source),
        (None, Some(leader)) if is_elsewhere => (MoveStage::CatchUp, leader),
        // What is unseen may be the primary.
        (None, None) if scene.has_unseen => {
            return Some(Standing {
                now: MoveStage::CatchUp,
                source: None,
                target: scene.target,
                is_over: false,
                hands_over: true,
                by: None,
            });
        }
        (None, Some(_) | None) => return None,
    };
    let target = scene.target.filter(|target| *target != source.node);
    Some(Standing { now, source: Some(source), target, is_over: false, hands_over: target.is_some(), by: None })
}

impl<'a> Scene<'a> {
    fn leader(&self) -> Option<&'a NodeName> {
        let Stage::Led { primary, turns: _ } = self.stage else { return None };
        self.fellows.get(*primary).map(|fellow| fellow.node)
    }

    /// Members on nodes that are no longer wanted, the old primary first.
    fn leaving(&self, source: Option<&Fellow<'_>>) -> Vec<&'a Fellow<'a>> {
        let mut leaving: Vec<&Fellow<'_>> = self.fellows.iter().filter(|fellow| !fellow.wanted).collect();
        leaving.sort_by_key(|fellow| source.is_none_or(|source| source.node != fellow.node));
        leaving
    }

    /// A stage of the script, if this move has it.
    fn act(&self, stage: MoveStage, standing: &Standing<'a>, leaving: &[&Fellow<'a>]) -> Option<Act> {
        let Standing { now, source, target, is_over, hands_over, by } = *standing;
        let moves = hands_over && !leaving.is_empty();
        let replicates = hands_over && by.is_none();
        let is_source = |node: &NodeName| source.is_some_and(|source| source.node == node);
        let joining = || {
            let there = self.fellows.iter().filter(|fellow| fellow.wanted).map(|fellow| fellow.node);
            let follows = move |node: &&NodeName| !is_source(node) && (hands_over || self.leader() != Some(node));
            there.filter(follows).chain(self.missing.iter().map(|(node, _)| *node)).cloned().collect::<Vec<_>>()
        };
        let source_node = || source.iter().map(|source| source.node.clone());
        let target_node = || target.iter().map(|node| (*node).clone());
        let nodes: Vec<NodeName> = match stage {
            MoveStage::Join if now == stage => self.missing.iter().map(|(node, _)| (*node).clone()).collect(),
            MoveStage::Join if moves => joining(),
            MoveStage::CatchUp if now <= stage || replicates => joining(),
            MoveStage::Fence | MoveStage::Save if by.is_some() => source_node().collect(),
            MoveStage::Carry if by.is_some() => source_node().chain(target_node()).collect(),
            // Without anybody to take over, it is called off.
            MoveStage::CutOver if replicates || now == stage => source_node().chain(target_node()).collect(),
            MoveStage::Promote if replicates => target_node().collect(),
            MoveStage::Open if hands_over => target_node().collect(),
            MoveStage::Demote if replicates => source_node().collect(),
            MoveStage::Leave if !leaving.is_empty() => leaving.iter().map(|fellow| fellow.node.clone()).collect(),
            MoveStage::Join
            | MoveStage::CatchUp
            | MoveStage::Fence
            | MoveStage::Save
            | MoveStage::Carry
            | MoveStage::CutOver
            | MoveStage::Promote
            | MoveStage::Open
            | MoveStage::Demote
            | MoveStage::Leave => return None,
        };
        let of_the_switch = MoveStage::Fence <= stage && stage <= MoveStage::Demote;
        let progress = if stage == now {
            Progress::Now
        } else if stage < now || (is_over && of_the_switch) {
            // Others that still catch up do not undo the switch.
            Progress::Done
        } else {
            Progress::ToCome
        };
        Some(Act { stage, nodes, progress })
    }

    fn site(&self, node: &NodeName) -> Site {
        let stands = self.fellows.iter().find(|fellow| fellow.node == node).map(|fellow| fellow.endpoint.to_string());
        let made = || self.missing.iter().find(|(missing, _)| *missing == node).and_then(|(_, address)| address.clone());
        Site { node: node.clone(), address: stands.or_else(made) }
    }

    fn remaining(&self, fellow: &Fellow<'_>) -> Remaining {
        let until = |since: Timestamp| since.checked_add(SignedDuration::try_from(self.grace).ok()?).ok();
        Remaining {
            node: fellow.node.clone(),
            address: fellow.endpoint.to_string(),
            answers: answers(fellow).to_owned(),
            connections: up(fellow.member).map_or(0, |running| running.connections.total),
            until: fellow.member.marker.retiring.and_then(until),
        }
    }

    /// How far the replica is that everything waits for.
    fn amount(&self, standing: &Standing<'_>) -> Option<Amount> {
        let leader = match standing.is_over {
            true => self.fellows.iter().find(|fellow| Some(fellow.node) == standing.target)?,
            false => standing.source?,
        };
        let wanted = |fellow: &&Fellow<'_>| fellow.wanted && fellow.node != leader.node;
        let lags = |fellow: &&Fellow<'_>| migration::caught_up(leader, fellow).is_err();
        let replica = match standing.now {
            MoveStage::CatchUp => self.fellows.iter().filter(wanted).find(lags)?,
            MoveStage::CutOver => self.fellows.iter().find(|fellow| Some(fellow.node) == standing.target)?,
            MoveStage::Join
            | MoveStage::Fence
            | MoveStage::Save
            | MoveStage::Carry
            | MoveStage::Promote
            | MoveStage::Open
            | MoveStage::Demote
            | MoveStage::Leave => return None,
        };
        amount(leader, replica)
    }
}

/// What a member that takes no writes says to one.
fn answers(fellow: &Fellow<'_>) -> &'static str {
    match fellow.member.role_in_force() {
        Some(Overlay { follows: Some(_), fenced: _ }) => "READONLY or REDIRECT",
        Some(Overlay { follows: None, fenced: _ }) => "NOREPLICAS",
        None => "nothing",
    }
}

/// Of a replica that is not there yet nothing can be told.
fn amount(leader: &Fellow<'_>, replica: &Fellow<'_>) -> Option<Amount> {
    let (from, to) = (up(leader.member)?, up(replica.member)?);
    let (of, done, total) = match to.replication.link.as_ref()? {
        Link::Syncing { left_bytes: 0, read_bytes } => {
            (Flow::DatasetOfUnknownSize, *read_bytes, from.used_memory_bytes.max(*read_bytes))
        }
        Link::Syncing { left_bytes, read_bytes } => (Flow::Dataset, *read_bytes, read_bytes.saturating_add(*left_bytes)),
        Link::Up if to.replication.replid == from.replication.replid => {
            (Flow::Stream, to.replication.offset, from.replication.offset.max(to.replication.offset))
        }
        Link::Up | Link::Down => return None,
    };
    Some(Amount { node: replica.node.clone(), of, done, total })
}

/// The addresses of members that these steps make.
pub(super) fn made_at(decision: &Decision, node: &NodeName, at: impl Fn(u16) -> String) -> Option<String> {
    let port = decision.steps.iter().filter(|step| step.node == *node).find_map(|step| {
        let Action::CreateInstance(creation) = &step.action else { return None };
        creation.spec.port()
    });
    port.map(at)
}
