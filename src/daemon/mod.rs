//! The daemon: follows a source and keeps the nodes as it says. Triggers, requests, back-off, reload, shutdown.
//!
//! Nothing that correctness needs is kept here: what was settled, suspended and approved is on the nodes, the rest in the
//! source. A trigger carries no data into a pass.

#![expect(clippy::disallowed_methods, reason = "the time between two looks varies by chance")]

mod asking;
pub mod backoff;
pub mod command;
pub mod control;
mod doors;
mod following;
mod lifecycle;
mod members;
mod news;
mod pass;
mod requests;
mod shared;
pub mod status;
pub mod systemd;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::host::clock::{self, Stopwatch};
use crate::metrics::Metrics;
use crate::model::password::Secret;
use crate::observe::chain;
use crate::repo::{self, Repo};
use crate::roots::Roots;
use command::WAITING_MAX;
use doors::Doors;
use following::Following;
use pass::{Ended, Next, Passes};
use requests::{Requests, Woken};
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
    /// How the log is written. It is begun before the daemon is, so another way takes effect with the next start.
    pub log_json: bool,
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
/// The least between two looks at what takes its time on a node; then a quarter of what was waited already, and a breath at most.
const SOON: Duration = Duration::from_millis(50);
/// So many new revisions within so long are a storm: then most of them are passed over.
const STORM_REVISIONS: usize = 4;
const STORM_WINDOW: Duration = Duration::from_secs(5);
/// How long no trigger is followed in a storm. Who asks for a pass is still heard.
const STORM_PAUSE: Duration = Duration::from_secs(2);
/// How soon a daemon that only watches looks whether it may act.
const WATCHING: Duration = Duration::from_secs(2);
/// A loop that shows no life for so long hangs: beyond the deadline of a step and of a fetch together.
const BEAT: Duration = Duration::from_secs(120);

/// Runs until it is told to stop. `reread` gives the configuration as it is now, when it is to be read again.
///
/// # Errors
/// When it cannot begin; once it runs, it goes on.
pub async fn run(mut options: Options, reread: impl Fn() -> Result<Options, String>) -> Result<(), DaemonError> {
    // First of all: whoever can find the daemon can also tell it to stop, or to reload.
    let (mut stop, mut hangup) = (Stop::new()?, signal(SignalKind::hangup())?);
    let repo = Repo::open(options.source.clone())?;
    let roots = options.roots.clone();
    let metrics = Arc::new(Metrics::new()?);
    let following = Following::new(repo, roots.clone(), Arc::clone(&metrics));
    let shared = Arc::new(Shared::new(metrics, following.status()));
    let (sender, requests) = mpsc::channel(WAITING_MAX);
    let mut doors = Doors::open(&options, Arc::clone(&shared), sender).await?;
    tokio::spawn(keep_watchdog(Arc::clone(&shared)));
    let mut passes = Passes::new(following, roots, Arc::clone(&shared));
    systemd::ready();
    info!(version = env!("CARGO_PKG_VERSION"), source = options.source.location.show(), "following");
    let mut requests = Requests::new(requests, BEAT / 4);
    let (mut in_a_row, mut storm) = (0, Storm::default());
    let mut waited = Duration::ZERO;
    let (mut woken, mut since_asked) = (true, Stopwatch::start());
    loop {
        // What is retried, or only watched, does not ask the source each time.
        let follow = woken || since_asked.elapsed() >= options.poll.mul_f64(1.0 - JITTER);
        if follow {
            since_asked = Stopwatch::start();
        }
        let ended = tokio::select! {
            ended = passes.pass(follow, &mut requests.queue, &mut requests.waiting) => ended,
            // A step under way ends by itself, or is found half done by the next daemon.
            () = stop.asked() => break,
        };
        let soon = requests.answer(&mut passes).await;
        shared.beats();
        let again = soon || ended.next == Next::AtOnce;
        in_a_row = if again { in_a_row + 1 } else { 0 };
        let breathless = in_a_row >= AT_ONCE_MAX;
        // Who waits for a pass is told by one that nothing follows at once, and that began, as did its question to the source, after
        // the request.
        if breathless || !(again || passes.following.is_asking()) {
            requests.answer_for_pass(&mut passes).await;
        }
        let asked = requests.take_for_pass();
        let storm = storm.is_on(passes.revisions()) && !asked;
        woken = again || asked || storm;
        if (again || asked) && !breathless && !storm {
            continue;
        }
        let pause = match (storm, again) {
            (true, _) => STORM_PAUSE,
            (false, true) => BREATH,
            (false, false) => pause(&options, &passes, ended, waited),
        };
        waited = if ended.next == Next::Soon { waited + pause } else { Duration::ZERO };
        passes.waits(pause);
        let wake = async {
            tokio::select! {
                () = shared.trigger.notified(), if !storm => Woken::Asked,
                _ = hangup.recv() => Woken::Reload,
            }
        };
        let why = tokio::select! {
            why = requests.rest(&mut passes, &shared, pause, wake) => why,
            () = stop.asked() => break,
        };
        woken = why != Woken::InTime || storm;
        if why == Woken::Reload {
            reload(&mut options, &mut doors, &mut passes, &reread).await;
        }
    }
    systemd::stopping();
    info!("stopped; the servers run on");
    Ok(())
}

/// When the latest new revisions came.
#[derive(Default)]
struct Storm {
    seen: u64,
    recent: VecDeque<Stopwatch>,
}

impl Storm {
    fn is_on(&mut self, revisions: u64) -> bool {
        if revisions > self.seen {
            self.recent.push_back(Stopwatch::start());
        }
        self.seen = revisions;
        self.recent.retain(|came| came.elapsed() < STORM_WINDOW);
        self.recent.len() >= STORM_REVISIONS
    }
}

/// Reads the configuration again and turns to it. A bad one changes nothing, and is said.
async fn reload(old: &mut Options, doors: &mut Doors, passes: &mut Passes, reread: &impl Fn() -> Result<Options, String>) {
    systemd::reloading();
    match turn_to(old, doors, passes, reread).await {
        Ok(()) => {
            passes.configured(Ok(()));
            info!("the configuration was read again, and is in force");
        }
        Err(problem) => {
            error!("the new configuration is not taken, the old one stays: {problem}");
            passes.configured(Err(problem));
        }
    }
    systemd::ready();
}

async fn turn_to(
    old: &mut Options,
    doors: &mut Doors,
    passes: &mut Passes,
    reread: &impl Fn() -> Result<Options, String>,
) -> Result<(), String> {
    let new = reread()?;
    let repo = Repo::open(new.source.clone()).map_err(|error| chain(&error))?;
    doors.change(old, &new).await.map_err(|error| chain(&error))?;
    if new.source != old.source || new.roots != old.roots {
        passes.turn_to(repo, new.roots.clone());
    }
    if new.log_json != old.log_json {
        warn!("[log] format takes effect with the next start");
    }
    *old = new;
    Ok(())
}

/// Until the next look: the poll, or sooner if something is due.
fn pause(options: &Options, passes: &Passes, ended: Ended, waited: Duration) -> Duration {
    let jitter = 1.0 + rand::rng().random_range(-JITTER..=JITTER);
    let poll = options.poll.mul_f64(jitter);
    let poll = match (ended.next, ended.result) {
        (Next::Soon, _) => poll.min((waited / 4).clamp(SOON, BREATH)),
        (Next::AtOnce | Next::InTime, PassResult::Watching) => poll.min(WATCHING),
        (Next::AtOnce | Next::InTime, _) => poll,
    };
    let now = clock::now();
    let due = passes.next_due().map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    due.map_or(poll, |due| poll.min(due.max(Duration::from_millis(100))))
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
