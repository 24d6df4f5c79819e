//! Hosts that are not who they were: whatever answers for a node, instances of somebody else are never touched, and none is
//! made a second time.

use std::collections::BTreeMap;
use std::fs;

use crate::base::Suite;
use crate::site::{Site, instance, node};

/// What was written where: every file of ours and of the servers, with its time and size.
fn state(site: &Site) -> BTreeMap<String, String> {
    let list = |host: &crate::host::Host| {
        let folders = ["/var/lib/valkey", "/var/lib/valkeeper", "/etc/valkey/instances", "/etc/systemd/system"];
        host.ssh(&[&["find"][..], &folders, &["-not", "-name", "lock", "-printf", "%p %T@ %s\n"]].concat())
    };
    site.lab.hosts.iter().map(|host| (host.name.clone(), list(host))).collect()
}

/// The two nodes, by these ways to them.
fn leads_to(site: &Site, fleet: &str, ways: [&str; 2], tables: &str) {
    let [n1, n2] = &site.lab.hosts[..] else { panic!("two hosts were asked for") };
    let nodes = format!("{}{}", node("n1", ways[0], &n1.address), node("n2", ways[1], &n2.address));
    site.write("fleet.toml", format!("[fleet]\nname = \"{fleet}\"\n{nodes}{tables}"));
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn what_is_not_who_it_was_is_only_reported() {
    let site = Site::of([Suite::Bookworm; 2]);
    let [n1, n2] = &site.lab.hosts[..] else { panic!("two hosts were asked for") };
    let two = format!("{}{}", instance("one", "n1", ""), instance("two", "n2", ""));
    site.declare(&two);
    site.applied();
    let before = state(&site);
    let wants_more = format!("{two}{}{}", instance("three", "n1", ""), instance("four", "n2", ""));
    let untouched = |what: &str, code: i32, says: &[&str]| {
        let ran = site.apply().expect(code);
        for words in says {
            assert!(ran.all().contains(words), "{what}: {words:?} is missing: {}", ran.all());
        }
        assert_eq!(state(&site), before, "{what}: {}", ran.all());
    };

    leads_to(&site, "prod", ["n2", "n1"], &wants_more);
    untouched("destinations are swapped", 4, &["node n1: another machine", "node n2: another machine", "--lost"]);

    leads_to(&site, "other", ["n1", "n2"], &two);
    untouched("another fleet", 1, &["instance one", "belongs to fleet prod"]);

    // A shard is edited while its old node is away: nothing is made elsewhere.
    n2.cut_network();
    let moved = two.replace("shard = \"on-n2\"", "shard = \"on-n1\"");
    leads_to(&site, "prod", ["n1", "n2"], &moved);
    let ran = site.apply().expect(4).says("two").says("not made anew elsewhere");
    n2.heal_network();
    assert_eq!(state(&site), before, "{}", ran.all());
    // Or taken out of the text altogether.
    let alone = node("n1", "n1", &n1.address);
    site.write("fleet.toml", format!("[fleet]\nname = \"prod\"\n{alone}{moved}"));
    untouched("a node is gone from the text", 1, &["two", "not made anew elsewhere"]);

    a_clone_is_not_the_machine(&site, &wants_more, &two);
}

/// A host that was copied from another one, disk and all, and answers at an address of its own.
fn a_clone_is_not_the_machine(site: &Site, wants_more: &str, two: &str) {
    let [n1, n2] = &site.lab.hosts[..] else { panic!("two hosts were asked for") };
    let own = fs::read(n2.file("/etc/machine-id")).unwrap();
    n2.cut_power();
    fs::copy(n1.file("/etc/machine-id"), n2.file("/etc/machine-id")).unwrap();
    n2.boot();
    leads_to(site, "prod", ["n1", "n2"], wants_more);
    let before = fs::read_to_string(n2.file("/var/lib/valkeeper/instances/two.toml")).unwrap();
    site.apply().expect(4).says("node n2: another machine");
    assert!(!n2.file("/var/lib/valkeeper/instances/four.toml").exists(), "nothing is made on a clone");
    assert!(n1.file("/var/lib/valkeeper/instances/three.toml").exists(), "its sound neighbour gets its due");
    assert_eq!(fs::read_to_string(n2.file("/var/lib/valkeeper/instances/two.toml")).unwrap(), before);
    // As a node that the fleet does not know yet, it is told to be the same machine.
    let n3 = node("n3", "n2", &n2.address);
    let alone = node("n1", "n1", &n1.address);
    let on_n3 = instance("five", "n3", "");
    site.write(
        "fleet.toml",
        format!("[fleet]\nname = \"prod\"\n{alone}{n3}{two}{on_n3}").replace("shard = \"on-n2\"", "shard = \"on-n1\""),
    );
    site.apply().expect(4).says("node n3: it is the same machine").says("as node n1: a clone");
    assert!(!n2.file("/var/lib/valkeeper/instances/five.toml").exists());
    n2.cut_power();
    fs::write(n2.file("/etc/machine-id"), own).unwrap();
    n2.boot();
    leads_to(site, "prod", ["n1", "n2"], wants_more);
    crate::lab::until("settled with its own machine id", || site.apply().code == Some(0));
    site.settled();
}
