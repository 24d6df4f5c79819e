//! Logins on a node as deploy/ describes them: each can do what it is there for, and nothing else.

use std::fs;

use crate::base::Suite;
use crate::host::Host;
use crate::site::{Site, instance, node, portable};

const KEYS: &str = include_str!("../../deploy/authorized_keys");
const SUDOERS: &str = include_str!("../../deploy/sudoers-valkeeper");

/// The line of deploy/authorized_keys that ends like this, with this key.
fn forced(ends: &str, key: &str) -> String {
    let line = KEYS.lines().find(|line| line.ends_with(ends)).unwrap();
    format!("{}{key}", line.split_once("ssh-ed25519").unwrap().0)
}

/// A user of the node, who may log in with these lines.
fn login(host: &Host, user: &str, sudoers: &str, keys: &[String]) {
    host.ssh(&["useradd", "--create-home", "--shell", "/bin/sh", user]);
    let ssh = format!("/home/{user}/.ssh");
    host.ssh(&["install", "-d", "-m", "0700", "-o", user, &ssh]);
    let file = format!("{ssh}/authorized_keys");
    fs::write(host.file(&file), keys.concat()).unwrap();
    host.ssh(&["chown", user, &file]);
    let rules = format!("/etc/sudoers.d/{user}");
    fs::write(host.file(&rules), sudoers).unwrap();
    host.ssh(&["chmod", "0440", &rules]);
    host.ssh(&["visudo", "-cf", &rules]);
}

/// The only node of the fleet, by this way to it.
fn by(site: &Site, name: &str, tables: &str) {
    let host = &site.lab.hosts[0];
    site.write("fleet.toml", format!("[fleet]\nname = \"prod\"\n{}{tables}", node("n1", name, &host.address)));
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn logins_can_do_what_they_are_there_for() {
    let site = Site::bare([Suite::Bookworm]);
    let host = &site.lab.hosts[0];
    let [full, look, shell, admin] = [("full", "valkeeper"), ("look", "valkeeper"), ("shell", "valkeeper"), ("admin", "op")]
        .map(|(name, user)| site.lab.alias(name, host, user));
    login(host, "valkeeper", SUDOERS, &[forced(" valkeeper", &full), forced(" valkeeper-plan", &look), shell]);
    login(host, "op", "op ALL=(root) NOPASSWD: ALL\n", &[admin]);
    let program = portable();
    let program = program.to_str().unwrap();

    // A login that may be root prepares the node; one that may run the agent does not.
    by(&site, "shell", "");
    let before = host.ssh(&["ls", "-A", "/usr/local/bin"]);
    site.run(&["node", "add", "n1", "--yes", "--program", program]).expect(1).says("root");
    assert_eq!(host.ssh(&["ls", "-A", "/usr/local/bin"]), before);
    by(&site, "admin", "");
    site.run(&["node", "check"]).expect(0).says("op on Debian").says("root by sudo");
    site.run(&["node", "add", "n1", "--yes", "--program", program]).expect(0).says("ready");
    assert_eq!(host.ssh(&["stat", "-c", "%U %a", "/usr/local/bin/valkeeper"]), "root 755\n");

    let one = instance("one", "n1", "");
    by(&site, "look", &one);
    site.run(&["plan"]).expect(2).says("Plan: 1 to add");
    site.apply().expect(1).says("--read-only");
    assert_eq!(host.ssh(&["ls", "-A", "/var/lib/valkey"]), ".valkeeper-set-aside\n", "it only looked");
    by(&site, "full", &one);
    site.applied();
    site.settled();
    by(&site, "shell", &one);
    site.settled();
    site.run(&["node", "check"]).expect(0).says("root by sudo for the agent only").says("agent: sees 1 members");
    site.run(&["node", "upgrade", "n1", "--yes", "--program", "/bin/true"])
        .expect(1)
        .says("may run the agent there and nothing else");

    for way in ["full", "look"] {
        by(&site, way, &one);
        site.run(&["node", "upgrade", "n1", "--yes", "--program", "/bin/true"]).expect(1).says("runs no shell");
        let said = site.lab.try_ssh(&[], way, &["touch", "/tmp/a-shell"]);
        let said = String::from_utf8_lossy(&said.stdout);
        assert!(said.contains("valkeeper agent") && said.len() < 200, "the agent, whatever is asked for: {said}");
        let forwards = site.lab.try_ssh(&["-Wlocalhost:22"], way, &[]);
        assert!(!forwards.status.success() && forwards.stdout.is_empty(), "{way} forwards nothing");
    }
    assert_eq!(host.try_ssh(&["test", "-e", "/tmp/a-shell"]).status.code(), Some(1));
    let sudo = site.lab.try_ssh(&[], "shell", &["sudo", "-n", "id"]);
    assert!(!sudo.status.success(), "sudo is for the agent alone");
    let sudo = site.lab.try_ssh(&[], "shell", &["sudo", "-n", "/usr/local/bin/valkeeper", "plan"]);
    assert!(!sudo.status.success(), "sudo is for the agent alone");
}
