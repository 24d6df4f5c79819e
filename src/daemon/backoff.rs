//! When what failed is tried again: a delay that grows from 1 s to 5 min, per instance; never a hot loop.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::plan::Subject;

/// The delay after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);

/// What failed, and when it is due again.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: BTreeMap<Subject, Failure>,
}

/// One subject's failures since it last succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    pub since: Timestamp,
    pub attempts: u32,
    pub due: Timestamp,
}

impl Backoff {
    /// Notes a failure. Gives whether it is news: another message than before.
    pub fn failed(&mut self, subject: &Subject, message: String, now: Timestamp) -> bool {
        let before = self.failures.get(subject);
        let attempts = before.map_or(0, |failure| failure.attempts).saturating_add(1);
        let news = before.is_none_or(|failure| failure.message != message);
        let since = before.map_or(now, |failure| failure.since);
        let due = later(now, delay(attempts));
        self.failures.insert(subject.clone(), Failure { message, since, attempts, due });
        news
    }

    /// Forgets a subject's failures. Gives whether there were any.
    pub fn succeeded(&mut self, subject: &Subject) -> bool {
        self.failures.remove(subject).is_some()
    }

    /// Everything is tried again at once: a new revision may have cured it. What failed stays so until it succeeds.
    pub fn hasten(&mut self, now: Timestamp) {
        for failure in self.failures.values_mut() {
            (failure.due, failure.attempts) = (now, 0);
        }
    }

    /// The same for one subject. Gives whether it had failed.
    pub fn hasten_one(&mut self, subject: &Subject, now: Timestamp) -> bool {
        let failure = self.failures.get_mut(subject);
        failure.map(|failure| (failure.due, failure.attempts) = (now, 0)).is_some()
    }

    /// Must this subject still wait?
    pub fn waits(&self, subject: &Subject, now: Timestamp) -> bool {
        // No delay is longer: a due time beyond that was made before the clock was set back.
        self.failures.get(subject).is_some_and(|failure| failure.due > now && failure.due <= later(now, LONGEST))
    }

    pub fn of(&self, subject: &Subject) -> Option<&Failure> {
        self.failures.get(subject)
    }

    /// When the first of them is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.failures.values().map(|failure| failure.due).min()
    }

    /// Drops subjects for which nothing is to be done any more, and gives them.
    pub fn keep(&mut self, known: impl Fn(&Subject) -> bool) -> Vec<Subject> {
        self.failures.extract_if(.., |subject, _| !known(subject)).map(|(subject, _)| subject).collect()
    }
}

fn delay(attempts: u32) -> Duration {
    let doubled = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(doubled).min(LONGEST)
}

/// A time after another; at the end of time it stands still.
pub fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_from_a_second_to_five_minutes() {
        let seconds: Vec<u64> = (1..12).map(|attempts| delay(attempts).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(delay(u32::MAX), LONGEST);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_off_the_next_try() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        let mut backoff = Backoff::default();
        backoff.failed(&Subject::Fleet, "disk full".into(), now);
        assert!(backoff.waits(&Subject::Fleet, now));
        assert!(!backoff.waits(&Subject::Fleet, "2026-11-20T11:00:00Z".parse().unwrap()));
    }

    #[test]
    fn a_failure_is_news_once() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        let mut backoff = Backoff::default();
        assert!(backoff.failed(&Subject::Fleet, "disk full".into(), now));
        assert!(!backoff.failed(&Subject::Fleet, "disk full".into(), now));
        assert!(backoff.failed(&Subject::Fleet, "other".into(), now));
        assert!(backoff.waits(&Subject::Fleet, now) && !backoff.waits(&Subject::Fleet, later(now, LONGEST)));
        assert_eq!(backoff.of(&Subject::Fleet).map(|failure| failure.attempts), Some(3));
        assert!(backoff.succeeded(&Subject::Fleet) && !backoff.succeeded(&Subject::Fleet));
    }
}
