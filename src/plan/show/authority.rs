//! What a saved plan lets an apply do.

use serde_json::Value;

use super::identity;
use crate::model::plan::{Cause, Step};

/// What a saved plan allows: its steps, and those foreseen to follow.
#[derive(Debug, Clone, Default)]
pub struct Authority {
    steps: Vec<Value>,
}

impl Authority {
    /// From the identities ([`identity`]) of all steps of a saved plan.
    pub fn new(steps: &[Value]) -> Self {
        Self { steps: steps.iter().map(without_before).collect() }
    }

    /// May this step be taken? valkeeper's own notes need no authority: they touch no server, but for the user as which members
    /// follow each other, whose passwords nobody could have foreseen.
    pub fn allows(&self, step: &Step) -> bool {
        step.cause == Cause::Bookkeeping || self.steps.contains(&without_before(&identity(step)))
    }
}

/// What was foreseen of a later step is what it leaves; what it finds then has its ages and numbers filled in.
fn without_before(identity: &Value) -> Value {
    let mut identity = identity.clone();
    if let Some(change) = identity.get_mut("change").and_then(Value::as_object_mut) {
        change.remove("before");
    }
    identity
}
