//! The daemon: follows a source and keeps the nodes as it says. Triggers, requests, back-off, shutdown.
//!
//! Nothing that correctness needs is kept here: what was settled, suspended and approved is on the nodes, the rest in the
//! source. A trigger carries no data into a pass.

#![expect(clippy::disallowed_methods, reason = "the port for metrics and hooks is listened on here")]

pub mod backoff;
pub mod command;
pub mod control;
mod following;
mod lifecycle;
mod pass;
mod shared;
pub mod status;
pub mod systemd;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::host::clock::{self, Stopwatch};
use crate::http;
use crate::metrics::Metrics;
use crate::model::password::Secret;
use crate::observe::chain;
use crate::repo::{self, Repo};
use crate::roots::Roots;
use command::{Command, WAITING_MAX, What};
use following::Following;
use pass::Passes;
use shared::Shared;
use status::PassResult;

/// What a daemon is told at its start.
pub struct Options {
    pub source: repo::Spec,
    pub roots: Roots,
    /// Between two looks when nothing else asks for one.
    pub poll: Duration,
    /// Where metrics, health and hooks are served.
    pub listen: SocketAddr,
    pub socket: PathBuf,
    pub hook_secret: Option<Secret>,
}

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("the source cannot be followed")]
    Source(#[from] repo::SpecError),
    #[error("{0} cannot be listened on: say another place with --listen")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error(transparent)]
    Control(#[from] control::ControlError),
    #[error("signals cannot be heard")]
    Signals(#[from] std::io::Error),
    #[error(transparent)]
    Metrics(#[from] crate::metrics::Unregistered),
    #[error("the secret for hooks is empty")]
    Hook,
}

/// How much the time between two looks varies, so that many daemons do not fetch at once.
const JITTER: f64 = 0.05;
/// Passes that follow each other at once before the loop takes a breath: never a hot loop.
const AT_ONCE_MAX: u32 = 50;
/// The breath.
const BREATH: Duration = Duration::from_secs(1);
/// How soon a daemon that only watches looks whether it may act.
const WATCHING: Duration = Duration::from_secs(2);
/// A loop that shows no life for so long hangs: beyond the deadline of a step and of a fetch together.
const BEAT: Duration = Duration::from_secs(120);

/// Runs until it is told to stop. `still_sound` judges the configuration when it is asked to be read again.
///
/// # Errors
/// When it cannot begin; once it runs, it goes on.
pub async fn run(options: Options, still_sound: impl Fn() -> Result<(), String>) -> Result<(), DaemonError> {
    let repo = Repo::open(options.source.clone())?;
    let roots = options.roots.clone();
    let metrics = Arc::new(Metrics::new()?);
    let following = Following::new(repo, roots.clone(), Arc::clone(&metrics));
    let shared = Arc::new(Shared::new(metrics, following.status()));
    let (sender, mut requests) = mpsc::channel(WAITING_MAX);
    let _control = control::serve(&options.socket, Arc::clone(&shared), sender)?;
    serve_http(&options, &shared).await?;
    let _watcher = watch(&options, &shared);
    let (mut stop, mut hangup) = (Stop::new()?, signal(SignalKind::hangup())?);
    tokio::spawn(keep_watchdog(Arc::clone(&shared)));
    let mut passes = Passes::new(following, roots, Arc::clone(&shared));
    systemd::ready();
    info!(version = env!("CARGO_PKG_VERSION"), source = options.source.location.show(), "following");
    let mut waiting: VecDeque<Command> = VecDeque::new();
    let (mut in_a_row, mut asked, mut since_asked) = (0, true, Stopwatch::start());
    loop {
        // What is retried, or only watched, does not ask the source each time.
        let follow = asked || since_asked.elapsed() >= options.poll.mul_f64(1.0 - JITTER);
        if follow {
            since_asked = Stopwatch::start();
        }
        let ended = tokio::select! {
            ended = passes.pass(follow, &mut requests, &mut waiting) => ended,
            // A step under way ends by itself, or is found half done by the next daemon.
            () = stop.asked() => break,
        };
        let again = answer(&mut passes, &mut waiting).await || ended.again;
        shared.beats();
        in_a_row = if again { in_a_row + 1 } else { 0 };
        asked = again;
        if again && in_a_row < AT_ONCE_MAX {
            continue;
        }
        let pause = if again { BREATH } else { pause(&options, &passes, ended.result) };
        passes.waits(pause);
        tokio::select! {
            () = rest(&shared, pause, BEAT / 4) => {}
            () = shared.trigger.notified() => asked = true,
            _ = hangup.recv() => {
                reload(&still_sound);
                asked = true;
            }
            () = stop.asked() => break,
            Some(request) = requests.recv() => {
                // Who wants a pass is answered after it, everybody else at once.
                asked = matches!(request.what, What::Sync { .. });
                waiting.push_back(request);
                if !asked {
                    asked = answer(&mut passes, &mut waiting).await;
                }
            }
        }
    }
    systemd::stopping();
    info!("stopped; the servers run on");
    Ok(())
}

/// Answers all requests that wait. Gives whether a pass should follow at once.
async fn answer(passes: &mut Passes, waiting: &mut VecDeque<Command>) -> bool {
    let mut again = false;
    for Command { what, answer } in waiting.drain(..) {
        let (said, soon) = passes.answer(what).await;
        again |= soon;
        // Who asked may have gone.
        let _gone = answer.send(said);
    }
    again
}

fn reload(still_sound: &impl Fn() -> Result<(), String>) {
    systemd::reloading();
    match still_sound() {
        Ok(()) => info!("a look was asked for by SIGHUP; the configuration is sound and takes effect with the next start"),
        Err(problem) => error!("the configuration is not sound any more, the old one stays: {problem}"),
    }
    systemd::ready();
}

fn watch(options: &Options, shared: &Arc<Shared>) -> Option<repo::Watcher> {
    let woken = Arc::clone(shared);
    match repo::watch(&options.source, move || woken.trigger.notify_one()) {
        Ok(watcher) => watcher,
        Err(error) => {
            warn!("changes are not seen at once, only by the poll: {}", chain(&error));
            None
        }
    }
}

async fn serve_http(options: &Options, shared: &Arc<Shared>) -> Result<(), DaemonError> {
    let listener = TcpListener::bind(options.listen).await.map_err(|error| DaemonError::Listen(options.listen, error))?;
    let hook = match &options.hook_secret {
        Some(secret) => {
            let woken = Arc::clone(shared);
            let hook = http::Hook::new(secret.clone(), Arc::new(move || woken.trigger.notify_one()));
            Some(hook.map_err(|_empty| DaemonError::Hook)?)
        }
        None => None,
    };
    let (asked, shown) = (Arc::clone(shared), Arc::clone(shared));
    let site = http::Site {
        metrics: Arc::clone(&shown.metrics),
        moment: Arc::new(move || asked.moment()),
        hook,
        // A pass comes with every poll; three that did not end are too many.
        limits: http::Limits { beat: BEAT, pass: options.poll * 3 + BEAT },
    };
    tokio::spawn(http::serve(listener, site, std::future::pending()));
    Ok(())
}

/// Until the next look: the poll, or sooner if something is due.
fn pause(options: &Options, passes: &Passes, result: PassResult) -> Duration {
    let jitter = 1.0 + rand::rng().random_range(-JITTER..=JITTER);
    let poll = options.poll.mul_f64(jitter);
    let poll = if result == PassResult::Watching { poll.min(WATCHING) } else { poll };
    let now = clock::now();
    let due = passes.next_due().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    due.map_or(poll, |due| poll.min(due.max(Duration::from_millis(100))))
}

/// Sleeps, and shows meanwhile that the loop lives: a long poll is not a hang.
async fn rest(shared: &Shared, mut pause: Duration, beat: Duration) {
    while !pause.is_zero() {
        let part = pause.min(beat);
        tokio::time::sleep(part).await;
        shared.beats();
        pause = pause.saturating_sub(part);
    }
}

/// Tells the service manager that the loop lives, as long as it does.
async fn keep_watchdog(shared: Arc<Shared>) {
    let Some(interval) = systemd::watchdog_interval() else { return };
    loop {
        if shared.moment().since_beat < BEAT {
            systemd::watchdog();
        }
        tokio::time::sleep(interval).await;
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock::Stopwatch;

    #[tokio::test]
    async fn a_daemon_that_waits_for_a_long_poll_is_alive() {
        let source = status::SourceStatus {
            location: "here".into(),
            branch: None,
            folder: ".".into(),
            head: None,
            desired: None,
            signed_by: None,
            problem: None,
            last_fetch: None,
        };
        let shared = Shared::new(Arc::new(Metrics::new().unwrap()), source);
        let watch = Stopwatch::start();
        tokio::select! {
            () = rest(&shared, Duration::from_secs(3600), Duration::from_millis(20)) => {}
            () = tokio::time::sleep(Duration::from_millis(400)) => {}
        }
        assert!(shared.moment().since_beat < watch.elapsed() / 2);
    }
}
