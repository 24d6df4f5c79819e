//! Brings one branch of a remote into a mirror of our own, by the `git` program.
//!
//! The mirror is a cache: what is damaged in it is thrown away and fetched again. History that was rewound is taken as it is; that it was
//! rewound is for those to judge who remember ([`super::Repo::descends`]). Never checks anything out, and keeps no remote configured.

#![expect(
    clippy::disallowed_methods,
    reason = "makes and removes the mirror, and tells a file of a token that is missing from a wrong token"
)]

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::error::{FetchFault, RepoError};
use super::git::{self, Finished};
use super::tree::{self, At};
use super::{Access, Revision, Spec, askpass, blocking, one_line};
use crate::host::lock::{self, LockError};

/// How long git has for what needs no network: making a mirror, tidying it up.
const HOUSEKEEPING: Duration = Duration::from_secs(120);
/// How often it is tried again to get the cache for ourselves.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// How much of git's words is shown. Characters.
const SAID_CHARS_MAX: usize = 300;
/// How many lines of them.
const SAID_LINES_MAX: usize = 4;

/// The bare repository in the cache.
pub(super) fn mirror(spec: &Spec) -> PathBuf {
    spec.cache.join("mirror.git")
}

/// Where a branch stands in the mirror. By a digest, because branches `a` and `a/b` cannot stand beside each other by name
/// (one was renamed to the other, or two programs share the cache).
pub(super) fn reference(branch: &str) -> String {
    let digest = crate::repo::folder::digest([("branch", branch.as_bytes())].into_iter());
    format!("refs/valkeeper/{}", digest.get(..16).unwrap_or(&digest))
}

/// Fetches the branch; afterwards [`reference()`] is where the remote has it.
pub(super) async fn fetch(spec: &Spec, url: &str) -> Result<(), RepoError> {
    let fault = |fault| RepoError::Fetch { url: url.to_owned(), fault };
    let until = Instant::now() + spec.deadline;
    if let Some(path) = spec.access.token_file.clone() {
        let unreadable =
            |path: &Path, cause| RepoError::Io { doing: "the token file cannot be read", path: path.to_owned(), cause };
        blocking(move || askpass::token(&path).map(drop).map_err(|cause| unreadable(&path, cause))).await?;
    }
    prepare(&spec.cache)?;
    let _turn = turn(spec, until).await.map_err(|error| error.into_repo(url, spec))?;
    let mirror = mirror(spec);
    let mut fresh = make_if_missing(&mirror).await?;
    let before = stands(spec, &mirror).await;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let finished = git::run(command(spec, url, &mirror), left).await;
        let finished =
            finished.map_err(|error| error.into_repo("git", &mirror, |_| fault(FetchFault::Deadline(spec.deadline))))?;
        let after = stands(spec, &mirror).await;
        if finished.status.success() && after.is_some() {
            // Only then is there more to pack; the poll of a quiet repository costs one git, not two.
            if after != before {
                tidy_up(&mirror).await;
            }
            return Ok(());
        }
        let why = judge(&finished, &spec.branch);
        // What a power cut or a killed git left behind: it is only a cache.
        let damaged = matches!(why, FetchFault::Cache { .. });
        if fresh || !damaged {
            return Err(fault(why));
        }
        tracing::warn!(mirror = %mirror.display(), %why, "the mirror is thrown away and fetched anew");
        discard(&mirror).map_err(|cause| RepoError::Io { doing: "cannot be removed", path: mirror.clone(), cause })?;
        fresh = make_if_missing(&mirror).await?;
    }
}

/// What was fetched cannot be read: the next fetch makes the mirror anew. git itself would not fetch again what it believes to have.
pub(super) fn condemn(spec: &Spec) {
    let mirror = mirror(spec);
    match fs::remove_file(mirror.join("HEAD")) {
        Ok(()) => tracing::warn!(mirror = %mirror.display(), "the mirror is damaged: it is made anew with the next fetch"),
        Err(error) => tracing::warn!(mirror = %mirror.display(), %error, "the mirror is damaged, and cannot be marked as such"),
    }
}

/// Where the branch stands in the mirror, if it can be told.
async fn stands(spec: &Spec, mirror: &Path) -> Option<Revision> {
    let at = At { path: mirror.to_owned(), shown: String::new() };
    let branch = spec.branch.clone();
    blocking(move || tree::head(&at, &reference(&branch), &branch)).await.ok().map(|head| head.revision)
}

/// Fetches of many programs take turns, and a late one gives up.
async fn turn(spec: &Spec, until: Instant) -> Result<lock::Guard, TurnError> {
    let path = spec.cache.join("lock");
    loop {
        match lock::acquire(&path, &format!("process {}", std::process::id())) {
            Ok(guard) => return Ok(guard),
            Err(LockError::File(error)) => return Err(TurnError::File(error.error)),
            Err(LockError::Held(_)) if Instant::now() < until => sleep(LOCK_PAUSE).await,
            Err(LockError::Held(_)) => return Err(TurnError::Busy),
        }
    }
}

enum TurnError {
    File(io::Error),
    Busy,
}

impl TurnError {
    fn into_repo(self, url: &str, spec: &Spec) -> RepoError {
        match self {
            Self::File(cause) => RepoError::Io { doing: "cannot be locked", path: spec.cache.join("lock"), cause },
            Self::Busy => RepoError::Fetch { url: url.to_owned(), fault: FetchFault::Busy(spec.deadline) },
        }
    }
}

fn prepare(cache: &Path) -> Result<(), RepoError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(cache);
    made.map_err(|cause| RepoError::Io { doing: "the cache cannot be made", path: cache.to_owned(), cause })
}

/// Makes the mirror; true if there was none. `HEAD` is what git writes last, so what lacks it was never finished.
async fn make_if_missing(mirror: &Path) -> Result<bool, RepoError> {
    if mirror.join("HEAD").is_file() {
        return Ok(false);
    }
    let io_error = |cause| RepoError::Io { doing: "the mirror cannot be made", path: mirror.to_owned(), cause };
    discard(mirror).map_err(io_error)?;
    let mut init = git::git(mirror);
    // No template: hooks and settings that somebody put there are not ours.
    init.args(["init", "--quiet", "--bare", "--template=", "--object-format=sha1"]);
    let late = |deadline: Duration| io_error(io::Error::new(io::ErrorKind::TimedOut, format!("not within {deadline:?}")));
    let finished = git::run(init, HOUSEKEEPING).await.map_err(|error| error.into_repo("git", mirror, late))?;
    if finished.status.success() { Ok(true) } else { Err(io_error(io::Error::other(said(&finished.err)))) }
}

fn discard(mirror: &Path) -> io::Result<()> {
    match fs::remove_dir_all(mirror) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Packs what many small fetches left. Failing is no harm: the next one tries again.
async fn tidy_up(mirror: &Path) {
    let mut gc = git::git(mirror);
    gc.args(["gc", "--auto", "--quiet"]);
    match git::run(gc, HOUSEKEEPING).await {
        Ok(finished) if finished.status.success() => {}
        Ok(finished) => tracing::warn!(mirror = %mirror.display(), said = said(&finished.err), "the mirror cannot be tidied up"),
        Err(error) => tracing::warn!(mirror = %mirror.display(), ?error, "the mirror cannot be tidied up"),
    }
}

fn command(spec: &Spec, url: &str, mirror: &Path) -> Command {
    let mut command = git::git(mirror);
    let access = &spec.access;
    // Also against a git configuration that rewrites addresses: no helper programs, no unencrypted ways.
    command
        .env("GIT_ALLOW_PROTOCOL", "https:ssh")
        .env("GIT_SSH_COMMAND", ssh(access, spec.deadline))
        .env("GIT_SSH_VARIANT", "ssh");
    if let Some(token_file) = &access.token_file {
        // A stored password must not win over the token, and no helper may store the token.
        command.args(["-c", "credential.helper="]);
        let program = access.askpass.clone().map_or_else(git::this_program, PathBuf::into_os_string);
        command.envs(askpass::environment(token_file, url, program));
    }
    if let Some(ca_file) = &access.ca_file {
        command.env("GIT_SSL_CAINFO", ca_file);
    }
    command
        .args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"])
        .args(["--no-show-forced-updates", "--"])
        .arg(url)
        .arg(format!("+refs/heads/{}:{}", spec.branch, reference(&spec.branch)));
    command
}

/// What git hands to a shell in order to reach the host. Paths are plain ones (`location::check`), so there is nothing to quote.
fn ssh(access: &Access, deadline: Duration) -> String {
    let connect_seconds = deadline.as_secs().clamp(1, 15);
    // A master connection that stays in the background would hold our pipes; one that is already there is used.
    let mut ssh = format!(
        "ssh -o BatchMode=yes -o ConnectTimeout={connect_seconds} -o ServerAliveInterval=10 -o ServerAliveCountMax=2 -o ControlMaster=no"
    );
    if let Some(key) = &access.ssh_key {
        ssh.push_str(&format!(" -i {} -o IdentitiesOnly=yes", key.display()));
    }
    if let Some(known_hosts) = &access.known_hosts {
        let known_hosts = known_hosts.display();
        ssh.push_str(&format!(
            " -o UserKnownHostsFile={known_hosts} -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes"
        ));
    }
    ssh
}

/// The words of ssh, curl and git that tell one reason from another. The first that fits counts. Words of OpenSSH 9, curl 7.88
/// and git 2.30 to 2.47, in the C locale.
fn judge(finished: &Finished, branch: &str) -> FetchFault {
    let text = finished.err.as_str();
    if finished.status.success() {
        return FetchFault::Cache { said: "the branch was fetched, and its commit is not there".to_owned() };
    }
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let said = said(text);
    if has(&["REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
        FetchFault::HostKeyChanged
    } else if has(&["Host key verification failed", "No matching host key", "host key is known for"]) {
        FetchFault::HostKeyUnknown
    } else if has(&["couldn't find remote ref"]) {
        FetchFault::NoBranch { branch: branch.to_owned() }
    } else if has(&["No space left on device", "Disk quota exceeded"]) {
        FetchFault::NoSpace
    } else if text.contains("transport '") && text.contains("not allowed") {
        FetchFault::Protocol { said }
    } else if has(&["SSL certificate", "certificate verification failed", "certificate subject name"]) {
        FetchFault::Certificate { said }
    } else if has(&[
        "Permission denied (",
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "returned error: 401",
        "returned error: 403",
        "Too many authentication failures",
    ]) {
        FetchFault::Denied { said }
    } else if has(&[
        "Repository not found",
        "' not found",
        "returned error: 404",
        "does not appear to be a git repository",
        "repository does not exist",
    ]) {
        FetchFault::NotFound { said }
    } else if has(&[
        "Could not resolve host",
        "Connection refused",
        "Connection timed out",
        "No route to host",
        "Network is unreachable",
        "Failed to connect",
        "Couldn't connect",
        "Connection closed by",
        "Connection reset",
        "kex_exchange_identification",
        "Operation timed out",
        "Timeout, server",
    ]) {
        FetchFault::Unreachable { said }
    } else if has(&[
        ".lock'",
        "cannot lock ref",
        "unable to resolve reference",
        "bad object",
        "corrupt",
        "not a git repository: '",
        "bad config",
        "unable to read tree",
        "inflate:",
        "loose object",
        "did not send all necessary objects",
    ]) {
        FetchFault::Cache { said }
    } else {
        FetchFault::Other { said }
    }
}

/// The lines by which git and ssh say what went wrong. What the other side sends (`remote: …`) is left out: it is a stranger's text, which may
/// repeat what it was sent.
fn said(err: &str) -> String {
    let ours = err.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("remote:"));
    let noise = ["Please make sure you have the correct access rights", "and the repository exists."];
    let lines: Vec<&str> = ours.filter(|line| !noise.contains(line)).collect();
    // The reason stands at the end, behind warnings and a host's greeting.
    let last = lines.get(lines.len().saturating_sub(SAID_LINES_MAX)..).unwrap_or_default();
    if last.is_empty() { "without a word".to_owned() } else { one_line(&last.join("; "), SAID_CHARS_MAX) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn fault(err: &str) -> FetchFault {
        judge(&Finished { status: ExitStatus::from_raw(128 << 8), out: String::new(), err: err.to_owned() }, "main")
    }

    #[test]
    fn words_of_the_other_side_are_not_repeated() {
        let err = "remote: your token is hunter2\nfatal: Authentication failed for 'https://h/x'\n";
        assert_eq!(fault(err), FetchFault::Denied { said: "fatal: Authentication failed for 'https://h/x'".into() });
        assert_eq!(fault(""), FetchFault::Other { said: "without a word".into() });
    }

    /// As the programs wrote them. Most are also made by real servers in tests/it/repo/; these are hard to make there.
    #[test]
    fn words_of_git_ssh_and_curl_are_told_apart() {
        let gone = "fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n";
        let unreachable = |err: &str| matches!(fault(&format!("{err}\n{gone}")), FetchFault::Unreachable { .. });
        assert!(unreachable("ssh: Could not resolve hostname h: Name or service not known"));
        assert!(unreachable("ssh: connect to host h port 22: No route to host"));
        assert!(unreachable("kex_exchange_identification: Connection closed by remote host"));
        assert!(unreachable("fatal: unable to access 'https://h/x/': Could not resolve host: h"));
        assert_eq!(
            fault("fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output"),
            FetchFault::NoSpace
        );
        let rewritten = "fatal: transport 'git' not allowed\n";
        assert_eq!(fault(rewritten), FetchFault::Protocol { said: rewritten.trim().into() });
        let forbidden = fault("fatal: unable to access 'https://h/x/': The requested URL returned error: 403\n");
        assert!(matches!(forbidden, FetchFault::Denied { .. }), "{forbidden:?}");
        let locked = fault(
            "error: cannot lock ref 'refs/valkeeper/0': Unable to create '/c/mirror.git/refs/valkeeper/0.lock': File exists.\n",
        );
        assert!(matches!(locked, FetchFault::Cache { .. }), "{locked:?}");
        assert!(matches!(fault(gone), FetchFault::Other { .. }));
    }

    #[test]
    fn a_branch_that_begins_like_another_stands_beside_it() {
        assert_ne!(reference("a"), reference("a/b"));
        assert!(git2::Reference::is_valid_name(&reference("a/b")));
    }

    #[test]
    fn ssh_is_strict_where_hosts_are_named() {
        let access = Access { known_hosts: Some("/k".into()), ssh_key: Some("/i".into()), ..Access::default() };
        let text = ssh(&access, Duration::from_secs(30));
        for word in ["BatchMode=yes", "StrictHostKeyChecking=yes", "UserKnownHostsFile=/k", "-i /i", "ConnectTimeout=15"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!ssh(&Access::default(), Duration::from_secs(30)).contains("StrictHostKeyChecking"));
    }
}
