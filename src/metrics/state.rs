//! The gauges, each a line of one table: name, meaning, labels, and how its series follow from the snapshot.
//!
//! `docs/metrics.md` explains them to people; a test holds the two together.

use std::collections::BTreeMap;

use super::family::{Family, Kind, Row};
use super::snapshot::{Snapshot, end_of, seconds};
use crate::daemon::status::{InstanceStatus, NodeStatus, ProblemKind, State, Status};
use crate::model::name::{InstanceName, NodeName};
use crate::model::record::Suspension;

const NO_LABELS: &[&str] = &[];

/// Every gauge, and the counters whose series go with their instance.
pub const FAMILIES: &[Family] = &[
    gauge("valkeeper_build_info", "Which valkeeper runs; always 1.", &["version"], |now| {
        one(now, |status| Row::new([&status.version], 1.0))
    }),
    gauge(
        "valkeeper_configuration_refused",
        "Whether the daemon's configuration was changed to one that it could not take, so that the old one is in force.",
        NO_LABELS,
        |now| one(now, |status| Row::new([], truth(status.configuration.refused.is_some()))),
    ),
    gauge(
        "valkeeper_configuration_read_timestamp_seconds",
        "When the daemon read the configuration that is in force, since 1970.",
        NO_LABELS,
        |now| one(now, |status| Row::new([], seconds(status.configuration.read))),
    ),
    gauge("valkeeper_fleet_info", "Which fleet is kept, once its revision was read; always 1.", &["fleet"], |now| {
        of(now, |status| status.fleet.iter().map(|fleet| Row::new([fleet], 1.0)).collect())
    }),
    // 0 rather than no series, so that "too long ago" also holds for a daemon that never got there.
    gauge(
        "valkeeper_last_settled_pass_timestamp_seconds",
        "When a pass last ended with everything settled, since 1970; 0 if none did since the daemon started.",
        NO_LABELS,
        |now| vec![Row::new([], now.last_settled.unwrap_or_default())],
    ),
    gauge(
        "valkeeper_last_pass_timestamp_seconds",
        "When the last pass ended, since 1970; 0 if none did since the daemon started.",
        NO_LABELS,
        |now| one(now, |status| Row::new([], status.last_pass.as_ref().map(end_of).unwrap_or_default())),
    ),
    gauge("valkeeper_next_pass_timestamp_seconds", "When the next pass is due, since 1970.", NO_LABELS, |now| {
        of(now, |status| status.next_pass.iter().map(|at| Row::new([], seconds(*at))).collect())
    }),
    gauge(
        "valkeeper_source_last_fetch_timestamp_seconds",
        "When the source was last asked with success, since 1970; 0 if it never was since the daemon started.",
        NO_LABELS,
        |now| one(now, |status| Row::new([], status.source.last_fetch.map(seconds).unwrap_or_default())),
    ),
    gauge("valkeeper_source_late", "Whether an answer of the source is waited for in vain so far.", NO_LABELS, |now| {
        one(now, |status| Row::new([], truth(status.source.asked_since.is_some())))
    }),
    gauge("valkeeper_source_problem", "Whether this kind of problem keeps the newest revision out of force.", &["kind"], |now| {
        of(now, source_problems)
    }),
    gauge(
        "valkeeper_source_problem_start_timestamp_seconds",
        "Since when the problem with the source is there, since 1970.",
        &["kind"],
        |now| of(now, |status| status.source.problem.iter().map(|is| Row::new([is.kind.word()], seconds(is.since))).collect()),
    ),
    gauge(
        "valkeeper_revision_info",
        "The revision in force (desired) and the one the nodes were last brought to (settled); always 1.",
        &["state", "revision"],
        |now| of(now, revisions),
    ),
    gauge(
        "valkeeper_revision_settled_timestamp_seconds",
        "When the settled revision was settled for the first time, since 1970.",
        NO_LABELS,
        |now| of(now, |status| status.settled.iter().map(|settled| Row::new([], seconds(settled.at))).collect()),
    ),
    gauge("valkeeper_watching", "Whether somebody else acts on the nodes, so that this daemon only watches.", NO_LABELS, |now| {
        one(now, |status| Row::new([], truth(status.watching.is_some())))
    }),
    gauge("valkeeper_node_up", "Whether the last look at the node succeeded.", &["node"], |now| {
        nodes(now, |name, node| vec![Row::new([name.as_str()], truth(node.seen))])
    }),
    gauge("valkeeper_node_state_start_timestamp_seconds", "Since when the node is up, or not, since 1970.", &["node"], |now| {
        nodes(now, |name, node| vec![Row::new([name.as_str()], seconds(node.since))])
    }),
    gauge("valkeeper_node_observe_duration_seconds", "How long the last look at the node took.", &["node"], |now| {
        now.observed.iter().map(|(node, took)| Row::new([node.as_str()], took.as_secs_f64())).collect()
    }),
    gauge("valkeeper_node_info", "The server version that the node has; always 1.", &["node", "version"], |now| {
        nodes(now, |name, node| vec![Row::new([name.as_str(), node.version.as_deref().unwrap_or_default()], 1.0)])
    }),
    gauge(
        "valkeeper_instance_info",
        "Each instance with what it is and how it does; always 1.",
        &["instance", "tenant", "shard", "status", "version"],
        |now| instances(now, info),
    ),
    gauge(
        "valkeeper_instance_state",
        "1 for the state that the instance is in, 0 for the others.",
        &["instance", "state"],
        |now| {
            instances(now, |name, it| {
                State::ALL.iter().map(|state| Row::new([name.as_str(), state.word()], truth(it.state == *state))).collect()
            })
        },
    ),
    gauge(
        "valkeeper_instance_state_start_timestamp_seconds",
        "Since when the instance is in its state, since 1970.",
        &["instance"],
        |now| instances(now, |name, it| vec![Row::new([name.as_str()], seconds(it.since))]),
    ),
    gauge("valkeeper_instance_steps_due", "Steps that are still to be taken, by cause.", &["instance", "cause"], |now| {
        instances(now, |name, it| {
            vec![
                Row::new([name.as_str(), "drift"], amount(it.drift)),
                Row::new([name.as_str(), "requested"], amount(it.requested)),
            ]
        })
    }),
    gauge("valkeeper_instance_failed_attempts", "Tries that failed since one succeeded.", &["instance"], |now| {
        instances(now, |name, it| vec![Row::new([name.as_str()], f64::from(it.attempts))])
    }),
    gauge("valkeeper_instance_held", "Changes that are wanted and not made, by reason.", &["instance", "reason"], |now| {
        instances(now, held)
    }),
    gauge("valkeeper_suspended", "Whether a person suspended the whole fleet.", NO_LABELS, |now| {
        one(now, |status| Row::new([], truth(status.suspended.is_some())))
    }),
    gauge("valkeeper_instance_suspended", "Whether the instance is suspended, itself or with the fleet.", &["instance"], |now| {
        of(now, |status| {
            let is = |it: &InstanceStatus| truth(it.suspended.is_some() || status.suspended.is_some());
            status.instances.iter().map(|(name, it)| Row::new([name.as_str()], is(it))).collect()
        })
    }),
    gauge(
        "valkeeper_suspension_info",
        "Who suspended the fleet (no instance) or an instance, and why; always 1.",
        &["instance", "by", "reason"],
        |now| suspensions(now, |name, it| Row::new([name, &it.by, &it.reason], 1.0)),
    ),
    gauge(
        "valkeeper_suspension_start_timestamp_seconds",
        "Since when the fleet (no instance) or an instance is suspended, since 1970.",
        &["instance"],
        |now| suspensions(now, |name, it| Row::new([name], seconds(it.since))),
    ),
    gauge(
        "valkeeper_suspension_end_timestamp_seconds",
        "When the suspension of the fleet (no instance) or of an instance ends by itself, since 1970.",
        &["instance"],
        |now| suspensions(now, |name, it| Row::new([name], seconds(it.until))),
    ),
    Family {
        name: "valkeeper_instance_drift_found_total",
        help: "Passes that found the instance changed by somebody else.",
        kind: Kind::Counter,
        labels: &["instance"],
        rows: |now| {
            let found = |name: &InstanceName| amount(now.drift_found.get(name).copied().unwrap_or_default());
            instances(now, |name, _| vec![Row::new([name.as_str()], found(name))])
        },
    },
];

pub(super) const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    rows: fn(&Snapshot) -> Vec<Row>,
) -> Family {
    Family { name, help, kind: Kind::Gauge, labels, rows }
}

fn of(now: &Snapshot, rows: impl FnOnce(&Status) -> Vec<Row>) -> Vec<Row> {
    now.status.as_deref().map(rows).unwrap_or_default()
}

fn one(now: &Snapshot, row: impl FnOnce(&Status) -> Row) -> Vec<Row> {
    of(now, |status| vec![row(status)])
}

fn nodes(now: &Snapshot, rows: fn(&NodeName, &NodeStatus) -> Vec<Row>) -> Vec<Row> {
    of(now, |status| status.nodes.iter().flat_map(|(name, node)| rows(name, node)).collect())
}

pub(super) fn instances(now: &Snapshot, rows: impl Fn(&InstanceName, &InstanceStatus) -> Vec<Row>) -> Vec<Row> {
    of(now, |status| status.instances.iter().flat_map(|(name, instance)| rows(name, instance)).collect())
}

fn source_problems(status: &Status) -> Vec<Row> {
    let found = status.source.problem.as_ref().map(|problem| problem.kind);
    ProblemKind::ALL.iter().map(|kind| Row::new([kind.word()], truth(found == Some(*kind)))).collect()
}

fn revisions(status: &Status) -> Vec<Row> {
    let desired = status.source.desired.iter().map(|revision| Row::new(["desired", revision], 1.0));
    let settled = status.settled.iter().map(|settled| Row::new(["settled", &settled.revision], 1.0));
    desired.chain(settled).collect()
}

fn info(name: &InstanceName, it: &InstanceStatus) -> Vec<Row> {
    let tenant = it.tenant.as_ref().map_or("", |tenant| tenant.as_str());
    let shard = it.shard.as_ref().map_or("", |shard| shard.as_str());
    let version = it.version.as_deref().unwrap_or_default();
    vec![Row::new([name.as_str(), tenant, shard, it.state.word(), version], 1.0)]
}

fn held(name: &InstanceName, it: &InstanceStatus) -> Vec<Row> {
    let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
    for held in &it.held {
        *by_reason.entry(&held.reason).or_default() += 1;
    }
    by_reason.into_iter().map(|(reason, count)| Row::new([name.as_str(), reason], amount(count))).collect()
}

/// The fleet's suspension, under no instance, and each instance's own.
fn suspensions(now: &Snapshot, row: fn(&str, &Suspension) -> Row) -> Vec<Row> {
    of(now, |status| {
        let fleet = status.suspended.iter().map(|it| row("", it));
        let instances = status.instances.iter().filter_map(|(name, it)| {
            // An instance may say the fleet's suspension after it; that is not a second one.
            let own = it.suspended.as_ref().filter(|own| status.suspended.as_ref() != Some(*own))?;
            Some(row(name.as_str(), own))
        });
        fleet.chain(instances).collect()
    })
}

pub(super) fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn amount(count: u64) -> f64 {
    count as f64
}
