//! What the daemon tells the service manager, by the `sd_notify` protocol (sd_notify(3)). Outside of systemd, where
//! `NOTIFY_SOCKET` is not set, all of it is nothing.
//!
//! A message that cannot be sent is not the daemon's problem: systemd judges by its own deadlines, so it is logged at
//! debug level and forgotten. The environment stays as it is; children are started with one of their own.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// It has read its configuration and serves; or it has loaded its configuration again.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It loads its configuration again; [`ready`] follows.
pub fn reloading() {
    // The time is asked for by Type=notify-reload, and does no harm to Type=notify.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    // A line break would begin another message.
    tell(&[NotifyState::Status(&one_line(text))]);
}

/// It is alive: to be said at least once in every [`watchdog_interval`].
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] is to be called: half of the unit's `WatchdogSec`, as sd_watchdog_enabled(3) advises. Nothing if
/// nobody waits for it.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_smuggle_in_another_message() {
        assert_eq!(one_line("a\nREADY=1\r"), "a READY=1 ");
    }
}
