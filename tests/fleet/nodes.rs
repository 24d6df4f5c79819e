//! Making hosts nodes, keeping them, and leaving them: `valkeeper node`, with every kind of login that deploy/ describes.

use std::fs;

use crate::base::Suite;
use crate::host::Host;
use crate::site::{Site, instance, portable};

/// What a host has of ours, wherever it may lie. `/proc` and such are not looked at.
fn ours(host: &Host) -> String {
    let found = host.ssh(&[
        "find",
        "/",
        "-xdev",
        "(",
        "-path",
        "/sys",
        "-o",
        "-path",
        "/proc",
        ")",
        "-prune",
        "-o",
        "(",
        "-name",
        "*valkeeper*",
        "-o",
        "-path",
        "/etc/systemd/system/valkey@*",
        "-o",
        "-path",
        "/etc/valkey/instances*",
        "-o",
        "-path",
        "/var/lib/valkey/?*",
        "-o",
        "-path",
        "/run/valke*",
        ")",
        "-print",
    ]);
    let run = host.ssh(&["find", "/run", "/tmp", "-xdev", "-name", "*valke*"]);
    let units = host.ssh(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "valkey@*"]);
    format!("{found}{run}{units}")
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_host_becomes_a_node_and_leaves_the_fleet_again() {
    let site = Site::bare([Suite::Bookworm, Suite::Trixie, Suite::Bullseye]);
    let [n1, n2, n3] = &site.lab.hosts[..] else { panic!("three hosts were asked for") };
    let before = ours(n1);
    assert_eq!(before, "", "a bare host has nothing of ours");

    // What will be done is shown, and only done when a person says so.
    let program = portable();
    let program = program.to_str().unwrap();
    site.run(&["node", "add", "n1", "--program", program]).expect(1).says("will install").says("No server is touched");
    site.run(&["node", "check", "n1"]).expect(0).says("valkeeper: not installed");
    assert_eq!(ours(n1), before);
    site.add("n1").expect(0).says("ready, with valkey-server 8.0.1 and 0 members");
    site.add("n1").expect(0).says("is the one here already");
    site.run(&["node", "check", "n1"]).expect(0).says("agent: sees 0 members");
    site.add("n2").expect(0).says("ready, with valkey-server 8.1");

    an_unfit_host_is_refused_and_untouched(&site, n3);
    the_build_for_nodes_runs_on_the_oldest_host(&site, n3);
    a_build_that_a_host_cannot_run_changes_nothing(&site, n2);
    an_upgrade_rolls_over_all_nodes(&site);
    a_lost_node_is_forgotten(&site, n2);
    a_node_leaves_only_when_nothing_is_on_it(&site, n1);
}

fn an_unfit_host_is_refused_and_untouched(site: &Site, n3: &Host) {
    site.add("n3").expect(1).says("BAD   valkey-server: not installed").says("nothing was changed");
    assert_eq!(ours(n3), "");
    site.run(&["node", "check"]).expect(1).says("Node n3").says("BAD");
    let stopped = "/usr/bin/valkey-server";
    let n1 = site.host("n1");
    n1.ssh(&["mv", stopped, "/root/kept"]);
    site.run(&["node", "check", "n1"]).expect(1).says("valkey-server: not installed");
    site.run(&["plan"]).expect(4).says("n1").says("valkey-server");
    n1.ssh(&["mv", "/root/kept", stopped]);
}

/// systemd 247, a C library from 2020, and no Valkey: the program runs, and says what it lacks.
fn the_build_for_nodes_runs_on_the_oldest_host(site: &Site, n3: &Host) {
    fs::copy(portable(), n3.file("/usr/local/bin/valkeeper")).unwrap();
    assert!(n3.ssh(&["/usr/local/bin/valkeeper", "--version"]).starts_with("valkeeper "));
    site.run(&["plan"]).expect(4).says("node n3").says("valkey-server");
    n3.ssh(&["rm", "/usr/local/bin/valkeeper"]);
}

fn a_build_that_a_host_cannot_run_changes_nothing(site: &Site, n2: &Host) {
    let digest = || n2.ssh(&["sha256sum", "/usr/local/bin/valkeeper"]);
    let before = digest();
    for (name, content) in [
        ("other-machine", &b"\x7fELF\x02\x01\x01 of another machine"[..]),
        ("empty", b""),
        ("something-else", &fs::read("/bin/true").unwrap()),
        ("cut", &fs::read(portable()).unwrap()[..200_000]),
    ] {
        site.write(name, content);
        let refused = site.run(&["node", "upgrade", "n2", "--yes", "--program", name]).expect(1);
        assert!(refused.all().contains("cannot run this build"), "{name}: {}", refused.all());
        assert_eq!(digest(), before, "{name}");
        assert_eq!(n2.ssh(&["ls", "-A", "/usr/local/bin"]), "valkeeper\n", "{name}");
    }
}

fn an_upgrade_rolls_over_all_nodes(site: &Site) {
    // Another build: what is behind the end of an ELF file is nobody's.
    let mut next = fs::read(portable()).unwrap();
    next.extend(b"next");
    site.write("next", next);
    site.run(&["node", "upgrade", "--all", "--yes", "--program", "next"]).expect(1).says("node n3 has no valkeeper yet");
    for node in ["n1", "n2"] {
        site.run(&["node", "upgrade", node, "--program", "next"]).expect(0).says("is the one here already");
    }
    let program = portable();
    declare(site, &["n1", "n2"], "");
    let all = ["node", "upgrade", "--all", "--yes", "--program", program.to_str().unwrap()];
    site.run(&all).expect(0).says("Node n1: ready").says("Node n2: ready").says("in place of valkeeper");
}

/// The fleet of these nodes alone, with these tables.
fn declare(site: &Site, nodes: &[&str], tables: &str) {
    let nodes: String = nodes.iter().map(|name| crate::site::node(name, name, &site.host(name).address)).collect();
    site.write("fleet.toml", format!("[fleet]\nname = \"prod\"\n{nodes}{tables}"));
}

fn a_lost_node_is_forgotten(site: &Site, n2: &Host) {
    let on = |node: &str| instance("two", node, "");
    declare(site, &["n1", "n2"], &on("n2"));
    site.applied();
    site.run(&["node", "remove", "n2", "--lost", "--yes"]).expect(1).says("without --lost");
    n2.ssh(&["systemctl", "stop", "ssh.service"]);
    site.run(&["node", "remove", "n1", "--yes"]).expect(1).says("node n2 cannot be seen");
    declare(site, &["n1", "n2"], &on("n1"));
    site.run(&["plan"]).expect(4).says("not made anew elsewhere");
    site.run(&["node", "remove", "n2", "--lost", "--yes"]).expect(0).says("made anew, EMPTY: two").says("is forgotten");
    declare(site, &["n1"], &on("n1"));
    site.applied();
    site.settled();
}

fn a_node_leaves_only_when_nothing_is_on_it(site: &Site, n1: &Host) {
    site.run(&["node", "remove", "n1", "--yes"]).expect(1).says("places instance two on n1");
    declare(site, &["n1"], "[instances.two]\nshard = \"on-n1\"\nensure = \"absent\"\n");
    site.applied();
    site.run(&["node", "remove", "n1", "--yes"]).expect(1).says("data of deleted instances is still kept on n1: two");
    site.run(&["node", "remove", "n1", "--discard-set-aside"]).expect(1).says("will remove").says("goes for good: two");
    assert_ne!(ours(n1), "");
    site.run(&["node", "remove", "n1", "--discard-set-aside", "--yes"]).expect(0).says("nothing of ours is left");
    assert_eq!(ours(n1), "");
    assert_eq!(n1.ssh(&["ls", "-A", "/var/lib/valkey", "/usr/local/bin"]), "/usr/local/bin:\n\n/var/lib/valkey:\n");
    site.run(&["node", "check", "n1"]).expect(0).says("not installed");
}
