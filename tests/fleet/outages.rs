//! What happens to hosts while something is applied, or between two plans: reboots, lost power, cut networks, full disks.

use std::process::Child;
use std::thread;
use std::time::Duration;

use rand::RngExt as _;

use crate::base::Suite;
use crate::lab::{Wanted, until};
use crate::ran::finish;
use crate::site::{Site, instance, within};

/// Instances that lose nothing that they have acknowledged.
fn careful(site: &Site, each: usize, settings: &str) -> String {
    let of = |node: &str| {
        let one = |number| instance(&format!("{node}-{number}"), node, &format!("appendfsync = \"always\"{settings}"));
        (1..=each).map(one).collect::<String>()
    };
    site.lab.hosts.iter().map(|host| of(&host.name)).collect()
}

fn write(site: &Site, node: &str, number: usize, key: &str) {
    assert_eq!(site.client(node, &format!("{node}-{number}")).ask(&format!("SET {key} kept")), "+OK");
}

fn read(site: &Site, node: &str, number: usize, key: &str) -> String {
    site.client(node, &format!("{node}-{number}")).ask(&format!("GET {key}"))
}

/// Servers that came back load their data first.
fn settles_by_itself(site: &Site) {
    until("a plan says that there is nothing to do", || site.run(&["plan"]).code == Some(0));
    site.settled();
}

fn begin_apply(site: &Site) -> Child {
    site.command(&["apply", "--yes"]).spawn().unwrap()
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn what_a_host_goes_through_leaves_it_as_declared() {
    let site = Site::of([Suite::Bookworm; 2]);
    site.declare(&careful(&site, 3, ""));
    site.applied();
    after_a_reboot_instances_are_back_by_themselves(&site);
    power_that_is_lost_at_any_moment_costs_no_key(&site);
    a_network_that_is_cut_costs_only_time(&site);
}

fn after_a_reboot_instances_are_back_by_themselves(site: &Site) {
    write(site, "n1", 1, "before-reboot");
    site.host("n1").reboot();
    settles_by_itself(site);
    assert_eq!(read(site, "n1", 1, "before-reboot"), "kept");
}

fn power_that_is_lost_at_any_moment_costs_no_key(site: &Site) {
    let host = site.host("n1");
    let mut new = String::new();
    for round in 0..3 {
        let key = format!("round-{round}");
        write(site, "n1", 1, &key);
        // A restart, a change, and a new instance on the node that goes; something on the other one too.
        let settings = format!(", databases = {}, timeout = {}", 20 + round, 30 + round);
        new.push_str(&instance(&format!("new-{round}"), "n1", ""));
        site.declare(&format!("{}{new}", careful(site, 3, &settings)));
        let apply = begin_apply(site);
        let moment = rand::rng().random_range(100..2500);
        thread::sleep(Duration::from_millis(moment));
        host.cut_power();
        host.boot();
        let ran = finish(apply);
        eprintln!("lab: power lost after {moment} ms: {:?}, {}", ran.code, ran.all().lines().last().unwrap_or_default());
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        until("apply settles it", || site.apply().code == Some(0));
        site.settled();
        for round in 0..=round {
            assert_eq!(read(site, "n1", 1, &format!("round-{round}")), "kept");
        }
    }
}

fn a_network_that_is_cut_costs_only_time(site: &Site) {
    let host = site.host("n1");
    // Before: the plan is there in time, without steps for what is not seen.
    host.cut_network();
    let new: String = (0..3).map(|round| instance(&format!("new-{round}"), "n1", "")).collect();
    let text = |timeout: u32| format!("{}{new}", careful(site, 3, &format!(", databases = 22, timeout = {timeout}")));
    site.declare(&text(60));
    let plan = within(Duration::from_secs(20), || site.run(&["plan"]).expect(4));
    assert!(plan.all().contains("node n1") && plan.all().contains("3 to change"), "{}", plan.all());
    within(Duration::from_secs(60), || site.apply().expect(4));
    host.heal_network();
    site.applied();
    // During: what the agent was asked for it finishes, and the next apply finds it.
    site.declare(&format!("{}{}", text(61).replace("databases = 22", "databases = 23"), instance("cut", "n1", "")));
    let apply = begin_apply(site);
    thread::sleep(Duration::from_millis(700));
    host.cut_network();
    let ran = within(Duration::from_secs(110), || finish(apply));
    assert!(matches!(ran.code, Some(1 | 4)), "{}", ran.all());
    host.heal_network();
    // The agent of the apply that was cut off gives up after 30 seconds of silence.
    until("apply settles it", || site.apply().code == Some(0));
    site.settled();
    assert_eq!(read(site, "n1", 1, "before-reboot"), "kept");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_full_disk_stops_what_needs_room_and_nothing_else() {
    let site = Site::of([Wanted { suite: Suite::Bookworm, data_bytes: Some(64 << 20) }]);
    let host = &site.lab.hosts[0];
    // A small disk on purpose: it is filled through memory.
    let declare = |tables: String| site.declare_with("[guard]\nwithout_room = \"warn\"\n", &tables);
    declare(careful(&site, 2, ""));
    site.applied();
    write(&site, "n1", 1, "before");
    host.fill_disk();
    site.run(&["plan"]).expect(0).says("No changes.");
    let more = format!("{}{}", careful(&site, 2, ", timeout = 7"), instance("more", "n1", ""));
    site.declare(&more);
    site.run(&["plan"]).says("instance more: create").says("free some").says("2 to change");
    declare(more);
    let ran = site.apply().expect(1);
    assert!(ran.all().contains("no space is left on its disk; free some"), "{}", ran.all());
    assert_eq!(site.operator("n1", "n1-1").ask("CONFIG GET timeout"), "timeout 7", "what needs no room is done");
    host.free_disk();
    site.applied();
    site.settled();
    assert_eq!(read(&site, "n1", 1, "before"), "kept");
    write(&site, "n1", 1, "after");
}
