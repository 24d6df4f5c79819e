//! What is looked at before a member joins another one, and before it takes over from it (facts E.5). What a server does not
//! show is not judged.

use super::found::Place;
use super::migration::up;
use super::{Decision, Scene, open};
use crate::model::binary::BinaryFacts;
use crate::model::live::Running;
use crate::model::name::NodeName;
use crate::model::path::{Path, Way};
use crate::model::plan::HeldReason;
use crate::model::preflight::Unfit;
use crate::model::role::Endpoint;
use crate::model::setting::ReplicaBuffer;
use crate::model::spec::InstanceSpec;

/// At least so fast a new replica receives its data: measured were 133 to 250 MB/s (facts E.1).
const SYNC_BYTES_PER_SECOND: u64 = 100_000_000;

/// The primary that has the data.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub place: &'a Place<'a>,
    pub endpoint: &'a Endpoint,
    /// It is to be left.
    pub is_left: bool,
}

/// Whoever is to follow, or to take over.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub node: &'a NodeName,
    pub binary: &'a BinaryFacts,
    /// As its server will be set, or is.
    pub spec: &'a InstanceSpec,
}

/// Could this one follow the source, and in time take over?
pub(super) fn join(scene: &Scene<'_>, decision: &mut Decision, source: Source<'_>, target: Target<'_>) -> Result<(), HeldReason> {
    receive(source.place, target)?;
    let Some(running) = up(source.place.member) else { return Ok(()) };
    buffer(source.place, running)?;
    if source.is_left && !scene.approved && !source.place.member.persists(source.place.binary) {
        let revision = scene.desired.revision.clone();
        return unfit(Unfit::KeepsNothing { source: source.place.node.clone(), revision });
    }
    path(scene, decision, target.node, source.endpoint, source.place.node)
}

/// Could this one have the source's data, however it comes there?
pub(super) fn receive(source: &Place<'_>, target: Target<'_>) -> Result<(), HeldReason> {
    let Some(running) = up(source.member) else { return Ok(()) };
    version(&running.version, target.node, target.binary)?;
    databases(source, target, None)?;
    fits(source, running, target)
}

/// Could it take over now, and the source follow it then? `to`: where it is reached.
pub(super) fn take_over(
    scene: &Scene<'_>,
    decision: &mut Decision,
    source: &Place<'_>,
    target: Target<'_>,
    to: &Endpoint,
) -> Result<(), HeldReason> {
    let Some(running) = up(source.member) else { return Ok(()) };
    // On the way to fewer databases replicas are restarted first, when no key needs the others.
    databases(source, target, running.databases_used)?;
    fits(source, running, target)?;
    path(scene, decision, source.node, to, target.node)
}

/// An older server cannot read what a newer one sends, and would be tried again and again. Within one minor release the form
/// of a snapshot and the commands stay the same.
pub(super) fn version(runs: &str, node: &NodeName, binary: &BinaryFacts) -> Result<(), HeldReason> {
    if open::is_older(minor(&binary.version), minor(runs)) {
        return unfit(Unfit::OlderServer { node: node.clone(), installed: binary.version.clone(), runs: runs.to_owned() });
    }
    Ok(())
}

/// Is there room on the source's disk for a snapshot of what it has in memory?
pub(super) fn snapshot(scene: &Scene<'_>, source: &Place<'_>) -> Result<(), HeldReason> {
    let needed_bytes = up(source.member).map_or(0, |running| running.used_memory_bytes);
    scene.room.check_disk(source.node, source.facts, needed_bytes)
}

/// Of `8.0.1`: `8.0`.
fn minor(version: &str) -> &str {
    version.match_indices('.').nth(1).and_then(|(end, _)| version.get(..end)).unwrap_or(version)
}

fn unfit<T>(why: Unfit) -> Result<T, HeldReason> {
    Err(HeldReason::Unfit(why))
}

/// Has it as many databases? `used`: how many the keys take, where that is enough.
fn databases(source: &Place<'_>, target: Target<'_>, used: Option<u64>) -> Result<(), HeldReason> {
    let there = source.member.spec.memory.seen().and_then(|found| source.binary.number(found, "databases"));
    let here = target.binary.number(target.spec, "databases");
    match (there, here) {
        (Some(there), Some(here)) if here < used.unwrap_or(there).min(there) => {
            unfit(Unfit::FewerDatabases { source: source.node.clone(), there, target: target.node.clone(), here })
        }
        (_, _) => Ok(()),
    }
}

/// Is there room for what the source has in memory?
fn fits(source: &Place<'_>, running: &Running, target: Target<'_>) -> Result<(), HeldReason> {
    let Some(found) = source.member.spec.memory.seen() else { return Ok(()) };
    let max = |binary: &BinaryFacts, spec| binary.number(spec, "maxmemory").filter(|max| *max > 0);
    let Some(max_bytes) = max(target.binary, target.spec) else { return Ok(()) };
    // A source with the same limit holds itself to it; what is counted above that is its own buffers.
    let is_less = max(source.binary, found).is_none_or(|there| there > max_bytes);
    let used_bytes = running.used_memory_bytes;
    if is_less && used_bytes > max_bytes {
        let (node, source) = (target.node.clone(), source.node.clone());
        return unfit(Unfit::TooSmall { node, max_bytes, source, used_bytes });
    }
    Ok(())
}

/// Does what is written during the sync fit into the buffer of a replica? The rate is that of all that clients send, so at
/// least that of their writes.
fn buffer(source: &Place<'_>, running: &Running) -> Result<(), HeldReason> {
    let (binary, spec) = (source.binary, source.member.spec.memory.seen());
    let setting = spec.and_then(|spec| binary.value(spec, "client-output-buffer-limit"));
    let Some(limit) = setting.and_then(ReplicaBuffer::of) else { return Ok(()) };
    // A limit below the backlog counts as the backlog (`checkClientOutputBufferLimits` of networking.c).
    let backlog = spec.and_then(|spec| binary.number(spec, "repl-backlog-size")).unwrap_or_default();
    let (used_bytes, rate) = (running.used_memory_bytes, running.input_bytes_per_second);
    let waiting_bytes =
        u64::try_from(u128::from(used_bytes) * u128::from(rate) / u128::from(SYNC_BYTES_PER_SECOND)).unwrap_or(u64::MAX);
    let hard = Some(limit.hard_bytes).filter(|bytes| *bytes > 0).map(|bytes| bytes.max(backlog));
    // It may be above the soft one for so long.
    let soft = Some(limit.soft_bytes).filter(|bytes| *bytes > 0);
    let soft = soft.map(|bytes| bytes.max(backlog).saturating_add(rate.saturating_mul(limit.soft_seconds)));
    let Some(limit_bytes) = hard.into_iter().chain(soft).min() else { return Ok(()) };
    if waiting_bytes <= limit_bytes {
        return Ok(());
    }
    let sync_seconds = used_bytes.div_ceil(SYNC_BYTES_PER_SECOND);
    unfit(Unfit::BufferTooSmall { source: source.node.clone(), used_bytes, sync_seconds, waiting_bytes, limit_bytes })
}

/// Is the way known to be open? One that nobody tried is asked for, and held by nothing.
fn path(scene: &Scene<'_>, decision: &mut Decision, from: &NodeName, to: &Endpoint, of: &NodeName) -> Result<(), HeldReason> {
    let way = Way { from: from.clone(), to: to.clone() };
    match scene.live.paths.get(&way) {
        Some(Path::Open) => Ok(()),
        Some(Path::Closed { why }) => unfit(Unfit::NoPath { from: way.from, to: way.to, of: of.clone(), why: why.clone() }),
        None => {
            decision.unknown.insert(way);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_release_is_its_first_two_numbers() {
        assert_eq!(["8.0.1", "8.1", "8", "unknown"].map(minor), ["8.0", "8.1", "8", "unknown"]);
        assert!(open::is_older(minor("8.0.9"), minor("8.1.0")) && !open::is_older(minor("8.0.1"), minor("8.0.9")));
    }
}
