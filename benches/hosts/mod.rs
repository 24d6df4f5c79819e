//! Three hosts of the lab as the nodes of a fleet with 60 instances, and what is asked of them by hand.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::Suite;
use crate::control;
use crate::host::Host;
use crate::lab::Lab;
use crate::run;

pub mod moves;

pub const INSTANCES: usize = 60;
const EACH: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Why hosts cannot be booted here, if so.
pub fn unable() -> Option<String> {
    let able = run::output(&mut Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/able")));
    (!able.status.success()).then(|| String::from_utf8_lossy(&able.stderr).replace("test-fleet:", "the benchmark on hosts:"))
}

/// The names of the instances on a host.
pub fn names(host: &str) -> impl Iterator<Item = String> {
    (1..=EACH).map(move |number| format!("{host}-{number:02}"))
}

/// What all instances on all hosts are like, for valkeeper and for the playbook: SHA-256 of the passwords of their two users.
pub const APP_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
pub const READER_HASH: &str = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

pub struct Hosts {
    pub lab: Lab,
    folder: PathBuf,
}

impl Hosts {
    /// Nodes without any instance.
    pub fn new() -> Self {
        let lab = Lab::of([Suite::Bookworm; 3]);
        let folder = lab.folder().join("site");
        fs::create_dir(&folder).expect("a folder");
        let hosts = Self { lab, folder };
        hosts.declare("present");
        thread::scope(|scope| {
            for host in &hosts.lab.hosts {
                scope.spawn(|| hosts.valkeeper(&["node", "add", &host.name, "--yes"]));
            }
        });
        hosts
    }

    /// Writes the text: all instances are to be `present`, or `absent`.
    pub fn declare(&self, ensure: &str) {
        let mut text = String::new();
        for Host { name, .. } in &self.lab.hosts {
            for instance in names(name) {
                let _infallible = write!(
                    text,
                    "[instances.{instance}]\nshard = \"{name}\"\nensure = \"{ensure}\"\nconfig = {{ timeout = 300 }}\n\
                     [instances.{instance}.users.app]\npassword_sha256 = \"{APP_HASH}\"\n\
                     privileges = [\"+@all\", \"-@dangerous\"]\nkey_pattern = \"~app:*\"\n\
                     [instances.{instance}.users.reader]\npassword_sha256 = \"{READER_HASH}\"\n\
                     privileges = [\"+@read\", \"-@dangerous\"]\nkey_pattern = \"~public:*\"\n"
                );
            }
        }
        self.write("", &text);
    }

    /// Writes the text: all hosts as nodes, each with a shard of its name, and this.
    fn write(&self, guard: &str, instances: &str) {
        let mut text = format!("[fleet]\nname = \"bench\"\n[guard]\nmax_deletes = 100\n{guard}");
        for Host { name, address, .. } in &self.lab.hosts {
            let _infallible = write!(
                text,
                "[nodes.{name}]\nssh = \"{name}\"\naddress = \"{address}\"\n\
                 [shards.{name}]\nnodes = [\"{name}\"]\nports = \"6400-6499\"\n"
            );
        }
        text.push_str(instances);
        fs::write(self.folder.join("fleet.toml"), text).expect("a file");
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.lab.command(env!("CARGO_BIN_EXE_valkeeper"));
        command.args(words).current_dir(&self.folder);
        command
    }

    pub fn valkeeper(&self, words: &[&str]) {
        let mut command = self.command(words);
        let output = run::output(&mut command);
        assert!(output.status.success(), "{}", run::told(&command, &output));
    }

    /// One script for each host, run side by side.
    pub fn scripts(&self, script: impl Fn(&str) -> String) -> Scripts {
        let ssh = self.lab.folder().join("ssh");
        Scripts { ssh, scripts: self.lab.hosts.iter().map(|host| (host.name.clone(), script(&host.name))).collect() }
    }

    pub fn each(&self, what: &str, script: &str) {
        assert!(self.scripts(|_| script.to_owned()).run(), "{what}");
    }

    pub fn start_units(&self) {
        let units = |host: &str| names(host).map(|name| format!(" valkey@{name}.service")).collect::<String>();
        assert!(self.scripts(|host| format!("exec systemctl start{}", units(host))).run(), "units start");
    }

    /// Asks each server what valkeeper asks it, each by a valkey-cli of its own, all of a host side by side.
    pub fn look_by_hand(&self) -> Scripts {
        let folder =
            |host: &str| self.lab.hosts.iter().find(|one| one.name == host).expect("a host").file("/var/lib/valkeeper/instances");
        let ask = |host: &str, name: String| {
            let password = operator_password(&folder(host).join(format!("{name}.toml")));
            format!(
                "REDISCLI_AUTH={password} valkey-cli --user valkeeper -s /run/valkey-{name}/valkey.sock <<. >/dev/null &\n\
                 INFO\nACL LIST\nCONFIG GET *\n.\n"
            )
        };
        self.scripts(|host| names(host).map(|name| ask(host, name)).chain(["wait\n".to_owned()]).collect())
    }
}

/// `operator_password = "…"` of a marker.
fn operator_password(marker: &Path) -> String {
    let text = fs::read_to_string(marker).expect("a marker");
    let line = text.lines().find(|line| line.starts_with("operator_password")).expect("a password");
    line.split('"').nth(1).expect("a password").to_owned()
}

pub struct Scripts {
    ssh: PathBuf,
    scripts: Vec<(String, String)>,
}

impl Scripts {
    /// Runs them to their ends; did all end well?
    pub fn run(&self) -> bool {
        let start = |(host, script): &(String, String)| {
            let mut ssh =
                Command::new(&self.ssh).args(["-T", "--", host, "exec sh -s"]).stdin(Stdio::piped()).spawn().expect("ssh");
            ssh.stdin.take().expect("its input").write_all(script.as_bytes()).expect("a shell that reads");
            ssh
        };
        let started: Vec<Child> = self.scripts.iter().map(start).collect();
        let ends: Vec<_> = started.into_iter().map(|mut ssh| ssh.wait().expect("an end")).collect();
        ends.iter().all(|end| end.success())
    }
}

/// `valkeeper run`; ends with this.
pub struct Daemon {
    process: Child,
    socket: PathBuf,
}

/// KiB.
pub struct Memory {
    pub resident: u64,
    /// Not shared with any other process.
    pub own: u64,
}

impl Daemon {
    /// Returns after its first pass.
    pub fn start(hosts: &Hosts) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string();
        let socket = hosts.lab.folder().join("control.sock");
        let log = File::create(hosts.lab.folder().join("daemon.log")).expect("a log");
        let mut command = hosts.command(&["run", "--path", ".", "--poll", "1h", "--listen", &listen, "--socket"]);
        let process = command.arg(&socket).stderr(log).spawn().expect("valkeeper");
        let daemon = Self { process, socket };
        let begun = Instant::now();
        while !daemon.socket.exists() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not begin");
            thread::sleep(Duration::from_millis(5));
        }
        daemon.sync();
        daemon
    }

    pub fn sync(&self) {
        control::sync(&self.socket);
    }

    /// Its own, and that of the `ssh` which leads to the first host.
    pub fn memory(&self) -> Vec<(&'static str, Memory)> {
        let own = self.process.id();
        let children = fs::read_dir(format!("/proc/{own}/task")).expect("its threads").flatten();
        let children = children.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let child =
            children.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).next();
        vec![("the daemon", memory(own)), ("one ssh", memory(child.expect("it keeps connections")))]
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone_already = self.process.kill();
        let _gone_already = self.process.wait();
    }
}

/// From /proc/PID/smaps_rollup (proc(5)).
fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let sum = |keys: &[&str]| {
        let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| keys.contains(key));
        lines.map(|(_, value)| value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")).sum()
    };
    Memory { resident: sum(&["Rss"]), own: sum(&["Private_Clean", "Private_Dirty"]) }
}
