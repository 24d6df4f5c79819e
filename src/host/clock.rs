//! The clock of this machine: what time it is, and how much of a time limit is left.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The end of a time limit.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    #[must_use]
    pub fn later_by(self, more: Duration) -> Self {
        Self(self.0 + more)
    }

    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// Nothing if it was not done in time.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.0, work).await.ok()
    }
}

/// How long ago something was, by a clock that never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Waits between tries, soon again at first, then seldom: about a third of the time that has gone by.
#[derive(Debug)]
pub struct Poll {
    next: Duration,
    most: Duration,
}

const POLL_FIRST: Duration = Duration::from_millis(2);
/// With 25 ms, the polling of sixty servers that start side by side took a tenth of the time of all.
const POLL_MOST: Duration = Duration::from_millis(100);
/// Between tries for which clients wait.
const POLL_MOST_CLOSELY: Duration = Duration::from_millis(10);

impl Default for Poll {
    fn default() -> Self {
        Self { next: POLL_FIRST, most: POLL_MOST }
    }
}

impl Poll {
    /// For what clients wait for.
    pub fn closely() -> Self {
        Self { next: POLL_FIRST, most: POLL_MOST_CLOSELY }
    }

    /// Waits; false, at once, if there is no time for it.
    pub async fn again(&mut self, end: Deadline) -> bool {
        if self.next >= end.left() {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 3 / 2).min(self.most);
        true
    }
}
