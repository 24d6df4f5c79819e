//! An instance with a member on each of two hosts: it follows over the network, hands over, moves, and what systemd or a boot
//! starts again follows by itself. The password with which it does is seen nowhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::base::Suite;
use crate::lab::until;
use crate::site::{PASSWORD, Site, hash};
use crate::writers::Writers;

fn declare(site: &Site, shard: &str, keys: &str) {
    let hash = hash(PASSWORD);
    site.declare_with(
        "[guard]\nhandover_grace = \"0s\"\n",
        &format!(
            "[shards.both]\nnodes = [\"n1\", \"n2\"]\nports = \"6500-6509\"\n\
             [instances.cache]\nshard = \"{shard}\"\n{keys}\n[instances.cache.users.app]\n\
             password_sha256 = \"{hash}\"\nprivileges = [\"+@all\", \"-@admin\", \"+config|get\"]\n"
        ),
    );
}

fn is_up(site: &Site, node: &str) -> bool {
    let unit = site.host(node).try_ssh(&["systemctl", "is-active", "valkey@cache.service"]);
    String::from_utf8_lossy(&unit.stdout).trim() == "active"
}

/// What is written at one comes to the other, and nobody of ours is about.
fn follows(site: &Site, primary: &str, replica: &str, key: &str) {
    assert_eq!(site.client(primary, "cache").ask(&format!("SET {key} kept")), "+OK");
    until(&format!("{key} comes to {replica}"), || {
        is_up(site, replica) && site.client(replica, "cache").ask(&format!("GET {key}")) == "kept"
    });
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_group_on_two_hosts_follows_hands_over_and_moves() {
    let site = Site::of([Suite::Bookworm; 2]);
    declare(&site, "both", "");
    site.applied();
    site.settled();
    follows(&site, "n1", "n2", "first");
    what_is_started_again_follows_by_itself(&site, "n1", "n2");
    the_password_is_seen_nowhere(&site);

    declare(&site, "both", "primary = \"n2\"");
    site.run(&["plan"]).expect(2).says("hand over to node n2");
    site.applied();
    site.settled();
    follows(&site, "n2", "n1", "handed-over");
    // The unit of the old primary was started when it followed nobody.
    what_is_started_again_follows_by_itself(&site, "n2", "n1");

    // From both hosts to one, and to the other one: a move.
    for (shard, node) in [("on-n2", "n2"), ("on-n1", "n1")] {
        declare(&site, shard, "");
        if node == "n1" {
            a_way_that_is_closed_holds_the_move(&site, "n2", "n1");
        }
        let writers = Writers::start(&site.places("cache"));
        site.applied();
        writers.end().whole(&format!("lab: a move to {node}"), 200);
        site.applied();
        site.settled();
        for key in ["first", "killed", "booted", "handed-over"] {
            assert_eq!(site.client(node, "cache").ask(&format!("GET {key}")), "kept", "{key} on {node}");
        }
    }
    let left = site.host("n2").file("/var/lib/valkeeper/instances/cache.replication");
    assert!(!left.exists(), "the password stayed behind");
}

/// Both are reached from here, and not from each other.
fn a_way_that_is_closed_holds_the_move(site: &Site, source: &str, target: &str) {
    let (there, here) = (site.host(target), &site.host(source).address);
    for route in ["unreachable", "blackhole"] {
        there.ssh(&["ip", "route", "add", route, here]);
        let plan = site.run(&["plan"]).expect(2).says(&format!("node {target} does not reach {here}:"));
        assert!(plan.all().contains("0 to add") && plan.all().contains("firewalls"), "{}", plan.all());
        site.apply();
        assert!(!there.file("/var/lib/valkeeper/instances/cache.toml").exists(), "nothing is made that could not follow");
        there.ssh(&["ip", "route", "del", route, here]);
    }
}

fn what_is_started_again_follows_by_itself(site: &Site, primary: &str, replica: &str) {
    let host = site.host(replica);
    let pid = host.ssh(&["systemctl", "show", "-P", "MainPID", "valkey@cache.service"]);
    host.ssh(&["kill", "-KILL", pid.trim()]);
    follows(site, primary, replica, "killed");
    assert_ne!(host.ssh(&["systemctl", "show", "-P", "MainPID", "valkey@cache.service"]), pid);
    host.reboot();
    follows(site, primary, replica, "booted");
    until("nothing is left to do", || site.run(&["plan"]).code == Some(0));
    site.settled();
}

fn the_password_is_seen_nowhere(site: &Site) {
    let host = site.host("n2");
    let path = host.file("/var/lib/valkeeper/instances/cache.replication");
    let text = fs::read_to_string(&path).unwrap();
    let password = text.lines().find_map(|line| line.strip_prefix("primaryauth ")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = fs::read_to_string(host.file("/etc/valkey/instances/cache.conf")).unwrap();
    let plan = site.run(&["plan", "--json"]);
    let said = [
        config,
        plan.all(),
        site.run(&["observe"]).all(),
        host.ssh(&["systemctl", "show", "valkey@cache.service"]),
        host.journal(),
    ];
    said.iter().for_each(|words| assert!(!words.contains(password), "{words}"));
    let pid = host.ssh(&["systemctl", "show", "-P", "MainPID", "valkey@cache.service"]);
    for what in ["cmdline", "environ"] {
        let seen = host.ssh(&["cat", &format!("/proc/{}/{what}", pid.trim())]);
        assert!(!seen.contains(password), "{what}");
    }
    // The server's own copy is for it alone.
    let copy = "/run/credentials/valkey@cache.service/replication";
    assert!(!host.try_ssh(&["runuser", "-u", "nobody", "--", "cat", copy]).status.success());
    // A file that somebody removed is put back, and the primary has none.
    fs::remove_file(&path).unwrap();
    site.run(&["plan"]).expect(2).says("cache.replication is missing");
    site.applied();
    site.settled();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert!(!site.host("n1").file("/var/lib/valkeeper/instances/cache.replication").exists());
    // Each copy is a mount that every start of a unit goes through, so only who needs it has one.
    let is_handed = |node: &str| {
        let drop_in = site.host(node).file("/etc/systemd/system/valkey@cache.service.d/50-valkeeper.conf");
        fs::read_to_string(drop_in).unwrap().contains("LoadCredential=")
    };
    assert_eq!((is_handed("n1"), is_handed("n2")), (false, true));
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn an_instance_moves_as_a_snapshot_between_hosts_that_cannot_reach_each_other() {
    let site = Site::of([Suite::Bookworm; 2]);
    let keys = "move = \"snapshot\"\nmax_memory_mb = 100\nconfig = { appendfsync = \"always\" }";
    declare(&site, "on-n1", keys);
    site.applied();
    let (first, second) = (site.host("n1"), site.host("n2"));
    first.ssh(&["ip", "route", "add", "blackhole", &second.address]);
    second.ssh(&["ip", "route", "add", "blackhole", &first.address]);
    let mut client = site.client("n1", "cache");
    for number in 0..2000 {
        assert_eq!(client.ask(&format!("SET key:{number} {number:01000}")), "+OK");
    }
    declare(&site, "on-n2", keys);
    site.run(&["plan"]).expect(2).says("take over the snapshot from node n1");
    let writers = Writers::start(&site.places("cache"));
    site.applied();
    writers.end().whole("lab: a move as a snapshot", 50);
    site.applied();
    site.settled();
    let holds = |key: u32| site.client("n2", "cache").ask(&format!("GET key:{key}")) == format!("{key:01000}");
    assert!((0..2000).step_by(97).all(holds));
    // What was put in place is the server's own, and survives it.
    let owner = second.ssh(&["stat", "-c", "%U:%G", "/var/lib/valkey/cache/appendonlydir/appendonly.aof.manifest"]);
    assert_eq!(owner.trim(), "valkey:valkey");
    assert_eq!(site.client("n2", "cache").ask("SET later kept"), "+OK");
    second.reboot();
    until("it is back", || is_up(&site, "n2"));
    until("its data is back", || site.client("n2", "cache").ask("GET later") == "kept");
    assert!(holds(1999));
    for host in [first, second] {
        assert_eq!(host.ssh(&["find", "/var/lib/valkey/.valkeeper-set-aside", "-name", "*.rdb", "-maxdepth", "1"]), "");
    }
}
