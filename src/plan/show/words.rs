//! Causes, costs and reasons in words.

use crate::model::action::{Action, Upgrade};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, ConnectionLimit, Cost, HeldReason, Note, Resource, Step};
use crate::model::preflight::Unfit;
use crate::model::size::show_size;

pub(super) fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Requested => "requested",
        Cause::Drift => "drift",
        Cause::Bookkeeping => "bookkeeping",
    }
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// What a cost means to the users of the instance.
pub fn cost(cost: &Cost) -> String {
    match cost {
        Cost::Restart { connections: Some(connections), memory_bytes: Some(bytes) } => {
            format!("restart: {} dropped, {} loaded again", count(*connections, "connection"), show_size(*bytes))
        }
        Cost::Restart { .. } => "restart: every connection dropped, the data loaded again".to_owned(),
        Cost::RestartEmpty { connections, memory_bytes } => {
            let dropped = connections.map_or("every connection".to_owned(), |number| count(number, "connection"));
            let lost = memory_bytes.map(|bytes| format!(" ({} in memory)", show_size(bytes))).unwrap_or_default();
            format!("restart: {dropped} dropped, and ALL ITS DATA IS LOST{lost}, because nothing of it is on disk")
        }
        Cost::Rebinds { port } => format!("live, open connections stay; clients have to connect to port {port} from now on"),
        Cost::Stop { connections } => format!("stop: {} dropped for good", count(*connections, "connection")),
        Cost::Closes { user, connections: 0, at_most: _ } => format!("no connection of user {user} is open now"),
        Cost::Closes { user, connections, at_most } => {
            let bound = if *at_most { "at most " } else { "" };
            format!("closes {bound}{} of user {user}", count(*connections, "connection"))
        }
        Cost::Tightens(limit) => beyond(limit),
        Cost::Rewrite { memory_bytes } => {
            format!("writes the whole dataset to disk once ({} in memory)", show_size(*memory_bytes))
        }
        Cost::Shrinks { used_bytes, limit_bytes } => format!(
            "{} are in use and {} will be allowed: keys are evicted, or writes refused, as maxmemory-policy says",
            show_size(*used_bytes),
            show_size(*limit_bytes)
        ),
        Cost::SwitchOver { from, to, connections } => {
            let closed = connections.map_or("every connection".to_owned(), |number| count(number, "connection"));
            format!(
                "writers wait for some milliseconds; clients go from {from} to {to}: {closed} closed, and {from} sends them there"
            )
        }
        Cost::WritesWait { bytes } => format!(
            "writes fail from before the snapshot until the new server is open: as long as it takes to write, carry and load {}",
            show_size(*bytes)
        ),
        Cost::WritesLost => {
            "ALL WRITES AFTER THE SNAPSHOT ARE LOST (move = \"snapshot-unfenced\"): the old server takes them until the new one is ready"
                .to_owned()
        }
        Cost::Carries { bytes } => format!("carries {} through this machine", show_size(*bytes)),
        Cost::DataGone { bytes } => format!("removes {} for good", show_size(*bytes)),
    }
}

/// What becomes of connections beyond a limit.
fn beyond(limit: &ConnectionLimit) -> String {
    match limit {
        ConnectionLimit::Idle { seconds } => {
            format!("closes connections that are idle for more than {}", count(*seconds, "second"))
        }
        ConnectionLimit::Memory => "closes the largest connections if all together take more than maxmemory-clients".to_owned(),
        ConnectionLimit::Replies => {
            "closes connections with more unread replies than client-output-buffer-limit allows".to_owned()
        }
        ConnectionLimit::Request => {
            "closes connections with a larger request than client-query-buffer-limit under way".to_owned()
        }
        ConnectionLimit::Count { max, open } => {
            let open = count(*open, "connection");
            format!("{open} stay open, and new ones, valkeeper's too, are refused while there are more than {max}")
        }
    }
}

/// Where there are keys, as far as it is known; `used`: how many databases they take.
fn keys_up_to(used: Option<u64>) -> String {
    match used {
        Some(used) => format!("there are keys up to database {}", used.saturating_sub(1)),
        None => "whether they hold keys is not known".to_owned(),
    }
}

/// All costs of a step, or that there are none.
pub(super) fn costs(step: &Step) -> String {
    if step.costs.is_empty() {
        return free(&step.action).to_owned();
    }
    step.costs.iter().map(cost).collect::<Vec<_>>().join("; ")
}

fn free(action: &Action) -> &'static str {
    match action {
        Action::ChangeInstance(_) | Action::SetUser(_) => "live, no connection is dropped",
        Action::RemoveUser { .. }
        | Action::SaveUsers { .. }
        | Action::RepairUnit { .. }
        | Action::RepairCredential { .. }
        | Action::Mark(_)
        | Action::WriteRecord(_) => "no connection is dropped",
        Action::CreateInstance(_)
        | Action::ChangeRole(_)
        | Action::CutOver(_)
        | Action::Ship(_)
        | Action::StartInstance(_)
        | Action::ReopenInstance(_)
        | Action::UpgradeInstance(_)
        | Action::DeleteInstance { .. }
        | Action::Purge { .. }
        | Action::Restore { .. } => "",
    }
}

/// What is replaced by what.
pub(super) fn upgrade(upgrade: &Upgrade) -> String {
    let Upgrade { opening: _, from, to } = upgrade;
    if from == to {
        format!("restart: it runs another build of valkey-server {to} than is installed")
    } else {
        format!("restart: it runs valkey-server {from}, and {to} is installed")
    }
}

/// Why something is held, and what to do about it.
pub fn held_reason(reason: &HeldReason) -> String {
    match reason {
        HeldReason::NodeUnseen { node, why } => format!("node {node} could not be seen: {why}"),
        HeldReason::NotAnswering { node, why } => format!("its server on node {node} does not answer: {why}"),
        HeldReason::NotOurs { node, why } => format!("what stands on node {node} is not ours to touch: {why}"),
        HeldReason::Budget { max_restarts, behind } => {
            format!("waits for {behind} (guard.max_restarts = {max_restarts})")
        }
        HeldReason::Approval { revision, deletes, max_deletes } => format!(
            "the revision deletes {deletes} instances and may delete {max_deletes} (guard.max_deletes): \
             run \"valkeeper approve {revision}\" to let it pass"
        ),
        HeldReason::Protected => {
            "it is protected: apply its block with protect = false, and without ensure = \"absent\", first".to_owned()
        }
        HeldReason::Vanished => "its block is gone from the state repository and guard.prune is off: \
                                 put it back with ensure = \"absent\" to delete it"
            .to_owned(),
        HeldReason::DataGone { why } => why.clone(),
        HeldReason::RestartLosesData { revision } => format!(
            "nothing of it is kept on disk when it is stopped, so a restart would empty it: \
             run \"valkeeper approve {revision}\" if that may happen"
        ),
        HeldReason::KeysInDatabases { from, to, used } => format!(
            "databases {to} to {} would go, and {}: such keys keep a server from starting, or end up among those of database 0. \
             move or remove them (INFO keyspace shows where they are)",
            from.saturating_sub(1),
            keys_up_to(*used)
        ),
        HeldReason::Downgrade { runs, installed } => downgrade(runs, installed),
        HeldReason::PortTaken { node, port, by } => port_taken(node, *port, by.as_ref()),
        HeldReason::PortShared { node, port } => port_shared(node, *port),
        HeldReason::NoPortFree { ports } => {
            format!("no port from {} to {} is free: widen ports of the shard", ports.start(), ports.end())
        }
        HeldReason::Refused { problems } => {
            format!("its node's own server would refuse the declaration: {}", problems.join("; "))
        }
        HeldReason::Loading { node } => format!("its server on node {node} is still loading its data"),
        HeldReason::PlacedElsewhere { nodes } => {
            let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            format!("it was placed on {}, which cannot be seen, so it is not made anew elsewhere", nodes.join(", "))
        }
        HeldReason::NoRoom { node, resource, needed_bytes, there_bytes } => no_room(node, *resource, *needed_bytes, *there_bytes),
        HeldReason::Draining { node } => {
            format!(
                "node {node} is marked drain = true, so nothing new is placed on it: name another shard, or take the mark off"
            )
        }
        HeldReason::Suspended { by, why, until } => {
            format!("suspended by {by} until {until:.0} ({why}): \"valkeeper resume\" ends that")
        }
        HeldReason::ObserveOnly => "mode = \"observe\": it is reported and not changed".to_owned(),
        HeldReason::Syncing { node, why } => format!("waits for its replica on node {node}: {why}"),
        HeldReason::TwoPrimaries { nodes } => two_primaries(nodes),
        HeldReason::NoPrimary { why } => no_primary(why),
        HeldReason::ForeignFailover { node } => foreign_failover(node),
        HeldReason::NoAddress { node } => {
            format!("node {node} has no address at which the other members reach it: give it one in [nodes.{node}]")
        }
        HeldReason::Unfit(why) => unfit(why),
        HeldReason::ForeignTarget { node, why } => foreign_target(node, why),
        HeldReason::FullerMember { node, fuller } => fuller_member(node, fuller),
        HeldReason::PromotionUnseen { node, why } => promotion_unseen(node, why),
    }
}

fn port_taken(node: &NodeName, port: u16, by: Option<&InstanceName>) -> String {
    match by {
        None => format!("something else listens on port {port} of node {node}: free it or declare another port"),
        Some(other) => {
            format!("instance {other} has port {port} of node {node} now: move that one first, to a port that nobody has")
        }
    }
}

fn port_shared(node: &NodeName, port: u16) -> String {
    format!(
        "its member on node {node}, which is the same machine, has the declared port {port}: leave port out, and each member is \
         given one of its own"
    )
}

fn unfit(why: &Unfit) -> String {
    match why {
        Unfit::NoPath { from, to, of, why } => format!(
            "node {from} does not reach {to} on node {of}: {why}; let it through the firewalls between them, correct address in \
             [nodes.{of}], or, where there is no way, say move = \"snapshot\""
        ),
        Unfit::FewerDatabases { source, there, target, here } => format!(
            "its server on node {source} has {there} databases and the one on node {target} would have {here}, where keys of the others \
             would be mixed with those of database 0: declare databases = {there}, or restart the old one with {here} first"
        ),
        Unfit::TooSmall { node, max_bytes, source, used_bytes } => format!(
            "{} are in use on node {source} and {} are allowed on node {node}, which would throw keys out as soon as it is the \
             primary: raise max_memory_mb",
            show_size(*used_bytes),
            show_size(*max_bytes)
        ),
        Unfit::BufferTooSmall { source, used_bytes, sync_seconds, waiting_bytes, limit_bytes } => format!(
            "while node {source} sends its {} (about {}), some {} more are written, and {} may wait for a replica, which would begin \
             again and again: declare \"client-output-buffer-limit\" = \"replica {} 0 0\", or wait for a quieter hour",
            show_size(*used_bytes),
            count(*sync_seconds, "second"),
            show_size(*waiting_bytes),
            show_size(*limit_bytes),
            waiting_bytes.saturating_mul(2)
        ),
        Unfit::OlderServer { node, installed, runs } => format!(
            "valkey-server {installed} of node {node} cannot read what {runs} sends: install {runs} or a newer one on node {node}, or name \
             another one"
        ),
        Unfit::KeepsNothing { source, revision } => format!(
            "its server on node {source} keeps nothing on disk: if it ends on the way, it comes back empty, and so does the new one. let \
             it save until it has moved (appendonly, or save), or run \"valkeeper approve {revision}\" if that may happen"
        ),
    }
}

fn two_primaries(nodes: &[NodeName]) -> String {
    let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
    format!(
        "its servers on nodes {} both take writes, and neither has what is written to the other: keep clients from one of them, \
         save what it has that the other lacks, and make it follow (REPLICAOF)",
        nodes.join(" and ")
    )
}

fn no_primary(why: &str) -> String {
    format!(
        "{why}, so no server of it takes writes, and none is made to: look which of them has the newest data, and make that one a \
         primary by hand (REPLICAOF NO ONE, then CONFIG SET min-replicas-to-write 0)"
    )
}

fn foreign_failover(node: &NodeName) -> String {
    format!(
        "somebody began a FAILOVER of its server on node {node}: let it end, or have whoever began it end it (FAILOVER ABORT)"
    )
}

fn foreign_target(node: &NodeName, why: &str) -> String {
    format!(
        "a member is to join on node {node}, and what stands there under its name is not ours to touch ({why}): look whose it is, \
         move it away, or name another node"
    )
}

fn fuller_member(node: &NodeName, fuller: &NodeName) -> String {
    format!(
        "its server on node {node} would be the primary, and the one on node {fuller} has what it lacks: look what each of them \
         holds (INFO keyspace, INFO replication), and make the one with the data the primary by hand"
    )
}

fn promotion_unseen(node: &NodeName, why: &str) -> String {
    format!("node {node} could not be seen, and nobody takes over before all members are: {why}")
}

fn downgrade(runs: &str, installed: &str) -> String {
    format!(
        "it runs valkey-server {runs}, and the older {installed} is installed, which may not be able to read its data: install \
         {runs} or a newer one again"
    )
}

fn no_room(node: &NodeName, resource: Resource, needed_bytes: u64, there_bytes: u64) -> String {
    let (needed, there) = (show_size(needed_bytes), show_size(there_bytes));
    match resource {
        Resource::Memory => format!(
            "the instances of node {node} could take {needed} together, and it has {there} of memory: make them smaller, name \
             another shard, or set guard.without_room = \"warn\""
        ),
        Resource::Disk => format!(
            "what it writes to disk takes {needed}, and the disk of node {node} has {there} left: free some, name another shard, or \
             set guard.without_room = \"warn\""
        ),
    }
}

pub(super) fn note(note: &Note) -> String {
    match note {
        Note::UndeclaredUser { instance, user } => {
            format!("instance {instance} has the undeclared user {user}; it is kept (guard.undeclared_users = \"keep\")")
        }
        Note::MemoryShort { node, declared_bytes, total_bytes } => format!(
            "the instances of node {node} may take {} together, more than the {} of memory that it has",
            show_size(*declared_bytes),
            show_size(*total_bytes)
        ),
        Note::MemoryTaken { node, coming_bytes, available_bytes } => format!(
            "what comes to the memory of node {node} may take {} together, more than the {} that are available there now: something \
             else has the rest",
            show_size(*coming_bytes),
            show_size(*available_bytes)
        ),
        Note::DiskShort { node, coming_bytes, free_bytes } => format!(
            "what comes to the disk of node {node} may take {} together, more than the {} that are free there",
            show_size(*coming_bytes),
            show_size(*free_bytes)
        ),
        Note::Leaves { instance, node, since } => format!(
            "the old server of instance {instance} on node {node} leaves when guard.handover_grace is over, which began {since}"
        ),
        Note::SetAside { instance, uid } => {
            format!(
                "data of a deleted instance {instance} is still kept: \"valkeeper restore {instance} --uid {uid}\" before applying brings it back"
            )
        }
    }
}
