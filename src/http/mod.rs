//! The daemon's TCP side: `/metrics`, `/healthz`, `/readyz` and `POST /hooks/push`, on a listener that the caller gives.
//!
//! Answers from values: it reads no clock, no file and no environment, and decides nothing. What it shows holds no secret.
//! A push hook carries no data: it is a reason to look at the source now, whatever its body says.

mod health;
mod hook;
mod routes;
mod serve;

pub use health::Moment;
pub use hook::Hook;
pub use serve::serve;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;

/// What is served.
#[derive(Clone)]
pub struct Site {
    pub metrics: Arc<Metrics>,
    /// The daemon as it is at the moment of asking.
    pub moment: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Nothing: `/hooks/push` does not exist.
    pub hook: Option<Hook>,
    pub limits: Limits,
}

/// From when on a daemon does not count as alive or ready any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest time between two beats of the loop of a daemon that is alive.
    pub beat: Duration,
    /// The longest time since the end of the last pass of a daemon that is ready.
    pub pass: Duration,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("hook", &self.hook).field("limits", &self.limits).finish_non_exhaustive()
    }
}
