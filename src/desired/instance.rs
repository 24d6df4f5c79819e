//! Reads instances, and the settings of instances and of `[defaults]`.

use toml::de::{DeTable, DeValue};

use super::draft::{InstanceDraft, Named, WrittenSettings};
use super::fleet::{named_entry, read_mode, reference};
use super::problem::{Problem, quoted};
use super::reader::{Entry, Field, Fields, Path, Reader};
use super::schema;
use crate::model::binary::ours;
use crate::model::desired::{Ensure, Located, MoveBy, Origin};
use crate::model::name::{InstanceName, NodeName, SettingName, ShardName, TenantName};
use crate::model::role;

/// The settings that keys of their own stand for.
const MAXMEMORY: &str = "maxmemory";
const MAXMEMORY_POLICY: &str = "maxmemory-policy";

/// Reads one instance with its users.
pub(super) fn read(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<Named<InstanceName, InstanceDraft>> {
    let fields = reader.open(Path(&["instances", entry.name]), entry.table, &schema::INSTANCE_TABLE, entry.at);
    let port = reader.get(fields, &schema::PORT).and_then(|field| {
        let number = reader.integer(field)?;
        Some(Located { value: u16::try_from(number).ok()?, at: field.at })
    });
    let tenant = reader.get(fields, &schema::TENANT);
    let tenant = reference(reader, tenant, TenantName::new);
    let shard = reader.get(fields, &schema::SHARD);
    let shard = reference(reader, shard, ShardName::new);
    let primary = reader.get(fields, &schema::PRIMARY);
    let primary = reference(reader, primary, NodeName::new);
    let move_by = match reader.get(fields, &schema::MOVE).and_then(|field| reader.choice(field)) {
        Some("snapshot") => MoveBy::Snapshot,
        Some("snapshot-unfenced") => MoveBy::SnapshotUnfenced,
        Some(_) | None => MoveBy::Replication,
    };
    let protect = reader.get(fields, &schema::PROTECT).and_then(|field| reader.boolean(field));
    let ensure = match reader.get(fields, &schema::ENSURE).and_then(|field| reader.choice(field)) {
        Some("absent") => Ensure::Absent,
        Some(_) | None => Ensure::Present,
    };
    let settings = read_settings(reader, fields);
    let users = reader.get(fields, &schema::USERS).map_or_else(Vec::new, |field| reader.entries(field));
    let users = users.iter().filter_map(|user| super::user::read(reader, entry.name, user)).collect();
    let protect = protect.unwrap_or(false);
    let mode = read_mode(reader, fields);
    let body = InstanceDraft { tenant, shard, primary, move_by, port, protect, mode, ensure, settings, users };
    named_entry(reader, entry, InstanceName::new, body)
}

pub(super) fn read_defaults<'t>(reader: &mut Reader<'_>, table: &'t DeTable<'t>, at: Origin) -> WrittenSettings {
    let fields = reader.open(Path(&["defaults"]), table, &schema::DEFAULTS_TABLE, at);
    read_settings(reader, fields)
}

fn read_settings(reader: &mut Reader<'_>, fields: Fields<'_>) -> WrittenSettings {
    let mut settings = WrittenSettings::new();
    let mut set = |name: &str, value: String, at: Origin| {
        if let Ok(name) = SettingName::new(name) {
            settings.insert(name, Located { value, at });
        }
    };
    if let Some(field) = reader.get(fields, &schema::MAX_MEMORY_MB)
        && let Some(number) = reader.integer(field)
    {
        // The schema's upper bound is what keeps this product within 64 bits.
        set(MAXMEMORY, number.saturating_mul(1 << 20).to_string(), field.whole);
    }
    if let Some(field) = reader.get(fields, &schema::MAXMEMORY_POLICY)
        && let Some(policy) = reader.text(field)
        && let Some(policy) = one_line(reader, field.key.name, policy.value.to_owned(), policy.at)
    {
        set(MAXMEMORY_POLICY, policy, field.whole);
    }
    if let Some(field) = reader.get(fields, &schema::CONFIG)
        && let Some(table) = reader.table(field)
    {
        for (name, value) in table {
            let setting = reader.field(&schema::CONFIG, name.span(), value);
            let name = Located { value: &**name.get_ref(), at: Origin { end: setting.whole.start, ..setting.whole } };
            if let (Some(name), Some(value)) = (setting_name(reader, &name, setting), setting_value(reader, &name, setting)) {
                if role::is_fence(&name, &value) {
                    let title = format!("setting {name}: {value} is how valkeeper closes a server to writes");
                    reader.push(Problem::new(title, setting.whole, "no write would be taken").help("say a smaller number"));
                    continue;
                }
                settings.insert(name, Located { value, at: setting.whole });
            }
        }
    }
    settings
}

/// The name of a setting that may be declared.
fn setting_name(reader: &mut Reader<'_>, written: &Located<&str>, setting: Field<'_>) -> Option<SettingName> {
    let plain = written.value.to_ascii_lowercase().replace('_', "-");
    if let Some(instead) = ours(&plain) {
        let title = format!("setting {:?} is valkeeper's own to set", plain);
        reader.push(Problem::new(title, setting.whole, "not here").help(instead));
        return None;
    }
    match SettingName::new(written.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let title = format!("setting name {} is not allowed", quoted(written.value));
            let problem = Problem::new(title, setting.whole, format!("it {}", error.problem));
            let near = written.value.trim().to_ascii_lowercase();
            let help = SettingName::new(&near).is_ok().then(|| format!("write \"{near}\""));
            reader.push(Problem { help, ..problem });
            None
        }
    }
}

/// The value of a setting as the server's config file would have it.
fn setting_value(reader: &mut Reader<'_>, name: &Located<&str>, setting: Field<'_>) -> Option<String> {
    let text = match setting.value() {
        DeValue::String(text) => text.to_string(),
        DeValue::Boolean(true) => "yes".to_owned(),
        DeValue::Boolean(false) => "no".to_owned(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.to_string(),
            Err(_) => {
                let title = format!("setting {}: a whole number that is too large", quoted(name.value));
                reader.push(Problem::new(title, setting.at, "more than 64 bits").help("write it in quotes if it is meant so"));
                return None;
            }
        },
        DeValue::Array(_) => {
            let mut words = Vec::new();
            for word in reader.items(setting) {
                match word.value().as_str() {
                    Some(text) => words.push(text),
                    None => reader.push(not_plain(name, word)),
                }
            }
            words.join(" ")
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
            reader.push(not_plain(name, setting));
            return None;
        }
    };
    one_line(reader, name.value, text, setting.at)
}

fn not_plain(name: &Located<&str>, found: Field<'_>) -> Problem {
    let title = format!("setting {} takes a string, a whole number, true, false, or a list of strings", quoted(name.value));
    Problem::new(title, found.at, format!("this is {}", super::reader::kind(found.value())))
        .help("write the value in quotes, as valkey.conf has it")
}

/// A value that stays within its line of the server's config file.
fn one_line(reader: &mut Reader<'_>, name: &str, value: String, at: Origin) -> Option<String> {
    match value.chars().find(|c| c.is_control()) {
        None => Some(value),
        Some(found) => {
            let title = format!("{} holds {found:?}, which would break out of its line in the config file", quoted(name));
            reader.push(Problem::new(title, at, "refused").help("leave control characters and line breaks out"));
            None
        }
    }
}
