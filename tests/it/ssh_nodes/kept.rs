//! A daemon over nodes behind ssh: one that hangs, and connections that end, do not keep it from the others.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Hosts, INSTANCES};
use crate::site::Ran;
use crate::support::{free_port, signal};

/// The agents of these nodes are long-lived: they end with the daemon.
struct Daemon<'a> {
    hosts: &'a Hosts,
    process: Child,
}

impl<'a> Daemon<'a> {
    fn start(hosts: &'a Hosts) -> Self {
        let folder = hosts.site.folder.path().display().to_string();
        let (listen, socket) = (format!("127.0.0.1:{}", free_port()), format!("{folder}/socket"));
        let log = fs::File::create(hosts.site.path("daemon.log")).unwrap();
        let mut command: Command =
            hosts.command(&["run", "--path", &folder, "--listen", &listen, "--socket", &socket, "--poll", "1s"]);
        command.env("VALKEEPER_SOCKET", &socket).stderr(log);
        Self { hosts, process: command.spawn().unwrap() }
    }

    fn ask(&self, arguments: &[&str]) -> Ran {
        let socket = self.hosts.site.path("socket");
        crate::site::finish(self.hosts.command(arguments).env("VALKEEPER_SOCKET", socket).spawn().unwrap())
    }

    /// The status once it is like this.
    #[track_caller]
    fn until(&self, like: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let ran = self.ask(&["status", "--json"]);
            let status = serde_json::from_str::<Value>(&ran.out).unwrap_or(Value::Null);
            if like(&status) {
                return status;
            }
            assert!(since.elapsed() < Duration::from_secs(90), "{status:#}\n{}", self.hosts.site.read("daemon.log"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn state(status: &Value, instance: &str) -> String {
    status["instances"][instance]["state"].as_str().unwrap_or_default().to_owned()
}

fn seen(status: &Value, node: &str) -> bool {
    status["nodes"][node]["seen"].as_bool().unwrap_or_default()
}

/// The agent of a node, by the folder that stands in its command line.
fn agent(hosts: &Hosts, node: &str) -> Option<u32> {
    let folder = hosts.site.path(node).display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_agent = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|word| word == "agent") && words.iter().any(|word| *word == folder)
    };
    processes.into_iter().find(is_agent)
}

#[test]
fn a_node_that_hangs_holds_up_only_itself() {
    let hosts = Hosts::new();
    let daemon = Daemon::start(&hosts);
    daemon.until(|status| state(status, "one") == "active" && state(status, "two") == "active");
    let hung = agent(&hosts, "n2").unwrap();
    signal(hung, "-STOP");
    hosts.declare("", &format!("{INSTANCES}[instances.more]\nshard = \"a\"\n"));
    let status = daemon.until(|status| state(status, "more") == "active");
    assert!(!seen(&status, "n2") || state(&status, "two") == "active", "{status:#}");
    let status = daemon.until(|status| !seen(status, "n2"));
    assert!(seen(&status, "n1"), "{status:#}");
    // The next agent could look, but what the one that hangs has begun, it may still do.
    let why = |status: &Value| status["nodes"]["n2"]["message"].as_str().unwrap_or_default().to_owned();
    let status = daemon.until(|status| why(status).contains("an earlier agent"));
    assert!(!seen(&status, "n2"), "{status:#}");
    signal(hung, "-CONT");
    daemon.until(|status| seen(status, "n2") && state(status, "two") == "active");
}

#[test]
fn a_connection_that_ended_is_made_anew() {
    let mut hosts = Hosts::new();
    hosts.apply().expect(0);
    let first = {
        let daemon = Daemon::start(&hosts);
        daemon.until(|status| seen(status, "n1") && seen(status, "n2"));
        let first = agent(&hosts, "n1").unwrap();
        signal(first, "-KILL");
        daemon.until(|status| seen(status, "n1") && agent(&hosts, "n1").is_some_and(|now| now != first));
        first
    };
    // Without an sshd the open connections go on; new ones are refused until it is back.
    hosts.stop_sshd();
    hosts.run(&["plan"]).expect(4);
    hosts.start_sshd();
    let daemon = Daemon::start(&hosts);
    daemon.until(|status| seen(status, "n1") && seen(status, "n2"));
    assert_ne!(agent(&hosts, "n1"), Some(first));
}
