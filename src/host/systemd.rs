//! Speaking with systemd over D-Bus, and with its journal: the only user of the `zbus` crate.
//!
//! Owns units of the name `valkey@INSTANCE.service`: their state, starting, stopping, switching on, and what they said last.
//! Never waits for a job (a server may load its data for an hour), and never reads what systemd prints for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, proxy};

use super::files::Stamp;
use super::process::{SAFE_PATH, join_lines};
use crate::model::name::InstanceName;

/// How long systemd may take for one answer. It answers at once, but for a reload, which reads every unit of the machine.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the journal may take to be searched.
const JOURNAL: Duration = Duration::from_secs(5);
/// Entries of the journal that are read; of those that systemd itself wrote about the unit, none are shown.
const JOURNAL_ENTRIES: &str = "30";
/// Of one entry, or of the whole answer, no more is read. Bytes.
const JOURNAL_BYTES_MAX: usize = 256 << 10;

#[proxy(
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    interface = "org.freedesktop.systemd1.Manager"
)]
trait Manager {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn enable_unit_files(&self, files: &[&str], runtime: bool, force: bool) -> zbus::Result<(bool, FileChanges)>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<FileChanges>;
    fn unmask_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<FileChanges>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
}

/// Which symbolic links were made or removed: kind, path, target.
type FileChanges = Vec<(String, String, String)>;
/// Name, description, load state, active state, sub state, followed unit, object, job, kind of job, object of the job.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[proxy(default_service = "org.freedesktop.systemd1", interface = "org.freedesktop.systemd1.Unit")]
trait Unit {
    #[zbus(property)]
    fn need_daemon_reload(&self) -> zbus::Result<bool>;
}

#[proxy(default_service = "org.freedesktop.systemd1", interface = "org.freedesktop.systemd1.Service")]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;
}

/// Why systemd did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("systemd cannot be spoken with over D-Bus; is the package dbus installed, and does this machine run systemd?")]
    Unreachable(#[source] zbus::Error),
    #[error("systemd refuses to {what}")]
    Refused { what: &'static str, source: zbus::Error },
    #[error("systemd did not {what} within {ANSWER:?}")]
    Timeout { what: &'static str },
}

/// The unit of a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitName(String);

impl UnitName {
    pub fn of(name: &InstanceName) -> Self {
        Self(format!("valkey@{name}.service"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// systemd's own escape of a name in an object path (sd_bus_path_encode(3)): all but letters and digits as `_xx`.
    fn object(&self) -> String {
        let mut path = String::from("/org/freedesktop/systemd1/unit/");
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("_{byte:02x}"));
            }
        }
        path
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a unit is at, in systemd's own words (`ActiveState`, `SubState`): all that one question tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    active: String,
    sub: String,
    /// A start or stop is waiting or going on.
    has_job: bool,
}

impl Activity {
    /// Has its server ended, with no new one under way? Between two tries of `Restart=always` it has.
    pub fn is_down(&self) -> bool {
        self.is_waiting_to_restart() || self.is_over()
    }

    /// Has it ended, and does it stay so?
    pub fn is_over(&self) -> bool {
        !self.has_job && matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// Was its server told to end, and has not yet?
    pub fn is_ending(&self) -> bool {
        self.active == "deactivating"
    }

    /// `auto-restart`, and from systemd 254 on `auto-restart-queued`.
    fn is_waiting_to_restart(&self) -> bool {
        self.sub.starts_with("auto-restart")
    }
}

/// The state of a unit, in systemd's own words (`Result`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub activity: Activity,
    pub result: String,
    /// The server's process; nothing where there is none.
    pub main_pid: Option<u32>,
    pub restarts: u32,
}

impl UnitState {
    /// Has this process not said yet that it is ready? A server says so behind its data (facts G).
    pub fn is_starting(&self, pid: u32) -> bool {
        self.activity.active == "activating" && self.main_pid == Some(pid)
    }

    /// Why it is down; nothing if it was stopped as it should be.
    pub fn why_down(&self) -> Option<String> {
        let restarts = self.restarts;
        if self.activity.is_waiting_to_restart() {
            let result = &self.result;
            return Some(match restarts {
                0 => format!("it ended by itself or was killed ({result}), and systemd is about to start it again"),
                _ => format!("it ends by itself again and again ({result}; restarted by systemd: {restarts})"),
            });
        }
        match self.result.as_str() {
            _ if self.activity.active != "failed" => None,
            "start-limit-hit" => Some("it ended by itself so often that systemd gave it up (start-limit-hit)".to_owned()),
            "oom-kill" => Some("the kernel killed it because it took more memory than it may (oom-kill)".to_owned()),
            result => Some(format!("it failed ({result})")),
        }
    }
}

/// systemd on this machine: one connection, made when it is first needed and again when it broke.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: Mutex<Option<Connection>>,
    /// What it said last.
    version: Mutex<Option<String>>,
    /// Reloads asked for, and how many of those are done: whoever asked before one began needs no further one.
    asked: AtomicU64,
    reloaded: Mutex<u64>,
    /// Units whose files systemd had read, as the files were then.
    read: Mutex<BTreeMap<UnitName, Vec<Stamp>>>,
}

impl Systemd {
    async fn connection(&self) -> Result<Connection, SystemdError> {
        let mut known = self.connection.lock().await;
        if let Some(connection) = &*known {
            return Ok(connection.clone());
        }
        let connecting = Box::pin(zbus::connection::Builder::system().method_timeout(ANSWER).build());
        match tokio::time::timeout(ANSWER, connecting).await {
            Ok(Ok(connection)) => Ok(known.insert(connection).clone()),
            Ok(Err(error)) => Err(SystemdError::Unreachable(error)),
            Err(_elapsed) => Err(SystemdError::Timeout { what: "let us in" }),
        }
    }

    /// Asks, and forgets a connection that broke.
    async fn ask<T>(
        &self,
        what: &'static str,
        call: impl AsyncFnOnce(&Connection) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        let connection = self.connection().await?;
        // Boxed, because the library's futures are deep, and theirs who call us contain them.
        match tokio::time::timeout(ANSWER, Box::pin(call(&connection))).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if matches!(error, zbus::Error::InputOutput(_)) {
                    *self.connection.lock().await = None;
                }
                Err(SystemdError::Refused { what, source: error })
            }
            Err(_elapsed) => Err(SystemdError::Timeout { what }),
        }
    }

    async fn manage<T>(
        &self,
        what: &'static str,
        call: impl AsyncFnOnce(ManagerProxy<'_>) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        self.ask(what, async |connection| {
            call(ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await?).await
        })
        .await
    }

    /// systemd's version, such as `252.39-1~deb12u1`.
    ///
    /// # Errors
    /// When it cannot be spoken with; so for all that follow.
    pub async fn version(&self) -> Result<String, SystemdError> {
        let version = self.manage("say its version", async |manager| manager.version().await).await?;
        *self.version.lock().await = Some(version.clone());
        Ok(version)
    }

    /// As [`Systemd::version`], but asked only once: for what comes between two looks at the whole node.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn known_version(&self) -> Result<String, SystemdError> {
        let known = self.version.lock().await.clone();
        match known {
            Some(version) => Ok(version),
            None => self.version().await,
        }
    }

    /// The instances whose unit has a server now, whoever started it.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn running(&self) -> Result<BTreeSet<InstanceName>, SystemdError> {
        let states = ["active", "activating", "deactivating", "reloading"];
        let units = self
            .manage("list units", async |manager| manager.list_units_by_patterns(&states, &["valkey@*.service"]).await)
            .await?;
        let runs = |unit: &Listed| !unit.4.starts_with("auto-restart");
        let name = |unit: Listed| InstanceName::new(unit.0.strip_prefix("valkey@")?.strip_suffix(".service")?).ok();
        Ok(units.into_iter().filter(runs).filter_map(name).collect())
    }

    /// # Errors
    /// As [`Systemd::version`].
    pub async fn activity(&self, unit: &UnitName) -> Result<Activity, SystemdError> {
        self.manage("say the state of a unit", async |manager| {
            let listed = manager.list_units_by_names(&[unit.as_str()]).await?.into_iter().next();
            let listed = listed.ok_or_else(|| zbus::Error::Failure(format!("{unit} is not in the list")))?;
            Ok(Activity { active: listed.3, sub: listed.4, has_job: listed.7 != 0 })
        })
        .await
    }

    /// # Errors
    /// As [`Systemd::version`].
    pub async fn state(&self, unit: &UnitName) -> Result<UnitState, SystemdError> {
        let path = unit.object();
        let of_service = self.ask("say the state of a unit", async |connection| {
            let service = ServiceProxy::builder(connection).path(path.as_str()).cache_properties(CacheProperties::No);
            let service = service.build().await?;
            tokio::try_join!(service.result(), service.main_pid(), service.n_restarts())
        });
        let (activity, (result, pid, restarts)) = tokio::try_join!(self.activity(unit), of_service)?;
        Ok(UnitState { activity, result, main_pid: (pid != 0).then_some(pid), restarts })
    }

    /// Does systemd know the unit? Asking about one that it does not know would have it read all that belongs to it, and forget it
    /// again.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn is_loaded(&self, unit: &UnitName) -> Result<bool, SystemdError> {
        // A name of ours has no character of a pattern.
        let only = [unit.as_str()];
        let found = self.manage("list units", async |manager| manager.list_units_by_patterns(&[], &only).await).await?;
        Ok(!found.is_empty())
    }

    /// Were files of the unit changed since systemd read them?
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn needs_reload(&self, unit: &UnitName) -> Result<bool, SystemdError> {
        let path = unit.object();
        self.ask("say the state of a unit", async |connection| {
            let of_unit = UnitProxy::builder(connection).path(path.as_str()).cache_properties(CacheProperties::No);
            of_unit.build().await?.need_daemon_reload().await
        })
        .await
    }

    /// As [`Systemd::needs_reload`], but asked only once while these files stay the same: each time systemd looks through all
    /// folders that the unit may be read from, which took a third of all processor time that a host spent on being looked at.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn has_unread(&self, unit: &UnitName, files: Vec<Stamp>) -> Result<bool, SystemdError> {
        if self.read.lock().await.get(unit) == Some(&files) {
            return Ok(false);
        }
        let unread = self.needs_reload(unit).await?;
        let mut read = self.read.lock().await;
        if unread {
            read.remove(unit);
        } else {
            read.insert(unit.clone(), files);
        }
        Ok(unread)
    }

    /// Has the unit started, also if it failed too often before. Does not wait for it.
    ///
    /// # Errors
    /// As [`Systemd::version`]; or when systemd cannot read the unit.
    pub async fn start(&self, unit: &UnitName) -> Result<(), SystemdError> {
        self.forget_failures(unit).await;
        self.manage("start the unit", async |manager| manager.start_unit(unit.as_str(), "replace").await).await.map(drop)
    }

    /// Has the unit stopped. Does not wait for it.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn stop(&self, unit: &UnitName) -> Result<(), SystemdError> {
        self.manage("stop the unit", async |manager| manager.stop_unit(unit.as_str(), "replace").await).await.map(drop)
    }

    /// Tells a server once more to end that could not save its data when it was told before.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn remind(&self, unit: &UnitName) -> Result<(), SystemdError> {
        let term = rustix::process::Signal::TERM.as_raw();
        self.manage("signal the unit", async |manager| manager.kill_unit(unit.as_str(), "main", term).await).await
    }

    /// A unit that never failed, or is not known, has nothing to forget.
    pub async fn forget_failures(&self, unit: &UnitName) {
        let forgot = self.manage("reset the unit", async |manager| manager.reset_failed_unit(unit.as_str()).await).await;
        if let Err(error) = forgot {
            tracing::debug!(%error, %unit, "nothing to reset");
        }
    }

    /// Nothing forbids the unit to start any more.
    ///
    /// # Errors
    /// As [`Systemd::version`]; or when a link cannot be removed.
    pub async fn unmask(&self, unit: &UnitName) -> Result<(), SystemdError> {
        let name = [unit.as_str()];
        self.manage("unmask the unit", async |manager| manager.unmask_unit_files(&name, false).await).await.map(drop)
    }

    /// The unit comes up with the machine.
    ///
    /// # Errors
    /// As [`Systemd::version`]; or when the link cannot be made.
    pub async fn enable(&self, unit: &UnitName) -> Result<(), SystemdError> {
        let name = [unit.as_str()];
        self.manage("enable the unit", async |manager| manager.enable_unit_files(&name, false, true).await).await.map(drop)
    }

    /// # Errors
    /// As [`Systemd::enable`].
    pub async fn disable(&self, unit: &UnitName) -> Result<(), SystemdError> {
        self.read.lock().await.remove(unit);
        let name = [unit.as_str()];
        self.manage("disable the unit", async |manager| manager.disable_unit_files(&name, false).await).await.map(drop)
    }

    /// Has systemd read its unit files anew. Many who ask at once share a reload.
    ///
    /// # Errors
    /// As [`Systemd::version`].
    pub async fn reload(&self) -> Result<(), SystemdError> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut reloaded = self.reloaded.lock().await;
        if *reloaded >= mine {
            return Ok(());
        }
        let covered = self.asked.load(Ordering::SeqCst);
        self.manage("read its units anew", async |manager| manager.reload().await).await?;
        *reloaded = covered;
        Ok(())
    }

    /// The last words of the unit's server in the journal since then (or at all), in one line, short and bounded.
    pub async fn last_words(&self, unit: &UnitName, since: Option<Timestamp>) -> String {
        let mut command = Command::new("journalctl");
        command.args(["--unit", unit.as_str(), "--lines", JOURNAL_ENTRIES, "--output", "json", "--no-pager", "--quiet"]);
        if let Some(since) = since {
            command.args(["--since", &format!("@{}", since.as_second())]);
        }
        command.env_clear().env("PATH", SAFE_PATH).stdin(std::process::Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(JOURNAL, command.output()).await {
            Ok(Ok(output)) => words(output.stdout.get(..JOURNAL_BYTES_MAX).unwrap_or(&output.stdout)),
            Ok(Err(error)) => format!("the journal cannot be read: {error}"),
            Err(_elapsed) => format!("the journal was not read within {JOURNAL:?}"),
        }
    }
}

/// An entry of the journal, as far as it is looked at.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Option<Message>,
    #[serde(rename = "_PID")]
    pid: Option<String>,
}

/// Text that is not UTF-8 comes as a list of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
}

/// What the server said; where it said nothing, what systemd said of it.
fn words(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let entries: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = |by_systemd: bool| -> Vec<String> {
        let of = |entry: &&Entry| (entry.pid.as_deref() == Some("1")) == by_systemd;
        let message = |entry: &Entry| match entry.message.as_ref()? {
            Message::Text(text) => Some(text.clone()),
            Message::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        };
        entries.iter().filter(of).filter_map(message).collect()
    };
    let own = said(false);
    let shown = join_lines(if own.is_empty() { said(true) } else { own }.iter().map(String::as_str));
    if shown.is_empty() { "the journal says nothing".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_the_object_path_that_systemd_gives_it() {
        let unit = UnitName::of(&InstanceName::new("a-b").unwrap());
        assert_eq!(unit.object(), "/org/freedesktop/systemd1/unit/valkey_40a_2db_2eservice");
    }

    #[test]
    fn the_servers_own_words_come_before_what_systemd_says() {
        let json = b"{\"_PID\":\"7\",\"MESSAGE\":\"7:M 20 Nov 2026 07:00:00.123 # Bad directive\"}\nrubbish\n\
            {\"_PID\":\"7\",\"MESSAGE\":[104,105]}\n{\"_PID\":\"1\",\"MESSAGE\":\"Failed with result 'exit-code'.\"}\n";
        assert_eq!(words(json), "Bad directive; hi");
        assert_eq!(words(b"{\"_PID\":\"1\",\"MESSAGE\":\"Failed.\"}"), "Failed.");
        assert_eq!(words(b""), "the journal says nothing");
    }

    #[test]
    fn a_unit_between_two_restarts_is_down_and_says_why() {
        let activity = |active: &str, sub: &str, has_job| Activity { active: active.into(), sub: sub.into(), has_job };
        let waits = activity("activating", "auto-restart", false);
        let state = UnitState { activity: waits, result: "exit-code".into(), main_pid: None, restarts: 3 };
        assert!(state.activity.is_down() && state.why_down().unwrap().contains("restarted by systemd: 3"));
        assert!(!activity("inactive", "dead", true).is_down());
        let stopped = UnitState { activity: activity("inactive", "dead", false), ..state };
        assert!(stopped.activity.is_down() && stopped.why_down().is_none());
    }
}
