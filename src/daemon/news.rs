//! What the log says of nodes and instances: once when it begins, once when it ends; never again with every pass.

use std::collections::BTreeSet;

use tracing::{info, warn};

use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::Plan;
use crate::plan::show::held_reason;

/// What was said and still holds.
#[derive(Debug, Default)]
pub struct News {
    said: BTreeSet<Topic>,
}

/// What is said once. Reasons in full may change with every look, so they are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Unseen(NodeName),
    Held(InstanceName, String, &'static str),
    Refused(String),
}

impl News {
    /// Says what this plan shows and the one before did not.
    pub fn tell(&mut self, plan: &Plan, pass: u64) {
        let mut now = BTreeSet::new();
        let revision = plan.revision.as_str();
        for (node, why) in &plan.unseen {
            if self.is_new(&mut now, Topic::Unseen(node.clone())) {
                warn!(revision, pass, %node, "node {node} cannot be seen: {why}");
            }
        }
        for held in &plan.held {
            let (instance, what, reason) = (&held.instance, &held.what, held.reason.kind());
            if self.is_new(&mut now, Topic::Held(instance.clone(), what.clone(), reason)) {
                info!(revision, pass, %instance, reason, "{instance}: {what} is held: {}", held_reason(&held.reason));
            }
        }
        for refused in &plan.refused {
            if self.is_new(&mut now, Topic::Refused(refused.problem.clone())) {
                warn!(revision, pass, "refused: {}: {}", refused.problem, refused.cure);
            }
        }
        for topic in self.said.difference(&now) {
            match topic {
                Topic::Unseen(node) => info!(revision, pass, %node, "node {node} is seen again"),
                Topic::Held(instance, what, reason) => {
                    info!(revision, pass, %instance, reason, "{instance}: {what} is not held any more");
                }
                Topic::Refused(_) => {}
            }
        }
        self.said = now;
    }

    fn is_new(&self, now: &mut BTreeSet<Topic>, topic: Topic) -> bool {
        let new = !self.said.contains(&topic);
        now.insert(topic);
        new
    }
}
