//! ACL users in the server's canonical form (facts A), so that `==` means "the same rights".
//!
//! Passwords, key patterns and channels are sets; command rules keep their order, because order has meaning. Owns the
//! forms and their text; what a change of a user means is in [`reach`].

mod names;
mod parse;
mod reach;
mod word;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::password::{Fingerprint, PasswordHash};

pub use names::AclNames;
pub use parse::{WordError, check_known, parse_server_line, split_words};
pub use reach::{Loss, loss};
pub use word::{WordRefusal, check_channel, check_key_pattern, check_privilege};

/// One ACL user, without its name. Build it with [`AclUser::closed`] and the setters, or from the server's own text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AclUser {
    pub enabled: bool,
    /// Any password is accepted. valkeeper never declares this; it can be found on a node.
    pub nopass: bool,
    /// `skip-sanitize-payload`; valkeeper never declares this; it can be found on a node.
    pub skip_sanitize: bool,
    passwords: Vec<Fingerprint>,
    pub root: Selector,
    selectors: Vec<Selector>,
}

/// What a user may do on which keys and channels: the root permissions, or one selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    keys: Keys,
    channels: Channels,
    commands: Commands,
}

/// The keys a selector allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    All,
    /// Sorted by pattern, each pattern once.
    Patterns(Vec<KeyPattern>),
}

/// A glob-style key pattern and what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    pub pattern: Box<str>,
    pub read: bool,
    pub write: bool,
}

/// The Pub/Sub channels a selector allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channels {
    All,
    /// Sorted, each once.
    Patterns(Vec<Box<str>>),
}

/// Command rules: a base, then rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commands {
    /// `+@all` rather than `-@all`.
    pub all: bool,
    pub rules: Vec<Rule>,
}

/// `+get`, `-@dangerous`, `+config|get`, `+select|0`: lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub allow: bool,
    pub name: Box<str>,
}

impl AclUser {
    /// `off resetchannels -@all`: what `reset` leaves, and what the `default` user is kept at.
    pub fn closed() -> Self {
        Self {
            enabled: false,
            nopass: false,
            skip_sanitize: false,
            passwords: Vec::new(),
            root: Selector::nothing(),
            selectors: Vec::new(),
        }
    }

    pub fn passwords(&self) -> &[Fingerprint] {
        &self.passwords
    }

    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    pub fn add_password(&mut self, fingerprint: Fingerprint) {
        if let Err(place) = self.passwords.binary_search(&fingerprint) {
            self.passwords.insert(place, fingerprint);
        }
    }

    pub fn add_selector(&mut self, selector: Selector) {
        self.selectors.push(selector);
    }

    /// The words for `ACL SETUSER <name>` (and, joined, for the ACL file), starting with `reset`.
    ///
    /// `hashes` are the real hashes behind the fingerprints.
    pub fn server_words(&self, hashes: &[PasswordHash]) -> Vec<String> {
        let mut words = vec!["reset".to_owned()];
        words.extend(self.flag_words());
        words.extend(hashes.iter().map(|hash| format!("#{}", hash.reveal())));
        words.extend(self.root.words());
        words.extend(self.selectors.iter().map(Selector::parenthesised));
        words
    }

    /// The line of the ACL file for this user.
    pub fn file_line(&self, name: &str, hashes: &[PasswordHash]) -> String {
        let words = self.server_words(hashes);
        format!("user {name} {}", words.get(1..).unwrap_or_default().join(" "))
    }

    fn flag_words(&self) -> Vec<String> {
        let mut words = vec![if self.enabled { "on" } else { "off" }.to_owned()];
        if self.nopass {
            words.push("nopass".to_owned());
        }
        words.push(if self.skip_sanitize { "skip-sanitize-payload" } else { "sanitize-payload" }.to_owned());
        words
    }
}

impl Selector {
    pub fn nothing() -> Self {
        Self { keys: Keys::Patterns(Vec::new()), channels: Channels::Patterns(Vec::new()), commands: Commands::default() }
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// The words in the server's order: keys, channels, commands.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.key_words();
        if self.channels != Channels::All {
            words.push("resetchannels".to_owned());
        }
        words.extend(self.channel_words());
        words.extend(self.command_words());
        words
    }

    pub fn key_words(&self) -> Vec<String> {
        match &self.keys {
            Keys::All => vec!["~*".to_owned()],
            Keys::Patterns(patterns) => patterns.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn channel_words(&self) -> Vec<String> {
        match &self.channels {
            Channels::All => vec!["&*".to_owned()],
            Channels::Patterns(patterns) => patterns.iter().map(|pattern| format!("&{pattern}")).collect(),
        }
    }

    pub fn command_words(&self) -> Vec<String> {
        let base = if self.commands.all { "+@all" } else { "-@all" };
        std::iter::once(base.to_owned()).chain(self.commands.rules.iter().map(ToString::to_string)).collect()
    }

    fn parenthesised(&self) -> String {
        format!("({})", self.words().join(" "))
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = match (self.read, self.write) {
            (true, false) => "%R",
            (false, true) => "%W",
            (true, true) | (false, false) => "",
        };
        write!(f, "{flags}~{}", self.pattern)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.allow { '+' } else { '-' }, self.name)
    }
}

/// The user in the words of an ACL line, with fingerprints in place of hashes.
impl fmt::Display for AclUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.flag_words();
        words.extend(self.passwords.iter().map(|fingerprint| format!("{}{fingerprint}", parse::FINGERPRINT_SIGN)));
        words.extend(self.root.words());
        words.extend(self.selectors.iter().map(Selector::parenthesised));
        f.write_str(&words.join(" "))
    }
}

impl From<AclUser> for String {
    fn from(user: AclUser) -> Self {
        user.to_string()
    }
}

impl TryFrom<String> for AclUser {
    type Error = WordError;
    fn try_from(text: String) -> Result<Self, WordError> {
        parse::parse_words(&split_words(&text)?)
    }
}
