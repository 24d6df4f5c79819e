//! Sixty instances on three hosts, from the first plan to the last deletion, with everything that people do to them by hand.

use std::fs;

use crate::base::Suite;
use crate::host::Host;
use crate::lab::until;
use crate::site::{PASSWORD, Site, hash, instance, timed};

/// Instances of each host.
const EACH: usize = 20;

fn name(node: &str, number: usize) -> String {
    format!("{node}-{number:02}")
}

fn reader(name: &str) -> String {
    let hash = hash("of-the-reader");
    format!(
        "[instances.{name}.users.reader]\npassword_sha256 = \"{hash}\"\nprivileges = [\"+@read\", \"-@dangerous\"]\nkey_pattern = \"~public:*\"\n"
    )
}

/// All sixty, with two users each, and these settings.
fn sixty(site: &Site, settings: &str) -> String {
    let of = |host: &Host| {
        (1..=EACH)
            .map(|number| name(&host.name, number))
            .map(|name| format!("{}{}", instance(&name, &host.name, settings), reader(&name)))
            .collect::<String>()
    };
    site.lab.hosts.iter().map(of).collect()
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn sixty_instances_are_made_changed_kept_and_deleted() {
    let site = timed("three nodes are made", || Site::of([Suite::Bookworm; 3]));
    site.declare(&sixty(&site, ""));
    let ran = timed("sixty instances are made", || site.applied());
    assert!(ran.all().contains("Applied: 63 done, 0 failed, 0 left, 0 held."), "{}", ran.all());
    timed("a plan of sixty", || site.settled());
    for host in &site.lab.hosts {
        let units = host.ssh(&["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "valkey@*"]);
        assert_eq!(units.lines().count(), EACH, "{units}");
        assert_eq!(site.client(&host.name, &name(&host.name, 7)).ask("SET kept yes"), "+OK");
    }
    the_unit_is_as_closed_as_debians_own(&site.lab.hosts[0]);
    an_instance_sees_its_own_and_cannot_change_its_config(&site);
    settings_and_users_change(&site);
    what_people_do_by_hand_is_undone(&site);
    instances_are_deleted_and_brought_back(&site);
    for host in &site.lab.hosts {
        let kept = site.client(&host.name, &name(&host.name, 7)).ask("GET kept");
        assert_eq!(kept, "yes", "{}", host.name);
    }
}

fn the_unit_is_as_closed_as_debians_own(host: &Host) {
    let said = host.ssh(&["systemd-analyze", "security", "--no-pager", "valkey@n1-01.service"]);
    let level = said.lines().find_map(|line| line.split_once("valkey@n1-01.service: ")).expect("it has a level").1;
    let level: f64 = level.split(' ').next().unwrap().parse().unwrap();
    assert!(level <= 1.1, "{said}");
}

/// As the server itself sees the machine: through the root folder of its process.
fn an_instance_sees_its_own_and_cannot_change_its_config(site: &Site) {
    let host = &site.lab.hosts[0];
    let pid = host.ssh(&["systemctl", "show", "-P", "MainPID", "valkey@n1-01.service"]);
    let inside = format!("/proc/{}/root", pid.trim());
    let below = |folder: &str| host.ssh(&["ls", "-A", &format!("{inside}{folder}")]);
    assert_eq!(below("/var/lib/valkey"), "n1-01\n");
    assert_eq!(below("/etc/valkey/instances"), "n1-01.conf\n");
    assert!(!below("/run").contains("valkey-n1-02"), "{}", below("/run"));
    let write =
        |file: &str| host.try_ssh(&["dd", "if=/dev/null", "conv=notrunc", &format!("of={inside}{file}")]).status.success();
    assert!(!write("/etc/valkey/instances/n1-01.conf"), "not even root can write it from there");
    assert!(!write("/etc/passwd"));
    assert!(write("/var/lib/valkey/n1-01/users.acl"), "its own data it can write");
    // The server's user has no way to them from outside of its unit either.
    let other = ["runuser", "-u", "valkey", "--", "dd", "if=/dev/null", "conv=notrunc", "of=/etc/valkey/instances/n1-01.conf"];
    assert!(!host.try_ssh(&other).status.success());
    let mut operator = site.operator("n1", "n1-01");
    assert!(operator.ask("CONFIG SET dir /tmp").starts_with('-'));
}

fn settings_and_users_change(site: &Site) {
    let mut text = sixty(site, "timeout = 300");
    site.declare(&text);
    let changed = timed("a setting of sixty is changed", || site.applied());
    assert!(changed.all().contains("Applied: 60 done"), "{}", changed.all());
    site.settled();
    assert_eq!(site.operator("n3", "n3-20").ask("CONFIG GET timeout"), "timeout 300");

    // One user goes, one changes, one comes; another instance restarts for its setting.
    text = text.replace(&reader("n1-01"), "");
    text = text.replace(&reader("n1-02"), &reader("n1-02").replace("public", "open"));
    text.push_str("[instances.n1-03.users.third]\nenabled = false\nprivileges = []\n");
    text = text.replace(&instance("n2-04", "n2", "timeout = 300"), &instance("n2-04", "n2", "timeout = 300, databases = 9"));
    site.declare(&text);
    site.run(&["plan"]).expect(2).says("Plan: 0 to add, 4 to change").says("restart");
    site.applied();
    site.settled();
    assert_eq!(site.operator("n2", "n2-04").ask("CONFIG GET databases"), "databases 9");
    let mut operator = site.operator("n1", "n1-01");
    assert!(!operator.ask("ACL LIST").contains("user reader"));
    assert!(site.operator("n1", "n1-02").ask("ACL LIST").contains("~open:*"));
}

fn what_people_do_by_hand_is_undone(site: &Site) {
    let host = &site.lab.hosts[1];
    let own = |name: &str, path: &str| path.replace("NAME", name);
    let append = |path: &str, words: &str| {
        let path = host.file(path);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{words}\n")).unwrap();
    };
    let unit = |number: usize| format!("valkey@{}.service", name("n2", number));
    assert_eq!(site.operator("n2", "n2-01").ask("CONFIG SET timeout 5"), "+OK");
    let hash = hash("intruder");
    assert_eq!(site.operator("n2", "n2-02").ask(&format!("ACL SETUSER app on #{hash} +@all ~*")), "+OK");
    append(&own("n2-03", "/etc/valkey/instances/NAME.conf"), "timeout 6");
    append(&own("n2-04", "/etc/systemd/system/valkey@NAME.service.d/50-valkeeper.conf"), "MemoryMax=1G");
    fs::remove_file(host.file(&own("n2-05", "/etc/systemd/system/valkey@NAME.service.d/50-valkeeper.conf"))).unwrap();
    host.ssh(&["systemctl", "disable", &unit(6)]);
    host.ssh(&["systemctl", "stop", &unit(8)]);
    host.ssh(&["systemctl", "mask", "--now", &unit(9)]);
    append(&own("n2-10", "/etc/valkey/instances/NAME.conf"), "nonsense yes");
    host.try_ssh(&["systemctl", "restart", &unit(10)]);
    fs::write(host.file(&own("n2-11", "/var/lib/valkey/NAME/users.acl")), "user default on nopass ~* +@all\n").unwrap();
    crate::lab::until("systemd gives up a server that cannot start", || {
        host.ssh(&["systemctl", "show", "-P", "ActiveState", &unit(10)]) == "failed\n"
    });
    let pid = host.ssh(&["systemctl", "show", "-P", "MainPID", &unit(12)]);
    host.ssh(&["kill", "-KILL", pid.trim()]);
    crate::lab::until("systemd starts a killed server again by itself", || {
        let now = host.ssh(&["systemctl", "show", "-P", "MainPID,ActiveState", &unit(12)]);
        now.ends_with("active\n") && !now.starts_with(&pid)
    });
    let plan = site.run(&["plan"]).expect(2);
    assert!(plan.all().contains("Plan: 0 to add, 10 to change, 0 to remove."), "{}", plan.all());
    for words in [
        "nonsense yes",
        "FATAL CONFIG FILE ERROR",
        "50-valkeeper.conf is missing",
        "is not as valkeeper wrote it",
        "is not enabled",
    ] {
        assert!(plan.all().contains(words), "{words}: {}", plan.all());
    }
    site.applied();
    site.settled();
    let units = host.ssh(&["systemctl", "list-units", "--plain", "--no-legend", "--state=active", "valkey@*"]);
    assert_eq!(units.lines().count(), EACH, "{units}");
    assert_eq!(site.client("n2", "n2-02").ask("CONFIG GET timeout").as_bytes()[0], b'-', "the intruder's rights are gone");

    // The template is everybody's: one edit shows with all of its host, and none of them restarts.
    let started = host.ssh(&["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", &unit(1)]);
    append("/etc/systemd/system/valkey@.service", "# edited");
    site.run(&["plan"]).expect(2).says("20 to change");
    site.applied();
    site.settled();
    assert_eq!(host.ssh(&["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", &unit(1)]), started);
}

fn instances_are_deleted_and_brought_back(site: &Site) {
    let text = fs::read_to_string(site.path("fleet.toml")).unwrap();
    let gone = |name: &str, text: &str| {
        text.replace(&format!("[instances.{name}]\n"), &format!("[instances.{name}]\nensure = \"absent\"\n"))
    };
    let mut client = site.client("n3", "n3-05");
    assert_eq!(client.ask("SET precious 1"), "+OK");
    drop(client);
    site.write("fleet.toml", gone("n3-05", &gone("n3-06", &text)));
    site.run(&["plan"]).expect(2).says("valkeeper approve").says("2 held");
    site.write("fleet.toml", gone("n3-05", &text));
    site.run(&["plan"]).expect(2).says("1 to remove");
    site.applied();
    site.settled();
    let host = &site.lab.hosts[2];
    assert_eq!(host.ssh(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "--state=active", "valkey@n3-05*"]), "");
    assert_eq!(host.try_ssh(&["systemctl", "is-enabled", "valkey@n3-05.service"]).status.code(), Some(1));
    assert!(!host.file("/etc/systemd/system/valkey@n3-05.service.d").exists());
    site.write("fleet.toml", &text);
    site.run(&["restore", "n3-05", "--yes"]).expect(0);
    site.applied();
    site.settled();
    assert_eq!(site.client("n3", "n3-05").ask("GET precious"), "1");
    let _ = PASSWORD;
}

/// Until its first append-only file is written, a server refuses to end, and forgets that it was asked to: as a replica does that
/// has just received its data.
#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_host_reboots_while_a_server_cannot_end_yet() {
    let site = Site::of([Suite::Trixie]);
    site.declare(&instance("cache", "n1", ""));
    site.applied();
    let (host, mut client) = (site.host("n1"), site.client("n1", "cache"));
    let sets: String = (0..2000).map(|key| format!("SET key:{key} kept\r\n")).collect();
    client.ask_many(&sets, 2000);
    let mut operator = site.operator("n1", "cache");
    // 2 ms for each key, so four seconds.
    for line in ["CONFIG SET appendonly no", "CONFIG SET rdb-key-save-delay 2000", "CONFIG SET appendonly yes"] {
        assert_eq!(operator.ask(line), "+OK", "{line}");
    }
    timed("a host reboots while a server cannot end yet", || host.reboot());
    assert!(host.journal().contains("Writing initial AOF, can't exit."), "it could end, so this proved nothing");
    until("it is back", || host.try_ssh(&["systemctl", "is-active", "--quiet", "valkey@cache.service"]).status.success());
    assert_eq!(site.client("n1", "cache").ask("DBSIZE"), ":2000");
    site.settled();
}
