//! Asking a throwaway server what its binary knows: settings, their defaults, what values they take, commands.
//!
//! No table of settings: a value that cannot be right is set, and the server's refusal says what would be
//! (`numericBoundaryCheck`, `enumConfigSet` and their like in config.c of 8.0). Owns the reading of these refusals.

use std::collections::BTreeMap;

use crate::host::scratch::Scratch;
use crate::host::valkey::{Connection, Reply, ValkeyError, Words, info_field};
use crate::model::acl::AclNames;
use crate::model::binary::{BinaryFacts, SettingFacts};
use crate::model::name::SettingName;
use crate::model::setting::Kind;

/// No setting takes this, except free text.
const NONSENSE: &str = "\u{1}?";
/// Below every range, so that the refusal names the range.
const BELOW: &str = "-9223372036854775808";
const ABOVE_SIGNED: &str = "9223372036854775807";
/// Above every range of memory sizes.
const ABOVE: &str = "18446744073709551615";
/// The throwaway server has no port; the real default is `CONFIG_DEFAULT_SERVER_PORT` in config.c of every version.
const DEFAULT_PORT: &str = "6379";

/// Everything about the binary of this throwaway server.
///
/// # Errors
/// When it does not answer as a server does.
pub(super) async fn probe(scratch: &mut Scratch) -> Result<BinaryFacts, ValkeyError> {
    let connection = &mut scratch.connection;
    let first = [vec!["INFO", "server"], vec!["CONFIG", "GET", "*"], vec!["ACL", "CAT"]];
    let [info, config, categories] = take(connection.ask_all(&first).await?)?;
    let info = info.into_text()?;
    let version = info_field(&info, "valkey_version").or_else(|| info_field(&info, "redis_version")).unwrap_or("unknown");

    let shown = pairs(config.into_texts()?);
    let aliases = aliases(&shown);
    let settings: BTreeMap<SettingName, String> = shown.into_iter().filter(|(name, _)| !aliases.contains_key(name)).collect();
    let kinds = kinds(connection, &settings).await?;
    let facts = settings.into_iter().zip(kinds).map(|((name, default), (runtime, kind))| {
        let default = if name.as_str() == "port" { DEFAULT_PORT.to_owned() } else { hidden_default(&name, default) };
        (name, SettingFacts { default, runtime, kind })
    });
    let settings = facts.collect();
    let acl = acl_names(connection, categories.into_texts()?).await?;
    Ok(BinaryFacts { version: version.to_owned(), settings, aliases, acl })
}

fn take<const N: usize>(replies: Vec<Result<Reply, ValkeyError>>) -> Result<[Reply; N], ValkeyError> {
    let replies = replies.into_iter().collect::<Result<Vec<_>, _>>()?;
    replies.try_into().map_err(|_other: Vec<Reply>| ValkeyError::Strange("too few replies"))
}

/// The pairs of a `CONFIG GET`. A name that breaks our rule cannot be declared, so it is left out.
fn pairs(flat: Vec<String>) -> BTreeMap<SettingName, String> {
    let mut words = flat.into_iter();
    let mut pairs = BTreeMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if let Ok(name) = SettingName::new(&name) {
            pairs.insert(name, value);
        }
    }
    pairs
}

/// What the throwaway server was given belongs to it, not to the binary.
fn hidden_default(name: &SettingName, shown: String) -> String {
    match name.as_str() {
        "dir" | "unixsocket" => String::new(),
        _ => shown,
    }
}

/// Other spellings: both names are shown, with the same value, and differ only by the words that were renamed.
fn aliases(shown: &BTreeMap<SettingName, String>) -> BTreeMap<SettingName, SettingName> {
    const RENAMED: &[(&str, &str)] = &[("slave", "replica"), ("master", "primary"), ("ziplist", "listpack"), ("_", "-")];
    let alias = |(name, value): (&SettingName, &String)| {
        let mut current = name.to_string();
        RENAMED.iter().for_each(|(old, new)| current = current.replace(old, new));
        if name.as_str() == "lua-time-limit" {
            "busy-reply-threshold".clone_into(&mut current);
        }
        let (current, default) = shown.get_key_value(current.as_str())?;
        (current != name && default == value).then(|| (name.clone(), current.clone()))
    };
    shown.iter().filter_map(alias).collect()
}

type Learnt = (bool, Kind);

/// For each setting, in order: can it be set at run time, and to what.
async fn kinds(connection: &mut Connection, settings: &BTreeMap<SettingName, String>) -> Result<Vec<Learnt>, ValkeyError> {
    let mut commands: Vec<Words<'_>> = Vec::new();
    for (name, default) in settings {
        commands.push(vec!["CONFIG", "SET", name.as_str(), NONSENSE]);
        commands.push(vec!["CONFIG", "SET", name.as_str(), default]);
    }
    let replies = connection.ask_all(&commands).await?;
    let mut learnt: Vec<Learnt> = Vec::new();
    let mut said = replies.into_iter();
    for (name, default) in settings {
        let (refusal, _restored) = (said.next(), said.next());
        learnt.push(match refusal {
            Some(Err(ValkeyError::Said(text))) => match first_guess(&text, default) {
                Guess::Known(runtime, kind) => (runtime, kind),
                Guess::Range => (true, range(connection, name, default).await?),
                Guess::Memory => (true, memory(connection, name, default).await?),
                Guess::Words(words) => (true, Kind::Words(words_back(connection, name, default, words).await?)),
            },
            Some(Ok(_) | Err(_)) | None => (true, Kind::Text),
        });
    }
    Ok(learnt)
}

enum Guess {
    Known(bool, Kind),
    Range,
    Memory,
    Words(Vec<String>),
}

fn first_guess(refusal: &str, default: &str) -> Guess {
    let is_whole_number = !default.is_empty() && default.parse::<i64>().is_ok();
    if refusal.contains("immutable config") || refusal.contains("protected config") {
        // It cannot be probed; the throwaway start that proves a config judges the value.
        let kind = match default {
            "yes" | "no" => Kind::Boolean,
            _ if is_whole_number => Kind::Integer { min: i64::MIN, max: i64::MAX },
            _ => Kind::Text,
        };
        return Guess::Known(false, kind);
    }
    if let Some((_, words)) = refusal.split_once("must be one of the following: ") {
        return Guess::Words(words.split(", ").map(|word| word.trim().to_ascii_lowercase()).collect());
    }
    if refusal.contains("must be 'yes' or 'no'") {
        Guess::Known(true, Kind::Boolean)
    } else if refusal.contains("parsed into an integer") {
        Guess::Range
    } else if refusal.contains("memory or percent") {
        Guess::Known(true, Kind::MemoryOrPercent)
    } else if refusal.contains("must be a memory value") {
        Guess::Memory
    } else {
        Guess::Known(true, Kind::Text)
    }
}

/// The bounds in `argument must be between 0 and 65535 inclusive`.
fn bounds(reply: Option<Result<Reply, ValkeyError>>) -> Option<(i128, i128)> {
    let Some(Err(ValkeyError::Said(text))) = reply else { return None };
    let (_, range) = text.split_once("must be between ")?;
    let (min, rest) = range.split_once(" and ")?;
    let max = rest.split_ascii_whitespace().next()?;
    Some((min.parse().ok()?, max.parse().ok()?))
}

async fn try_values(
    connection: &mut Connection,
    name: &SettingName,
    values: [&str; 3],
) -> Result<Option<(i128, i128)>, ValkeyError> {
    let commands = values.map(|value| vec!["CONFIG", "SET", name.as_str(), value]);
    let replies = connection.ask_all(&commands).await?;
    Ok(replies.into_iter().find_map(|reply| bounds(Some(reply))))
}

async fn range(connection: &mut Connection, name: &SettingName, default: &str) -> Result<Kind, ValkeyError> {
    let (min, max) = try_values(connection, name, [BELOW, ABOVE_SIGNED, default]).await?.unwrap_or((i128::MIN, i128::MAX));
    let clamp = |bound: i128| i64::try_from(bound).unwrap_or(if bound < 0 { i64::MIN } else { i64::MAX });
    Ok(Kind::Integer { min: clamp(min), max: clamp(max) })
}

async fn memory(connection: &mut Connection, name: &SettingName, default: &str) -> Result<Kind, ValkeyError> {
    let (min, max) = try_values(connection, name, ["0", ABOVE, default]).await?.unwrap_or((0, i128::MAX));
    let clamp = |bound: i128| u64::try_from(bound).unwrap_or(if bound < 0 { 0 } else { u64::MAX });
    Ok(Kind::Memory { min: clamp(min), max: clamp(max) })
}

/// Each word with the form it reads back as.
async fn words_back(
    connection: &mut Connection,
    name: &SettingName,
    default: &str,
    words: Vec<String>,
) -> Result<Vec<(String, String)>, ValkeyError> {
    let mut commands: Vec<Words<'_>> = Vec::new();
    for word in &words {
        commands.push(vec!["CONFIG", "SET", name.as_str(), word]);
        commands.push(vec!["CONFIG", "GET", name.as_str()]);
    }
    commands.push(vec!["CONFIG", "SET", name.as_str(), default]);
    let mut replies = connection.ask_all(&commands).await?.into_iter();
    let mut known = Vec::new();
    for word in words {
        let (set, got) = (replies.next(), replies.next());
        let back = match (set, got) {
            (Some(Ok(_)), Some(Ok(got))) => got.into_texts()?.into_iter().nth(1),
            // It is a word of this setting, but this machine does not let it be set here.
            (Some(Ok(_) | Err(_)) | None, _) => None,
        };
        known.push((word.clone(), back.unwrap_or(word)));
    }
    Ok(known)
}

async fn acl_names(connection: &mut Connection, categories: Vec<String>) -> Result<AclNames, ValkeyError> {
    let commands: Vec<Words<'_>> = categories.iter().map(|category| vec!["ACL", "CAT", category.as_str()]).collect();
    let replies = connection.ask_all(&commands).await?;
    let members = replies.into_iter().map(|reply| reply?.into_texts()).collect::<Result<Vec<_>, _>>()?;
    Ok(AclNames::new(&categories.into_iter().zip(members).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_range() {
        let said = |text: &str| bounds(Some(Err(ValkeyError::Said(text.to_owned()))));
        assert_eq!(said("CONFIG SET failed - argument must be between 0 and 65535 inclusive"), Some((0, 65535)));
        assert_eq!(said("argument must be between -1 and 9223372036854775807 inclusive"), Some((-1, i128::from(i64::MAX))));
        assert_eq!(said("argument couldn't be parsed into an integer"), None);
    }

    #[test]
    fn an_alias_needs_both_names_and_one_value() {
        let shown = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (SettingName::new(name).unwrap(), (*value).to_owned())).collect()
        };
        let both =
            aliases(&shown(&[("slave-priority", "100"), ("replica-priority", "100"), ("bio_cpulist", ""), ("masterx", "")]));
        assert_eq!(both.len(), 1);
        assert!(both.contains_key("slave-priority"));
        assert!(aliases(&shown(&[("slave-priority", "1"), ("replica-priority", "100")])).is_empty());
    }
}
