//! Is the daemon alive, and is it ready? Judged from values; messages of the source or of nodes are left to `status`, so
//! that nothing of them is shown to whoever can reach the port.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Limits;
use crate::daemon::status::{PassResult, Status};

/// The daemon at the moment of asking.
#[derive(Debug, Clone)]
pub struct Moment {
    /// How long ago the loop went round last, by a clock that never jumps.
    pub since_beat: Duration,
    /// How long ago the last pass ended, if one has, by that clock.
    pub since_pass: Duration,
    pub status: Arc<Status>,
}

/// The body of `/healthz`.
#[derive(Debug, Serialize)]
pub struct Alive {
    pub alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    seconds_since_beat: f64,
    version: String,
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<PassResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_since_pass: Option<f64>,
}

pub fn alive(moment: &Moment, limits: Limits) -> Alive {
    let alive = moment.since_beat <= limits.beat;
    let reason = || format!("the loop has not gone round for more than {} s", limits.beat.as_secs());
    Alive {
        alive,
        reason: (!alive).then(reason),
        seconds_since_beat: moment.since_beat.as_secs_f64(),
        version: moment.status.version.clone(),
    }
}

pub fn ready(moment: &Moment, limits: Limits) -> Ready {
    let Some(pass) = &moment.status.last_pass else {
        let reason = Some("no pass has ended yet".to_owned());
        return Ready { ready: false, reason, pass: None, result: None, seconds_since_pass: None };
    };
    let reason = if moment.since_pass > limits.pass {
        Some(format!("the last pass ended more than {} s ago", limits.pass.as_secs()))
    } else if pass.result == PassResult::Blind {
        Some("no revision is in force yet: valkeeper status says why".to_owned())
    } else {
        None
    };
    let (number, result) = (Some(pass.number), Some(pass.result));
    Ready { ready: reason.is_none(), reason, pass: number, result, seconds_since_pass: Some(moment.since_pass.as_secs_f64()) }
}
