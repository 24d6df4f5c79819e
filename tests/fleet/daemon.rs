//! The daemon over hosts that fail it: cut off, hanging, restarted; and a second daemon by mistake.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::base::Suite;
use crate::lab::{PATIENCE, until};
use crate::ran::{Ran, finish};
use crate::site::{Site, instance, within};

/// A running `valkeeper run` over a site; killed when dropped.
pub struct Daemon<'a> {
    site: &'a Site,
    name: &'static str,
    process: Child,
    port: u16,
}

impl<'a> Daemon<'a> {
    /// Follows the folder of the site.
    pub fn start(site: &'a Site, name: &'static str) -> Self {
        Self::start_with(site, name, &[], &[])
    }

    /// With further arguments and environment.
    pub fn start_with(site: &'a Site, name: &'static str, more: &[&str], environment: &[(&str, &str)]) -> Self {
        let at = |ending: &str| site.lab.folder().join(format!("{name}.{ending}"));
        // Each place has its own range, and each daemon of a site a letter of its own.
        let port = 24_000 + u16::from(site.lab.place().number()) * 32 + u16::from(name.as_bytes()[0] % 32);
        let mut command = site.command(&["run", "--path", site.folder().to_str().unwrap(), "--poll", "1s"]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--local-root"]).arg(site.folder());
        command.arg("--socket").arg(at("sock")).args(more).envs(environment.iter().copied());
        command.stdout(Stdio::null()).stderr(File::create(at("log")).unwrap());
        let daemon = Self { site, name, process: command.spawn().unwrap(), port };
        until("the daemon answers", || daemon.socket().exists());
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.site.lab.folder().join(format!("{}.sock", self.name))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.site.lab.folder().join(format!("{}.log", self.name))).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn say(&self, arguments: &[&str]) -> Ran {
        finish(self.site.command(arguments).env("VALKEEPER_SOCKET", self.socket()).spawn().unwrap())
    }

    pub fn status(&self) -> Value {
        self.say(&["status", "--json"]).json()
    }

    /// Waits for a status.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let status = self.status();
            if is(&status) {
                return status;
            }
            assert!(since.elapsed() < PATIENCE, "not {what}:\n{status:#}\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until what the site declares now is settled.
    #[track_caller]
    pub fn settles(&self) {
        let since = Instant::now();
        loop {
            let ran = self.say(&["sync", "--wait"]);
            if ran.code == Some(0) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "not settled: {}\n{}", ran.all(), self.log());
        }
    }

    /// What a scrape gets.
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        said
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn is_settled(status: &Value) -> bool {
    status["last_pass"]["result"] == "settled"
}

fn is_seen(status: &Value, node: &str) -> bool {
    status["nodes"][node]["seen"] == true
}

fn message(status: &Value, node: &str) -> String {
    status["nodes"][node]["message"].as_str().unwrap_or_default().to_owned()
}

/// One instance on each host, with this setting.
fn one_each(site: &Site, timeout: u32) -> String {
    let one = |name: &str| instance(&format!("on-{name}"), name, &format!("timeout = {timeout}"));
    site.lab.hosts.iter().map(|host| one(&host.name)).collect()
}

fn timeout_of(site: &Site, node: &str) -> String {
    site.operator(node, &format!("on-{node}")).ask("CONFIG GET timeout")
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn one_node_in_trouble_keeps_no_other_from_its_due() {
    let site = Site::of([Suite::Bookworm; 3]);
    site.declare(&one_each(&site, 1));
    let daemon = Daemon::start(&site, "d");
    daemon.until("settled", is_settled);
    a_node_that_is_cut_off_is_unseen_and_catches_up(&site, &daemon);
    sshd_and_agents_may_restart(&site, &daemon);
    an_agent_that_hangs_holds_up_its_own_node(&site, &daemon);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

fn a_node_that_is_cut_off_is_unseen_and_catches_up(site: &Site, daemon: &Daemon<'_>) {
    let n3 = site.host("n3");
    n3.cut_network();
    site.declare(&one_each(site, 2));
    let others =
        |status: &Value| status["instances"]["on-n1"]["requested"] == 0 && status["instances"]["on-n2"]["requested"] == 0;
    within(Duration::from_secs(30), || {
        until("the others get theirs", || timeout_of(site, "n1") == "timeout 2" && timeout_of(site, "n2") == "timeout 2");
        let status = daemon.until("n3 is unseen", |status| !is_seen(status, "n3") && others(status));
        assert_ne!(message(&status, "n3"), "");
        assert_eq!(status["instances"]["on-n3"]["held"][0]["reason"], "node-unseen");
    });
    daemon.say(&["status"]).expect(4).says("n3: unseen");
    // The others lose nothing by it: a pass does not wait for a node that is known to be away.
    let status = daemon.until("a pass while it is away", |status| !is_seen(status, "n3"));
    assert!(status["last_pass"]["seconds"].as_f64().unwrap() < 5.0, "{status:#}");
    n3.heal_network();
    daemon.until("settled again", |status| is_settled(status) && is_seen(status, "n3"));
    assert_eq!(timeout_of(site, "n3"), "timeout 2");
}

fn sshd_and_agents_may_restart(site: &Site, daemon: &Daemon<'_>) {
    let n2 = site.host("n2");
    n2.ssh(&["systemctl", "restart", "ssh.service"]);
    site.declare(&one_each(site, 3));
    daemon.settles();
    let agents = || n2.ssh(&["pidof", "valkeeper"]);
    let before = agents();
    n2.ssh(&[&["kill", "-KILL"][..], &before.split_whitespace().collect::<Vec<_>>()].concat());
    site.declare(&one_each(site, 4));
    within(Duration::from_secs(20), || daemon.settles());
    assert_eq!(timeout_of(site, "n2"), "timeout 4");
}

fn an_agent_that_hangs_holds_up_its_own_node(site: &Site, daemon: &Daemon<'_>) {
    let n2 = site.host("n2");
    let agents = n2.ssh(&["pidof", "valkeeper"]);
    let agents: Vec<_> = agents.split_whitespace().collect();
    let tell = |signal: &str| n2.ssh(&[&["kill", signal][..], &agents].concat());
    tell("-STOP");
    site.declare(&one_each(site, 5));
    daemon.until("n2 is unseen", |status| !is_seen(status, "n2"));
    // A new agent can look, but the one that hangs has the right to act there.
    within(Duration::from_secs(40), || {
        until("the others get theirs", || timeout_of(site, "n1") == "timeout 5" && timeout_of(site, "n3") == "timeout 5");
    });
    let status = daemon.until("n2 says why", |status| status["instances"]["on-n2"]["state"] == "failed");
    assert!(status["instances"]["on-n2"]["message"].as_str().unwrap().contains("hangs there"), "{status:#}");
    assert_eq!(timeout_of(site, "n2"), "timeout 4");
    tell("-CONT");
    daemon.until("settled again", is_settled);
    assert_eq!(timeout_of(site, "n2"), "timeout 5");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn of_two_daemons_one_acts_and_the_other_takes_over() {
    let site = Site::of([Suite::Bookworm; 2]);
    site.declare(&one_each(&site, 1));
    let first = Daemon::start(&site, "first");
    first.until("settled", is_settled);
    let second = Daemon::start(&site, "second");
    let is_watching = |status: &Value| status["last_pass"]["result"] == "watching";
    let status = second.until("watching", is_watching);
    let holder = format!("valkeeper run (process {} on ", first.pid());
    assert!(status["watching"].as_str().unwrap().contains(&holder), "{status:#}");
    second.say(&["status"]).says("only watching");
    site.declare(&one_each(&site, 2));
    first.settles();
    assert!(!second.log().contains("change settings"), "{}", second.log());

    // A killed one is followed at once; what it had begun is found as it is.
    first.signal(Signal::KILL);
    site.declare(&one_each(&site, 3));
    within(Duration::from_secs(20), || second.settles());
    drop(first);

    // One that is cut off says nothing any more, and its agents give up after 30 seconds.
    let third = Daemon::start(&site, "third");
    third.until("watching", is_watching);
    second.signal(Signal::STOP);
    site.declare(&one_each(&site, 4));
    within(Duration::from_secs(60), || third.settles());
    assert_eq!(timeout_of(&site, "n1"), "timeout 4");
    second.signal(Signal::CONT);
    second.until("watching", is_watching);
    third.until("settled", is_settled);
}
