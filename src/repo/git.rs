//! Runs the `git` program: a closed environment, no prompts, no hooks, a deadline, and an end that leaves nobody behind.
//!
//! What people set up for themselves (git and ssh configuration, agent, proxies) keeps working; what the repository at hand
//! configures, and what is left of a caller's own `GIT_*` variables, does not. Never builds a shell string.

#![expect(clippy::disallowed_methods, reason = "starts git and passes on the few variables by which people set it up")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error::RepoError;

/// What git, ssh and gpg may see of our environment: where a person's set-up is. Everything else stays here, because it may hold
/// secrets: passwords of the state language can come from the environment.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];
/// Given to every git. Configuration of the command line goes before that of the repository.
const SETTINGS: &[&str] =
    &["core.hooksPath=/dev/null", "core.fsmonitor=false", "core.askPass=", "gc.autoDetach=false", "maintenance.auto=false"];
/// How much of each output is kept. More is read, so that git does not wait for us, and thrown away. Bytes.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// How long git has to clean up after SIGTERM (it removes its lock files) before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
const GRACE_STEP: Duration = Duration::from_millis(20);
/// How long an output may stay open after git itself has ended: a helper in the background can hold it.
const DRAIN: Duration = Duration::from_millis(500);

/// What a finished program said.
#[derive(Debug)]
pub(super) struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

/// Why a program did not finish.
#[derive(Debug)]
pub(super) enum RunError {
    Start(io::Error),
    Wait(io::Error),
    Deadline(Duration),
}

impl RunError {
    /// As an error about a place; `late` says what a deadline means there.
    pub(super) fn into_repo(self, program: &'static str, place: &Path, late: impl FnOnce(Duration) -> RepoError) -> RepoError {
        match self {
            Self::Start(cause) => RepoError::Program { program, cause },
            Self::Wait(cause) => RepoError::Io { doing: "cannot wait for git", path: place.to_owned(), cause },
            Self::Deadline(deadline) => late(deadline),
        }
    }
}

/// A git that works in a repository of ours or in one that is read in place.
pub(super) fn git(git_dir: &Path) -> Command {
    let mut command = program("git");
    command.arg("--no-pager").arg("--no-replace-objects");
    for setting in SETTINGS {
        command.arg("-c").arg(setting);
    }
    command.arg("--git-dir").arg(git_dir);
    command
}

/// A program in the closed environment, without a terminal.
pub(super) fn program(name: &(impl AsRef<OsStr> + ?Sized)) -> Command {
    let mut command = Command::new(name);
    command.env_clear().envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    // Words are matched, so they must be the untranslated ones. An empty GIT_ASKPASS asks nobody (prompt.c of git).
    for (name, value) in [("LC_ALL", "C"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", ""), ("GIT_NO_LAZY_FETCH", "1")] {
        command.env(name, value);
    }
    // No working tree is touched, so the folder is of no meaning; one that vanishes must not stop us.
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, with its ssh and its helpers, so that all of them can be ended together.
    command.process_group(0).kill_on_drop(true);
    command
}

/// The path of this very program, also after its file was replaced by an upgrade.
pub(super) fn this_program() -> OsString {
    format!("/proc/{}/exe", std::process::id()).into()
}

/// Runs it to its end, or ends it and all it started.
pub(super) async fn run(mut command: Command, deadline: Duration) -> Result<Finished, RunError> {
    let mut child = command.spawn().map_err(RunError::Start)?;
    let out = Reading::of(child.stdout.take());
    let err = Reading::of(child.stderr.take());
    let mut group = Group::of(&child);
    let status = match timeout(deadline, child.wait()).await {
        Ok(status) => status.map_err(RunError::Wait)?,
        Err(_late) => {
            group.signal(Signal::TERM);
            group.leader_ends().await;
            // Those that it started as well, also when git itself has ended: it is not waited for yet, so the group is still ours.
            group.signal(Signal::KILL);
            child.wait().await.map_err(RunError::Wait)?;
            group.ended();
            return Err(RunError::Deadline(deadline));
        }
    };
    group.ended();
    Ok(Finished { status, out: out.text().await, err: err.text().await })
}

/// An output that is being read.
struct Reading {
    task: JoinHandle<Vec<u8>>,
    /// Ends the reading when it is dropped.
    stop: oneshot::Sender<()>,
}

impl Reading {
    fn of(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { task: tokio::spawn(drain(pipe, stopped)), stop }
    }

    /// What was said. A process in the background may hold the output open: then what came so far.
    async fn text(self) -> String {
        let Self { mut task, stop } = self;
        let bytes = match timeout(DRAIN, &mut task).await {
            Ok(bytes) => bytes,
            Err(_still_open) => {
                drop(stop);
                task.await
            }
        };
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, mut stopped: oneshot::Receiver<()>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else { return kept };
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut buffer) => read,
            _ = &mut stopped => return kept,
        };
        match read {
            Ok(0) | Err(_) => return kept,
            Ok(count) => {
                let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
                kept.extend(buffer.iter().take(count.min(room)));
            }
        }
    }
}

/// The processes of one git, killed when whoever waits for it goes away.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may have ended by itself in this moment.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits until the leader has ended, and leaves it to be waited for; or until its time is over.
    async fn leader_ends(&self) {
        let Some(pid) = self.0 else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let mut left = GRACE;
        while matches!(waitid(WaitId::Pid(pid), options), Ok(None)) && !left.is_zero() {
            sleep(GRACE_STEP).await;
            left = left.saturating_sub(GRACE_STEP);
        }
    }

    /// The leader was waited for: its number may come to be somebody else's.
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = program("sh");
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn a_program_sees_no_more_of_our_environment_than_it_needs() {
        let finished = run(program("env"), Duration::from_secs(10)).await.unwrap();
        let names: Vec<_> = finished.out.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert!(names.contains(&"PATH") && names.contains(&"LC_ALL"), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    }

    #[tokio::test]
    async fn this_program_can_be_started_again() {
        let mut again = program(&this_program());
        again.args(["--list", "this_program_can_be"]);
        let finished = run(again, Duration::from_secs(10)).await.unwrap();
        assert!(finished.out.contains("this_program_can_be_started_again"), "{finished:?}");
    }

    #[tokio::test]
    async fn a_late_program_ends_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script = format!("trap '' TERM; (sleep 3; touch {}) & sleep 60", mark.display());
        let error = run(sh(&script), Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, RunError::Deadline(_)), "{error:?}");
        sleep(Duration::from_millis(1500)).await;
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn what_outlives_a_late_program_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        // The helper does not hear SIGTERM; its parent does.
        let script = format!("(trap '' TERM; sleep 2; touch {}) & sleep 60", mark.display());
        let error = run(sh(&script), Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, RunError::Deadline(_)), "{error:?}");
        sleep(Duration::from_millis(2500)).await;
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn a_helper_in_the_background_does_not_hold_us_up() {
        let finished = timeout(Duration::from_secs(5), run(sh("sleep 20 & echo done"), Duration::from_secs(10))).await;
        assert_eq!(finished.unwrap().unwrap().out, "done\n");
    }

    #[tokio::test]
    async fn a_flood_of_output_is_read_and_cut() {
        let finished = run(sh("head -c 10000000 /dev/zero; echo no >&2; exit 3"), Duration::from_secs(10)).await.unwrap();
        assert_eq!(finished.out.len(), OUTPUT_BYTES_MAX);
        assert_eq!((finished.err.as_str(), finished.status.code()), ("no\n", Some(3)));
    }
}
