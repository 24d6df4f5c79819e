//! Where each instance stands in its life, from the facts, the plan and what failed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::backoff::{Backoff, later};
use super::status::{HeldStatus, InstanceStatus, MemberStatus, State};
use crate::model::action::Action;
use crate::model::desired::{Desired, Ensure};
use crate::model::live::{Live, MemberFacts, Server};
use crate::model::marker::Stage;
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, Plan, Step, Subject};
use crate::model::record::Suspensions;
use crate::model::role::Overlay;
use crate::model::spec::InstanceSpec;
use crate::plan::show::held_reason;

/// How long a deleted instance is still shown.
const DELETED_SHOWN: Duration = Duration::from_secs(3600);

/// What the states are worked out from.
pub struct Scene<'a> {
    pub desired: &'a Desired,
    pub live: &'a Live,
    pub plan: &'a Plan,
    pub backoff: &'a Backoff,
    pub suspended: &'a Suspensions,
    pub before: &'a BTreeMap<InstanceName, InstanceStatus>,
    pub members: BTreeMap<InstanceName, BTreeMap<NodeName, MemberStatus>>,
    pub now: Timestamp,
}

/// The status of every instance that is wanted, stands somewhere, or was here a moment ago.
pub fn instances(scene: &Scene<'_>) -> BTreeMap<InstanceName, InstanceStatus> {
    let standing = standing(scene);
    let mut steps: BTreeMap<&InstanceName, Vec<&Step>> = BTreeMap::new();
    for step in &scene.plan.steps {
        if let Subject::Instance(name) = &step.subject {
            steps.entry(name).or_default().push(step);
        }
    }
    let wanted = scene.desired.instances.iter().filter(|(_, instance)| instance.ensure == Ensure::Present).map(|(name, _)| name);
    let held = scene.plan.held.iter().map(|held| &held.instance);
    let mut names: BTreeSet<&InstanceName> = wanted.chain(standing.keys().copied()).chain(held).collect();
    let fresh = |status: &InstanceStatus| status.state != State::Deleted || later(status.since, DELETED_SHOWN) > scene.now;
    names.extend(scene.before.iter().filter(|(_, status)| fresh(status)).map(|(name, _)| name));
    let one = |name: &InstanceName| {
        let steps = steps.get(name).map_or(&[][..], Vec::as_slice);
        (name.clone(), instance(scene, name, standing.get(name).copied(), steps))
    };
    names.into_iter().map(one).collect()
}

type Standing<'a> = (&'a NodeName, &'a MemberFacts);

fn standing<'a>(scene: &Scene<'a>) -> BTreeMap<&'a InstanceName, Standing<'a>> {
    let mut standing = BTreeMap::new();
    for (node, facts) in scene.live.seen_nodes() {
        for name in facts.members.keys() {
            if let Some(member) = facts.member(name).filter(|member| member.marker.fleet == scene.desired.fleet) {
                // Of several, the one that takes writes.
                if !standing.contains_key(name) || member.role_in_force() == Some(Overlay::OPEN) {
                    standing.insert(name, (node, member));
                }
            }
        }
    }
    standing
}

fn instance(scene: &Scene<'_>, name: &InstanceName, standing: Option<Standing<'_>>, steps: &[&Step]) -> InstanceStatus {
    let before = scene.before.get(name);
    let wanted = scene.desired.instances.get(name).filter(|instance| instance.ensure == Ensure::Present);
    let failure = scene.backoff.of(&Subject::Instance(name.clone()));
    let node = standing.map(|(node, _)| node).or_else(|| scene.desired.shards.get(&wanted?.shard)?.nodes.first());
    let unseen = node.is_some_and(|node| scene.live.seen(node).is_none());
    let held: Vec<HeldStatus> = scene
        .plan
        .held
        .iter()
        .filter(|held| held.instance == *name)
        .map(|held| HeldStatus {
            what: held.what.clone(),
            reason: held.reason.kind().to_owned(),
            message: held_reason(&held.reason),
            alarm: held.reason.is_alarm(),
        })
        .collect();
    let state = match failure {
        Some(_) => State::Failed,
        // What cannot be seen is as it was, as far as anybody knows.
        None if unseen => before.map_or(State::Pending, |before| before.state),
        None => state(wanted.is_some(), standing, steps),
    };
    let message = failure.map(|failure| failure.message.clone()).or_else(|| held.first().map(|held| held.message.clone()));
    let withheld = scene.plan.held.iter().filter(|held| held.instance == *name).flat_map(|held| &held.withheld);
    let all: Vec<&Step> = steps.iter().copied().chain(withheld).collect();
    // A step may have both causes.
    let drift = all.iter().filter(|step| step.is_drift()).count() as u64;
    let requested = all.iter().filter(|step| step.cause == Cause::Requested).count() as u64;
    InstanceStatus {
        state,
        since: before.filter(|before| before.state == state).map_or(scene.now, |before| before.since),
        message,
        tenant: wanted.and_then(|instance| instance.tenant.clone()),
        shard: wanted.map(|instance| instance.shard.clone()),
        node: node.cloned(),
        port: standing.and_then(|(_, member)| member.spec.disk.seen().and_then(InstanceSpec::port)),
        version: standing.and_then(|(_, member)| version(member)),
        drift,
        requested,
        held,
        members: scene.members.get(name).cloned().unwrap_or_default(),
        moving: scene.plan.moves.iter().find(|it| it.instance == *name).cloned(),
        suspended: scene.suspended.of(name, scene.now).cloned(),
        retry_at: failure.map(|failure| failure.due),
        attempts: failure.map_or(0, |failure| failure.attempts),
    }
}

fn state(wanted: bool, standing: Option<Standing<'_>>, steps: &[&Step]) -> State {
    let has = |kind: fn(&Action) -> bool| steps.iter().any(|step| kind(&step.action));
    match standing.map(|(_, member)| member.marker.stage) {
        None if has(|action| matches!(action, Action::CreateInstance(_))) => State::Provisioning,
        None if wanted => State::Pending,
        None => State::Deleted,
        Some(Stage::Provisioning) => State::Provisioning,
        // What goes of an instance that is wanted is a member.
        Some(Stage::Active | Stage::Deleting) if wanted => State::Active,
        Some(Stage::Deleting) => State::Deleting,
        Some(Stage::Active) if has(|action| matches!(action, Action::DeleteInstance { .. })) => State::Deleting,
        Some(Stage::Active) => State::Active,
    }
}

fn version(member: &MemberFacts) -> Option<String> {
    match &member.server {
        Server::Up(running) => Some(running.version.clone()),
        Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => None,
    }
}
