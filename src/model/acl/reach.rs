//! What a change of a user takes away.
//!
//! The question behind it: may open connections stay? Adding rights harms nobody; a connection that holds a right which
//! is gone must be closed. Answers err towards "taken away": it never says that nothing is lost when something is.

use std::collections::BTreeSet;

use super::names::AclNames;
use super::{AclUser, Channels, Commands, KeyPattern, Keys, Selector};

/// What a user can no longer do after a change. Empty: open connections may stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loss {
    /// The user may not log in any more: switched off, or gone.
    pub login: bool,
    /// How many of its passwords no longer work.
    pub passwords: usize,
    pub keys: Vec<String>,
    pub channels: Vec<String>,
    /// Commands, subcommands and `command|argument` forms that were allowed and are not any more.
    pub commands: Vec<String>,
    /// Selectors whose rights nothing else gives in full.
    pub selectors: usize,
}

impl Loss {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What `after` no longer allows of what `before` did.
pub fn loss(before: &AclUser, after: &AclUser, names: &AclNames) -> Loss {
    if !before.enabled {
        // Nobody can be logged in anew as a user that is off, but connections from before it was switched off go on
        // with its rights (facts B.1), so rights are still compared.
        let rights = rights_lost(&before.root, &after.root, names);
        return Loss { selectors: selectors_lost(before, after, names), ..rights };
    }
    let rights = rights_lost(&before.root, &after.root, names);
    let passwords = before.passwords().iter().filter(|known| !after.passwords().contains(known)).count();
    Loss {
        login: !after.enabled,
        passwords: if after.nopass { 0 } else { passwords + usize::from(before.nopass) },
        selectors: selectors_lost(before, after, names),
        ..rights
    }
}

/// A selector stands if the root permissions or one other selector allow all that it did.
fn selectors_lost(before: &AclUser, after: &AclUser, names: &AclNames) -> usize {
    let covered = |known: &&Selector| {
        std::iter::once(&after.root).chain(after.selectors()).any(|kept| rights_lost(known, kept, names).is_empty())
    };
    before.selectors().iter().filter(|known| !covered(known)).count()
}

fn rights_lost(before: &Selector, after: &Selector, names: &AclNames) -> Loss {
    Loss {
        keys: keys_lost(before.keys(), after.keys()),
        channels: channels_lost(before.channels(), after.channels()),
        commands: commands_lost(before.commands(), after.commands(), names),
        ..Loss::default()
    }
}

fn keys_lost(before: &Keys, after: &Keys) -> Vec<String> {
    let patterns = match (before, after) {
        (_, Keys::All) => return Vec::new(),
        (Keys::All, Keys::Patterns(_)) => return vec!["~*".to_owned()],
        (Keys::Patterns(patterns), Keys::Patterns(_)) => patterns,
    };
    let Keys::Patterns(kept) = after else { return Vec::new() };
    patterns.iter().filter(|lost| !is_kept(lost, kept)).map(ToString::to_string).collect()
}

fn is_kept(pattern: &KeyPattern, kept: &[KeyPattern]) -> bool {
    let allowed = |want: bool, has: fn(&KeyPattern) -> bool| {
        !want || kept.iter().any(|known| has(known) && covers(&known.pattern, &pattern.pattern))
    };
    allowed(pattern.read, |known| known.read) && allowed(pattern.write, |known| known.write)
}

fn channels_lost(before: &Channels, after: &Channels) -> Vec<String> {
    let kept = match after {
        Channels::All => return Vec::new(),
        Channels::Patterns(kept) => kept,
    };
    match before {
        Channels::All => vec!["&*".to_owned()],
        // The server compares channel patterns literally when it decides about subscribers, so does this.
        Channels::Patterns(patterns) => {
            patterns.iter().filter(|lost| !kept.contains(lost)).map(|lost| format!("&{lost}")).collect()
        }
    }
}

/// Does every key that `narrow` matches also match `wide`? Sure only for equality and for a plain prefix with `*`.
fn covers(wide: &str, narrow: &str) -> bool {
    let plain = |text: &str| !text.contains(['*', '?', '[', '\\']);
    wide == narrow || wide.strip_suffix('*').is_some_and(|prefix| plain(prefix) && narrow.starts_with(prefix))
}

fn commands_lost(before: &Commands, after: &Commands, names: &AclNames) -> Vec<String> {
    if before == after {
        return Vec::new();
    }
    let (before, after) = (Reach::of(before, names), Reach::of(after, names));
    let whole = before.commands.iter().zip(&after.commands).enumerate();
    let mut lost: Vec<String> = whole
        .filter(|(_, (was, is))| **was && !**is)
        .filter_map(|(index, _)| names.commands().get(index).map(ToString::to_string))
        .collect();
    let gone = before.first_arguments.iter().filter(|form| !after.allows_form(form, names));
    lost.extend(gone.cloned());
    lost
}

/// The commands that a list of rules allows in the end.
struct Reach {
    commands: Vec<bool>,
    /// `select|0`: the command with only this first argument.
    first_arguments: BTreeSet<String>,
}

impl Reach {
    fn of(commands: &Commands, names: &AclNames) -> Self {
        let mut reach = Self { commands: vec![commands.all; names.commands().len()], first_arguments: BTreeSet::new() };
        for rule in &commands.rules {
            reach.apply(&rule.name, rule.allow, names);
        }
        reach
    }

    fn apply(&mut self, name: &str, allow: bool, names: &AclNames) {
        if let Some(category) = name.strip_prefix('@') {
            for index in names.members(category) {
                self.set(usize::from(*index), allow, names);
            }
        } else if let Some(index) = names.position(name) {
            self.set(index, allow, names);
            for sub in names.subcommands(name) {
                self.set(sub, allow, names);
            }
        } else if allow {
            self.first_arguments.insert(name.to_owned());
        }
    }

    /// Setting a command whole forgets the first arguments that were allowed of it (ACLSetSelectorCommandBit in acl.c).
    fn set(&mut self, index: usize, allow: bool, names: &AclNames) {
        if let Some(bit) = self.commands.get_mut(index) {
            *bit = allow;
        }
        if let Some(name) = names.commands().get(index).filter(|_| !self.first_arguments.is_empty()) {
            self.first_arguments.retain(|form| form.split('|').next() != Some(name));
        }
    }

    fn allows_form(&self, form: &str, names: &AclNames) -> bool {
        let command = form.split('|').next().unwrap_or_default();
        let whole = names.position(command).and_then(|index| self.commands.get(index)).copied().unwrap_or(false);
        whole || self.first_arguments.contains(form)
    }
}

#[cfg(test)]
mod tests {
    use super::super::split_words;
    use super::*;

    fn names() -> AclNames {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        AclNames::new(
            &[
                ("fast".to_owned(), list(&["get", "set", "select"])),
                ("slow".to_owned(), list(&["config", "config|get", "config|set", "flushall"])),
                ("read".to_owned(), list(&["get"])),
                ("dangerous".to_owned(), list(&["flushall", "config", "config|get", "config|set"])),
            ]
            .into(),
        )
    }

    fn user(words: &str) -> AclUser {
        let mut user = AclUser::closed();
        for word in split_words(words).unwrap() {
            user.apply(&word, Some(&names())).unwrap();
        }
        user
    }

    fn lost(before: &str, after: &str) -> Loss {
        loss(&user(before), &user(after), &names())
    }

    #[test]
    fn adding_loses_nothing() {
        for (before, after) in [
            ("on ~a +get", "on ~a ~b +get +set"),
            ("on ~a:b +get", "on ~a:* +get"),
            ("on %R~a +get", "on ~a +get"),
            ("on ~a +get", "on ~* &x +@all"),
            ("on +select|0", "on +select|0 +select|1"),
            ("on +select|0", "on +select"),
            ("off ~a +get", "on ~a +get"),
            ("on +@read", "on +get"),
            ("on +@all -flushall", "on +@all"),
            ("on +get", "on +get (~x +set)"),
            ("on (~x +get)", "on (~x +get +set)"),
            ("on (~x:a +get)", "on ~x:* +@all"),
        ] {
            assert!(lost(before, after).is_empty(), "{before} -> {after}: {:?}", lost(before, after));
        }
    }

    #[test]
    fn what_is_taken_away_is_named() {
        assert_eq!(lost("on +@all", "on +@all -flushall").commands, ["flushall"]);
        assert_eq!(lost("on +config", "on +config -config|set").commands, ["config|set"]);
        assert_eq!(lost("on +select|0 +select|1", "on +select|1").commands, ["select|0"]);
        assert_eq!(lost("on ~a ~b", "on ~a").keys, ["~b"]);
        assert_eq!(lost("on ~a", "on %R~a").keys, ["~a"]);
        assert_eq!(lost("on ~*", "on ~a").keys, ["~*"]);
        assert_eq!(lost("on &*", "on &a").channels, ["&*"]);
        assert_eq!(lost("on (~x +get)", "on").selectors, 1);
        assert_eq!(lost("on (~x +get +set) (~y +get)", "on (~x +set) (~y +get)").selectors, 1);
        assert!(lost("on", "off").login);
        assert_eq!(lost("on nopass", "on").passwords, 1);
    }
}
