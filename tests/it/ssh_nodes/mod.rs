//! Nodes behind ssh: the real `ssh` and `sshd` on loopback, and the real agent at the other end, over folders.

mod hostile;
mod kept;
mod lies;
mod serves;
mod ships;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::site::{Ran, Site, finish};
use crate::support::free_port;

/// What each node gets to run, and its instance: `one` on n1, `two` on n2.
const INSTANCES: &str = "[instances.one]\nshard = \"a\"\n[instances.two]\nshard = \"b\"\n";

/// Two nodes behind one sshd, each with a key and a forced command of its own, as `authorized_keys` of deploy/ has them.
pub struct Hosts {
    pub site: Site,
    port: u16,
    sshd: Option<Child>,
}

impl Hosts {
    /// Nodes whose agents work below the folders `n1` and `n2`.
    pub fn new() -> Self {
        let hosts = Self::bare();
        hosts.lets_in("n1", &hosts.agent("n1"));
        hosts.lets_in("n2", &hosts.agent("n2"));
        hosts
    }

    fn bare() -> Self {
        let site = Site::new("");
        let folder = site.folder.path().display().to_string();
        for key in ["host_key", "n1_key", "n2_key"] {
            keygen(&site, key);
        }
        let port = free_port();
        site.write(
            "sshd_config",
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/n1_login {folder}/n2_login\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n"
            ),
        );
        let host_key = site.read("host_key.pub");
        site.write("known_hosts", format!("[127.0.0.1]:{port} {host_key}"));
        let host = |name: &str| format!("Host {name}\n  HostName 127.0.0.1\n  IdentityFile {folder}/{name}_key\n");
        let shared = format!("Host *\n  Port {port}\n  UserKnownHostsFile {folder}/known_hosts\n  IdentitiesOnly yes\n");
        site.write("ssh_config", format!("{}{}{shared}", host("n1"), host("n2")));
        // As GIT_SSH is used: the user's own ssh, with a configuration that is not in the home folder of the user.
        site.write("ssh", format!("#!/bin/sh\nexec ssh -F {folder}/ssh_config \"$@\"\n"));
        fs::set_permissions(site.path("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut hosts = Self { site, port, sshd: None };
        hosts.declare("", INSTANCES);
        hosts.start_sshd();
        hosts
    }

    pub fn start_sshd(&mut self) {
        let log = fs::File::create(self.site.path("sshd.log")).unwrap();
        // sshd's own privilege separation: Debian makes the folder when the service starts, which it does not here.
        let _ = fs::create_dir("/run/sshd");
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.site.path("sshd_config")).stdin(Stdio::null()).stderr(log);
        let mut process = command.spawn().expect("sshd is missing: run scripts/install-missing");
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(process.try_wait().unwrap().is_none() && since.elapsed() < Duration::from_secs(20), "sshd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.sshd = Some(process);
    }

    pub fn stop_sshd(&mut self) {
        if let Some(mut process) = self.sshd.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// The agent's command line for a node.
    pub fn agent(&self, node: &str) -> String {
        let program = env!("CARGO_BIN_EXE_valkeeper");
        let (scratch, folder) = (self.site.scratch.path().display(), self.site.path(node));
        format!("TMPDIR={scratch} exec {program} agent --folder {}", folder.display())
    }

    /// What runs when the controller logs in to this node.
    pub fn lets_in(&self, node: &str, command: &str) {
        let key = self.site.read(&format!("{node}_key.pub"));
        self.site.write(&format!("{node}_login"), format!("restrict,command=\"{}\" {key}", command.replace('"', "\\\"")));
    }

    pub fn declare(&self, fleet: &str, tables: &str) {
        let (first, half) = (self.site.first_port, self.site.first_port + 20);
        let node = |name: &str| format!("[nodes.{name}]\nssh = \"{name}\"\naddress = \"127.0.0.1\"\n");
        let shard = |name: &str, node: &str, port: u16| {
            format!("[shards.{name}]\nnodes = [\"{node}\"]\nports = \"{port}-{}\"\n", port + 19)
        };
        let nodes = format!("{}{}{}{}", node("n1"), node("n2"), shard("a", "n1", first), shard("b", "n2", half));
        self.site.write("fleet.toml", format!("[fleet]\nname = \"prod\"\n{fleet}{nodes}{tables}"));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.command(arguments);
        command.env("VALKEEPER_SSH", self.site.path("ssh"));
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap())
    }

    #[track_caller]
    pub fn apply(&self) -> Ran {
        self.run(&["apply", "--yes"])
    }

    /// The process of an instance.
    pub fn pid(&self, node: &str, instance: &str) -> u32 {
        fs::read_to_string(self.state(node, &format!("run/{instance}.pid"))).unwrap().trim().parse().unwrap()
    }

    pub fn state(&self, node: &str, below: &str) -> PathBuf {
        self.site.path(node).join(below)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop_sshd();
    }
}

fn keygen(site: &Site, key: &str) {
    let path = site.path(key);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success());
}
