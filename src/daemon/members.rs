//! How the members of each instance stand to each other: for status and metrics. Pure; decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::{MemberRole, MemberStatus};
use crate::model::desired::Desired;
use crate::model::live::{Live, MemberFacts, Running, Server};
use crate::model::name::{InstanceName, NodeName};
use crate::model::role::{Link, Overlay};

/// Since when members are fenced, by a clock that never jumps.
#[derive(Debug, Default)]
pub struct Fences {
    since: BTreeMap<(InstanceName, NodeName), Duration>,
}

type Found<'a> = BTreeMap<&'a InstanceName, Vec<(&'a NodeName, &'a MemberFacts)>>;

/// The members of instances that have several, or one with a role. `now`: since any one moment.
pub fn members(
    desired: &Desired,
    live: &Live,
    fences: &mut Fences,
    now: Duration,
) -> BTreeMap<InstanceName, BTreeMap<NodeName, MemberStatus>> {
    let found = found(desired, live);
    let mut since = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (name, members) in found {
        let open = members.iter().find(|(_, member)| member.role_in_force() == Some(Overlay::OPEN));
        // Whoever hands over is one as well, until somebody else takes writes.
        let fenced = || members.iter().find(|(_, member)| member.role_in_force() == Some(Overlay::FENCED));
        let primary = open.or_else(fenced).map(|(_, member)| *member);
        let mut shown = BTreeMap::new();
        for (node, member) in &members {
            let mut status = status(member, primary);
            if status.role == MemberRole::Fenced && open.is_none() {
                let key = (name.clone(), (*node).clone());
                let first = fences.since.get(&key).copied().unwrap_or(now);
                status.fenced_seconds = Some(now.saturating_sub(first).as_secs());
                since.insert(key, first);
            }
            shown.insert((*node).clone(), status);
        }
        all.insert(name.clone(), shown);
    }
    fences.since = since;
    all
}

fn found<'a>(desired: &Desired, live: &'a Live) -> Found<'a> {
    let mut found: Found<'_> = BTreeMap::new();
    for (node, facts) in live.seen_nodes() {
        for name in facts.members.keys() {
            if let Some(member) = facts.member(name).filter(|member| member.marker.fleet == desired.fleet) {
                found.entry(name).or_default().push((node, member));
            }
        }
    }
    found.retain(|_, members| members.len() > 1 || members.iter().any(|(_, member)| member.has_role_of_ours()));
    found
}

fn status(member: &MemberFacts, primary: Option<&MemberFacts>) -> MemberStatus {
    let role = match member.role_in_force() {
        Some(Overlay { follows: Some(_), fenced: _ }) => MemberRole::Replica,
        Some(Overlay { follows: None, fenced: false }) => MemberRole::Primary,
        Some(Overlay { follows: None, fenced: true }) => MemberRole::Fenced,
        None => MemberRole::Unknown,
    };
    let (link_up, lag_bytes) = match role {
        MemberRole::Replica => (up(member).map(|it| it.replication.link == Some(Link::Up)), lag(member, primary)),
        // A replica whose server is down has no link.
        MemberRole::Unknown if member.role_on_disk().is_some_and(|role| role.follows.is_some()) => (Some(false), None),
        MemberRole::Primary | MemberRole::Fenced | MemberRole::Unknown => (None, None),
    };
    MemberStatus { role, link_up, lag_bytes, fenced_seconds: None }
}

fn lag(replica: &MemberFacts, primary: Option<&MemberFacts>) -> Option<u64> {
    let (from, to) = (&up(primary?)?.replication, &up(replica)?.replication);
    (from.replid == to.replid).then(|| from.offset.saturating_sub(to.offset))
}

fn up(member: &MemberFacts) -> Option<&Running> {
    match &member.server {
        Server::Up(running) => Some(running),
        Server::Down { .. } | Server::Locked { .. } | Server::Silent { .. } => None,
    }
}
