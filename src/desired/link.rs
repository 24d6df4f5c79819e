//! All files to one [`Desired`]: each table once, every reference to something that is declared, ports that do not meet.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use super::draft::{Draft, InstanceDraft, Named, ShardDraft};
use super::merge::Merge;
use super::problem::{Problem, nearest, quoted};
use super::secret::Secrets;
use crate::model::desired::{Desired, DesiredNode, Ensure, Located, Origin, Reach};
use crate::model::name::{InstanceName, NodeName, ShardName, TenantName};

/// Beyond this many problems nobody reads what was meant, and looking for it would take long: one shard that is gone can
/// leave a hundred thousand instances without theirs.
const SUGGESTIONS_MAX: usize = 1000;

/// What stands under names, with the place of each name.
type Declared<N, T> = BTreeMap<N, (Origin, T)>;

/// Puts the files together. The result stands only if no problem was found, here or before.
pub(super) fn link(drafts: Vec<Draft>, secrets: &Secrets, problems: &mut Vec<Problem>) -> Option<Desired> {
    let (mut fleet, mut guard, mut defaults) = (None, None, None);
    let (mut nodes, mut shards, mut tenants, mut instances) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for draft in drafts {
        once("[fleet]", &mut fleet, draft.fleet, problems);
        once("[guard]", &mut guard, draft.guard, problems);
        once("[defaults]", &mut defaults, draft.defaults, problems);
        nodes.extend(draft.nodes);
        shards.extend(draft.shards);
        tenants.extend(draft.tenants);
        instances.extend(draft.instances);
    }
    let nodes = declare("nodes", nodes, problems);
    let shards = declare("shards", shards, problems);
    let tenants = declare("tenants", tenants, problems);
    let instances = declare("instances", instances, problems);

    check_nodes(&nodes, problems);
    shards.values().for_each(|(_, shard)| check_shard(shard, &nodes, problems));
    instances.iter().for_each(|(name, (_, instance))| check_instance(name, instance, &shards, &tenants, problems));
    check_ports(&instances, &shards, &nodes, problems);

    let merge = Merge::new(defaults.map(|found| found.value).unwrap_or_default());
    let instances = instances
        .into_iter()
        .filter_map(|(name, (at, draft))| Some((name, merge.instance(at, draft, secrets, problems)?)))
        .collect();
    let Some(fleet) = fleet else {
        let problem = Problem::new("there is no [fleet] table", Origin::default(), "it belongs in one of the files");
        problems.push(problem.help("add a table [fleet] with name = \"…\": nodes remember which fleet their data belongs to"));
        return None;
    };
    let (fleet, mode) = fleet.value;
    Some(Desired {
        fleet: fleet?,
        mode,
        revision: String::new(),
        guard: guard.map(|found| found.value).unwrap_or_default(),
        nodes: nodes.into_iter().map(|(name, (_, node))| (name, node)).collect(),
        shards: shards.into_iter().map(|(name, (_, draft))| (name, draft.shard)).collect(),
        tenants: tenants.into_keys().collect(),
        instances,
    })
}

fn once<T>(header: &str, known: &mut Option<Located<T>>, new: Option<Located<T>>, problems: &mut Vec<Problem>) {
    let Some(new) = new else { return };
    match known {
        Some(first) => problems.push(twice(header, first.at, new.at)),
        None => *known = Some(new),
    }
}

fn declare<N: Ord + Display, T>(table: &str, entries: Vec<Named<N, T>>, problems: &mut Vec<Problem>) -> Declared<N, T> {
    let mut declared = Declared::new();
    for Named { name, at, body } in entries {
        match declared.get(&name) {
            Some((first, _)) => problems.push(twice(&format!("[{table}.{name}]"), *first, at)),
            None => {
                declared.insert(name, (at, body));
            }
        }
    }
    declared
}

fn twice(header: &str, first: Origin, second: Origin) -> Problem {
    Problem::new(format!("{header} is defined twice"), second, "again here")
        .other(first, "first defined here")
        .help("each table is defined once over all files, with all that stands below it")
}

/// Where a node is, as far as the text tells: links are followed when the folder is opened.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place<'a> {
    Local(Vec<&'a str>),
    Ssh(&'a str),
}

impl Place<'_> {
    fn is_in(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local(inner), Self::Local(outer)) => inner.starts_with(outer),
            (Self::Ssh(_), Self::Ssh(_)) | (Self::Local(_), Self::Ssh(_)) | (Self::Ssh(_), Self::Local(_)) => false,
        }
    }
}

/// Two nodes that are one host would fight over the same files, and so would one whose folder lies in another's.
fn check_nodes(nodes: &Declared<NodeName, DesiredNode>, problems: &mut Vec<Problem>) {
    let mut known: BTreeMap<Place<'_>, (&NodeName, Origin)> = BTreeMap::new();
    let mut in_order: Vec<_> = nodes.iter().collect();
    in_order.sort_by_key(|(_, (at, _))| *at);
    for (name, (at, node)) in in_order {
        let place = match &node.reach {
            Reach::Local(folder) if folder.is_empty() => continue,
            Reach::Local(folder) => Place::Local(folder.split('/').filter(|part| !matches!(*part, "" | ".")).collect()),
            Reach::Ssh(destination) => Place::Ssh(destination),
        };
        match known.get(&place) {
            Some((first, first_at)) => {
                let title = format!("nodes {:?} and {:?} are one and the same place", first.as_str(), name.as_str());
                let problem = Problem::new(title, *at, "again here").other(*first_at, "first here");
                problems.push(problem.help("declare each host once; shards may share a node"));
            }
            None => {
                known.insert(place, (name, *at));
            }
        }
    }
    // In their order, what lies in a folder comes right behind it.
    let mut outer = None;
    for (place, (name, at)) in &known {
        match outer {
            Some((around, other, other_at)) if place.is_in(around) => {
                let title = format!("the folder of node {:?} lies in that of node {:?}", name.as_str(), NodeName::as_str(other));
                let problem = Problem::new(title, *at, "inside").other(other_at, "outside");
                problems.push(problem.help("give each node a folder of its own, beside the others"));
            }
            Some(_) | None => outer = Some((place, *name, *at)),
        }
    }
}

fn check_shard(draft: &ShardDraft, nodes: &Declared<NodeName, DesiredNode>, problems: &mut Vec<Problem>) {
    for (name, at) in draft.shard.nodes.iter().zip(&draft.nodes_at).filter(|(name, _)| !nodes.contains_key(*name)) {
        unknown("node", "nodes", name.as_str(), *at, nodes.keys().map(NodeName::as_str), problems);
    }
}

fn check_instance(
    name: &InstanceName,
    instance: &InstanceDraft,
    shards: &Declared<ShardName, ShardDraft>,
    tenants: &Declared<TenantName, ()>,
    problems: &mut Vec<Problem>,
) {
    if let Some(tenant) = instance.tenant.as_ref().filter(|tenant| !tenants.contains_key(&tenant.value)) {
        unknown("tenant", "tenants", tenant.value.as_str(), tenant.at, tenants.keys().map(TenantName::as_str), problems);
    }
    let Some(written) = &instance.shard else { return };
    let Some((_, shard)) = shards.get(&written.value) else {
        unknown("shard", "shards", written.value.as_str(), written.at, shards.keys().map(ShardName::as_str), problems);
        return;
    };
    let nodes = &shard.shard.nodes;
    if let Some(primary) = instance.primary.as_ref().filter(|primary| !nodes.contains(&primary.value)) {
        let title = format!("node {:?} is not in the shard of instance {:?}", primary.value.as_str(), name.as_str());
        let problem = Problem::new(title, primary.at, "the primary lives on a node of the shard").other(written.at, "the shard");
        let known = nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        problems.push(problem.help(format!("nodes of this shard: {known}")));
    }
}

fn unknown<'n>(
    kind: &str,
    table: &str,
    name: &str,
    at: Origin,
    known: impl Iterator<Item = &'n str>,
    problems: &mut Vec<Problem>,
) {
    let problem = Problem::new(format!("there is no {kind} {}", quoted(name)), at, format!("not declared in [{table}]"));
    let near = if problems.len() < SUGGESTIONS_MAX { nearest(name, known) } else { None };
    problems.push(problem.help(match near {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("declare it with a table [{table}.{name}]"),
    }));
}

/// No two instances may ask for one port of one node, nor of two nodes on this machine; nor may two members of one.
fn check_ports(
    instances: &Declared<InstanceName, InstanceDraft>,
    shards: &Declared<ShardName, ShardDraft>,
    declared: &Declared<NodeName, DesiredNode>,
    problems: &mut Vec<Problem>,
) {
    let mut asking: Vec<(&InstanceName, &Located<u16>, &ShardName)> = instances
        .iter()
        .filter(|(_, (_, instance))| instance.ensure == Ensure::Present)
        .filter_map(|(name, (_, instance))| Some((name, instance.port.as_ref()?, &instance.shard.as_ref()?.value)))
        .collect();
    asking.sort_by_key(|(_, port, _)| port.at);
    let is_local = |node: &NodeName| declared.get(node).is_some_and(|(_, node)| node.is_local());
    let mut taken: HashMap<(Option<&NodeName>, u16), (&InstanceName, &NodeName, Origin)> = HashMap::new();
    for (name, port, shard) in asking {
        let nodes = shards.get(shard).map(|(_, draft)| draft.shard.nodes.as_slice()).unwrap_or_default();
        let (mut clash, mut own) = (None, None);
        for node in nodes {
            let first = *taken.entry(((!is_local(node)).then_some(node), port.value)).or_insert((name, node, port.at));
            if first.0 != name {
                clash = clash.or(Some((node, first)));
            } else if first.1 != node {
                own = own.or(Some((first.1, node)));
            }
        }
        if let Some((one, other)) = own {
            let title = format!(
                "instance {:?} asks for port {} on nodes {:?} and {:?}, which are both this machine",
                name.as_str(),
                port.value,
                one.as_str(),
                other.as_str(),
            );
            let problem = Problem::new(title, port.at, "only one of its members can have it");
            problems.push(problem.help("leave port out: each member is given one of its own, and keeps it"));
        }
        if let Some((node, (first, first_node, first_at))) = clash {
            let place = match first_node == node {
                true => format!("node {:?}", node.as_str()),
                false => format!("this machine, where nodes {:?} and {:?} are", first_node.as_str(), node.as_str()),
            };
            let title =
                format!("instances {:?} and {:?} both ask for port {} of {place}", first.as_str(), name.as_str(), port.value,);
            let problem = Problem::new(title, port.at, "again here").other(first_at, "first asked for here");
            problems.push(problem.help("change one of the two, or leave port out: the lowest free one is given and kept"));
        }
    }
}
