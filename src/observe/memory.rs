//! What a member's server says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::foreign;
use crate::host::clock::Deadline;
use crate::host::valkey::{Connection, ValkeyError, info_field};
use crate::model::acl::{AclUser, parse_server_line};
use crate::model::binary::BinaryFacts;
use crate::model::config_file::Directive;
use crate::model::live::{Connections, Running, Saving};
use crate::model::name::{OPERATOR_USER, REPLICA_USER, UserName};
use crate::model::password::{Fingerprint, PasswordHash, Secret};
use crate::model::role::{Link, Replication};
use crate::model::spec::InstanceSpec;

/// Clients are listed one by one only up to this many.
const CLIENTS_LISTED_MAX: u64 = 1000;

/// What a server that answers says. Settings and users are nothing while it loads.
#[derive(Debug)]
pub struct Memory {
    pub running: Running,
    pub spec: Option<InstanceSpec>,
    pub users: Option<BTreeMap<UserName, Arc<AclUser>>>,
}

/// Asks a server, as the operator, for everything there is to see: one round trip, and one more if it has clients.
///
/// # Errors
/// When the operator may not see it, or the server does not answer until `end`.
pub async fn look(
    connection: &mut Connection,
    operator: &Secret,
    layout: &[Directive],
    binary: &BinaryFacts,
    end: Deadline,
) -> Result<Memory, ValkeyError> {
    let commands = [
        vec!["INFO", "server", "clients", "memory", "persistence", "stats", "replication", "keyspace"],
        vec!["CONFIG", "GET", "*"],
        vec!["ACL", "LIST"],
    ];
    connection.set_timeout(end.left());
    let mut replies = connection.log_in_and_ask(OPERATOR_USER, operator, &commands).await?.into_iter();
    let mut next = || replies.next().unwrap_or(Err(ValkeyError::Strange("too few replies")));
    let (info, config, acl) = (next()?.into_text()?, next(), next());
    let number = |name: &str| info_field(&info, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let loading = number("loading") != 0;
    let version = info_field(&info, "valkey_version").or_else(|| info_field(&info, "redis_version"));
    let mut running = Running {
        pid: connection.pid.unwrap_or_default(),
        version: version.unwrap_or("unknown").to_owned(),
        loading,
        program_replaced: false,
        replication: replication(&info),
        used_memory_bytes: number("used_memory"),
        input_bytes_per_second: input_rate(&info),
        // While it loads, there is more to come.
        databases_used: (!loading).then(|| databases_used(&info)),
        unsaved_changes: number("rdb_changes_since_last_save"),
        saving: (number("rdb_bgsave_in_progress") != 0)
            .then(|| Saving { done_keys: number("current_save_keys_processed"), total_keys: number("current_save_keys_total") }),
        aof_rewriting: number("aof_rewrite_in_progress") + number("aof_rewrite_scheduled") != 0,
        connections: Connections { total: number("connected_clients").saturating_sub(1), by_user: None },
    };
    if loading {
        return Ok(Memory { running, spec: None, users: None });
    }
    let config = config?.into_texts()?;
    let password = password(&config);
    let mut spec = spec(config, layout, binary);
    running.replication.password = password.filter(|_| takes_out_password(&mut spec));
    let users = users(&acl?.into_texts()?)?;
    if (1..=CLIENTS_LISTED_MAX).contains(&running.connections.total) {
        connection.set_timeout(end.left());
        running.connections = clients(&connection.ask(vec!["CLIENT", "LIST"]).await?.into_text()?);
    } else if running.connections.total == 0 {
        running.connections.by_user = Some(BTreeMap::new());
    }
    Ok(Memory { running, spec: Some(spec), users: Some(users) })
}

fn replication(info: &str) -> Replication {
    let field = |name: &str| info_field(info, name);
    let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
    let replica = field("role") == Some("slave");
    let link = replica.then(|| match (field("master_link_status"), field("master_sync_in_progress")) {
        (_, Some("1")) => Link::Syncing {
            // Where the size is not known, the server shows less than nothing.
            left_bytes: number("master_sync_left_bytes").unwrap_or_default(),
            read_bytes: number("master_sync_read_bytes").unwrap_or_default(),
        },
        (Some("up"), _) => Link::Up,
        (_, _) => Link::Down,
    });
    let offset = number(if replica { "slave_repl_offset" } else { "master_repl_offset" });
    Replication {
        link,
        replid: field("master_replid").unwrap_or_default().to_owned(),
        // All zeros: it was never promoted.
        replid2: field("master_replid2").filter(|id| id.bytes().any(|byte| byte != b'0')).map(ToOwned::to_owned),
        offset: offset.unwrap_or_default(),
        foreign_failover: field("master_failover_state").is_some_and(|state| state != "no-failover"),
        password: None,
    }
}

/// Of the password with which it follows, as the users of the primary have it.
fn password(config: &[String]) -> Option<Fingerprint> {
    let mut pairs = config.chunks_exact(2);
    let value = pairs.find_map(|pair| matches!(pair, [name, _] if name == "primaryauth").then(|| pair.last()).flatten())?;
    (!value.is_empty()).then(|| PasswordHash::of_password(value.as_bytes()).fingerprint())
}

/// Takes the password of our own replication out of the settings: it follows from the role. Nobody else's is touched.
fn takes_out_password(spec: &mut InstanceSpec) -> bool {
    let ours = spec.get("primaryuser") == Some(REPLICA_USER) && spec.overlay().follows.is_some();
    if ours {
        spec.settings.remove("primaryuser");
        spec.settings.remove("primaryauth");
    }
    ours
}

/// What differs from the binary's defaults. Paths that are as they should be are left out.
fn spec(flat: Vec<String>, layout: &[Directive], binary: &BinaryFacts) -> InstanceSpec {
    let mut spec = InstanceSpec::default();
    let mut words = flat.into_iter();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if let Some((_, expected)) = layout.iter().find(|(ours, _)| *ours == name) {
            // The folder is judged as a folder, by its inode.
            if *expected != [value.as_str()] && name != "dir" {
                spec.foreign.push(format!("{name} is {value:?} instead of {:?}", expected.join(" ")));
            }
            continue;
        }
        // A name that is missing here is another spelling of one that is not.
        if let Some((known, facts)) = binary.settings.get_key_value(name.as_str())
            && facts.default != value
        {
            spec.settings.insert(known.clone(), foreign::shown(&name, value));
        }
    }
    spec
}

/// All users or none: one that was left out would be taken for missing, and a way in that somebody made for nothing at all.
fn users(lines: &[String]) -> Result<BTreeMap<UserName, Arc<AclUser>>, ValkeyError> {
    let read = |line: &String| {
        let (name, user) = parse_server_line(line).ok()?;
        Some((UserName::new(name).ok()?, Arc::new(user)))
    };
    lines.iter().map(|line| read(line).ok_or(ValkeyError::Strange("an ACL user in words that are not known"))).collect()
}

/// One more than the highest database in a line such as `db9:keys=1,expires=0,avg_ttl=0`; empty ones have no line.
fn databases_used(info: &str) -> u64 {
    let number = |line: &str| line.strip_prefix("db")?.split_once(":keys=")?.0.parse::<u64>().ok();
    info.lines().filter_map(number).max().map_or(0, |highest| highest + 1)
}

/// Kilobytes a second as the server has it (`instantaneous_input_kbps:12.34`), in bytes; a rate that is no number is none.
fn input_rate(info: &str) -> u64 {
    let whole = info_field(info, "instantaneous_input_kbps").and_then(|rate| rate.split('.').next()?.parse::<u64>().ok());
    whole.unwrap_or_default().saturating_mul(1024)
}

/// The connections of `CLIENT LIST` by user. Left out: the operator's, which are ours, and those of other members (flag S on a
/// primary, M on a replica), who are no clients.
fn clients(list: &str) -> Connections {
    let mut by_user = BTreeMap::new();
    for line in list.lines() {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default();
        let user = field("user=");
        if user != OPERATOR_USER && !field("flags=").contains(['S', 'M']) {
            *by_user.entry(user.to_owned()).or_default() += 1;
        }
    }
    Connections { total: by_user.values().sum(), by_user: Some(by_user) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_database_with_keys_counts() {
        assert_eq!(databases_used("# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\ndb11:keys=1,expires=0\r\n"), 12);
        assert_eq!(databases_used("db_something:1\r\n# Keyspace\r\n"), 0);
    }

    #[test]
    fn a_rate_that_is_no_number_is_none() {
        assert_eq!(input_rate("instantaneous_input_kbps:12.34\r\n"), 12 << 10);
        assert_eq!(["", "instantaneous_input_kbps:nan\r\n", "instantaneous_input_kbps:-1.00\r\n"].map(input_rate), [0; 3]);
    }

    #[test]
    fn our_own_connection_is_not_counted() {
        let seen = clients("id=1 addr=x user=app cmd=get\nid=2 user=valkeeper cmd=client|list\nid=3 user=app resp=2\n");
        assert_eq!((seen.total, seen.by_user.unwrap()["app"]), (2, 2));
    }

    #[test]
    fn other_members_are_no_clients() {
        let replica = "id=4 flags=S user=valkeeper-replica cmd=replconf\n";
        let primary = "id=5 flags=M user=(superuser) cmd=ping\n";
        assert_eq!(clients(&format!("{replica}{primary}id=6 flags=P user=app cmd=subscribe\n")).total, 1);
    }
}
