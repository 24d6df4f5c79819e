//! What is scraped: names and labels that Prometheus' own tool accepts, and series that go with their object.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use valkeeper::daemon::status::{PassResult, Status};
use valkeeper::metrics::{Attempt, Metrics, Phase};
use valkeeper::model::name::{InstanceName, NodeName};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::plan::Plan;

use crate::tools::promtool;

const DESIRED: &str = "5e884898da28047151d0e56f8dc6292773603d0d";
const SETTLED: &str = "0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33";

/// A daemon with one of everything that it can say.
pub fn everything() -> Status {
    let suspension = |reason: &str| {
        serde_json::json!({
            "by": "ann", "reason": reason, "since": "2026-11-20T10:00:00Z", "until": "2026-11-20T12:00:00Z",
        })
    };
    let instance = |state: &str, suspended: serde_json::Value| {
        serde_json::json!({
            "state": state, "since": "2026-11-20T09:00:00Z", "message": "x", "tenant": "acme", "shard": "a", "node": "n1",
            "port": 6400, "version": "8.0.1", "drift": 2, "requested": 1, "suspended": suspended, "attempts": 3,
            "retry_at": null,
            "members": {
                "n1": { "role": "fenced", "link_up": null, "lag_bytes": null, "fenced_seconds": 40 },
                "n2": { "role": "replica", "link_up": true, "lag_bytes": 512, "fenced_seconds": null },
            },
            "moving": {
                "instance": "cache",
                "from": { "node": "n1", "address": "127.0.0.1:6400" }, "to": { "node": "n2", "address": "127.0.0.1:6401" },
                "script": [
                    { "stage": "join", "nodes": ["n2"], "progress": "done" },
                    { "stage": "catch-up", "nodes": ["n2"], "progress": "now" },
                    { "stage": "cut-over", "nodes": ["n1", "n2"], "progress": "to-come" },
                ],
                "amount": { "node": "n2", "of": "dataset", "done": 1000, "total": 5000 },
                "waits_for": { "reason": "syncing", "why": "secret-in-a-message" },
                "remaining": [{ "node": "n1", "address": "127.0.0.1:6400", "answers": "NOREPLICAS", "connections": 3 }],
                "pace": { "seconds_in_stage": 9, "attempt": 2, "per_second": 500, "seconds_left": 8 },
            },
            "held": [
                { "what": "any change of roles", "reason": "two-primaries", "message": "m", "alarm": true },
                { "what": "delete", "reason": "approval", "message": "m" },
                { "what": "restart", "reason": "approval", "message": "m" },
            ],
        })
    };
    let mut status = serde_json::json!({
        "version": "0.1.0", "fleet": "prod", "started": "2026-11-20T08:00:00Z", "watching": null,
        "configuration": { "read": "2026-11-20T08:00:00Z", "refused": null },
        "source": {
            "location": "ssh://git@example.com/state.git", "branch": "main", "folder": ".", "head": DESIRED,
            "desired": DESIRED, "signed_by": null, "last_fetch": "2026-11-20T11:00:00Z", "asked_since": null,
            "problem": { "kind": "verify", "message": "secret-in-a-message", "since": "2026-11-20T10:59:00Z", "count": 4 },
        },
        "settled": { "revision": SETTLED, "at": "2026-11-19T00:00:00Z" },
        "suspended": suspension("night shift"),
        "last_pass": {
            "number": 7, "at": "2026-11-20T11:00:00Z", "seconds": 0.5, "result": "settled", "done": 1, "failed": 0, "held": 1,
        },
        "next_pass": "2026-11-20T11:01:00Z",
        "nodes": {
            "n1": { "seen": true, "message": null, "version": "8.0.1", "since": "2026-11-20T08:00:00Z" },
            "n2": { "seen": false, "message": "no route", "version": null, "since": "2026-11-20T08:00:00Z" },
        },
        "instances": {
            "cache": instance("active", suspension("said \"stop\"\\now,\nplease")),
            "queue": instance("failed", serde_json::Value::Null),
        },
    });
    status["instances"]["queue"]["moving"]["amount"] = serde_json::json!({ "node": "n1", "of": "keys", "done": 30, "total": 70 });
    serde_json::from_value(status).unwrap()
}

/// Metrics to which everything has happened.
pub fn after_everything() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.set_status(Arc::new(everything()));
    metrics.pass_ended(&Phase::ALL.map(|phase| (phase, Duration::from_millis(30))), PassResult::Settled);
    metrics.step_ended("set-user", Outcome::Done.kind(), Duration::from_millis(2));
    metrics.fetched(Attempt::Success);
    metrics.verified(Attempt::of::<(), &str>(&Err("no signature")));
    metrics.plan_made(&plan());
    metrics.drift_found([&instance("cache")]);
    metrics.observed(&node("n1"), Duration::from_millis(4));
    metrics
}

/// A plan of one step.
fn plan() -> Plan {
    use valkeeper::model::action::Action;
    use valkeeper::model::plan::{Cause, Step, Subject};
    let step = Step {
        subject: Subject::Instance(instance("cache")),
        node: node("n1"),
        action: Action::Purge { uid: "0000000000000000".to_owned() },
        cause: Cause::Requested,
        drifted: BTreeSet::new(),
        costs: Vec::new(),
    };
    Plan {
        fleet: valkeeper::model::name::FleetName::new("prod").unwrap(),
        revision: DESIRED.to_owned(),
        steps: vec![step],
        held: Vec::new(),
        refused: Vec::new(),
        unseen: std::collections::BTreeMap::new(),
        notes: Vec::new(),
        unknown: Default::default(),
        stays: Default::default(),
        moves: Vec::new(),
    }
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// The families that a scrape shows.
pub fn names(scrape: &str) -> BTreeSet<String> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect()
}

/// The value of a series, written as in the scrape.
fn value<'a>(scrape: &'a str, series: &str) -> Option<&'a str> {
    scrape.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[test]
fn promtool_has_nothing_to_say_of_the_metrics() {
    for metrics in [Metrics::new().unwrap(), after_everything()] {
        promtool(&["check", "metrics"], &metrics.render().unwrap());
    }
}

#[test]
fn every_help_is_a_sentence() {
    let scrape = after_everything().render().unwrap();
    let own = scrape.lines().filter_map(|line| line.strip_prefix("# HELP valkeeper_"));
    let broken: Vec<_> = own.filter(|line| !line.ends_with('.') || line.split(' ').count() < 4).collect();
    assert!(scrape.contains("# HELP valkeeper_") && broken.is_empty(), "{broken:?}");
}

#[test]
fn the_gauges_say_what_the_status_says() {
    let scrape = after_everything().render().unwrap();
    let says = |series: &str, expected: &str| assert_eq!(value(&scrape, series), Some(expected), "{series}\n{scrape}");
    says("valkeeper_build_info{version=\"0.1.0\"}", "1");
    says("valkeeper_last_settled_pass_timestamp_seconds", "1795172400.5");
    says(&format!("valkeeper_revision_info{{state=\"desired\",revision=\"{DESIRED}\"}}"), "1");
    says(&format!("valkeeper_revision_info{{state=\"settled\",revision=\"{SETTLED}\"}}"), "1");
    says("valkeeper_node_up{node=\"n1\"}", "1");
    says("valkeeper_node_up{node=\"n2\"}", "0");
    says("valkeeper_node_observe_duration_seconds{node=\"n1\"}", "0.004");
    says("valkeeper_instance_state{instance=\"queue\",state=\"failed\"}", "1");
    says("valkeeper_instance_state{instance=\"queue\",state=\"active\"}", "0");
    says("valkeeper_instance_steps_due{instance=\"queue\",cause=\"drift\"}", "2");
    says("valkeeper_instance_held{instance=\"queue\",reason=\"approval\"}", "2");
    says("valkeeper_instance_drift_found_total{instance=\"cache\"}", "1");
    says("valkeeper_instance_drift_found_total{instance=\"queue\"}", "0");
    says("valkeeper_source_problem{kind=\"verify\"}", "1");
    says("valkeeper_source_problem{kind=\"fetch\"}", "0");
    says("valkeeper_move_stage{instance=\"cache\",stage=\"catch-up\"}", "1");
    says("valkeeper_move_stage{instance=\"cache\",stage=\"join\"}", "0");
    says("valkeeper_move_stage_seconds{instance=\"cache\"}", "9");
    says("valkeeper_move_attempt{instance=\"cache\"}", "2");
    says("valkeeper_move_done_bytes{instance=\"cache\"}", "1000");
    says("valkeeper_move_total_bytes{instance=\"cache\"}", "5000");
    says("valkeeper_move_bytes_per_second{instance=\"cache\"}", "500");
    says("valkeeper_move_done_keys{instance=\"queue\"}", "30");
    says("valkeeper_move_total_keys{instance=\"queue\"}", "70");
    assert_eq!(value(&scrape, "valkeeper_move_bytes_per_second{instance=\"queue\"}"), None);
    says("valkeeper_move_waiting{instance=\"cache\",reason=\"syncing\"}", "1");
    says("valkeeper_move_left_seconds{instance=\"cache\"}", "8");
    says("valkeeper_move_remaining_connections{instance=\"cache\",node=\"n1\"}", "3");
    says("valkeeper_replica_link_up{instance=\"cache\",node=\"n2\"}", "1");
    says("valkeeper_replica_lag_bytes{instance=\"cache\",node=\"n2\"}", "512");
    says("valkeeper_fence_held_seconds{instance=\"cache\",node=\"n1\"}", "40");
    says("valkeeper_role_refused{instance=\"cache\",reason=\"two-primaries\"}", "1");
    says("valkeeper_suspension_end_timestamp_seconds{instance=\"cache\"}", "1795176000");
    says("valkeeper_planned_steps_total{action=\"purge\",cause=\"requested\"}", "1");
    says("valkeeper_source_verifications_total{result=\"failure\"}", "1");
    let info = "valkeeper_instance_info{instance=\"cache\",tenant=\"acme\",shard=\"a\",status=\"active\",version=\"8.0.1\"}";
    says(info, "1");
    assert!(!scrape.contains("secret-in-a-message"), "messages are for status, and may be long");
}

#[test]
fn the_last_settled_pass_is_remembered_while_others_fail() {
    let metrics = after_everything();
    let mut status = everything();
    let pass = status.last_pass.as_mut().unwrap();
    (pass.result, pass.at) = (PassResult::Troubled, "2026-11-20T11:05:00Z".parse().unwrap());
    metrics.set_status(Arc::new(status));
    let scrape = metrics.render().unwrap();
    assert_eq!(value(&scrape, "valkeeper_last_settled_pass_timestamp_seconds"), Some("1795172400.5"));
    assert_eq!(value(&scrape, "valkeeper_last_pass_timestamp_seconds"), Some("1795172700.5"));
}

#[test]
fn series_go_with_their_object_and_do_not_come_back_with_its_name() {
    let metrics = after_everything();
    let mut status = everything();
    status.instances.remove(&instance("cache"));
    status.nodes.remove(&node("n1"));
    metrics.set_status(Arc::new(status));
    let scrape = metrics.render().unwrap();
    assert!(!scrape.contains("cache") && !scrape.contains("{node=\"n1\""), "{scrape}");
    assert!(scrape.contains("queue") && scrape.contains("n2"));

    metrics.set_status(Arc::new(everything()));
    let again = metrics.render().unwrap();
    assert_eq!(value(&again, "valkeeper_instance_drift_found_total{instance=\"cache\"}"), Some("0"));
    assert_eq!(value(&again, "valkeeper_node_observe_duration_seconds{node=\"n1\"}"), None);
}

#[test]
fn the_series_of_a_move_go_when_it_ends() {
    let metrics = after_everything();
    let mut status = everything();
    status.instances.values_mut().for_each(|instance| {
        instance.moving = None;
        instance.members.clear();
        instance.held.clear();
    });
    metrics.set_status(Arc::new(status));
    let scrape = metrics.render().unwrap();
    for family in ["valkeeper_move_", "valkeeper_replica_", "valkeeper_fence_", "valkeeper_role_"] {
        assert!(after_everything().render().unwrap().contains(family) && !scrape.contains(family), "{family}\n{scrape}");
    }
}

#[test]
fn a_thousand_revisions_and_reasons_leave_the_series_of_one() {
    let metrics = after_everything();
    let lines = metrics.render().unwrap().lines().count();
    for turn in 0..1000 {
        let mut status = everything();
        status.source.desired = Some(format!("{turn:040}"));
        status.suspended.as_mut().unwrap().reason = format!("reason {turn}");
        metrics.set_status(Arc::new(status));
        metrics.plan_made(&plan());
    }
    assert_eq!(metrics.render().unwrap().lines().count(), lines);
}

#[test]
fn an_odd_label_is_escaped_and_a_long_one_is_cut() {
    let metrics = after_everything();
    let escaped = r#"valkeeper_suspension_info{instance="cache",by="ann",reason="said \"stop\"\\now,\nplease"} 1"#;
    assert!(metrics.render().unwrap().lines().any(|line| line == escaped));

    let mut status = everything();
    status.suspended.as_mut().unwrap().reason = "€".repeat(10_000);
    metrics.set_status(Arc::new(status));
    let scrape = metrics.render().unwrap();
    assert!(scrape.lines().all(|line| line.len() < 600));
    promtool(&["check", "metrics"], &scrape);
}
