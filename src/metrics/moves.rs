//! The gauges of moves and of replication: tables like those of `state.rs`.

use std::collections::BTreeSet;

use super::family::{Family, Row};
use super::snapshot::Snapshot;
use super::state::{amount, gauge, instances, truth};
use crate::daemon::status::{InstanceStatus, MemberStatus};
use crate::model::moves::{Amount, Move, Pace, Progress, Unit};
use crate::model::name::{InstanceName, NodeName};

/// Their series go when the move ends, or the member.
pub const FAMILIES: &[Family] = &[
    gauge(
        "valkeeper_move_stage",
        "1 for the stage that the move of the instance is at, 0 for the others that it has.",
        &["instance", "stage"],
        |now| {
            moves(now, |name, it| {
                let stage = |act: &crate::model::moves::Act| {
                    Row::new([name.as_str(), act.stage.word()], truth(act.progress == Progress::Now))
                };
                it.script.iter().map(stage).collect()
            })
        },
    ),
    gauge("valkeeper_move_stage_seconds", "How long the move is at its present stage.", &["instance"], |now| {
        paces(now, |pace| Some(pace.seconds_in_stage))
    }),
    gauge("valkeeper_move_attempt", "How often the present stage of the move was tried.", &["instance"], |now| {
        paces(now, |pace| Some(u64::from(pace.attempt)))
    }),
    gauge(
        "valkeeper_move_done_bytes",
        "How much of the dataset, or of the stream of writes, the replica has for which the move waits.",
        &["instance"],
        |now| amounts(now, Unit::Bytes, |it| it.done),
    ),
    gauge("valkeeper_move_total_bytes", "How much that is when the stage ends.", &["instance"], |now| {
        amounts(now, Unit::Bytes, |it| it.total)
    }),
    gauge("valkeeper_move_bytes_per_second", "How fast the present stage of the move goes.", &["instance"], |now| {
        moves(now, |name, it| {
            let is_in_bytes = it.amount.as_ref().is_some_and(|amount| amount.of.unit() == Unit::Bytes);
            let rate = it.pace.filter(|_| is_in_bytes).and_then(|pace| pace.per_second);
            rate.map(|rate| Row::new([name.as_str()], amount(rate))).into_iter().collect()
        })
    }),
    gauge("valkeeper_move_done_keys", "How many keys are in the snapshot that is being written.", &["instance"], |now| {
        amounts(now, Unit::Keys, |it| it.done)
    }),
    gauge("valkeeper_move_total_keys", "How many keys that will be.", &["instance"], |now| {
        amounts(now, Unit::Keys, |it| it.total)
    }),
    gauge(
        "valkeeper_move_waiting",
        "1 for the reason for which no step takes the move further; no series while it goes on.",
        &["instance", "reason"],
        |now| moves(now, |name, it| it.waits_for.iter().map(|wait| Row::new([name.as_str(), &wait.reason], 1.0)).collect()),
    ),
    gauge(
        "valkeeper_move_left_seconds",
        "How long the present stage takes at this rate; no series where it comes no nearer to its end.",
        &["instance"],
        |now| paces(now, |pace| pace.seconds_left),
    ),
    gauge(
        "valkeeper_move_remaining_connections",
        "Connections to servers that leave when their clients had time to follow.",
        &["instance", "node"],
        |now| {
            moves(now, |name, it| {
                let rows = it.remaining.iter();
                rows.map(|left| Row::new([name.as_str(), left.node.as_str()], amount(left.connections))).collect()
            })
        },
    ),
    gauge(
        "valkeeper_replica_link_up",
        "Whether the link of a replica to its primary is up; no series where its server does not tell.",
        &["instance", "node"],
        |now| members(now, |it| it.link_up.map(truth)),
    ),
    gauge(
        "valkeeper_replica_lag_bytes",
        "How far a replica is behind its primary in the stream of writes.",
        &["instance", "node"],
        |now| members(now, |it| it.lag_bytes.map(amount)),
    ),
    gauge(
        "valkeeper_fence_held_seconds",
        "How long a primary is fenced while no member of the instance takes writes.",
        &["instance", "node"],
        |now| members(now, |it| it.fenced_seconds.map(amount)),
    ),
    gauge(
        "valkeeper_role_refused",
        "1 for each reason for which a change of roles is refused until a person has looked.",
        &["instance", "reason"],
        |now| instances(now, refused),
    ),
];

fn moves(now: &Snapshot, rows: impl Fn(&InstanceName, &Move) -> Vec<Row>) -> Vec<Row> {
    instances(now, |name, it| it.moving.as_ref().map(|it| rows(name, it)).unwrap_or_default())
}

fn paces(now: &Snapshot, value: impl Fn(&Pace) -> Option<u64>) -> Vec<Row> {
    moves(now, |name, it| it.pace.iter().filter_map(&value).map(|value| Row::new([name.as_str()], amount(value))).collect())
}

fn amounts(now: &Snapshot, unit: Unit, value: impl Fn(&Amount) -> u64) -> Vec<Row> {
    moves(now, |name, it| {
        let counted = it.amount.iter().filter(|it| it.of.unit() == unit);
        counted.map(|it| Row::new([name.as_str()], amount(value(it)))).collect()
    })
}

fn members(now: &Snapshot, value: impl Fn(&MemberStatus) -> Option<f64>) -> Vec<Row> {
    instances(now, |name, it| {
        let row = |(node, it): (&NodeName, &MemberStatus)| Some(Row::new([name.as_str(), node.as_str()], value(it)?));
        it.members.iter().filter_map(row).collect()
    })
}

fn refused(name: &InstanceName, it: &InstanceStatus) -> Vec<Row> {
    let reasons: BTreeSet<&str> = it.held.iter().filter(|held| held.alarm).map(|held| held.reason.as_str()).collect();
    reasons.into_iter().map(|reason| Row::new([name.as_str(), reason], 1.0)).collect()
}
