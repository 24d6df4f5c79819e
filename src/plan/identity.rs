//! Which nodes are the machines that the fleet remembers. One for which another machine answers (an address that was given
//! away, a disk in another host, a clone) is as good as unseen: what it shows is not the instances that are asked about.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::record;
use crate::model::desired::Desired;
use crate::model::live::{Live, Observed};
use crate::model::name::NodeName;
use crate::model::record::FleetRecord;

/// The live facts without those of nodes that are not who they were.
pub(super) fn trusted<'a>(desired: &Desired, live: &'a Live) -> Cow<'a, Live> {
    let record = record::newest(desired, live);
    let strangers = strangers(live, &record);
    if strangers.is_empty() {
        return Cow::Borrowed(live);
    }
    let mut live = live.clone();
    live.nodes.extend(strangers.into_iter().map(|(node, unseen)| (node, Observed::Unseen { unseen })));
    Cow::Owned(live)
}

fn strangers(live: &Live, record: &FleetRecord) -> BTreeMap<NodeName, String> {
    let mut found = BTreeMap::new();
    // Who has a machine by right: the node that the fleet remembers with it, or else the first that shows it.
    let mut owners: BTreeMap<&str, &NodeName> = BTreeMap::new();
    for (node, facts) in live.seen_nodes() {
        if record.machines.get(node) == Some(&facts.machine) {
            owners.insert(&facts.machine, node);
        }
    }
    for (node, facts) in live.seen_nodes() {
        let machine = &facts.machine;
        let owner = *owners.entry(machine).or_insert(node);
        let why = match record.machines.get(node) {
            Some(known) if known != machine => format!(
                "another machine or folder ({machine}) answers for it than the one that the fleet knows ({known}): it was moved, copied \
                 or replaced, so nothing there is touched; put it back, or correct where the node leads to, or, if what it was is gone \
                 for good, \"valkeeper node remove {node} --lost\""
            ),
            Some(_) | None if owner != node => format!(
                "it is the same machine ({machine}) as node {owner}: a clone, which needs a machine id of its own \
                 (systemd-machine-id-setup), or two names for one host"
            ),
            Some(_) | None => continue,
        };
        found.insert(node.clone(), why);
    }
    found
}

/// Are these two names of one machine? Then a node was only renamed.
pub(super) fn is_renamed(record: &FleetRecord, before: &NodeName, machine: &str) -> bool {
    record.machines.get(before).is_some_and(|known| known == machine)
}
