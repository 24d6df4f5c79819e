//! What a thing on a node is, twice: on disk and in memory; and a change between two states of it.

use serde::{Deserialize, Serialize};

/// One half of a [`Twin`]. Unreadable is not absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(untagged)]
pub enum Half<T> {
    Unseen {
        unseen: String,
    },
    Seen(T),
    #[default]
    Absent,
}

impl<T> Half<T> {
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Absent | Self::Unseen { .. } => None,
        }
    }
}

/// A thing on a node lives twice: what survives a restart, and what is in force now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin<T> {
    #[serde(default = "absent", skip_serializing_if = "Half::is_absent")]
    pub disk: Half<T>,
    #[serde(default = "absent", skip_serializing_if = "Half::is_absent")]
    pub memory: Half<T>,
}

fn absent<T>() -> Half<T> {
    Half::Absent
}

impl<T> Default for Twin<T> {
    fn default() -> Self {
        Self { disk: Half::Absent, memory: Half::Absent }
    }
}

impl<T: Clone> Twin<T> {
    /// The same on disk and in memory.
    pub fn both(value: T) -> Self {
        Self { disk: Half::Seen(value.clone()), memory: Half::Seen(value) }
    }
}

/// A change that is needed: cannot be built where before already is after, nor read from where it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ends<T>", bound(deserialize = "T: Deserialize<'de> + PartialEq"))]
pub struct Change<T> {
    before: T,
    after: T,
}

/// A change as it is read, before it is known to be one.
#[derive(Deserialize)]
struct Ends<T> {
    before: T,
    after: T,
}

impl<T: PartialEq> TryFrom<Ends<T>> for Change<T> {
    type Error = &'static str;
    fn try_from(Ends { before, after }: Ends<T>) -> Result<Self, Self::Error> {
        Self::new(before, after).ok_or("a change whose end is its beginning")
    }
}

impl<T: PartialEq> Change<T> {
    /// The change, or nothing where there is none to make.
    pub fn new(before: T, after: T) -> Option<Self> {
        (before != after).then_some(Self { before, after })
    }

    pub fn before(&self) -> &T {
        &self.before
    }

    pub fn after(&self) -> &T {
        &self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_changes_nothing_cannot_be_built() {
        assert_eq!(Change::new(1, 1), None);
        assert!(Change::new(1, 2).is_some());
    }
}
