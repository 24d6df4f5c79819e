//! The daemon as a whole: the built program on a real repository with real servers, seen as its users see it: through the
//! repository, its commands, its scrapes and its log.

mod crash;
mod follows;
mod keeps;
mod long_run;
mod moving;
mod refuses;
mod reload;
mod retries;
mod said;
mod suspends;
mod trouble;
mod trust;
mod watched;

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::repo::{World, ssh};
use crate::site::{Ran, Site, finish};
use crate::support::{free_port, signal};

/// Nothing that is waited for takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(90);
const PASSWORD: &str = "daemon-test-secret";

fn hash(of: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(of.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An instance with one user, small and quick to start.
fn instance(name: &str, settings: &str) -> String {
    let hash = hash(PASSWORD);
    format!(
        "[instances.{name}]\nshard = \"a\"\nconfig = {{ {settings} }}\n[instances.{name}.users.app]\npassword_sha256 = \"{hash}\"\n\
         privileges = [\"+@all\"]\n"
    )
}

/// A person's machine: a state repository, and the folder where its node keeps its state.
struct Post {
    site: Site,
    git: World,
    number: AtomicU32,
}

impl Post {
    /// With one commit on `main`.
    fn new(tables: &str) -> Self {
        let post = Self::bare();
        post.commit(tables);
        post
    }

    fn bare() -> Self {
        Self { site: Site::new(""), git: World::empty(), number: AtomicU32::new(0) }
    }

    /// Gives the revision. The same text in the site's folder is for `valkeeper plan`.
    fn commit(&self, tables: &str) -> String {
        self.commit_text(&self.site.text("", tables))
    }

    fn commit_text(&self, text: &str) -> String {
        self.site.write("fleet.toml", text);
        self.git.commit(&[("fleet.toml", text)]).to_string()
    }

    /// What every daemon of this post is told: follow the repository, and look only when asked.
    fn start(&self) -> Daemon {
        self.start_with(&["--repo", &self.git.text("work")])
    }

    fn start_with(&self, args: &[&str]) -> Daemon {
        Daemon::spawn(self, args).alive()
    }

    /// On a disk that cannot hold a log; `first` is done before it starts.
    fn start_logging_to(&self, log: &Path, first: impl FnOnce(&Self)) -> Daemon {
        first(self);
        Daemon::spawn_with(self, &["--repo", &self.git.text("work")], &log.with_extension("sock"), log).alive()
    }

    /// The daemon's configuration for this source, with these tables behind it; gives where it lies.
    fn configure(&self, source: &str, tables: &str) -> String {
        fs::write(self.git.path("valkeeper.toml"), format!("[source]\n{source}{tables}")).unwrap();
        self.git.text("valkeeper.toml")
    }

    /// The repository behind an sshd, and what a configuration says of it.
    fn behind_ssh(&self) -> (ssh::Sshd, String) {
        self.git.bare();
        let sshd = ssh::Sshd::start(&self.git);
        let url = format!("ssh://{}@127.0.0.1:{}{}", ssh::user(), sshd.port, self.git.path("bare.git").display());
        let source = format!(
            "repo = \"{url}\"\nssh_key = \"{}\"\nknown_hosts = \"{}\"\ncache = \"{}\"\n",
            self.git.text("user_key"),
            self.git.text("known_hosts"),
            self.git.text("cache")
        );
        (sshd, source)
    }

    fn servers(&self) -> usize {
        fs::read_dir(self.site.path("state/run")).map_or(0, |folder| {
            folder.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pid")).count()
        })
    }
}

/// A running `valkeeper run`; killed when dropped. The servers end with the site.
struct Daemon {
    process: Child,
    socket: PathBuf,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    fn spawn(post: &Post, args: &[&str]) -> Self {
        let number = post.number.fetch_add(1, Ordering::Relaxed);
        Self::spawn_with(post, args, &post.site.path(&format!("c{number}.sock")), &post.site.path(&format!("log{number}")))
    }

    fn spawn_with(post: &Post, args: &[&str], socket: &Path, log: &Path) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let root = post.site.folder.path().to_str().unwrap();
        let mut command = post.site.command(&["run", "--listen", &listen, "--local-root", root]);
        command.arg("--socket").arg(socket).args(args);
        if !args.contains(&"--poll") {
            command.args(["--poll", "1h"]);
        }
        Self::run(command, port, socket, log)
    }

    fn run(mut command: Command, port: u16, socket: &Path, log: &Path) -> Self {
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        let process = command.stdout(Stdio::null()).stderr(fs::File::create(log).unwrap()).spawn().unwrap();
        Self { process, socket: socket.to_owned(), port, log: log.to_owned() }
    }

    /// Waits until it answers.
    #[track_caller]
    fn alive(mut self) -> Self {
        let begun = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines of the log have these words.
    fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    fn status(&self) -> Value {
        let stream = UnixStream::connect(&self.socket).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        let (code, body) = ask(stream, "GET", "/v1/status", "", "");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A page of the TCP side.
    fn page(&self, path: &str) -> (u16, String) {
        ask(TcpStream::connect(("127.0.0.1", self.port)).unwrap(), "GET", path, "", "")
    }

    fn metrics(&self) -> String {
        self.page("/metrics").1
    }

    /// The value of one series, as it is written.
    fn series(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics();
        let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits for a status.
    #[track_caller]
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if is(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}:\n{status:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until this revision is settled, and says how long it took.
    #[track_caller]
    fn settles(&self, revision: &str) -> Duration {
        let begun = Instant::now();
        self.until(&format!("settled at {revision}"), |status| is_settled(status, revision));
        begun.elapsed()
    }

    /// What a command of the person at this machine says.
    fn say(&self, site: &Site, args: &[&str]) -> Ran {
        finish(site.command(args).env("VALKEEPER_SOCKET", &self.socket).spawn().unwrap())
    }

    fn passes(&self) -> u64 {
        self.status()["last_pass"]["number"].as_u64().unwrap_or_default()
    }

    /// Has a pass taken that begins after this.
    #[track_caller]
    fn sync(&self) -> Value {
        let stream = UnixStream::connect(&self.socket).unwrap();
        let (code, body) = ask(stream, "POST", "/v1/sync", "content-type: application/json\r\n", r#"{"wait":true}"#);
        assert_eq!(code, 200, "{body}");
        self.status()
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to end, and gives whether it ended well.
    fn stop(mut self) -> bool {
        signal(self.pid(), "-TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.success();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log:\n{}", self.log());
        }
    }
}

fn is_settled(status: &Value, revision: &str) -> bool {
    status["settled"]["revision"] == revision
        && status["source"]["desired"] == revision
        && status["last_pass"]["result"] == "settled"
}

fn problem(status: &Value) -> Option<&str> {
    status["source"]["problem"]["kind"].as_str()
}

/// HTTP by hand, over whatever stream.
pub fn ask(mut stream: impl std::io::Read + std::io::Write, method: &str, path: &str, head: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let text =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    let body = answer.get(end + 4..).unwrap_or_default();
    let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
    (code, String::from_utf8(body).unwrap())
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|bytes| bytes == b"\r\n") {
        let size = usize::from_str_radix(str::from_utf8(&bytes[..end]).unwrap().trim(), 16).unwrap();
        whole.extend(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    whole
}

/// A number of a process, such as `VmRSS` in kB.
fn process_status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// A program whose input is a text.
fn feed(mut command: Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
