//! Password hashes and their fingerprints; redaction is a property of the types.
//!
//! A clear password never becomes a value of this crate beyond the moment it is hashed. Hashes travel only inside
//! desired users and the steps that set them; everything that is observed, compared, shown or saved is a fingerprint.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The unsalted SHA-256 of a password, the form an ACL user stores (`#<64 hex digits>`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PasswordHash([u8; 32]);

impl PasswordHash {
    /// Hashes a clear password.
    pub fn of_password(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// Reads 64 lower-case hex digits, the only form the server accepts (facts A.1).
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let read = base16ct::lower::decode(text.as_bytes(), &mut bytes).ok()?;
        (read.len() == bytes.len()).then_some(())?;
        Some(Self(bytes))
    }

    /// The 64 hex digits. This is the one way out of the type: for an ACL file and for `ACL SETUSER`.
    pub fn reveal(&self) -> String {
        base16ct::lower::encode_string(&self.0)
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({})", self.fingerprint())
    }
}

/// How hashes cross from the controller to the agent of a node, the one place they are written out whole (`wire.rs`). A field
/// asks for it by name, so that nothing serializes a hash by accident.
pub mod on_the_wire {
    use std::sync::Arc;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::PasswordHash;

    /// # Errors
    /// When the serializer has one.
    pub fn serialize<S: Serializer>(hashes: &Arc<[PasswordHash]>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(hashes.iter().map(PasswordHash::reveal))
    }

    /// # Errors
    /// When a text is no hash; without showing it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[PasswordHash]>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let read = |text: &String| PasswordHash::from_hex(text).ok_or_else(|| D::Error::custom("not a password hash"));
        texts.iter().map(read).collect()
    }
}

/// A hash of 256 random bits, which may be shown (docs/decisions/0014): nobody can guess what it is of.
pub mod of_random_bits {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::PasswordHash;

    /// # Errors
    /// When the serializer has one.
    pub fn serialize<S: Serializer>(hash: &Option<PasswordHash>, to: S) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => to.serialize_str(&hash.reveal()),
            None => to.serialize_none(),
        }
    }

    /// # Errors
    /// When a text is no hash; without showing it.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PasswordHash>, D::Error> {
        let text = String::deserialize(from)?;
        PasswordHash::from_hex(&text).map(Some).ok_or_else(|| D::Error::custom("not a password hash"))
    }
}

/// 64 bits of a second SHA-256: enough to see that two hashes are equal, and not the hash itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    pub fn of(bytes: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let mut short = [0; 8];
        for (to, from) in short.iter_mut().zip(digest) {
            *to = from;
        }
        Self(short)
    }

    /// Reads 16 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 8];
        let read = base16ct::lower::decode(text.as_bytes(), &mut bytes).ok()?;
        (read.len() == bytes.len()).then_some(())?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16ct::lower::encode_string(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::from_hex(&text).ok_or_else(|| format!("{text:?} is not a fingerprint of 16 hex digits"))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A clear secret of our own (the operator's password): never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The clear text, for the one place that logs in.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Another secret of the same strength, which says nothing of this one. `purpose` keeps apart what is made from one secret.
    #[must_use]
    pub fn derived(&self, purpose: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("{purpose}\0{}", self.0)).into();
        Self(base16ct::lower::encode_string(&digest))
    }

    pub fn hash(&self) -> PasswordHash {
        PasswordHash::of_password(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

    #[test]
    fn a_hash_is_the_servers_own_form() {
        let hash = PasswordHash::of_password(b"password");
        assert_eq!(hash.reveal(), HEX);
        assert_eq!(PasswordHash::from_hex(HEX), Some(hash));
        assert_eq!(PasswordHash::from_hex(&HEX.to_uppercase()), None);
        assert_eq!(PasswordHash::from_hex(HEX.get(1..).unwrap()), None);
    }

    #[test]
    fn debug_shows_no_part_of_a_hash_or_secret() {
        let shown = format!("{:?} {:?}", PasswordHash::of_password(b"password"), Secret::new("hunter2".into()));
        assert!(!shown.contains(HEX.get(..8).unwrap()) && !shown.contains("hunter2"), "{shown}");
    }
}
