//! The plan as JSON, in the shape of Terraform's plan representation where it has one: `resource_changes[].change` with
//! `actions`, `before` and `after`, and `resource_drift`; with `steps`, `then` and `held` beside it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::words;
use super::{Verb, View, by_subject, counts, step_line};
use crate::model::action::{Action, Opening};
use crate::model::desired::Desired;
use crate::model::live::Live;
use crate::model::name::InstanceName;
use crate::model::plan::{Cause, Cost, Plan, Step, Subject};
use crate::model::snapshot::Shipping;
use crate::plan::forward::{carry, narrowed};

/// Grows in its first part when a reader of the old form would misread the new one.
pub const FORMAT_VERSION: &str = "1.0";

/// Renders a plan.
pub fn json(view: &View<'_>) -> Value {
    let View { desired, live, plan, rest } = view;
    let counts = counts(plan);
    let mut shown = json!({
        "format_version": FORMAT_VERSION,
        "fleet": plan.fleet,
        "revision": plan.revision,
        "settled": plan.is_settled(),
        "summary": { "add": counts.add, "change": counts.change, "remove": counts.remove, "held": counts.held },
        "resource_changes": changes(plan, desired, live, |step| step.cause != Cause::Drift),
        "resource_drift": changes(plan, desired, live, |step| step.cause == Cause::Drift),
        "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
        "then": rest.iter().map(|later| later.steps.iter().map(step).collect::<Vec<_>>()).collect::<Vec<_>>(),
        "held": plan.held.iter().map(|held| json!({
            "instance": held.instance,
            "what": held.what,
            "reason": held.reason.kind(),
            "guard": held.reason.is_guard(),
            "message": words::held_reason(&held.reason),
            "withheld": held.withheld.iter().map(step).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "refused": plan.refused.iter().map(|refusal| json!({ "problem": refusal.problem, "cure": refusal.cure })).collect::<Vec<_>>(),
        "unseen": plan.unseen,
        "notes": plan.notes.iter().map(words::note).collect::<Vec<_>>(),
    });
    // Most plans have none.
    if let Some(shown) = shown.as_object_mut().filter(|_| !plan.moves.is_empty()) {
        shown.insert("moves".to_owned(), json!(plan.moves));
    }
    shown
}

/// What a step does, without what it happens to cost at the moment: a saved plan authorises this.
pub fn identity(step: &Step) -> Value {
    json!({
        "instance": match &step.subject { Subject::Instance(name) => Some(name), Subject::Fleet => None },
        "node": step.node,
        "kind": step.action.kind(),
        "change": action(&step.action),
    })
}

fn step(step: &Step) -> Value {
    json!({
        "instance": match &step.subject { Subject::Instance(name) => Some(name), Subject::Fleet => None },
        "node": step.node,
        "kind": step.action.kind(),
        "cause": words::cause(step.cause),
        "drifted": step.drifted,
        "costs": step.costs.iter().map(cost).collect::<Vec<_>>(),
        "summary": step_line(step),
        "change": action(&step.action),
    })
}

fn cost(cost: &Cost) -> Value {
    let kind = match cost {
        Cost::Restart { .. } => "restart",
        Cost::RestartEmpty { .. } => "restart-empty",
        Cost::Rebinds { .. } => "rebinds",
        Cost::Stop { .. } => "stop",
        Cost::Closes { .. } => "closes-connections",
        Cost::Tightens(_) => "tightens-limit",
        Cost::Rewrite { .. } => "rewrite",
        Cost::Shrinks { .. } => "shrinks",
        Cost::SwitchOver { .. } => "switch-over",
        Cost::WritesWait { .. } => "writes-wait",
        Cost::WritesLost => "writes-lost",
        Cost::Carries { .. } => "carries",
        Cost::DataGone { .. } => "data-gone",
    };
    json!({ "kind": kind, "message": words::cost(cost) })
}

fn action(action: &Action) -> Value {
    match action {
        Action::WriteRecord(change) => json!({ "before": change.before(), "after": change.after() }),
        Action::CreateInstance(creation) => json!({
            "before": null,
            "after": {
                "uid": creation.uid, "tenant": creation.tenant, "protect": creation.protect,
                "settings": creation.spec.settings,
                "users": creation.users.iter().map(|(name, wanted)| (name, &*wanted.user)).collect::<BTreeMap<_, _>>(),
            },
        }),
        Action::StartInstance(opening) | Action::ReopenInstance(opening) => self::opening(opening),
        Action::UpgradeInstance(upgrade) => {
            let mut all = opening(&upgrade.opening);
            if let Some(all) = all.as_object_mut() {
                all.extend([("from".to_owned(), json!(upgrade.from)), ("to".to_owned(), json!(upgrade.to))]);
            }
            all
        }
        Action::RepairUnit { why } | Action::RepairCredential { why } => json!({ "why": why }),
        Action::ChangeInstance(change) => {
            json!({ "before": change.change.before(), "after": change.change.after(), "restart": change.restart })
        }
        Action::ChangeRole(change) => json!({ "before": change.before, "after": change.after }),
        Action::CutOver(change) => {
            json!({ "target": change.target, "from": change.from.to_string(), "to": change.to.to_string() })
        }
        // Which snapshot it will be nobody can foresee.
        Action::Ship(shipping) => match &**shipping {
            Shipping::Take { fenced } => json!({ "fenced": fenced }),
            Shipping::Carry { source, made: _ } => json!({ "source": source }),
            Shipping::Seed { made: _ } => json!({}),
        },
        Action::SetUser(change) => json!({
            "user": change.user, "before": change.change.before(), "after": change.change.after(), "closes_connections": change.close,
        }),
        Action::RemoveUser { user, before } => json!({ "user": user, "before": before, "after": null }),
        Action::SaveUsers { wrong, why } => json!({ "users": wrong, "why": why }),
        Action::Mark(change) => json!({ "before": change.before(), "after": change.after() }),
        Action::DeleteInstance { uid } | Action::Purge { uid } | Action::Restore { uid } => json!({ "uid": uid }),
    }
}

fn opening(opening: &Opening) -> Value {
    json!({
        "before": opening.before,
        "after": opening.after,
        "users": opening.users.as_ref().map(|users| users.keys().collect::<Vec<_>>()),
        "without": opening.without,
    })
}

fn changes(plan: &Plan, desired: &Desired, live: &Live, wanted: fn(&Step) -> bool) -> Vec<Value> {
    let mut changes = Vec::new();
    for (subject, steps) in by_subject(plan) {
        let Subject::Instance(name) = subject else { continue };
        let steps: Vec<&Step> = steps.into_iter().filter(|step| wanted(step)).collect();
        let Some(first) = steps.first() else { continue };
        let actions = match Verb::of(plan, name, &steps) {
            Verb::Add => vec!["create"],
            Verb::Remove => vec!["delete"],
            Verb::Change | Verb::Note => vec!["update"],
        };
        let before = narrowed(live, &first.node, name);
        let mut after = before.clone();
        carry(&mut after, &steps.iter().map(|step| (*step).clone()).collect::<Vec<_>>());
        let purged = |step: &&Step| if let Action::Purge { uid } = &step.action { Some(uid.clone()) } else { None };
        let purged: Vec<String> = steps.iter().filter_map(purged).collect();
        let mut found = resource(&before, first, name);
        if found.is_null() && !purged.is_empty() {
            found = json!({ "set_aside": purged });
        }
        changes.push(json!({
            "address": format!("instances.{name}"),
            "type": "instance",
            "name": name,
            "node": first.node,
            "tenant": desired.instances.get(name).and_then(|instance| instance.tenant.clone()),
            "change": { "actions": actions, "before": found, "after": resource(&after, first, name) },
        }));
    }
    changes
}

/// What stands on the node under this name: in force, and on disk, because drift may be in one of them only. Passwords are
/// fingerprints.
fn resource(live: &Live, step: &Step, name: &InstanceName) -> Value {
    let Some(member) = live.seen(&step.node).and_then(|(node, _)| node.member(name)) else { return Value::Null };
    let settings = member.spec.memory.seen().or(member.spec.disk.seen()).map(|spec| &spec.settings);
    let users: BTreeMap<_, _> =
        member.users.iter().filter_map(|(user, twin)| Some((user, twin.memory.seen().or(twin.disk.seen())?))).collect();
    let users_on_disk: BTreeMap<_, _> = member.users.iter().filter_map(|(user, twin)| Some((user, twin.disk.seen()?))).collect();
    json!({
        "uid": member.marker.uid, "tenant": member.marker.tenant, "protect": member.marker.protect,
        "server": member.server.word(),
        "settings": settings, "users": users,
        "not_ours": member.spec.memory.seen().map(|spec| &spec.foreign),
        "on_disk": { "config": member.spec.disk.seen(), "users": users_on_disk },
    })
}
