//! The ways over which members follow each other: whether a server's port can be reached from another node. Nobody knows before
//! somebody tries, so the plan names what it would like to know, and plans again with the answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::NodeName;
use super::role::Endpoint;

/// From a node to a server on another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub from: NodeName,
    pub to: Endpoint,
}

/// What came of trying a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    Open,
    Closed { why: String },
}

impl From<Result<(), String>> for Path {
    fn from(tried: Result<(), String>) -> Self {
        tried.map_or_else(|why| Self::Closed { why }, |()| Self::Open)
    }
}

/// The ways that were tried since the last look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Paths(BTreeMap<NodeName, BTreeMap<Endpoint, Path>>);

impl Paths {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing: it was not tried.
    pub fn get(&self, way: &Way) -> Option<&Path> {
        self.0.get(&way.from)?.get(&way.to)
    }

    pub fn enter(&mut self, way: Way, path: Path) {
        self.0.entry(way.from).or_default().insert(way.to, path);
    }
}
