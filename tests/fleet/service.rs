//! The daemon as deploy/README.md installs it: its unit on a host, a user and keys of its own, a repository there, and nodes on
//! two other hosts and on its own. Nothing but the watchdog's time is another than what is shipped.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::base::Suite;
use crate::host::Host;
use crate::lab::until;
use crate::run;
use crate::site::{Site, instance, node, portable, timed, within};

const UNIT: &str = include_str!("../../deploy/valkeeper.service");
const SAMPLE: &str = include_str!("../../deploy/valkeeper.toml");
/// What deploy/README.md says that the loaded unit scores, in tenths.
const EXPOSURE_MAX: &str = "--threshold=14";
const REPOSITORY: &str = "/srv/state.git";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const WATCHDOG: Duration = Duration::from_secs(3);

/// The host with the daemon, and the person who commits to its repository.
struct Keeper<'a> {
    site: &'a Site,
    host: &'a Host,
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn the_daemon_is_a_service_of_its_host() {
    let site = Site::bare([Suite::Bookworm; 3]);
    NODES.iter().for_each(|name| drop(site.add(name).expect(0)));
    let keeper = Keeper { site: &site, host: site.host("n1") };
    keeper.commit("fleet.toml", &fleet(&site, 1));
    keeper.install();
    keeper.keys();
    timed("the service starts", || keeper.ssh(&["systemctl", "enable", "--now", "valkeeper.service"]));
    keeper.has(1);
    keeper.host.ssh(&["systemd-analyze", "security", "--no-pager", EXPOSURE_MAX, "valkeeper.service"]);
    assert_eq!(keeper.ssh(&["ps", "-o", "user=", "-p", &keeper.pid()]).trim(), "valkeeper", "it runs as its own user");
    keeper.commit("fleet.toml", &fleet(&site, 2));
    keeper.has(2);
    a_reload_takes_a_configuration_over_or_refuses_it(&keeper);
    it_stops_cleanly_and_soon(&keeper);
    whatever_ends_it_systemd_starts_it_again(&keeper);
    let journal = keeper.ssh(&["journalctl", "--no-pager", "--quiet", "-u", "valkeeper.service"]);
    assert!(!journal.contains("panicked"), "{journal}");
}

/// An instance on each node, with this setting.
fn fleet(site: &Site, timeout: u32) -> String {
    let of = |name: &str| {
        let address = &site.host(name).address;
        let instance = instance(&format!("on-{name}"), name, &format!("timeout = {timeout}"));
        format!("{}{instance}", node(name, &format!("root@{address}"), address))
    };
    format!("[fleet]\nname = \"prod\"\n{}", NODES.map(of).concat())
}

impl Keeper<'_> {
    fn ssh(&self, arguments: &[&str]) -> String {
        self.host.ssh(arguments)
    }

    /// A bare repository on the host, which belongs to root, and a clone of it here.
    fn commit(&self, path: &str, text: &str) {
        let (bare, clone) = (self.host.file(REPOSITORY), self.site.lab.folder().join("clone"));
        let git = |arguments: &[&str]| {
            let who = ["-c", "user.name=lab", "-c", "user.email=lab@example.com", "-c", "init.defaultBranch=main"];
            run::must(run::program("git").args(who).args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null"));
        };
        let (bare, at) = (bare.to_str().unwrap(), clone.to_str().unwrap());
        if !Path::new(bare).exists() {
            git(&["init", "--quiet", "--bare", bare]);
            git(&["clone", "--quiet", bare, at]);
        }
        fs::write(clone.join(path), text).unwrap();
        git(&["-C", at, "add", "--all"]);
        git(&["-C", at, "commit", "--quiet", "--message", "as it shall be"]);
        git(&["-C", at, "push", "--quiet", "origin", "HEAD:main"]);
    }

    /// As the page says, line by line.
    fn install(&self) {
        let program = self.host.file("/usr/bin/valkeeper");
        fs::copy(portable(), &program).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        self.ssh(&["useradd", "--system", "--home-dir", "/var/lib/valkeeper", "--shell", "/usr/sbin/nologin", "valkeeper"]);
        self.ssh(&["install", "-d", "-m", "0750", "-o", "root", "-g", "valkeeper", "/etc/valkeeper"]);
        self.configure("60s");
        fs::write(self.host.file("/etc/systemd/system/valkeeper.service"), UNIT).unwrap();
    }

    /// The sample, for a repository that lies here.
    fn configure(&self, poll: &str) {
        let own = |line: &str| match line.split(' ').next().unwrap_or_default() {
            "repo" => format!("repo = \"{REPOSITORY}\"\npoll = \"{poll}\"\n"),
            "ssh_key" | "known_hosts" => String::new(),
            _ => format!("{line}\n"),
        };
        fs::write(self.host.file("/etc/valkeeper/valkeeper.toml"), SAMPLE.lines().map(own).collect::<String>()).unwrap();
        self.ssh(&["chown", "root:valkeeper", "/etc/valkeeper/valkeeper.toml"]);
        self.ssh(&["chmod", "0640", "/etc/valkeeper/valkeeper.toml"]);
    }

    /// Of the user valkeeper: a key that the nodes take, their host keys, and that the repository of somebody else is meant.
    fn keys(&self) {
        let owned = ["-o", "valkeeper", "-g", "valkeeper"];
        self.ssh(&[&["install", "-d", "-m", "0700"][..], &owned, &["/var/lib/valkeeper", "/var/lib/valkeeper/.ssh"]].concat());
        let key = "/var/lib/valkeeper/.ssh/id_ed25519";
        self.ssh(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "valkeeper", "-f", key]);
        let public = self.ssh(&["cat", &format!("{key}.pub")]);
        let mut known = String::new();
        for name in NODES {
            let host = self.site.host(name);
            known.push_str(&format!("{} {}\n", host.address, host.public_key()));
            let mut keys = File::options().append(true).open(host.file("/root/.ssh/authorized_keys")).unwrap();
            writeln!(keys, "restrict,command=\"/usr/local/bin/valkeeper agent\" {}", public.trim()).unwrap();
        }
        fs::write(self.host.file("/var/lib/valkeeper/.ssh/known_hosts"), known).unwrap();
        fs::write(self.host.file("/var/lib/valkeeper/.gitconfig"), format!("[safe]\n\tdirectory = {REPOSITORY}\n")).unwrap();
        self.ssh(&["chown", "-R", "valkeeper:valkeeper", "/var/lib/valkeeper"]);
    }

    fn shown(&self, property: &str) -> String {
        self.ssh(&["systemctl", "show", "-P", property, "valkeeper.service"]).trim().to_owned()
    }

    fn pid(&self) -> String {
        self.shown("MainPID")
    }

    /// It settles by itself, and all instances have this setting.
    fn has(&self, timeout: u32) {
        until("it has settled", || self.host.try_ssh(&["valkeeper", "sync", "--wait"]).status.success());
        for node in NODES {
            let found = self.site.operator(node, &format!("on-{node}")).ask("CONFIG GET timeout");
            assert_eq!(found, format!("timeout {timeout}"), "on {node}");
        }
        self.ssh(&["valkeeper", "status"]);
    }
}

fn a_reload_takes_a_configuration_over_or_refuses_it(keeper: &Keeper<'_>) {
    let pid = keeper.pid();
    keeper.configure("7s");
    keeper.ssh(&["systemctl", "reload", "valkeeper.service"]);
    let journal = || keeper.ssh(&["journalctl", "--no-pager", "--quiet", "-u", "valkeeper.service"]);
    until("it is in force", || journal().contains("the configuration was read again, and is in force"));
    keeper.configure("sometimes");
    keeper.ssh(&["systemctl", "reload", "valkeeper.service"]);
    until("the bad one is told", || journal().contains("poll takes a duration"));
    keeper.ssh(&["valkeeper", "status"]);
    keeper.commit("fleet.toml", &fleet(keeper.site, 3));
    keeper.has(3);
    keeper.configure("60s");
    keeper.ssh(&["systemctl", "reload", "valkeeper.service"]);
    assert_eq!(keeper.pid(), pid, "a reload is no restart");
}

fn it_stops_cleanly_and_soon(keeper: &Keeper<'_>) {
    timed("the service stops", || within(Duration::from_secs(10), || keeper.ssh(&["systemctl", "stop", "valkeeper.service"])));
    assert_eq!((keeper.shown("ActiveState"), keeper.shown("Result")), ("inactive".to_owned(), "success".to_owned()));
    assert_eq!(keeper.host.try_ssh(&["pgrep", "-u", "valkeeper"]).status.code(), Some(1), "nothing of it is left");
    for node in NODES {
        let host = keeper.site.host(node);
        until("its agents end", || host.try_ssh(&["pidof", "valkeeper"]).status.code() == Some(1));
        assert_eq!(host.ssh(&["systemctl", "is-active", &format!("valkey@on-{node}.service")]), "active\n");
    }
    keeper.commit("fleet.toml", &fleet(keeper.site, 4));
    keeper.ssh(&["systemctl", "start", "valkeeper.service"]);
    keeper.has(4);
}

fn whatever_ends_it_systemd_starts_it_again(keeper: &Keeper<'_>) {
    let is_another = |pid: &str| {
        until("systemd starts it again", || {
            keeper.pid() != pid && keeper.pid() != "0" && keeper.shown("ActiveState") == "active"
        });
    };
    let killed = keeper.pid();
    keeper.ssh(&["kill", "-KILL", &killed]);
    is_another(&killed);
    keeper.commit("fleet.toml", &fleet(keeper.site, 5));
    keeper.has(5);

    // A minute is too long for a test; what is called in and how often follows from this one setting.
    let drop_in = keeper.host.file("/etc/systemd/system/valkeeper.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("test.conf"), format!("[Service]\nWatchdogSec={}\n", WATCHDOG.as_secs())).unwrap();
    keeper.ssh(&["systemctl", "daemon-reload"]);
    keeper.ssh(&["systemctl", "restart", "valkeeper.service"]);
    keeper.has(5);
    let hangs = keeper.pid();
    thread::sleep(2 * WATCHDOG);
    assert_eq!(keeper.pid(), hangs, "one that is well calls in");
    keeper.ssh(&["kill", "-STOP", &hangs]);
    is_another(&hangs);
    assert!(keeper.ssh(&["journalctl", "--no-pager", "-u", "valkeeper.service"]).contains("Watchdog timeout"));
    keeper.commit("fleet.toml", &fleet(keeper.site, 6));
    keeper.has(6);
}
