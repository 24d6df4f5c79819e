//! What the lab itself promises: hosts boot, reboot, lose power, are cut off and come back, each by itself.

use std::fs;
use std::time::Instant;

use crate::base::Suite;
use crate::lab::{Lab, Wanted};

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn three_hosts_boot_and_what_happens_to_one_happens_to_no_other() {
    let begun = Instant::now();
    let lab = Lab::of([Suite::Bookworm; 3]);
    eprintln!("three hosts boot in {:.1?}", begun.elapsed());
    let [first, second, third] = &lab.hosts[..] else { panic!("three hosts were asked for") };
    let boot_id = |host: &crate::host::Host| host.ssh(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let before: Vec<_> = lab.hosts.iter().map(boot_id).collect();
    let ids: std::collections::BTreeSet<_> = lab.hosts.iter().map(|host| host.ssh(&["cat", "/etc/machine-id"])).collect();
    assert_eq!(ids.len(), 3, "each host has an identity of its own: {ids:?}");
    for host in &lab.hosts {
        assert_eq!(host.ssh(&["hostname"]), format!("{}\n", host.name));
        assert_eq!(host.ssh(&["systemctl", "--failed", "--plain", "--no-legend"]), "", "no unit has failed on {}", host.name);
    }

    first.ssh(&["touch", "/etc/kept"]);
    first.reboot();
    second.ssh(&["touch", "/etc/kept"]);
    second.cut_power();
    assert!(!second.listens(), "a host without power does not answer");
    second.boot();
    for host in [first, second] {
        host.ssh(&["test", "-e", "/etc/kept"]);
        assert!(!before.contains(&boot_id(host)), "{} has booted again", host.name);
        assert!(host.journal().lines().count() > 0);
    }

    third.cut_network();
    assert!(!third.listens(), "a host that is cut off does not answer");
    third.heal_network();
    third.wait_until_up();
    assert_eq!(boot_id(third), before[2], "the host that was cut off has run on");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn units_of_one_name_do_not_meet() {
    let lab = Lab::of([Suite::Bookworm; 2]);
    for host in &lab.hosts {
        host.ssh(&["systemctl", "start", "valkey-server.service"]);
    }
    lab.hosts[0].ssh(&["systemctl", "stop", "valkey-server.service"]);
    assert_eq!(lab.hosts[1].ssh(&["systemctl", "is-active", "valkey-server.service"]), "active\n");
    assert_eq!(lab.hosts[1].ssh(&["valkey-cli", "ping"]), "PONG\n");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn each_suite_has_what_it_is_there_for() {
    let lab = Lab::of([Suite::Bullseye, Suite::Bookworm, Suite::Trixie]);
    let version = |host: usize| lab.hosts[host].ssh(&["systemctl", "--version"]).split(' ').nth(1).unwrap().to_owned();
    assert_eq!([version(0), version(1), version(2)], ["247", "252", "257"]);
    for (host, version) in [(1, "8.0."), (2, "8.1.")] {
        let host = &lab.hosts[host];
        host.ssh(&["systemctl", "start", "valkey-server.service"]);
        let said = host.ssh(&["valkey-cli", "info", "server"]);
        assert!(said.contains(&format!("valkey_version:{version}")), "{}: {said}", host.name);
    }
    assert_eq!(lab.hosts[0].try_ssh(&["which", "valkey-server"]).status.code(), Some(1), "bullseye has no Valkey");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_full_disk_is_full_and_keeps_its_files() {
    let lab = Lab::of([Wanted { suite: Suite::Bookworm, data_bytes: Some(16 << 20) }]);
    let host = &lab.hosts[0];
    fs::write(host.file("/var/lib/valkey/kept"), "before").unwrap();
    host.fill_disk();
    let write = ["dd", "if=/dev/zero", "of=/var/lib/valkey/more", "bs=1M", "count=1"];
    assert!(String::from_utf8_lossy(&host.try_ssh(&write).stderr).contains("No space left on device"));
    host.cut_power();
    host.boot();
    host.free_disk();
    host.ssh(&write);
    assert_eq!(host.ssh(&["cat", "/var/lib/valkey/kept"]), "before");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn memory_of_a_unit_is_limited() {
    let lab = Lab::of([Suite::Bookworm, Suite::Trixie]);
    for host in &lab.hosts {
        let takes = |bytes: &str| {
            let holds = format!("head -c {bytes} /dev/zero | tail -c {bytes} >/dev/null");
            host.try_ssh(&["systemd-run", "--quiet", "--wait", "--property=MemoryMax=40M", "sh", "-c", &holds]).status.success()
        };
        assert!(takes("10M"), "{}", host.name);
        assert!(!takes("100M"), "{}", host.name);
    }
}
