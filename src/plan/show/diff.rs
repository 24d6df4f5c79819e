//! Differences of settings and of users, line by line.

use std::collections::BTreeSet;
use std::sync::Arc;

use similar::{Algorithm, ChangeTag, capture_diff_slices};

use crate::model::acl::{AclNames, AclUser, Loss, Selector, loss};
use crate::model::action::{Opening, SpecChange};
use crate::model::binary::BinaryFacts;
use crate::model::change::{Half, Twin};
use crate::model::name::SettingName;
use crate::model::setting::Kind;
use crate::model::size::show_size;
use crate::model::spec::InstanceSpec;

/// How many names a list shows before it says "and n more".
const NAMES_MAX: usize = 12;

/// A value for people: bytes with their unit, empty text as `""`.
pub(super) fn value(name: &SettingName, value: &str, binary: Option<&BinaryFacts>) -> String {
    let kind = binary.and_then(|binary| binary.settings.get(name)).map(|facts| &facts.kind);
    match (kind, value.parse::<u64>()) {
        _ if value.is_empty() => "\"\"".to_owned(),
        (Some(Kind::Memory { .. } | Kind::MemoryOrPercent), Ok(bytes)) if bytes >= 1024 => show_size(bytes),
        (Some(Kind::Memory { .. }), Ok(0)) => "0".to_owned(),
        _ => value.to_owned(),
    }
}

/// One setting that changes.
#[derive(Debug, Clone)]
pub(super) struct SettingDiff {
    pub name: String,
    pub before: String,
    pub after: String,
    /// Where it differs, if not in both halves alike.
    pub place: &'static str,
    pub drift: bool,
}

/// The settings of a change, by name; what is not ours on the node comes as a setting of its own.
pub(super) fn settings(
    change: &SpecChange,
    drifted: &dyn Fn(&SettingName) -> bool,
    binary: Option<&BinaryFacts>,
) -> Vec<SettingDiff> {
    let empty = InstanceSpec::default();
    let half = |half: &'_ Half<InstanceSpec>| half.seen().cloned().unwrap_or_default();
    let (disk, memory) = (half(&change.change.before().disk), half(&change.change.before().memory));
    let wanted_memory = change.change.after().memory.seen().unwrap_or(&empty);
    let default = |name: &SettingName| binary.and_then(|binary| binary.default_of(name)).unwrap_or("(not set)").to_owned();
    let mut names: Vec<&SettingName> =
        disk.settings.keys().chain(memory.settings.keys()).chain(change.declared.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    // A file that is gone differs in every line; `file_gone` says so once.
    let gone = file_gone(change).is_some();
    let mut lines = Vec::new();
    for name in names {
        let declared = change.declared.settings.get(name);
        let disk_differs = !gone && disk.settings.get(name) != declared;
        let memory_differs = memory.settings.get(name) != wanted_memory.settings.get(name);
        let shown = |text: Option<&String>| value(name, &text.cloned().unwrap_or_else(|| default(name)), binary);
        let after = if declared.is_some() { shown(declared) } else { format!("{} (default)", shown(None)) };
        let line = |before: Option<&String>, place: &'static str| SettingDiff {
            name: name.to_string(),
            before: shown(before),
            after: after.clone(),
            place,
            drift: drifted(name),
        };
        match (disk_differs, memory_differs) {
            (false, false) => {}
            (true, false) => lines.push(line(disk.settings.get(name), "in the config file")),
            (false, true) if gone => lines.push(line(memory.settings.get(name), "")),
            (false, true) => lines.push(line(memory.settings.get(name), "in memory")),
            (true, true) if shown(disk.settings.get(name)) == shown(memory.settings.get(name)) => {
                lines.push(line(memory.settings.get(name), ""));
            }
            (true, true) => {
                lines.push(line(disk.settings.get(name), "in the config file"));
                lines.push(line(memory.settings.get(name), "in memory"));
            }
        }
    }
    // A setting that is only written out on disk, where its value is the default anyway, changes nothing in force.
    for line in &mut lines {
        if line.before == line.after && line.place == "in the config file" {
            line.before = "(not set)".to_owned();
        }
    }
    let foreign = |spec: &InstanceSpec, place: &'static str| {
        spec.foreign
            .iter()
            .map(|line| SettingDiff {
                name: line.clone(),
                before: "not ours".to_owned(),
                after: "removed".to_owned(),
                place,
                drift: true,
            })
            .collect::<Vec<_>>()
    };
    lines.extend(foreign(&disk, "in the config file"));
    lines.extend(foreign(&memory, "in memory"));
    lines
}

/// Why the config file has to be written as a whole, if it has to.
pub(super) fn file_gone(change: &SpecChange) -> Option<&str> {
    match &change.change.before().disk {
        Half::Seen(_) => None,
        Half::Absent => Some("it is missing"),
        Half::Unseen { unseen } => Some(unseen),
    }
}

/// What a start changes in the config file of a server that is down.
pub(super) fn opening(opening: &Opening, binary: Option<&BinaryFacts>) -> Vec<String> {
    let Opening { before, after, users: _, without: _ } = opening;
    let mut names: Vec<&SettingName> = before.settings.keys().chain(after.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let default = |name: &SettingName| binary.and_then(|binary| binary.default_of(name)).unwrap_or("(not set)").to_owned();
    let shown = |name: &SettingName, spec: &InstanceSpec| match spec.settings.get(name) {
        Some(text) => value(name, text, binary),
        None => format!("{} (default)", value(name, &default(name), binary)),
    };
    let differs = |name: &&SettingName| before.settings.get(*name) != after.settings.get(*name);
    let changed =
        names.into_iter().filter(differs).map(|name| format!("~ {name}: {} -> {}", shown(name, before), shown(name, after)));
    changed.chain(before.foreign.iter().map(|line| format!("~ {line}: not ours -> removed"))).collect()
}

/// The rules of a user that change: `+ …` and `- …`, command rules in their order.
pub(super) fn user(before: &Twin<Arc<AclUser>>, after: &AclUser) -> Vec<String> {
    let closed = AclUser::closed();
    let found = before.memory.seen().or(before.disk.seen()).map_or(&closed, |user| &**user);
    if before.memory.is_absent() && before.disk.is_absent() {
        return new_user(after);
    }
    let mut lines = Vec::new();
    if found.enabled != after.enabled {
        let word = |on: bool| if on { "on" } else { "off" };
        lines.push(format!("~ {} -> {}", word(found.enabled), word(after.enabled)));
    }
    for (was, is, word) in
        [(found.nopass, after.nopass, "nopass"), (found.skip_sanitize, after.skip_sanitize, "skip-sanitize-payload")]
    {
        if was != is {
            lines.push(format!("{} {word}", if is { '+' } else { '-' }));
        }
    }
    let passwords =
        |user: &AclUser| user.passwords().iter().map(|password| format!("password fp:{password}")).collect::<Vec<_>>();
    lines.extend(lines_of(&passwords(found), &passwords(after), ""));
    lines.extend(selector(&found.root, &after.root, ""));
    let longest = found.selectors().len().max(after.selectors().len());
    for index in 0..longest {
        let prefix = format!("selector {}: ", index + 1);
        match (found.selectors().get(index), after.selectors().get(index)) {
            (Some(was), Some(is)) => lines.extend(selector(was, is, &prefix)),
            (None, Some(is)) => lines.push(format!("+ {prefix}{}", is.words().join(" "))),
            (Some(was), None) => lines.push(format!("- {prefix}{}", was.words().join(" "))),
            (None, None) => {}
        }
    }
    lines
}

/// Everything that a new user is given.
fn new_user(user: &AclUser) -> Vec<String> {
    let mut lines = vec![format!("+ {}", if user.enabled { "on" } else { "off" })];
    lines.extend(user.passwords().iter().map(|password| format!("+ password fp:{password}")));
    let or_none = |words: Vec<String>| if words.is_empty() { "none".to_owned() } else { words.join(" ") };
    let rights = |selector: &Selector, prefix: &str| {
        [("keys", selector.key_words()), ("channels", selector.channel_words()), ("commands", selector.command_words())]
            .map(|(what, words)| format!("+ {prefix}{what}: {}", or_none(words)))
    };
    lines.extend(rights(&user.root, ""));
    for (index, selector) in user.selectors().iter().enumerate() {
        lines.extend(rights(selector, &format!("selector {}: ", index + 1)));
    }
    lines
}

fn selector(before: &Selector, after: &Selector, prefix: &str) -> Vec<String> {
    let mut lines = lines_of(&before.key_words(), &after.key_words(), &format!("{prefix}key "));
    lines.extend(lines_of(&before.channel_words(), &after.channel_words(), &format!("{prefix}channel ")));
    let (was, is) = (before.command_words(), after.command_words());
    let rules = |words: &[String]| words.iter().map(|word| word.trim_start_matches(['+', '-']).to_owned()).collect::<Vec<_>>();
    let kept = |rules: Vec<String>, other: &[String]| rules.into_iter().filter(|rule| other.contains(rule)).collect::<Vec<_>>();
    let (rules_were, rules_are) = (rules(&was), rules(&is));
    if kept(rules_were.clone(), &rules_are) == kept(rules_are, &rules_were) {
        lines.extend(rule_lines(&was, &is, &format!("{prefix}rule ")));
    } else {
        // A rule that moved means something else among its neighbours, so all of them are shown.
        lines.push(format!("~ {prefix}rules in order: {} -> {}", was.join(" "), is.join(" ")));
    }
    lines
}

fn lines_of(before: &[String], after: &[String], prefix: &str) -> Vec<String> {
    let changes = changes(before, after);
    let lines = changes.into_iter().filter_map(|(tag, word)| sign(tag).map(|sign| format!("{sign} {prefix}{word}")));
    lines.collect()
}

/// As [`lines_of`]; a rule that goes in before others says before which, because a later rule wins.
fn rule_lines(before: &[String], after: &[String], prefix: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut next: Option<String> = None;
    for (tag, word) in changes(before, after).into_iter().rev() {
        let place =
            next.as_ref().filter(|_| tag == ChangeTag::Insert).map(|next| format!(" (before {next})")).unwrap_or_default();
        match sign(tag) {
            Some(sign) => lines.push(format!("{sign} {prefix}{word}{place}")),
            None => next = Some(word),
        }
    }
    lines.reverse();
    lines
}

fn changes(before: &[String], after: &[String]) -> Vec<(ChangeTag, String)> {
    let ops = capture_diff_slices(Algorithm::Myers, before, after);
    ops.iter().flat_map(|op| op.iter_changes(before, after).map(|change| (change.tag(), change.value()))).collect()
}

fn sign(tag: ChangeTag) -> Option<char> {
    match tag {
        ChangeTag::Equal => None,
        ChangeTag::Delete => Some('-'),
        ChangeTag::Insert => Some('+'),
    }
}

/// What a user can no longer do, in one line; nothing when nothing is taken away.
pub(super) fn taken(before: &Twin<Arc<AclUser>>, after: &AclUser, binary: Option<&BinaryFacts>) -> Option<String> {
    let found = before.memory.seen()?;
    let names = binary.map(|binary| &binary.acl)?;
    let Loss { login, passwords, keys, channels, commands, selectors } = loss(found, after, names);
    let mut parts = Vec::new();
    if login {
        parts.push("logging in".to_owned());
    }
    if passwords > 0 {
        parts.push(format!("{passwords} password{}", if passwords == 1 { "" } else { "s" }));
    }
    for (what, names) in [("keys", keys), ("channels", channels), ("commands", whole_commands(commands, names))] {
        if !names.is_empty() {
            parts.push(format!("{what} {}", some_of(&names)));
        }
    }
    if selectors > 0 {
        parts.push(format!("what {selectors} selector{} allowed", if selectors == 1 { "" } else { "s" }));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// A command that is lost with all its subcommands stands for them; one that keeps some is told by those that it loses.
fn whole_commands(lost: Vec<String>, names: &AclNames) -> Vec<String> {
    let part_of =
        |name: &str| name.split_once('|').map(|(command, _)| command.to_owned()).filter(|command| names.is_container(command));
    let known: BTreeSet<&str> = lost.iter().map(String::as_str).collect();
    let kept = names.commands().iter().filter(|name| !known.contains(&***name)).filter_map(|name| part_of(name));
    let in_part: BTreeSet<String> = kept.collect();
    let told = |name: &String| match part_of(name) {
        Some(command) => in_part.contains(&command) || !known.contains(&*command),
        None => !in_part.contains(name),
    };
    lost.iter().filter(|name| told(name)).cloned().collect()
}

fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        Some(_) | None => shown,
    }
}
