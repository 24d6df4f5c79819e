//! From words to the canonical form: a port of `acl_model.py`, which predicted 24,008 random rule lists of
//! valkey-server 8.0.1 without a difference (facts A).
//!
//! With a table of names it judges what a person declared; without one it reads what a server said.

use super::names::AclNames;
use super::{AclUser, Channels, Commands, KeyPattern, Keys, Rule, Selector};
use crate::model::password::{Fingerprint, PasswordHash};

/// What stands for `#<hash>` in text that valkeeper shows.
pub(super) const FINGERPRINT_SIGN: &str = "fp:";

/// Why a word cannot be part of a user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("unknown command {0:?}")]
    UnknownCommand(String),
    #[error("unknown category {0:?}")]
    UnknownCategory(String),
    #[error("unknown subcommand {0:?}")]
    UnknownSubcommand(String),
    #[error("{word:?}: {problem}")]
    Refused { word: String, problem: &'static str },
}

fn refused(word: &str, problem: &'static str) -> WordError {
    WordError::Refused { word: word.to_owned(), problem }
}

/// Splits an ACL line at white space, keeping `( … )` together as the server does.
///
/// # Errors
/// When a parenthesis is not closed.
pub fn split_words(line: &str) -> Result<Vec<String>, WordError> {
    let mut words: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for word in line.split_ascii_whitespace() {
        match open.take() {
            None if word.starts_with('(') && !word.ends_with(')') => open = Some(word.to_owned()),
            None => words.push(word.to_owned()),
            Some(mut selector) => {
                selector.push(' ');
                selector.push_str(word);
                if word.ends_with(')') {
                    words.push(selector);
                } else {
                    open = Some(selector);
                }
            }
        }
    }
    match open {
        Some(selector) => Err(refused(&selector, "a selector that is not closed")),
        None => Ok(words),
    }
}

/// Reads one line of `ACL LIST` or of an ACL file: `user <name> <words>`.
///
/// # Errors
/// When the line is not of that form, or a word is not one that a server writes.
pub fn parse_server_line(line: &str) -> Result<(&str, AclUser), WordError> {
    let rest =
        line.strip_prefix("user ").ok_or_else(|| refused(line_start(line), "a line that does not start with \"user \""))?;
    let (name, words) = rest.split_once(' ').unwrap_or((rest, ""));
    if name.is_empty() {
        return Err(refused("user", "a line without a user name"));
    }
    Ok((name, parse_words(&split_words(words)?)?))
}

/// An ACL line may hold a hash, so an error shows only its first word.
fn line_start(line: &str) -> &str {
    line.split_ascii_whitespace().next().unwrap_or_default()
}

pub(super) fn parse_words(words: &[String]) -> Result<AclUser, WordError> {
    let mut user = AclUser::closed();
    words.iter().try_for_each(|word| user.apply(word, None))?;
    Ok(user)
}

impl AclUser {
    /// Applies one word, as the server would after `reset`.
    ///
    /// # Errors
    /// When the server would refuse the word, or must never be sent it (facts A.3).
    pub fn apply(&mut self, word: &str, names: Option<&AclNames>) -> Result<(), WordError> {
        match word {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "sanitize-payload" => self.skip_sanitize = false,
            "skip-sanitize-payload" => self.skip_sanitize = true,
            "nopass" => {
                self.nopass = true;
                self.passwords.clear();
            }
            "reset" => *self = Self::closed(),
            _ if word.starts_with('(') => self.selectors.push(Selector::parse(word, names)?),
            _ => match fingerprint(word) {
                Some(read) => {
                    self.nopass = false;
                    self.add_password(read.ok_or_else(|| refused("#", "a password hash that is not 64 lower-case hex digits"))?);
                }
                None => self.root.apply(word, names)?,
            },
        }
        Ok(())
    }
}

/// The fingerprint that a `#hash` or `fp:` word stands for; nothing when it is no password word.
fn fingerprint(word: &str) -> Option<Option<Fingerprint>> {
    if let Some(hash) = word.strip_prefix('#') {
        return Some(PasswordHash::from_hex(hash).map(|hash| hash.fingerprint()));
    }
    word.strip_prefix(FINGERPRINT_SIGN).map(Fingerprint::from_hex)
}

impl Selector {
    fn parse(word: &str, names: Option<&AclNames>) -> Result<Self, WordError> {
        let inner = word.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        let inner = inner.ok_or_else(|| refused(word, "a selector that is not closed"))?;
        let mut selector = Self::nothing();
        inner.split_ascii_whitespace().try_for_each(|word| selector.apply(word, names))?;
        Ok(selector)
    }

    /// Applies one word of a selector or of the root permissions.
    ///
    /// # Errors
    /// As [`AclUser::apply`].
    pub fn apply(&mut self, word: &str, names: Option<&AclNames>) -> Result<(), WordError> {
        match word.as_bytes().first() {
            Some(b'~' | b'%') if word != "~*" => return self.keys.add(word),
            Some(b'&') if word != "&*" => return self.channels.add(word),
            _ => {}
        }
        let lower = if word.bytes().any(|b| b.is_ascii_uppercase()) { &*word.to_ascii_lowercase() } else { word };
        match lower {
            "~*" | "allkeys" => self.keys = Keys::All,
            "resetkeys" => self.keys = Keys::Patterns(Vec::new()),
            "&*" | "allchannels" => self.channels = Channels::All,
            "resetchannels" => self.channels = Channels::Patterns(Vec::new()),
            "+@all" | "allcommands" => self.commands = Commands { all: true, rules: Vec::new() },
            "-@all" | "nocommands" => self.commands = Commands::default(),
            _ if lower.starts_with(['+', '-']) => self.commands.add(lower, names)?,
            _ => return Err(refused(word, "not a word of an ACL rule")),
        }
        Ok(())
    }
}

impl Keys {
    fn add(&mut self, word: &str) -> Result<(), WordError> {
        let Self::Patterns(patterns) = self else {
            return Err(refused(word, "a key pattern beside ~*, which already allows every key"));
        };
        let new = KeyPattern::parse(word)?;
        match patterns.binary_search_by(|known| known.pattern.cmp(&new.pattern)) {
            Err(place) => patterns.insert(place, new),
            Ok(place) => {
                if let Some(known) = patterns.get_mut(place) {
                    known.read |= new.read;
                    known.write |= new.write;
                }
            }
        }
        let all = |known: &KeyPattern| &*known.pattern == "*" && known.read && known.write;
        if patterns.iter().any(all) {
            return Err(refused(word, "%R~* with %W~* is shown as ~* but is not: write ~*"));
        }
        Ok(())
    }
}

impl KeyPattern {
    fn parse(word: &str) -> Result<Self, WordError> {
        let (flags, pattern) = word.split_once('~').ok_or_else(|| refused(word, "a '%' without '~'"))?;
        let (read, write) = match flags.to_ascii_uppercase().as_str() {
            "" | "%RW" | "%WR" => (true, true),
            "%R" => (true, false),
            "%W" => (false, true),
            _ => return Err(refused(word, "flags other than %R, %W and %RW")),
        };
        Ok(Self { pattern: pattern.into(), read, write })
    }
}

impl Channels {
    fn add(&mut self, word: &str) -> Result<(), WordError> {
        let Self::Patterns(patterns) = self else {
            return Err(refused(word, "a channel beside &*, which already allows every channel"));
        };
        let pattern: Box<str> = word.strip_prefix('&').unwrap_or(word).into();
        if let Err(place) = patterns.binary_search(&pattern) {
            patterns.insert(place, pattern);
        }
        Ok(())
    }
}

impl Commands {
    /// `word` is in lower case and starts with a sign.
    fn add(&mut self, word: &str, names: Option<&AclNames>) -> Result<(), WordError> {
        let (sign, name) = word.split_at(1);
        if let Some(names) = names {
            known(sign, name, names)?;
        }
        // The same rule of either sign goes away, and so do rules for `<name>|…` (ACLUpdateCommandRules in acl.c).
        self.rules.retain(|rule| {
            let rest = rule.name.strip_prefix(name);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
        });
        self.rules.push(Rule { allow: sign == "+", name: name.into() });
        Ok(())
    }
}

/// Does this server know the command, subcommand or category of a command rule?
///
/// # Errors
/// What it does not know.
pub fn check_known(word: &str, names: &AclNames) -> Result<(), WordError> {
    let lower = if word.bytes().any(|b| b.is_ascii_uppercase()) { &*word.to_ascii_lowercase() } else { word };
    match lower.split_at_checked(1) {
        Some((sign @ ("+" | "-"), name)) if name != "@all" => known(sign, name, names),
        Some(_) | None => Ok(()),
    }
}

fn known(sign: &str, name: &str, names: &AclNames) -> Result<(), WordError> {
    if let Some(category) = name.strip_prefix('@') {
        return if names.has_category(category) { Ok(()) } else { Err(WordError::UnknownCategory(category.to_owned())) };
    }
    if names.has_command(name) {
        return Ok(());
    }
    let Some((command, argument)) = name.rsplit_once('|') else {
        return Err(WordError::UnknownCommand(name.to_owned()));
    };
    let word = || format!("{sign}{name}");
    if !names.has_command(command) {
        return Err(WordError::UnknownCommand(command.to_owned()));
    }
    if names.is_container(command) {
        return Err(WordError::UnknownSubcommand(name.to_owned()));
    }
    if command.contains('|') {
        return Err(refused(&word(), "a first argument of a subcommand, which the server does not know"));
    }
    if sign == "-" {
        return Err(refused(&word(), "a first argument can be allowed, not taken away"));
    }
    if argument.is_empty() {
        return Err(refused(&word(), "an empty subcommand"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> AclNames {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        AclNames::new(
            &[
                ("fast".to_owned(), list(&["get", "set", "select", "hello"])),
                ("slow".to_owned(), list(&["flushall", "config", "config|get", "config|set", "sort"])),
                ("read".to_owned(), list(&["get", "sort"])),
            ]
            .into(),
        )
    }

    fn shown(words: &str) -> Result<String, WordError> {
        let mut user = AclUser::closed();
        for word in split_words(words)? {
            user.apply(&word, Some(&names()))?;
        }
        Ok(user.to_string())
    }

    /// The rows of facts A.1.
    #[test]
    fn words_take_the_servers_form() {
        for (words, form) in [
            ("", "off sanitize-payload resetchannels -@all"),
            ("+@ALL -FlushAll", "off sanitize-payload resetchannels +@all -flushall"),
            ("-@all +GET +Set", "off sanitize-payload resetchannels -@all +get +set"),
            ("+get +set +get", "off sanitize-payload resetchannels -@all +set +get"),
            ("+get -get", "off sanitize-payload resetchannels -@all -get"),
            ("+config|GET +config", "off sanitize-payload resetchannels -@all +config"),
            ("+config -config|set +config|set", "off sanitize-payload resetchannels -@all +config +config|set"),
            ("+@read +get -@all", "off sanitize-payload resetchannels -@all"),
            ("+select|0 +SELECT|1", "off sanitize-payload resetchannels -@all +select|0 +select|1"),
            ("~b ~a ~b", "off sanitize-payload ~a ~b resetchannels -@all"),
            ("~a ~*", "off sanitize-payload ~* resetchannels -@all"),
            ("%R~a %W~a", "off sanitize-payload ~a resetchannels -@all"),
            ("%R~a", "off sanitize-payload %R~a resetchannels -@all"),
            ("&a &b", "off sanitize-payload resetchannels &a &b -@all"),
            ("(+get ~a)", "off sanitize-payload resetchannels -@all (~a resetchannels -@all +get)"),
            ("()", "off sanitize-payload resetchannels -@all (resetchannels -@all)"),
        ] {
            assert_eq!(shown(words).as_deref(), Ok(form), "{words}");
        }
    }

    #[test]
    fn what_the_server_refuses_is_refused() {
        for words in [
            "+nosuch",
            "+@nosuch",
            "+config|nosuch",
            "-select|0",
            "+config|get|x",
            "+select|",
            "~* ~a",
            "&* &a",
            "%~a",
            "%",
            "%RX~a",
            "word",
            "%R~* %W~*",
            "(+get",
            "#12",
        ] {
            assert!(shown(words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_shown_form_reads_back_as_the_same_user() {
        let hash = PasswordHash::of_password(b"x").reveal();
        let line =
            format!("user app on sanitize-payload #{hash} ~a %R~b resetchannels &c -@all +get (~x resetchannels -@all +set)");
        let (name, user) = parse_server_line(&line).unwrap();
        assert_eq!(name, "app");
        assert_eq!(AclUser::try_from(user.to_string()), Ok(user.clone()));
        assert!(!user.to_string().contains(hash.get(..8).unwrap()));
        assert_eq!(user.file_line("app", &[PasswordHash::of_password(b"x")]), line);
    }

    #[test]
    fn nonsense_is_an_error_that_shows_no_hash() {
        let hash = "a".repeat(64);
        for line in [format!("usr x #{hash}"), format!("user x on #{hash}z"), "user ".to_owned(), "user x (+get".to_owned()] {
            let error = parse_server_line(&line).unwrap_err().to_string();
            assert!(!error.contains("aaaa"), "{error}");
        }
    }
}
