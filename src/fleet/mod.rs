//! The nodes as one: looking at them and acting on them. What is behind (in process, ssh, a simulator) is not seen here.

pub mod connection;
mod known;
pub mod local;
pub mod nodes;
pub mod session;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use crate::host::tell::Tell;
use crate::model::binary::BinaryFacts;
use crate::model::live::{Live, NodeFacts};
use crate::model::name::NodeName;
use crate::model::outcome::Outcome;
use crate::model::path::{Paths, Way};
use crate::model::plan::Step;

/// Looks at all nodes at once. Never fails: a node that cannot be seen is unseen, with the reason, within its deadline.
pub trait Observe {
    fn observe(&self) -> impl Future<Output = Live> + Send;

    /// Tries these ways, each from its own node, all at once and within a limit.
    fn try_ways(&self, ways: &BTreeSet<Way>) -> impl Future<Output = Paths> + Send;
}

/// Takes one step on one node: test-and-set, one attempt, within its deadline; tells what it is at.
pub trait Execute: Sync {
    fn perform(&self, step: &Step, tell: &Tell) -> impl Future<Output = Outcome> + Send;

    /// Takes the right to act for this holder, on every node that can be reached.
    ///
    /// # Errors
    /// Who holds it, if it is somebody else.
    fn acquire(&self, holder: &str) -> impl Future<Output = Result<(), Held>> + Send;
}

/// There is no right to act: somebody else has it, or the node cannot be written to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node} cannot be changed now: {why}")]
pub struct Held {
    pub node: NodeName,
    pub why: String,
}

/// What one look at one node showed, with the facts of its binary.
#[derive(Debug, Clone)]
pub struct Look {
    pub facts: NodeFacts,
    pub binary: Arc<BinaryFacts>,
}
