//! Server settings in one canonical form, so that `==` between declared and live means "the same".
//!
//! What kind of value a setting takes is learnt from the node's own server ([`Kind`], see `observe/binary.rs`); only the
//! few settings with a grammar of their own are known here by name (facts C).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::SettingName;
use super::size::parse_size;

/// Settings by name, values in canonical form.
pub type Settings = BTreeMap<SettingName, String>;

/// What values a setting takes, as the server itself said when it was given a bad one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `yes` or `no`.
    Boolean,
    /// A whole number in this range.
    Integer { min: i64, max: i64 },
    /// Bytes in this range.
    Memory { min: u64, max: u64 },
    /// Bytes, or a percentage such as `5%`.
    MemoryOrPercent,
    /// Words, each with the form it reads back as (`relative` of `oom-score-adj` reads back as `yes`).
    Words(Vec<(String, String)>),
    /// A grammar of its own, or free text.
    Text,
}

/// Why a value is refused, as a clause about the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(why.into()))
}

/// The smallest replication backlog; the server raises smaller values silently (facts C). Bytes.
const REPL_BACKLOG_BYTES_MIN: u64 = 16384;
/// The server clamps `hz` to this range silently (facts C). Hertz.
const HZ_RANGE: std::ops::RangeInclusive<i64> = 1..=500;

/// The form in which `CONFIG GET` gives back a value.
///
/// # Errors
/// When the server would refuse the value.
pub fn canonical(name: &str, kind: &Kind, default: &str, value: &str) -> Result<String, ValueError> {
    match name {
        "save" => save(value),
        "client-output-buffer-limit" => output_buffer_limit(default, value),
        "notify-keyspace-events" => event_classes(value),
        "latency-tracking-info-percentiles" => percentiles(value),
        "bind" => Ok(join_words(value)),
        "oom-score-adj-values" => whole_numbers(value),
        "shutdown-on-sigint" | "shutdown-on-sigterm" => choose_flags(kind, value),
        "hz" => integer(*HZ_RANGE.start(), *HZ_RANGE.end(), value),
        "repl-backlog-size" => memory(REPL_BACKLOG_BYTES_MIN, u64::MAX, value),
        _ => by_kind(kind, value),
    }
}

/// What `client-output-buffer-limit` lets wait for a replica; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaBuffer {
    pub hard_bytes: u64,
    pub soft_bytes: u64,
    /// How long it may be above the soft limit.
    pub soft_seconds: u64,
}

impl ReplicaBuffer {
    /// From the setting in its canonical form: `normal 0 0 0 slave 268435456 67108864 60 pubsub …`.
    pub fn of(value: &str) -> Option<Self> {
        let mut words = value.split(' ').skip_while(|word| !matches!(*word, "slave" | "replica")).skip(1).map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Self { hard_bytes: next()?, soft_bytes: next()?, soft_seconds: next()? })
    }
}

fn by_kind(kind: &Kind, value: &str) -> Result<String, ValueError> {
    match kind {
        Kind::Boolean => match value.to_ascii_lowercase().as_str() {
            lower @ ("yes" | "no") => Ok(lower.to_owned()),
            _ => refuse("takes \"yes\" or \"no\""),
        },
        Kind::Integer { min, max } => integer(*min, *max, value),
        Kind::Memory { min, max } => memory(*min, *max, value),
        Kind::MemoryOrPercent => match value.strip_suffix('%') {
            // Nothing is nothing: the server shows no sign behind it.
            Some("0") => Ok("0".to_owned()),
            Some(percent) => Ok(format!("{}%", integer(0, 100, percent)?)),
            None => memory(0, u64::MAX, value),
        },
        Kind::Words(words) => choose(words, value),
        Kind::Text => Ok(value.to_owned()),
    }
}

fn integer(min: i64, max: i64, value: &str) -> Result<String, ValueError> {
    let plain = value.strip_prefix('-').unwrap_or(value);
    let well_formed = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) && (plain == "0" || !plain.starts_with('0'));
    match value.parse::<i64>() {
        Ok(number) if well_formed && (min..=max).contains(&number) => Ok(number.to_string()),
        Ok(_) if well_formed => refuse(format!("takes a whole number {}", range(min, max))),
        Ok(_) | Err(_) => refuse("takes a whole number without leading zeros or a unit"),
    }
}

fn range(min: i64, max: i64) -> String {
    match (min, max) {
        (i64::MIN, i64::MAX) => String::new(),
        (i64::MIN, max) => format!("up to {max}"),
        (min, i64::MAX) => format!("from {min}"),
        (min, max) => format!("from {min} to {max}"),
    }
}

fn memory(min: u64, max: u64, value: &str) -> Result<String, ValueError> {
    match parse_size(value) {
        Some(bytes) if (min..=max).contains(&bytes) => Ok(bytes.to_string()),
        Some(bytes) if bytes < min => refuse(format!("takes at least {min} bytes")),
        Some(_) => refuse(format!("takes at most {max} bytes")),
        None => refuse("takes a size such as \"64mb\" (binary) or \"64m\" (decimal), without a space or a decimal point"),
    }
}

fn choose(words: &[(String, String)], value: &str) -> Result<String, ValueError> {
    let lower = value.to_ascii_lowercase();
    match words.iter().find(|(known, _)| *known == lower) {
        Some((_, back)) => Ok(back.clone()),
        None => refuse(format!("takes one of {}", list(words))),
    }
}

/// Several words are flags, which the server gives back in its own order; `default` is the name of none of them.
fn choose_flags(kind: &Kind, value: &str) -> Result<String, ValueError> {
    let Kind::Words(words) = kind else { return by_kind(kind, value) };
    let chosen = value.split_ascii_whitespace().map(|word| choose(words, word)).collect::<Result<Vec<_>, _>>()?;
    let flags = words.iter().map(|(word, _)| word.as_str()).filter(|word| *word != "default");
    let shown: Vec<&str> = flags.filter(|word| chosen.iter().any(|one| one == word)).collect();
    match (chosen.is_empty(), shown.is_empty()) {
        (true, _) => refuse(format!("takes one or more of {}", list(words))),
        (false, true) => Ok("default".to_owned()),
        (false, false) => Ok(shown.join(" ")),
    }
}

fn list(words: &[(String, String)]) -> String {
    words.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>().join(", ")
}

fn join_words(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn whole_numbers(value: &str) -> Result<String, ValueError> {
    let numbers: Result<Vec<_>, _> = value.split_ascii_whitespace().map(|word| integer(-2000, 2000, word)).collect();
    let numbers = numbers?;
    if numbers.len() != 3 {
        return refuse("takes three whole numbers");
    }
    Ok(numbers.join(" "))
}

/// `900 1 300 10`: pairs of seconds and changes; empty is off.
fn save(value: &str) -> Result<String, ValueError> {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let number = |word: &&str| word.parse::<u32>().is_ok() && integer(0, i64::from(u32::MAX), word).is_ok();
    let seconds_positive = words.iter().step_by(2).all(|word| *word != "0");
    if !words.len().is_multiple_of(2) || !words.iter().all(number) || !seconds_positive {
        return refuse("takes pairs of seconds and changes such as \"900 1 300 10\", or \"\" to switch snapshots off");
    }
    Ok(words.join(" "))
}

/// The three classes in the server's order; what is not named keeps the default.
fn output_buffer_limit(default: &str, value: &str) -> Result<String, ValueError> {
    const FORM: &str = "takes \"<class> <hard> <soft> <seconds>\" with the classes normal, replica and pubsub";
    const CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];
    let mut limits: BTreeMap<&str, [String; 3]> = BTreeMap::new();
    let words: Vec<&str> = default.split_ascii_whitespace().chain(value.split_ascii_whitespace()).collect();
    for limit in words.chunks(4) {
        let [class, hard, soft, seconds] = limit else { return refuse(FORM) };
        let class = if class.eq_ignore_ascii_case("replica") { "slave" } else { class };
        let Some(class) = CLASSES.into_iter().find(|known| known.eq_ignore_ascii_case(class)) else { return refuse(FORM) };
        let all = u64::MAX;
        limits.insert(class, [memory(0, all, hard)?, memory(0, all, soft)?, integer(0, i64::from(i32::MAX), seconds)?]);
    }
    let shown = CLASSES.iter().filter_map(|class| limits.get(class).map(|limit| format!("{class} {}", limit.join(" "))));
    Ok(shown.collect::<Vec<_>>().join(" "))
}

/// The order of `keyspaceEventsFlagsToString` in notify.c of 8.0; `A` stands for all of the first ten.
const ALL_CLASSES: &str = "g$lshzxetd";
const EVENT_ORDER: &str = "g$lshzxetdnKEm";

fn event_classes(value: &str) -> Result<String, ValueError> {
    let mut given: Vec<char> = value.chars().collect();
    if let Some(unknown) = given.iter().find(|c| **c != 'A' && !EVENT_ORDER.contains(**c)) {
        return refuse(format!("takes event classes out of \"Ag$lshzxeKEtmdn\"; {unknown:?} is none"));
    }
    if given.contains(&'A') {
        given.extend(ALL_CLASSES.chars());
    }
    let all = ALL_CLASSES.chars().all(|class| given.contains(&class));
    if all && given.contains(&'n') {
        return refuse("takes 'n' beside 'A' but does not show it, so it could not be kept: list the classes one by one");
    }
    let shown = EVENT_ORDER.chars().filter(|class| given.contains(class) && !(all && ALL_CLASSES.contains(*class)));
    Ok(all.then_some('A').into_iter().chain(shown).collect())
}

fn percentiles(value: &str) -> Result<String, ValueError> {
    let mut shown = Vec::new();
    for word in value.split_ascii_whitespace() {
        match word.parse::<f64>() {
            Ok(number) if (0.0..=100.0).contains(&number) => shown.push(format!("{number}")),
            Ok(_) | Err(_) => return refuse("takes percentiles from 0 to 100 such as \"50 99 99.9\""),
        }
    }
    Ok(shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(name: &str, kind: &Kind, value: &str) -> String {
        let default = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        canonical(name, kind, default, value).unwrap_or_else(|error| format!("refused: {error}"))
    }

    /// The rows of facts C.
    #[test]
    fn values_take_the_servers_form() {
        let memory = Kind::Memory { min: 0, max: u64::MAX };
        assert_eq!(form("maxmemory", &memory, "64mb"), "67108864");
        assert_eq!(form("maxmemory", &memory, "010"), "10");
        assert_eq!(form("maxmemory-clients", &Kind::MemoryOrPercent, "5%"), "5%");
        assert_eq!(form("appendonly", &Kind::Boolean, "YES"), "yes");
        assert_eq!(form("save", &Kind::Text, "900  1\t300 10"), "900 1 300 10");
        assert_eq!(form("save", &Kind::Text, ""), "");
        assert_eq!(
            form("client-output-buffer-limit", &Kind::Text, "replica 256mb 64mb 30"),
            "normal 0 0 0 slave 268435456 67108864 30 pubsub 33554432 8388608 60"
        );
        for (given, shown) in [
            ("KEA", "AKE"),
            ("K$lg", "g$lK"),
            ("KEg$lshzxetd", "AKE"),
            ("", ""),
            ("Kn", "nK"),
            ("mEKn$", "$nKEm"),
            ("AKm", "AKm"),
        ] {
            assert_eq!(form("notify-keyspace-events", &Kind::Text, given), shown);
        }
        assert_eq!(form("latency-tracking-info-percentiles", &Kind::Text, "50.0 99.10"), "50 99.1");
        let flags = Kind::Words(["default", "save", "nosave", "now", "force"].map(|w| (w.to_owned(), w.to_owned())).into());
        assert_eq!(form("shutdown-on-sigterm", &flags, "FORCE now"), "now force");
        assert_eq!(form("shutdown-on-sigterm", &flags, "default now"), "now");
        assert_eq!(form("shutdown-on-sigterm", &flags, "default"), "default");
        assert_eq!(form("maxmemory-clients", &Kind::MemoryOrPercent, "0%"), "0");
        let adj = Kind::Words(vec![("no".into(), "no".into()), ("yes".into(), "yes".into()), ("relative".into(), "yes".into())]);
        assert_eq!(form("oom-score-adj", &adj, "relative"), "yes");
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        let integer = Kind::Integer { min: 0, max: 10 };
        for (name, kind, value) in [
            ("timeout", &integer, "030"),
            ("timeout", &integer, "11"),
            ("timeout", &integer, ""),
            ("timeout", &integer, "1s"),
            ("appendonly", &Kind::Boolean, "true"),
            ("hz", &integer, "501"),
            ("hz", &integer, "0"),
            ("repl-backlog-size", &Kind::Memory { min: 1, max: u64::MAX }, "1kb"),
            ("notify-keyspace-events", &Kind::Text, "KEAn"),
            ("notify-keyspace-events", &Kind::Text, "q"),
            ("save", &Kind::Text, "900"),
            ("save", &Kind::Text, "a b"),
            ("save", &Kind::Text, "0 1"),
            ("client-output-buffer-limit", &Kind::Text, "normal 1"),
            ("client-output-buffer-limit", &Kind::Text, "what 1 2 3"),
        ] {
            assert!(form(name, kind, value).starts_with("refused"), "{name} {value}");
        }
    }
}
