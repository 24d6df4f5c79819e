//! What people ask of a running daemon, each with the way back for the answer.

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::model::name::InstanceName;

/// How many requests wait at most; more are told to come again.
pub const WAITING_MAX: usize = 64;

/// A request. The answer is a sentence for a person, or why it was not done.
#[derive(Debug)]
pub struct Command {
    pub what: What,
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A pass now; `wait`: the answer comes when it has ended.
    Sync {
        wait: bool,
    },
    /// Leave an instance, or all, alone until then.
    Suspend {
        name: Option<InstanceName>,
        by: String,
        reason: String,
        until: Timestamp,
    },
    Resume {
        name: Option<InstanceName>,
    },
    /// Try a failed instance, or all, again at once.
    Retry {
        name: Option<InstanceName>,
    },
    /// Take a revision although it does not follow the settled one.
    Accept {
        revision: String,
    },
    /// Let a revision pass the guard.
    Approve {
        revision: String,
    },
    /// The plan of another branch against the nodes as they are.
    Plan {
        reference: String,
        json: bool,
    },
}
