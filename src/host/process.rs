//! Server processes without a supervisor: start one that outlives us, find it again, stop it.
//!
//! A process is ours by what it is (its name and its working folder, or that it listens on our socket), never by a number
//! in a file alone. Never kills one that has data: a server that cannot save it refuses to end, and that is its right.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, prlimit, setrlimit};
use tokio::process::{Child, Command};

use super::clock::Deadline;

/// What a child may see as PATH: nothing else of our environment reaches it, because that can hold secrets.
pub const SAFE_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of the end of a log is shown. Bytes.
pub const LOG_TAIL_BYTES: u64 = 2048;
const LOG_TAIL_LINES: usize = 4;
const LOG_LINE_CHARS: usize = 200;
/// `TASK_COMM_LEN` of the kernel without its closing NUL: ``/proc/PID`/comm` is cut there.
const COMM_BYTES: usize = 15;
/// The first file descriptor that is not standard input, output or error (stdin(3)).
const FIRST_INHERITED: i32 = 3;
/// The kernel's mark on a link to something that was removed.
const DELETED: &str = " (deleted)";

/// Keeps what this process was given open, beyond standard input, output and error, from all that it starts. A server lives
/// for months: with the lock of a `flock` around us, or with the pipe of whoever waits for our end, nobody would get on.
///
/// To be called once, before there is a file of our own; all of those are closed on exec by Rust itself.
pub fn inherit_nothing() {
    close_fds::set_fds_cloexec(FIRST_INHERITED, &[]);
}

/// Lets this process open as many files as it may: a node behind ssh takes four (its three streams, and a handle of the child), and
/// a login shell gives 1024. What it may at most (the hard limit) is left as it is. Our children inherit it, and need no less.
pub fn open_many_files() {
    let now = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// Does this process run as root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Goes on as root: this process becomes `sudo -n` of this very program with these arguments.
///
/// # Errors
/// When there is no `sudo`, or it cannot be told which program this is. That sudo itself refuses, it says itself.
pub fn become_root(arguments: &[&str]) -> io::Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    std::process::Command::new("sudo").arg("-n").arg("--").arg(program).args(arguments).exec()
}

/// Starts a server in the background: a process group of its own, so that our Ctrl-C is not its, and no terminal (the server
/// ignores SIGHUP by itself). Dropping the child leaves it running; if we live on, the runtime reaps it.
///
/// # Errors
/// When the log cannot be opened or the program cannot be started.
pub fn spawn(binary: &Path, config: &Path, data: &Path, log: &Path) -> io::Result<Child> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let log = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(log)?;
    Command::new(binary)
        .arg(config)
        .current_dir(data)
        .env_clear()
        .env("PATH", SAFE_PATH)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

/// Is this process a server by its name, and alive?
pub fn is_server(pid: u32, binary: &Path) -> bool {
    let Ok(comm) = fs::read_to_string(format!("/proc/{pid}/comm")) else { return false };
    let comm = comm.trim_end();
    let ours = binary.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ours = ours.get(..COMM_BYTES.min(ours.len())).unwrap_or(ours);
    (comm == ours || matches!(comm, "valkey-server" | "redis-server")) && parent_if_alive(pid).is_some()
}

/// The parent of a process that is not a zombie. Field 3 and 4 of `/proc/PID`/stat, behind the name in parentheses (proc(5)).
fn parent_if_alive(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.next()?.parse().ok()
}

/// The folder a process works in, as a path, also when that folder was removed.
fn working_folder(pid: u32) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    match link.to_str().and_then(|text| text.strip_suffix(DELETED)) {
        Some(removed) => Some(PathBuf::from(removed)),
        None => Some(link),
    }
}

/// Does this process work in this very folder, not in one of the same name that was removed? Nothing: it cannot be told.
pub fn works_in(pid: u32, folder: &Path) -> Option<bool> {
    let theirs = fs::metadata(format!("/proc/{pid}/cwd")).ok()?;
    let ours = fs::metadata(folder).ok()?;
    Some((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}

/// Does this process run another program than the one that stands at this path now? A file that was written anew with the
/// same bytes is the same program. No, if it cannot be told.
pub fn runs_another_program(pid: u32, program: &Path) -> bool {
    let running = PathBuf::from(format!("/proc/{pid}/exe"));
    let (Ok(theirs), Ok(ours)) = (fs::metadata(&running), fs::metadata(program)) else { return false };
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return false;
    }
    // The link leads to the very file, also when that has no name any more.
    theirs.len() != ours.len() || !same_bytes(&running, program).unwrap_or(true)
}

fn same_bytes(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (io::BufReader::new(File::open(one)?), io::BufReader::new(File::open(other)?));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// The server that works in this folder, by its pidfile.
pub fn by_pidfile(pidfile: &Path, data: &Path, binary: &Path) -> Option<u32> {
    let pid = fs::read_to_string(pidfile).ok()?.trim().parse().ok()?;
    (is_server(pid, binary) && working_folder(pid)? == data).then_some(pid)
}

/// All servers below a folder of data folders, by the folder they work in. Finds those whose pidfile and socket are gone.
pub fn servers_below(data_root: &Path, binary: &Path) -> BTreeMap<PathBuf, u32> {
    let mut found: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let Some(folder) = working_folder(pid).filter(|folder| folder.parent() == Some(data_root)) else { continue };
        if is_server(pid, binary) {
            found.entry(folder).or_default().push(pid);
        }
    }
    let first = |pids: &[u32]| {
        // A child that saves a snapshot looks like its parent in everything but its parent.
        let is_root = |pid: &&u32| parent_if_alive(**pid).is_some_and(|parent| !pids.contains(&parent));
        pids.iter().find(is_root).copied()
    };
    found.into_iter().filter_map(|(folder, pids)| Some((folder, first(&pids)?))).collect()
}

/// A server forgets that it was told to end when it could not: while it writes its first append-only file ("Writing initial
/// AOF, can't exit", `finishShutdown` in server.c), as a replica does after a full sync, or when a save failed.
pub const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// Why a server did not end.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    #[error("it cannot be told to end")]
    Signal(#[source] io::Error),
    #[error("it was told to end and still runs after {0:?}; a server that cannot save its data refuses to end")]
    Refuses(Duration),
}

/// A process that stays the same one even if its number is used again.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
}

impl Handle {
    /// Nothing when there is no such process any more. Check what it is *after* this.
    pub fn open(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(|fd| Self { fd })
    }

    /// SIGKILL: for throwaway servers only.
    pub(super) fn kill(&self) {
        let _ended_already = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// SIGTERM, again and again, until it has ended.
    ///
    /// # Errors
    /// When it still runs at the end of `limit`.
    pub async fn stop(self, limit: Duration) -> Result<(), StopError> {
        let wait = move || {
            let end = Deadline::after(limit);
            loop {
                match pidfd_send_signal(&self.fd, Signal::TERM) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::SRCH) => return Ok(()),
                    Err(error) => return Err(StopError::Signal(error.into())),
                }
                let timeout = Timespec::try_from(end.left().min(TOLD_AGAIN)).ok();
                // A pidfd becomes readable when its process ends (pidfd_open(2)).
                match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref()) {
                    Ok(0) if end.is_over() => return Err(StopError::Refuses(limit)),
                    Ok(0) => {}
                    Ok(_ended) => return Ok(()),
                    Err(error) => return Err(StopError::Signal(error.into())),
                }
            }
        };
        match tokio::task::spawn_blocking(wait).await {
            Ok(ended) => ended,
            Err(error) => Err(StopError::Signal(io::Error::other(error))),
        }
    }
}

/// Lets a running process open at least so many files. Where we may not, the server itself says what that costs.
pub fn raise_files(pid: u32, files: u64) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let more = Rlimit { current: Some(files), maximum: Some(files) };
    let set = prlimit(Some(pid), Resource::Nofile, more).and_then(|before| match before.current {
        Some(limit) if limit <= files => Ok(before),
        // Less than it had: what it had is given back.
        Some(_) | None => prlimit(Some(pid), Resource::Nofile, before),
    });
    if let Err(error) = set {
        tracing::warn!(%error, "the server cannot be allowed more files");
    }
}

/// Lets what this process starts open as many files as anybody may. Not everybody may raise it; then it stays.
pub fn raise_own_files() {
    let all = fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let now = getrlimit(Resource::Nofile);
    if let (Some(all), Some(hard)) = (all, now.maximum)
        && hard < all
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.current, maximum: Some(all) })
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// The length of a log now, so that later only what came after it is shown. Bytes.
pub fn log_length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |meta| meta.len())
}

/// The last lines of a log, in one line, without the server's own time stamps. Short and bounded.
pub fn tail(log: &Path, bytes: u64) -> String {
    let end = log_length(log);
    tail_since(log, end.saturating_sub(bytes))
}

/// Does this server still read its data, as the end of its log says? A server that reads one large key answers nobody for
/// long. It logs the one line before and the other behind that (`main` in server.c), unless it is to log warnings only.
pub fn still_loads(log: &Path, pid: u32) -> bool {
    let text = read_tail(log, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let own = format!("{pid}:");
    let last =
        |words: &str| text.lines().collect::<Vec<_>>().iter().rposition(|line| line.starts_with(&own) && line.contains(words));
    last("Server initialized").is_some_and(|begun| last("Ready to accept connections").is_none_or(|ready| ready < begun))
}

/// The end of a log, from this length of it on at the earliest.
fn read_tail(log: &Path, start: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last lines of what a log gained since it had this length.
pub fn tail_since(log: &Path, start: u64) -> String {
    let Ok(bytes) = read_tail(log, start) else { return "its log cannot be read".to_owned() };
    let shown = join_lines(String::from_utf8_lossy(&bytes).lines());
    if shown.is_empty() { "its log says nothing".to_owned() } else { shown }
}

/// The last few of these lines in one, each without the server's own time stamp, and none too long.
pub fn join_lines<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<String> = lines.map(message).filter(|line| !line.is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(LOG_TAIL_LINES));
    last.cloned().collect::<Vec<_>>().join("; ")
}

/// `123:M 20 Nov 2026 07:00:00.123 # text`: the text.
fn message(line: &str) -> String {
    let stamped = line.split_once(':').is_some_and(|(pid, _)| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()));
    let text = if stamped { line.splitn(7, ' ').nth(6).unwrap_or(line) } else { line };
    text.trim().chars().filter(|c| !c.is_control()).take(LOG_LINE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_loses_its_stamp_only() {
        assert_eq!(message("123:M 20 Nov 2026 07:00:00.123 # Failed to bind: no"), "Failed to bind: no");
        assert_eq!(message(">>> 'maxmemory foo'"), ">>> 'maxmemory foo'");
    }

    #[test]
    fn a_process_that_is_no_server_is_never_ours() {
        assert!(!is_server(std::process::id(), Path::new("/usr/bin/valkey-server")));
        let here = std::env::current_dir().unwrap();
        let pidfile = tempfile::NamedTempFile::new().unwrap();
        fs::write(pidfile.path(), std::process::id().to_string()).unwrap();
        assert_eq!(by_pidfile(pidfile.path(), &here, Path::new("/usr/bin/valkey-server")), None);
        assert_eq!(works_in(std::process::id(), &here), Some(true));
    }

    #[tokio::test]
    async fn a_process_that_forgot_that_it_was_told_to_end_is_told_again() {
        let deaf_once = "trap 'trap - TERM' TERM; echo; while :; do sleep 0.05; done";
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(["-c", deaf_once]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let stopped = Handle::open(child.id()).unwrap().stop(Duration::from_secs(20)).await;
        let _ended = child.kill();
        child.wait().unwrap();
        assert!(stopped.is_ok(), "{stopped:?}");
    }

    #[test]
    fn only_what_a_log_gained_is_shown() {
        let log = tempfile::NamedTempFile::new().unwrap();
        fs::write(log.path(), "old\n").unwrap();
        let start = log_length(log.path());
        assert_eq!(tail_since(log.path(), start), "its log says nothing");
        fs::write(log.path(), "old\nnew\n").unwrap();
        assert_eq!(tail_since(log.path(), start), "new");
    }
}
