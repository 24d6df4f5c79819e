//! Who keeps the servers of a node running: nobody (they are processes that outlive us), or systemd. The one place where it
//! makes a difference how a server is started, found, stopped, and asked why it is down.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::process::Child;

use super::clock::{self, Deadline, Poll, Stopwatch};
use super::files::Stamp;
use super::layout::Layout;
use super::process::{self, Handle, StopError};
use super::systemd::{Systemd, SystemdError, UnitName};
use crate::model::name::InstanceName;

/// How often systemd is asked whether a unit that is starting has ended. At 100 ms, what it said of sixty that started side by
/// side took a twentieth of the processor time of all.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// The last word of a server that ended because it was told to (`finishShutdown` in server.c).
const GOODBYE: &str = "bye bye...";

/// The supervisor of a node.
#[derive(Debug)]
pub enum Supervisor {
    Processes,
    Systemd(Box<Systemd>),
}

/// A server whose supervisor is asked for it: where its node's files lie, its name, the program that it runs.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    pub layout: &'a Layout,
    pub name: &'a InstanceName,
    pub binary: &'a Path,
}

/// Why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("{0}")]
    Spawn(String),
    #[error("the server cannot be watched")]
    Watch(#[source] io::Error),
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error("it was told to end and still runs; a server that cannot save its data refuses to end")]
    Refuses,
    #[error("looking for processes failed: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// What runs under a name, as far as one question to the machine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runs {
    Process(u32),
    Unit(UnitName),
}

/// A start that was begun, or is about to be: what it takes to tell how it went.
#[derive(Debug)]
pub enum Attempt {
    Process { child: Option<Child>, log_bytes: u64 },
    Unit { since: Timestamp, asked: Option<Stopwatch> },
}

impl Supervisor {
    /// The version of systemd, where that is the supervisor.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn version(&self) -> Result<Option<String>, SupervisorError> {
        match self {
            Self::Processes => Ok(None),
            Self::Systemd(systemd) => Ok(Some(systemd.version().await?)),
        }
    }

    /// As [`Supervisor::version`], as it was said last.
    ///
    /// # Errors
    /// As [`Supervisor::version`].
    pub async fn known_version(&self) -> Result<Option<String>, SupervisorError> {
        match self {
            Self::Processes => Ok(None),
            Self::Systemd(systemd) => Ok(Some(systemd.known_version().await?)),
        }
    }

    /// Has unit files read again that were written or removed, where there are any.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses.
    pub async fn reload(&self) -> Result<(), SupervisorError> {
        match self {
            Self::Processes => Ok(()),
            Self::Systemd(systemd) => Ok(systemd.reload().await?),
        }
    }

    /// All servers that run on the node, whoever started them.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn running(&self, layout: &Layout, binary: &Path) -> Result<BTreeMap<InstanceName, Runs>, SupervisorError> {
        match self {
            Self::Processes => {
                let (data, binary) = (layout.data_root(), binary.to_owned());
                let found = tokio::task::spawn_blocking(move || process::servers_below(&data, &binary)).await?;
                let name = |folder: &Path| InstanceName::new(folder.file_name()?.to_str()?).ok();
                Ok(found.into_iter().filter_map(|(folder, pid)| Some((name(&folder)?, Runs::Process(pid)))).collect())
            }
            Self::Systemd(systemd) => {
                let running = systemd.running().await?;
                Ok(running.into_iter().map(|name| (name.clone(), Runs::Unit(UnitName::of(&name)))).collect())
            }
        }
    }

    /// The process of a server. `known`: all that run, if that was asked before.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn find(
        &self,
        server: Server<'_>,
        known: Option<&BTreeMap<InstanceName, Runs>>,
    ) -> Result<Option<u32>, SupervisorError> {
        let Server { layout, name, binary } = server;
        match self {
            Self::Processes => {
                let (pidfile, data) = (layout.pid(name).unwrap_or_default(), layout.data(name));
                let (root, program) = (layout.data_root(), binary.to_owned());
                let all = known.map(|known| match known.get(name) {
                    Some(Runs::Process(pid)) => Some(*pid),
                    Some(Runs::Unit(_)) | None => None,
                });
                let find = move || {
                    process::by_pidfile(&pidfile, &data, &program).or_else(|| match all {
                        Some(known) => known,
                        None => process::servers_below(&root, &program).get(&data).copied(),
                    })
                };
                Ok(tokio::task::spawn_blocking(find).await?)
            }
            Self::Systemd(systemd) => {
                let state = systemd.state(&UnitName::of(name)).await?;
                Ok(state.main_pid.filter(|pid| process::is_server(*pid, binary)))
            }
        }
    }

    /// Why a server that is down is down; nothing if it was told to end.
    pub async fn why_down(&self, server: Server<'_>) -> Option<String> {
        let Server { layout, name, binary: _ } = server;
        match self {
            Self::Processes => {
                let log = layout.log(name).filter(|log| process::log_length(log) > 0)?;
                let tail = process::tail(&log, process::LOG_TAIL_BYTES);
                (!tail.ends_with(GOODBYE)).then(|| format!("it ended by itself or was killed; the end of its log: {tail}"))
            }
            Self::Systemd(systemd) => {
                let unit = UnitName::of(name);
                let why = match systemd.state(&unit).await {
                    Ok(state) => state.why_down()?,
                    Err(error) => return Some(error.to_string()),
                };
                Some(format!("{why}; the end of its journal: {}", systemd.last_words(&unit, None).await))
            }
        }
    }

    /// Does a server that does not answer still read its data?
    pub async fn still_loads(&self, server: Server<'_>, pid: u32) -> bool {
        match self {
            Self::Processes => server.layout.log(server.name).is_some_and(|log| process::still_loads(&log, pid)),
            Self::Systemd(systemd) => systemd.state(&UnitName::of(server.name)).await.is_ok_and(|state| state.is_starting(pid)),
        }
    }

    /// Why what a unit's files say does not count yet; nothing if it does. A crash can come between writing and reading them.
    /// `files`: what they are now (`UnitFiles::stamps`).
    pub async fn unread(&self, server: Server<'_>, files: Vec<Stamp>) -> Option<String> {
        let Self::Systemd(systemd) = self else { return None };
        match systemd.has_unread(&UnitName::of(server.name), files).await {
            Ok(needed) => needed.then(|| "systemd has not read its unit files since they were changed".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// To be asked before a start: it tells what was said before from what the start says.
    pub fn attempt(&self, server: Server<'_>) -> Attempt {
        match self {
            Self::Processes => {
                let log_bytes = server.layout.log(server.name).map_or(0, |log| process::log_length(&log));
                Attempt::Process { child: None, log_bytes }
            }
            Self::Systemd(_) => Attempt::Unit { since: clock::now(), asked: None },
        }
    }

    /// Starts a server and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub async fn start(&self, server: Server<'_>, attempt: &mut Attempt) -> Result<(), SupervisorError> {
        let Server { layout, name, binary } = server;
        match (self, attempt) {
            (Self::Systemd(systemd), Attempt::Unit { since: _, asked }) => {
                systemd.start(&UnitName::of(name)).await?;
                *asked = Some(Stopwatch::start());
                Ok(())
            }
            (Self::Processes, Attempt::Process { child, log_bytes: _ }) => {
                let log = layout.log(name).unwrap_or_default();
                let started = process::spawn(binary, &layout.config(name), &layout.data(name), &log);
                let failed = |error| SupervisorError::Spawn(format!("{} cannot be started: {error}", binary.display()));
                *child = Some(started.map_err(failed)?);
                Ok(())
            }
            // An attempt is made by the same supervisor.
            (Self::Systemd(_), Attempt::Process { .. }) | (Self::Processes, Attempt::Unit { .. }) => {
                Err(SupervisorError::Spawn("the attempt is another supervisor's".to_owned()))
            }
        }
    }

    /// Has the server that was started ended already? Asks systemd only now and then.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn has_ended(&self, server: Server<'_>, attempt: &mut Attempt) -> Result<bool, SupervisorError> {
        match (self, attempt) {
            (Self::Processes, Attempt::Process { child: Some(child), log_bytes: _ }) => {
                Ok(child.try_wait().map_err(SupervisorError::Watch)?.is_some())
            }
            (Self::Systemd(systemd), Attempt::Unit { since: _, asked: Some(asked) }) if asked.elapsed() >= ASK_EVERY => {
                *asked = Stopwatch::start();
                Ok(systemd.activity(&UnitName::of(server.name)).await?.is_down())
            }
            (Self::Processes | Self::Systemd(_), Attempt::Process { .. } | Attempt::Unit { .. }) => Ok(false),
        }
    }

    /// What the server said since then, short and bounded.
    pub async fn words(&self, server: Server<'_>, attempt: &Attempt) -> String {
        match (self, attempt) {
            (Self::Systemd(systemd), Attempt::Unit { since, asked: _ }) => {
                systemd.last_words(&UnitName::of(server.name), Some(*since)).await
            }
            (_, Attempt::Process { child: _, log_bytes }) => {
                server.layout.log(server.name).map(|log| process::tail_since(&log, *log_bytes)).unwrap_or_default()
            }
            (Self::Processes, Attempt::Unit { .. }) => String::new(),
        }
    }

    /// Ends a server, which saves its data if it is set to, and waits for its end. `process`: the one that was found.
    ///
    /// # Errors
    /// When it still runs at `end`.
    pub async fn stop(&self, server: Server<'_>, process: Option<Handle>, end: Deadline) -> Result<(), SupervisorError> {
        let Self::Systemd(systemd) = self else {
            return match process {
                Some(process) => Ok(process.stop(end.left()).await?),
                None => Ok(()),
            };
        };
        let unit = UnitName::of(server.name);
        let before = systemd.activity(&unit).await?;
        systemd.stop(&unit).await?;
        let mut told = (!before.is_ending()).then(Stopwatch::start);
        let mut poll = Poll::default();
        loop {
            let now = systemd.activity(&unit).await?;
            if now.is_over() {
                return Ok(());
            }
            // systemd tells it once and then waits, whether it forgot or not.
            if now.is_ending() && told.is_none_or(|told| told.elapsed() >= process::TOLD_AGAIN) {
                let _gone_already = systemd.remind(&unit).await;
                told = Some(Stopwatch::start());
            }
            if !poll.again(end).await {
                return Err(SupervisorError::Refuses);
            }
        }
    }

    /// Lets go of a server that was stopped for good: it does not come back with the machine.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub async fn forget(&self, server: Server<'_>) -> Result<(), SupervisorError> {
        match self {
            Self::Processes => Ok(()),
            Self::Systemd(systemd) => {
                let unit = UnitName::of(server.name);
                systemd.disable(&unit).await?;
                systemd.forget_failures(&unit).await;
                Ok(())
            }
        }
    }

    /// Nothing forbids the unit to start any more.
    ///
    /// # Errors
    /// When systemd cannot be asked, or refuses; so for those that follow.
    pub async fn unmask(&self, server: Server<'_>) -> Result<(), SupervisorError> {
        match self {
            Self::Processes => Ok(()),
            Self::Systemd(systemd) => Ok(systemd.unmask(&UnitName::of(server.name)).await?),
        }
    }

    /// The server comes up with the machine.
    ///
    /// # Errors
    /// As [`Supervisor::unmask`].
    pub async fn enable(&self, server: Server<'_>) -> Result<(), SupervisorError> {
        match self {
            Self::Processes => Ok(()),
            Self::Systemd(systemd) => Ok(systemd.enable(&UnitName::of(server.name)).await?),
        }
    }

    /// What the files of the unit say counts from here on.
    ///
    /// # Errors
    /// As [`Supervisor::unmask`].
    pub async fn reread(&self, server: Server<'_>) -> Result<(), SupervisorError> {
        match self {
            Self::Processes => Ok(()),
            Self::Systemd(systemd) => {
                let unit = UnitName::of(server.name);
                if systemd.is_loaded(&unit).await? && systemd.needs_reload(&unit).await? {
                    systemd.reload().await?;
                }
                Ok(())
            }
        }
    }
}
