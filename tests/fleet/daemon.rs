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
use crate::host::Host;
use crate::lab::{PATIENCE, until};
use crate::ran::{Ran, finish};
use crate::site::{Site, instance, timed, within};

/// Instances of each host.
const EACH: usize = 20;

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

/// The instances of a site: those of a host are named as the host, with numbers.
fn names(site: &Site) -> impl Iterator<Item = (&str, String)> {
    site.lab.hosts.iter().flat_map(|host| (1..=EACH).map(|number| (host.name.as_str(), format!("{}-{number}", host.name))))
}

/// The sixty, with this setting.
fn declare(site: &Site, timeout: u32) {
    let one = |(node, name): (&str, String)| instance(&name, node, &format!("timeout = {timeout}"));
    site.declare(&names(site).map(one).collect::<String>());
}

/// Have all instances of these nodes this setting?
fn have(site: &Site, nodes: &[&str], timeout: u32) -> bool {
    let of_them = names(site).filter(|(node, _)| nodes.contains(node));
    let found = |(node, name): (&str, String)| site.operator(node, &name).ask("CONFIG GET timeout");
    of_them.map(found).all(|found| found == format!("timeout {timeout}"))
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn the_daemon_keeps_sixty_instances_through_trouble_by_itself() {
    let site = Site::of([Suite::Bookworm; 3]);
    declare(&site, 1);
    let daemon = Daemon::start(&site, "d");
    timed("the daemon makes sixty instances", || daemon.settles());
    for (node, name) in names(&site) {
        assert_eq!(site.client(node, &name).ask("SET kept yes"), "+OK");
    }
    for trouble in
        [a_node_that_is_cut_off_is_unseen_and_catches_up, sshd_and_agents_may_restart, an_agent_that_hangs_holds_up_its_own_node]
    {
        trouble(&site, &daemon);
        site.settled();
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    drop(daemon);
    of_two_daemons_one_acts_and_the_other_takes_over(&site);
    site.settled();
    for host in &site.lab.hosts {
        let units = host.ssh(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "valkey@*"]);
        let running = units.lines().filter(|line| line.contains(" active running ")).count();
        assert_eq!((running, units.lines().count()), (EACH, EACH), "{units}");
    }
    for (node, name) in names(&site) {
        assert_eq!(site.client(node, &name).ask("GET kept"), "yes", "{name}");
    }
}

fn a_node_that_is_cut_off_is_unseen_and_catches_up(site: &Site, daemon: &Daemon<'_>) {
    let n3 = site.host("n3");
    n3.cut_network();
    declare(site, 2);
    within(Duration::from_secs(30), || {
        until("the others get theirs", || have(site, &["n1", "n2"], 2));
        let others = |status: &Value| ["n1-1", "n2-20"].iter().all(|name| status["instances"][name]["requested"] == 0);
        let status = daemon.until("n3 is unseen", |status| !is_seen(status, "n3") && others(status));
        assert_ne!(message(&status, "n3"), "");
        assert_eq!(status["instances"]["n3-1"]["held"][0]["reason"], "node-unseen");
    });
    daemon.say(&["status"]).expect(4).says("n3: unseen");
    // The others lose nothing by it: a pass does not wait for a node that is known to be away.
    let status = daemon.until("a pass while it is away", |status| !is_seen(status, "n3"));
    assert!(status["last_pass"]["seconds"].as_f64().unwrap() < 5.0, "{status:#}");
    n3.heal_network();
    daemon.until("settled again", |status| is_settled(status) && is_seen(status, "n3"));
    assert!(have(site, &["n3"], 2));
}

fn sshd_and_agents_may_restart(site: &Site, daemon: &Daemon<'_>) {
    let n2 = site.host("n2");
    n2.ssh(&["systemctl", "restart", "ssh.service"]);
    declare(site, 3);
    daemon.settles();
    // Between two steps, and in the midst of some.
    kill_agents(n2);
    declare(site, 4);
    within(Duration::from_secs(20), || daemon.settles());
    declare(site, 5);
    until("it has begun", || names(site).any(|(node, name)| site.operator(node, &name).ask("CONFIG GET timeout") == "timeout 5"));
    kill_agents(n2);
    within(Duration::from_secs(20), || daemon.settles());
    assert!(have(site, &["n1", "n2", "n3"], 5));
}

fn agents(host: &Host) -> Vec<String> {
    host.ssh(&["pidof", "valkeeper"]).split_whitespace().map(str::to_owned).collect()
}

fn tell(host: &Host, signal: &str, processes: &[String]) {
    let processes: Vec<_> = processes.iter().map(String::as_str).collect();
    host.ssh(&[&["kill", signal][..], &processes].concat());
}

fn kill_agents(host: &Host) {
    tell(host, "-KILL", &agents(host));
}

fn an_agent_that_hangs_holds_up_its_own_node(site: &Site, daemon: &Daemon<'_>) {
    let n2 = site.host("n2");
    let hanging = agents(n2);
    tell(n2, "-STOP", &hanging);
    declare(site, 6);
    daemon.until("n2 is unseen", |status| !is_seen(status, "n2"));
    within(Duration::from_secs(40), || until("the others get theirs", || have(site, &["n1", "n3"], 6)));
    // A new agent could look, but the one that hangs has the right to act there, and may still do what it has begun.
    let status = daemon.until("n2 says why", |status| message(status, "n2").contains("hangs there"));
    assert!(!is_seen(&status, "n2"), "{status:#}");
    assert!(have(site, &["n2"], 5));
    tell(n2, "-CONT", &hanging);
    daemon.until("settled again", is_settled);
    assert!(have(site, &["n2"], 6));
}

fn of_two_daemons_one_acts_and_the_other_takes_over(site: &Site) {
    let first = Daemon::start(site, "first");
    first.until("settled", is_settled);
    let second = Daemon::start(site, "second");
    let is_watching = |status: &Value| status["last_pass"]["result"] == "watching";
    let status = second.until("watching", is_watching);
    let holder = format!("valkeeper run (process {} on ", first.pid());
    assert!(status["watching"].as_str().unwrap().contains(&holder), "{status:#}");
    second.say(&["status"]).says("only watching");
    declare(site, 7);
    first.settles();
    assert!(!second.log().contains("change settings"), "{}", second.log());

    // A killed one is followed at once; what it had begun is found as it is.
    first.signal(Signal::KILL);
    declare(site, 8);
    within(Duration::from_secs(20), || second.settles());
    drop(first);

    // One that is cut off says nothing any more, and its agents give up after 30 seconds.
    let third = Daemon::start(site, "third");
    third.until("watching", is_watching);
    second.signal(Signal::STOP);
    declare(site, 9);
    within(Duration::from_secs(60), || third.settles());
    assert!(have(site, &["n1", "n2", "n3"], 9));
    second.signal(Signal::CONT);
    second.until("watching", is_watching);
    third.until("settled", is_settled);
}
