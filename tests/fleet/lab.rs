//! A few hosts on one bridge, for one test: their place on this machine, their keys, and the ssh that reaches them. What
//! takes all of it down, however the test ends, is a process of its own: `tests/fleet/guard`.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::base::Suite;
use crate::host::Host;
use crate::{cgroup, run};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet");

/// More tests than run at once on any machine. The number is a part of addresses and of names of links (15 bytes).
const PLACES: u8 = 100;

/// How flock says that somebody has the place; no other program here ends so.
const TAKEN: i32 = 75;

/// What a host is, before it is there.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub suite: Suite,
    /// Its `/var/lib/valkey` is a disk of this size, which can be filled. It keeps its files over a loss of power.
    pub data_bytes: Option<u64>,
}

impl From<Suite> for Wanted {
    fn from(suite: Suite) -> Self {
        Self { suite, data_bytes: None }
    }
}

/// Where one lab is on this machine.
pub struct Place {
    number: u8,
    guard: Option<Child>,
}

impl Place {
    fn take() -> Self {
        // `cargo bench` says `--bench` to what it runs.
        let asked = env::args().any(|argument| argument.ends_with("ignored") || argument == "--bench");
        assert!(asked, "a test that boots hosts is not for `make test`: give it #[ignore = \"boots hosts: make test-fleet\"]");
        let able = run::output(&mut run::program(&format!("{TOOLS}/able")));
        assert!(able.status.success(), "{}", String::from_utf8_lossy(&able.stderr));
        (0..PLACES).find_map(Self::take_one).expect("a place is free: no more tests than places run at once")
    }

    /// Clears what a dead run left there. Nothing if a run has it that lives.
    pub fn take_one(number: u8) -> Option<Self> {
        let mut guard = Command::new("flock");
        guard.args(["--no-fork", "--nonblock", "--conflict-exit-code", &TAKEN.to_string()]);
        guard.arg(Self::lock(number)).arg(format!("{TOOLS}/guard")).arg(number.to_string());
        // In a group of its own, so that Ctrl-C ends the test and not what clears up after it.
        let mut guard = guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("flock starts");
        let mut said = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said == "ready\n" {
            return Some(Self { number, guard: Some(guard) });
        }
        let status = guard.wait().unwrap();
        assert_eq!(status.code(), Some(TAKEN), "the guard of place {number} ended with {status}");
        None
    }

    /// All that is made for this lab is below it, or has its number in its name.
    pub fn folder(&self) -> PathBuf {
        Path::new("/var/lib/valkeeper-lab").join(self.number.to_string())
    }

    pub fn bridge(&self) -> String {
        format!("vklab{}", self.number)
    }

    /// The name of a host for nspawn, which is unique on the machine.
    pub fn machine(&self, host: u8) -> String {
        format!("vk{}n{host}", self.number)
    }

    /// The addresses that are set aside for trying out networks (RFC 2544): this machine is 1, hosts begin at 11.
    pub fn address(&self, last: u8) -> String {
        format!("198.18.{}.{last}", self.number)
    }

    pub fn groups(&self, name: &str) -> Vec<PathBuf> {
        cgroup::made(&format!("valkeeper-lab.{}/{name}", self.number))
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    /// Who takes this lab down, as a process.
    pub fn guard(&self) -> u32 {
        self.guard.as_ref().map(Child::id).expect("only taken away when it ends")
    }

    /// Held by the guard as long as the place is taken. The kernel releases it.
    pub fn lock(number: u8) -> PathBuf {
        PathBuf::from(format!("/run/lock/valkeeper-lab.{number}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        let cleared = guard.wait().is_ok_and(|status| status.success());
        if !cleared && !thread::panicking() {
            panic!("the lab was not taken down: see what its guard said");
        }
    }
}

/// Hosts that run. They end with this value.
pub struct Lab {
    pub hosts: Vec<Host>,
    groups: Vec<PathBuf>,
    place: Place,
}

impl Lab {
    /// Hosts n1, n2, … of these kinds, which answer by ssh.
    pub fn of<W: Into<Wanted>>(wanted: impl IntoIterator<Item = W>) -> Self {
        let place = Place::take();
        let groups = place.groups("run");
        prepare(&place);
        let wanted = wanted.into_iter().map(Into::into);
        let hosts = (1..).zip(wanted).map(|(number, wanted)| Host::made(&place, number, wanted)).collect();
        let lab = Self { hosts, groups, place };
        lab.write_ssh();
        thread::scope(|scope| {
            for host in &lab.hosts {
                scope.spawn(|| host.boot());
            }
        });
        lab
    }

    /// A program on this machine (the controller's) that reaches the hosts by their names, if it uses `VALKEEPER_SSH` as its ssh.
    pub fn command(&self, program: &str) -> Command {
        let mut command = cgroup::inside(&self.groups, program);
        command.env("VALKEEPER_SSH", self.folder().join("ssh"));
        command
    }

    /// For files of the test: it is gone with the lab.
    pub fn folder(&self) -> PathBuf {
        self.place.folder()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A further way to a host: this name leads to it, with a login and a key of its own. Gives the public key.
    pub fn alias(&self, name: &str, host: &Host, login: &str) -> String {
        let key = self.folder().join(format!("{name}.key"));
        run::must(run::program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key));
        let block = format!(
            "Host {name}\n  HostName {}\n  HostKeyAlias {}\n  User {login}\n  IdentityFile {}\n",
            host.address,
            host.name,
            key.display()
        );
        let mut aliases = File::options().create(true).append(true).open(self.folder().join("ssh_aliases")).unwrap();
        aliases.write_all(block.as_bytes()).unwrap();
        fs::read_to_string(key.with_extension("key.pub")).unwrap()
    }

    /// What a command over ssh by such a name says, however it ends.
    pub fn try_ssh(&self, options: &[&str], name: &str, arguments: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command.args(["--foreground", "60"]).arg(self.folder().join("ssh")).arg("-T").args(options);
        run::output(command.args(["--", name]).args(arguments))
    }

    /// OpenSSH takes a person's home from the password file and not from `HOME`, so a configuration of our own has to be named.
    fn write_ssh(&self) {
        let folder = self.folder();
        let at = |name: &str| folder.join(name).display().to_string();
        let mut config = format!("Include {}\n", at("ssh_aliases"));
        config.push_str(&format!(
            "Host *\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  ConnectTimeout 20\n  \
             ServerAliveInterval 2\n  ServerAliveCountMax 3\n",
            at("key"),
            at("known_hosts"),
        ));
        let mut known = String::new();
        for host in &self.hosts {
            config.push_str(&format!("Host {}\n  HostName {}\n  HostKeyAlias {}\n", host.name, host.address, host.name));
            known.push_str(&format!("{} {}\n", host.name, host.public_key()));
        }
        fs::write(folder.join("ssh_config"), config).unwrap();
        fs::write(folder.join("known_hosts"), known).unwrap();
        let ssh = folder.join("ssh");
        fs::write(&ssh, format!("#!/bin/sh\nexec ssh -F {} \"$@\"\n", at("ssh_config"))).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn prepare(place: &Place) {
    let folder = place.folder();
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(folder.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    run::must(run::program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(folder.join("key")));
    let bridge = place.bridge();
    run::must(run::program("ip").args(["link", "add", &bridge, "type", "bridge"]));
    run::must(run::program("ip").args(["address", "add", &format!("{}/24", place.address(1)), "dev", &bridge]));
    run::must(run::program("ip").args(["link", "set", &bridge, "up"]));
}

/// How long something may take on a busy machine until a test gives up.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Looks again and again until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !so() {
        assert!(std::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
