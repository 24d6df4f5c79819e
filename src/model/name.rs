//! Names as checked types: a value of these types is always well formed.
//!
//! Owns the character rules of every name valkeeper accepts; never reports where a name was written (that is `desired/`).

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name that breaks the rules of its kind; says which rule and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} {problem}")]
pub struct NameError {
    pub kind: &'static str,
    pub name: String,
    pub problem: &'static str,
}

/// The longest slug, in bytes: it has to fit a DNS label and a unit name (RFC 1035 section 2.3.4).
pub const SLUG_BYTES_MAX: usize = 63;
/// The longest ACL user name, in bytes: valkeeper's own limit, so that a line of the ACL file stays readable.
pub const USER_BYTES_MAX: usize = 128;

const SLUG_RULE: &str = "must be 1 to 63 of a-z, 0-9 and '-', with a letter or digit first and last";
const USER_RULE: &str = "must not be empty and must hold no white space";
/// The rule for names that valkeeper itself puts into an ACL line (facts A.3).
pub const DECLARED_USER_RULE: &str = "must be 1 to 128 of A-Z, a-z, 0-9 and _ . : @ -";
const SETTING_RULE: &str = "must be 1 to 63 of a-z, 0-9, '-' and '_'";

fn is_slug(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(inner) && bytes.last().is_some_and(inner);
    ends && bytes.len() <= SLUG_BYTES_MAX && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
}

/// What a server may show: people can make users with stranger names than we would, and a user that cannot be named cannot be
/// told of. Refused is what the server itself refuses (`ACLStringHasSpaces` of acl.c: isspace(3) and NUL).
fn is_user(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\0', ' ', '\t', '\n', '\x0b', '\x0c', '\r'])
}

/// May this user be declared?
pub fn is_declarable_user(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:@-".contains(&byte);
    !text.is_empty() && text.len() <= USER_BYTES_MAX && text.bytes().all(allowed)
}

fn is_setting(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    !text.is_empty() && text.len() <= SLUG_BYTES_MAX && text.bytes().all(allowed)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $valid:path, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// When the text breaks the rule of this kind of name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                if $valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, name: text.to_owned(), problem: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.to_string()
            }
        }
    };
}

name!(
    /// The name of a fleet: what one state repository describes.
    FleetName, "fleet name", is_slug, SLUG_RULE
);
name!(
    /// The name of a node: one host.
    NodeName, "node name", is_slug, SLUG_RULE
);
name!(
    /// The name of a shard: a list of nodes that carry instances.
    ShardName, "shard name", is_slug, SLUG_RULE
);
name!(
    /// The name of a tenant: who an instance belongs to.
    TenantName, "tenant name", is_slug, SLUG_RULE
);
name!(
    /// The name of an instance: one dataset, unique in the fleet.
    InstanceName, "instance name", is_slug, SLUG_RULE
);
name!(
    /// The name of an ACL user of an instance.
    UserName, "user name", is_user, USER_RULE
);
name!(
    /// The name of a server setting, as `CONFIG GET` spells it.
    SettingName, "setting name", is_setting, SETTING_RULE
);

impl SettingName {
    /// A name that valkeeper itself writes down.
    pub(crate) fn known(text: &'static str) -> Self {
        Self(text.into())
    }
}

/// The user that every server has; valkeeper keeps it closed.
pub const DEFAULT_USER: &str = "default";
/// The user that valkeeper itself logs in as.
pub const OPERATOR_USER: &str = "valkeeper";
/// The user as which members of an instance follow each other.
pub const REPLICA_USER: &str = "valkeeper-replica";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_end_in_a_letter_or_digit() {
        for good in ["a", "a1", "my-app", "0", &"x".repeat(63)] {
            assert!(InstanceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "ä", "a b", "a\n", &"x".repeat(64)] {
            assert!(InstanceName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_user_that_a_server_can_have_can_be_named() {
        for shown in ["ä", "a\"b", "\u{1b}[2K", "a\u{a0}b", "\u{7f}", "\u{fffd}"] {
            assert!(UserName::new(shown).is_ok(), "{shown:?}");
        }
        for impossible in ["", "a b", "a\tb", "a\nb", "a\rb", "a\x0bb", "a\x0cb", "a\0b"] {
            assert!(UserName::new(impossible).is_err(), "{impossible:?}");
        }
    }

    #[test]
    fn user_names_cannot_break_an_acl_line() {
        for good in ["app", "App.reader:1@x_y-z"] {
            assert!(is_declarable_user(good), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\nb", "a\0", "(a", "ä", &"x".repeat(129)] {
            assert!(!is_declarable_user(bad), "{bad}");
        }
    }
}
