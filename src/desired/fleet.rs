//! Reads what instances stand on: the fleet, its guard, nodes, shards and tenants.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeTable;

use super::draft::{Draft, Named, ShardDraft};
use super::problem::{Problem, quoted};
use super::reader::{Entry, Field, Fields, Path, Reader};
use super::schema;
use crate::model::desired::{DesiredNode, Guard, Located, Mode, Origin, Reach, Shard, UndeclaredUsers, WithoutRoom};
use crate::model::name::{FleetName, NameError, NodeName, ShardName, TenantName};
use crate::model::size::parse_duration;

/// The longest retention: a hundred years. Longer ones say "for ever" in a way that overflows dates.
const RETENTION_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// Reads a whole file but for its instances.
pub(super) fn read<'t>(reader: &mut Reader<'_>, root: &'t DeTable<'t>) -> Draft {
    let fields = reader.open_root(root);
    let once = |reader: &mut Reader<'_>, key| {
        let field = reader.get(fields, key)?;
        reader.table(field).map(|table| (table, field.whole))
    };
    let mut draft = Draft::default();
    if let Some((table, at)) = once(reader, &schema::FLEET) {
        draft.fleet = Some(Located { value: read_fleet(reader, table, at), at });
    }
    if let Some((table, at)) = once(reader, &schema::GUARD) {
        draft.guard = Some(Located { value: read_guard(reader, table, at), at });
    }
    if let Some((table, at)) = once(reader, &schema::DEFAULTS) {
        draft.defaults = Some(Located { value: super::instance::read_defaults(reader, table, at), at });
    }
    let named = |reader: &mut Reader<'_>, key| reader.get(fields, key).map_or_else(Vec::new, |field| reader.entries(field));
    for entry in named(reader, &schema::NODES) {
        let body = read_node(reader, &entry);
        draft.nodes.extend(named_entry(reader, &entry, NodeName::new, body));
    }
    for entry in named(reader, &schema::SHARDS) {
        let body = read_shard(reader, &entry);
        draft.shards.extend(named_entry(reader, &entry, ShardName::new, body));
    }
    for entry in named(reader, &schema::TENANTS) {
        reader.open(Path(&["tenants", entry.name]), entry.table, &schema::TENANT_TABLE, entry.at);
        draft.tenants.extend(named_entry(reader, &entry, TenantName::new, ()));
    }
    for entry in named(reader, &schema::INSTANCES) {
        draft.instances.extend(super::instance::read(reader, &entry));
    }
    draft
}

/// Puts a name that people chose to its body, or says what is wrong with the name.
pub(super) fn named_entry<N, T>(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    new: impl Fn(&str) -> Result<N, NameError>,
    body: T,
) -> Option<Named<N, T>> {
    let name = checked_name(reader, &Located { value: entry.name, at: entry.at }, new)?;
    Some(Named { name, at: entry.at, body })
}

/// A name, or a problem with a form that would do.
pub(super) fn checked_name<N>(
    reader: &mut Reader<'_>,
    written: &Located<&str>,
    new: impl Fn(&str) -> Result<N, NameError>,
) -> Option<N> {
    match new(written.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let title = format!("{} {} is not allowed", error.kind, quoted(written.value));
            let problem = Problem::new(title, written.at, format!("it {}", error.problem));
            let near = written.value.to_ascii_lowercase().replace(['_', ' ', '.'], "-");
            reader.push(if new(&near).is_ok() { problem.help(format!("write \"{near}\"")) } else { problem });
            None
        }
    }
}

/// A reference to something by name.
pub(super) fn reference<N>(
    reader: &mut Reader<'_>,
    field: Option<Field<'_>>,
    new: impl Fn(&str) -> Result<N, NameError>,
) -> Option<Located<N>> {
    let written = reader.text(field?)?;
    let name = checked_name(reader, &written, new)?;
    Some(Located { value: name, at: written.at })
}

fn read_fleet<'t>(reader: &mut Reader<'_>, table: &'t DeTable<'t>, at: Origin) -> (Option<FleetName>, Mode) {
    let fields = reader.open(Path(&["fleet"]), table, &schema::FLEET_TABLE, at);
    let name = reader.get(fields, &schema::NAME);
    let name = reference(reader, name, FleetName::new).map(|name| name.value);
    (name, read_mode(reader, fields))
}

/// The mode, of the fleet or of one instance.
pub(super) fn read_mode(reader: &mut Reader<'_>, fields: Fields<'_>) -> Mode {
    match reader.get(fields, &schema::MODE).and_then(|field| reader.choice(field)) {
        Some("observe") => Mode::Observe,
        Some(_) | None => Mode::Correct,
    }
}

fn read_guard<'t>(reader: &mut Reader<'_>, table: &'t DeTable<'t>, at: Origin) -> Guard {
    let fields = reader.open(Path(&["guard"]), table, &schema::GUARD_TABLE, at);
    let usual = Guard::default();
    let prune = reader.get(fields, &schema::PRUNE).and_then(|field| reader.boolean(field));
    let mut count = |key| {
        let field = reader.get(fields, key)?;
        reader.integer(field).and_then(|number| u32::try_from(number).ok())
    };
    let (max_deletes, max_restarts) = (count(&schema::MAX_DELETES), count(&schema::MAX_RESTARTS));
    let retain = reader.get(fields, &schema::RETAIN_DELETED).and_then(|field| read_retention(reader, field));
    let grace = reader.get(fields, &schema::HANDOVER_GRACE).and_then(|field| read_retention(reader, field));
    let undeclared = reader.get(fields, &schema::UNDECLARED_USERS).and_then(|field| reader.choice(field));
    let without_room = reader.get(fields, &schema::WITHOUT_ROOM).and_then(|field| reader.choice(field));
    Guard {
        prune: prune.unwrap_or(usual.prune),
        max_deletes: max_deletes.unwrap_or(usual.max_deletes),
        max_restarts: max_restarts.unwrap_or(usual.max_restarts),
        retain_deleted: retain.unwrap_or(usual.retain_deleted),
        handover_grace: grace.unwrap_or(usual.handover_grace),
        undeclared_users: match undeclared {
            Some("remove") => UndeclaredUsers::Remove,
            Some(_) | None => usual.undeclared_users,
        },
        without_room: match without_room {
            Some("warn") => WithoutRoom::Warn,
            Some(_) | None => usual.without_room,
        },
    }
}

fn read_retention(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Duration> {
    let written = reader.text(field)?;
    match parse_duration(written.value) {
        Some(duration) if duration <= RETENTION_MAX => Some(duration),
        Some(_) => {
            reader.push(Problem::new(format!("{} takes at most 100 years", field.key.name), written.at, "too long"));
            None
        }
        None => {
            let title = format!("{} takes {}", field.key.name, field.key.shape.expected());
            reader.push(Problem::new(title, written.at, "not a duration").help("a number and a unit: s, m (minutes), h, d, w"));
            None
        }
    }
}

fn read_node(reader: &mut Reader<'_>, entry: &Entry<'_>) -> DesiredNode {
    let fields = reader.open(Path(&["nodes", entry.name]), entry.table, &schema::NODE_TABLE, entry.at);
    let address = reader.get(fields, &schema::NODE_ADDRESS).and_then(|field| read_address(reader, field));
    let local = reader.get(fields, &schema::LOCAL).and_then(|field| read_folder(reader, field));
    let ssh = reader.get(fields, &schema::SSH).and_then(|field| read_destination(reader, field));
    let reach = local.map(Reach::Local).or(ssh.map(Reach::Ssh)).unwrap_or_else(|| Reach::Local(String::new()));
    let drain = reader.get(fields, &schema::DRAIN).and_then(|field| reader.boolean(field)).unwrap_or(false);
    DesiredNode { at: entry.at, reach, address, drain }
}

fn read_address(reader: &mut Reader<'_>, field: Field<'_>) -> Option<IpAddr> {
    let written = reader.text(field)?;
    match written.value.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            let problem = Problem::new("address takes the address of one host", written.at, "this stands for many");
            reader.push(problem.help("write the address under which other nodes and clients reach this host"));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            let title = format!("address takes {}", field.key.shape.expected());
            reader.push(Problem::new(title, written.at, "not an IP address").help("an address, not a name: the server binds it"));
            None
        }
    }
}

fn read_folder(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    let written = reader.text(field)?;
    if written.value.is_empty() || written.value.chars().any(char::is_control) {
        let title = format!("local takes {}", field.key.shape.expected());
        reader.push(Problem::new(title, written.at, "empty, or with a control character"));
        return None;
    }
    // It would be a folder of that name, and `rm -r ~` the way to be rid of it.
    if written.value.starts_with('~') {
        let title = format!("local takes {}", field.key.shape.expected());
        let problem = Problem::new(title, written.at, "'~' is not expanded: there is no shell here");
        reader.push(problem.help("write the whole path, or one relative to the folder of this file"));
        return None;
    }
    Some(written.value.to_owned())
}

/// `ssh` would take a destination that starts with '-' as an option, and options run commands.
fn read_destination(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    let written = reader.text(field)?;
    let stray = |c: char| c.is_whitespace() || c.is_control();
    let label = match written.value {
        "" => "this is empty",
        text if text.starts_with('-') => "ssh would take this as an option",
        text if text.contains(stray) => "white space or a control character",
        text => return Some(text.to_owned()),
    };
    let problem = Problem::new(format!("ssh takes {}", field.key.shape.expected()), written.at, label);
    reader.push(problem.help("options for this host stand in ssh_config under a Host of their own; write that Host here"));
    None
}

fn read_shard(reader: &mut Reader<'_>, entry: &Entry<'_>) -> ShardDraft {
    let fields = reader.open(Path(&["shards", entry.name]), entry.table, &schema::SHARD_TABLE, entry.at);
    let mut nodes: Vec<NodeName> = Vec::new();
    let mut nodes_at: Vec<Origin> = Vec::new();
    let written = reader.get(fields, &schema::SHARD_NODES).map_or_else(Vec::new, |field| reader.strings(field));
    for node in written {
        let Some(name) = checked_name(reader, &node, NodeName::new) else { continue };
        let before = nodes.iter().position(|known| *known == name);
        if let Some(first) = before.and_then(|place| nodes_at.get(place)) {
            let problem = Problem::new(format!("node {:?} is listed twice", name.as_str()), node.at, "again here");
            reader.push(problem.other(*first, "first listed here").help("a node carries one member of an instance at most"));
            continue;
        }
        nodes.push(name);
        nodes_at.push(node.at);
    }
    let ports = reader.get(fields, &schema::SHARD_PORTS).and_then(|field| read_ports(reader, field));
    let any = 1024..=u16::MAX;
    ShardDraft { shard: Shard { at: entry.at, nodes, ports: ports.unwrap_or(any) }, nodes_at }
}

fn read_ports(reader: &mut Reader<'_>, field: Field<'_>) -> Option<RangeInclusive<u16>> {
    let written = reader.text(field)?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let port = |text: &str| digits(text.trim()).then(|| text.trim().parse::<u16>().ok()).flatten();
    let range = written.value.split_once('-').map(|(low, high)| (port(low), port(high)));
    let label = match range {
        Some((Some(low), Some(high))) if i64::from(low) < schema::PORT_MIN => {
            let _high = high;
            "ports below 1024 need root"
        }
        Some((Some(low), Some(high))) if low > high => "the first port is above the last",
        Some((Some(low), Some(high))) => return Some(low..=high),
        Some(_) | None => "not two ports from 1024 to 65535 with '-' between them",
    };
    reader.push(Problem::new(format!("ports takes {}", field.key.shape.expected()), written.at, label));
    None
}
