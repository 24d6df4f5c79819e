//! What comes in bad: from the machine, from the files of a node, from the text. Each is named with its cure, the rest goes
//! on, and no data is lost.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chance::{seed, soak};
use crate::site::{Client, Ran, Site};
use crate::support::{Tmpfs, signal};

const PASSWORD: &str = "bad-input-secret";

fn hash() -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(PASSWORD).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn instance(name: &str, settings: &str) -> String {
    let hash = hash();
    format!(
        "[instances.{name}]\nshard = \"a\"\n{settings}\n[instances.{name}.users.app]\npassword_sha256 = \"{hash}\"\n\
         privileges = [\"+@all\"]\n"
    )
}

fn two() -> String {
    format!("{}{}", instance("one", ""), instance("two", ""))
}

/// Two instances with a key in each.
fn site() -> Site {
    let site = Site::new(&two());
    fill(&site);
    site
}

fn fill(site: &Site) {
    site.applied();
    for name in ["one", "two"] {
        assert_eq!(site.client(name, "app", PASSWORD).ask("SET kept yes"), "+OK");
    }
}

#[track_caller]
fn data_is_there(site: &Site, name: &str) {
    assert_eq!(site.client(name, "app", PASSWORD).ask("GET kept"), "yes");
}

/// What a reviewer reads; `--nocapture` shows it for people to judge.
#[track_caller]
fn told(ran: Ran, words: &[&str]) -> Ran {
    eprintln!("{}", ran.all());
    words.iter().fold(ran, |ran, words| ran.says(words))
}

#[test]
fn a_port_taken_by_a_stranger_is_passed_by_or_named() {
    let site = Site::new("");
    let port = site.first_port;
    let _stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    site.declare(&instance("one", ""));
    site.applied();
    assert_eq!(site.port("one"), port + 1, "the lowest free one");
    site.declare(&format!("{}{}", instance("one", ""), instance("two", &format!("port = {port}"))));
    let plan = site.run(&["plan"]);
    told(plan, &[&format!("something else listens on port {port}")]);
    told(site.apply().expect(1), &[&format!("port {port}")]);
    assert!(Client::to(site.port("one")).is_ok());
    assert!(!site.path("state/data/two").exists());
}

#[test]
fn a_port_taken_while_the_server_was_down_is_named() {
    let site = site();
    let port = site.port("one");
    let pid = site.pid("one");
    signal(pid, "-9");
    let stranger = loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => break listener,
            Err(_not_yet) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    told(site.apply().expect(1), &[&format!("something else listens on port {port}"), "free it or declare another"]);
    data_is_there(&site, "two");
    drop(stranger);
    site.applied();
    data_is_there(&site, "one");
}

#[test]
fn two_instances_on_one_port_are_refused_in_the_text() {
    let site = Site::new("");
    let port = format!("port = {}", site.first_port + 3);
    site.declare(&format!("{}{}", instance("one", &port), instance("two", &port)));
    told(site.run(&["check"]).expect(1), &["one", "two", "port"]);
    site.apply().expect(1);
    assert!(!site.path("state").exists());
}

#[test]
fn a_server_that_is_silent_while_it_loads_is_waited_for() {
    let site = site();
    signal(site.pid("one"), "-KILL");
    std::thread::sleep(Duration::from_millis(200));
    let (config, log) = (site.path("state/config/one.conf"), site.path("state/log/one.log"));
    let log = || fs::OpenOptions::new().append(true).open(&log).unwrap();
    // One key takes it four seconds, in which it answers nobody.
    let mut server = Command::new("valkey-server")
        .arg(fs::canonicalize(config).unwrap())
        .args(["--key-load-delay", "4000000", "--loading-process-events-interval-bytes", "1000000000"])
        .current_dir(fs::canonicalize(site.path("state/data/one")).unwrap())
        .stdout(log())
        .stderr(log())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    site.run(&["plan"]).expect(2).says("is still loading its data");
    site.applied();
    site.settled();
    data_is_there(&site, "one");
    signal(server.id(), "-KILL");
    server.wait().unwrap();
}

/// What no table of kinds can tell: the server's own start is asked, away from the data.
#[test]
fn settings_that_only_a_start_can_judge_are_refused_once_and_touch_nothing() {
    let site = site();
    let pid = site.pid("one");
    let files = || ["config/one.conf", "instances/one.toml"].map(|file| site.read(&format!("state/{file}")));
    let before = files();
    let tls_port = site.first_port + 9;
    for settings in ["databases = -1".to_owned(), format!("tls-port = {tls_port}, hz = 20")] {
        site.declare(&format!("{}{}", instance("one", &format!("config = {{ {settings} }}")), instance("two", "")));
        let said = site.apply().expect(1).says("one: change settings").says("refused: valkey-server 8.0.1 refuses the config");
        assert!(!said.all().contains("trying again"), "{}", said.all());
        assert_eq!((files(), site.pid("one")), (before.clone(), pid), "{settings}");
    }
    data_is_there(&site, "one");
}

#[test]
fn a_port_changes_its_owner() {
    let site = Site::new("");
    let (a, b) = (site.first_port + 3, site.first_port + 4);
    let text = |one: u16, two: u16| {
        format!("{}{}", instance("one", &format!("port = {one}")), instance("two", &format!("port = {two}")))
    };
    site.declare(&text(a, b));
    fill(&site);
    site.declare(&text(b, a));
    let swap = told(site.run(&["plan"]), &["port"]);
    assert!(swap.code != Some(1), "{}", swap.all());
    told(site.apply(), &[]);
    for name in ["one", "two"] {
        data_is_there(&site, name);
    }
}

#[test]
fn a_value_that_the_server_refuses_is_refused_before_anything_is_done() {
    let site = Site::new(&instance(
        "one",
        "config = { hz = 5000, maxmemory-samples = \"many\", nonsense = 1, appendfsync = \"offen\" }",
    ));
    told(site.run(&["plan"]).expect(1), &["8.0.1", "hz", "nonsense", "fleet.toml:10", "4 problems"]);
    told(site.apply().expect(1), &["nothing was changed"]);
    assert!(!site.path("state/instances").exists());
    site.declare(&instance("one", "config = { oom-score-adj-values = \"1 2\" }"));
    told(site.apply().expect(1), &["oom-score-adj-values"]);
    assert!(!site.path("state/data/one").exists());
    site.declare(&instance("one", "config = { notify-keyspace-events = \"KEA\" }"));
    site.applied();
    site.settled();
}

#[test]
fn a_server_that_hangs_is_told_and_the_others_go_on() {
    let site = site();
    let pid = site.pid("one");
    signal(pid, "-STOP");
    site.declare(&format!("{}{}", instance("one", "config = { hz = 50 }"), instance("two", "config = { hz = 50 }")));
    let begin = Instant::now();
    told(site.run(&["plan"]).expect(4), &["does not answer", "one", "hz: 10 -> 50"]);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    told(site.apply().expect(4), &["two: change settings (node here): done", "does not answer"]);
    assert_eq!(site.client("two", "app", PASSWORD).ask("CONFIG GET hz"), "hz 50");
    signal(pid, "-CONT");
    site.applied();
    site.settled();
    data_is_there(&site, "one");
}

#[test]
fn a_server_that_hangs_while_it_is_changed_fails_within_the_deadline() {
    let site = site();
    let pid = site.pid("one");
    site.declare(&format!(
        "{}{}",
        instance("one", "config = { hz = 50, databases = 3 }"),
        instance("two", "config = { hz = 50 }")
    ));
    let child = site.command(&["apply", "--yes"]).spawn().unwrap();
    // The first thing that a change writes is the marker; then it stops somewhere between that and the end.
    let marker = site.path("state/instances/one.toml");
    let before = fs::read_to_string(&marker).unwrap();
    let begin = Instant::now();
    while fs::read_to_string(&marker).unwrap() == before && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_micros(200));
    }
    signal(pid, "-STOP");
    let ran = crate::site::finish(child);
    signal(pid, "-CONT");
    assert!(begin.elapsed() < Duration::from_secs(110), "{:?}", begin.elapsed());
    if ran.code != Some(0) {
        told(ran, &["two: change settings (node here): done", "one"]);
    }
    site.applied();
    site.settled();
    data_is_there(&site, "one");
}

/// Where there is no room for two copies of the data, which is held otherwise.
fn on_a_small_disk(tables: &str) -> String {
    format!("[guard]\nwithout_room = \"warn\"\n{tables}")
}

#[test]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let Some(disk) = Tmpfs::new("3m") else { return };
    let site = Site::below(disk.folder.path(), &on_a_small_disk(&two()));
    fill(&site);
    let filler = disk.folder.path().join("filler");
    assert!(fs::write(&filler, vec![0; 8 << 20]).is_err());
    site.run(&["plan"]).expect(0);
    let changed = format!("{}{}", instance("one", "config = { hz = 50 }"), instance("two", ""));
    // The text itself lies on the full disk.
    fs::remove_file(&filler).unwrap();
    site.declare(&on_a_small_disk(&changed));
    assert!(fs::write(&filler, vec![0; 8 << 20]).is_err());
    told(site.apply().expect(1), &["no space is left on its disk"]);
    data_is_there(&site, "one");
    fs::remove_file(&filler).unwrap();
    site.applied();
    site.settled();
    for name in ["one", "two"] {
        data_is_there(&site, name);
    }
    drop(site);
}

#[test]
fn a_read_only_state_folder_is_planned_and_not_applied() {
    let Some(disk) = Tmpfs::new("3m") else { return };
    let site = Site::below(disk.folder.path(), &on_a_small_disk(&two()));
    disk.read_only();
    site.run(&["plan"]).expect(2);
    told(site.apply().expect(1), &["read-only", "mount it writable"]);
    drop(site);
}

#[test]
fn an_instance_folder_that_we_did_not_make_is_never_touched() {
    let site = Site::new(&two());
    fs::create_dir_all(site.path("state/data/one")).unwrap();
    site.write("state/data/one/dump.rdb", "precious");
    told(site.run(&["plan"]).expect(2), &["data/one is there", "move it away, or give the instance another name"]);
    site.apply().expect(1);
    assert_eq!(site.read("state/data/one/dump.rdb"), "precious");
    assert!(Client::to(site.port("two")).is_ok());
}

#[test]
fn text_that_is_no_toml_is_named() {
    let site = Site::new("");
    site.write("fleet.toml", b"[fleet]\nname = \"\xff\xfe\"\n");
    told(site.run(&["plan"]).expect(1), &["fleet.toml:2", "UTF-8"]);
    site.write("fleet.toml", format!("[fleet]\nname = {}1{}\n", "[".repeat(10_000), "]".repeat(10_000)));
    told(site.run(&["plan"]).expect(1), &["fleet.toml"]);
    site.write("fleet.toml", format!("a = {}1{}\n", "{ b = ".repeat(10_000), " }".repeat(10_000)));
    site.run(&["plan"]).expect(1);
    site.write("fleet.toml", format!("[{}]\n", vec!["a"; 10_000].join(".")));
    site.run(&["plan"]).expect(1);
    let begin = Instant::now();
    site.write("fleet.toml", "# long\n".repeat(50 << 20 >> 3));
    told(site.run(&["plan"]).expect(1), &["fleet.toml"]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    site.write("fleet.toml", "");
    told(site.run(&["plan"]).expect(1), &[]);
    fs::remove_file(site.path("fleet.toml")).unwrap();
    told(site.run(&["plan"]).expect(1), &[]);
}

#[test]
fn links_out_of_the_folder_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "hunter2\n").unwrap();
    let site = Site::new(&two());
    symlink(outside.path(), site.path("state")).unwrap();
    told(site.run(&["plan"]).expect(1), &["--local-root"]);
    fs::remove_file(site.path("state")).unwrap();
    symlink(outside.path().join("nowhere"), site.path("state")).unwrap();
    told(site.run(&["plan"]).expect(1), &["state is a symbolic link that leads nowhere"]);
    fs::remove_file(site.path("state")).unwrap();

    symlink(outside.path().join("secret"), site.path("link")).unwrap();
    site.declare(
        "[instances.one]\nshard = \"a\"\n[instances.one.users.app]\npassword = { file = \"link\" }\nprivileges = [\"+@all\"]\n",
    );
    let refused = told(site.run(&["plan"]).expect(1), &["--secrets-root"]);
    assert!(!refused.all().contains("hunter2"));

    fs::write(outside.path().join("more.toml"), "[tenants.x]\n").unwrap();
    symlink(outside.path().join("more.toml"), site.path("more.toml")).unwrap();
    told(site.run(&["plan"]).expect(1), &["leads out of the folder"]);
}

#[test]
fn a_data_folder_that_became_a_link_is_held() {
    let site = site();
    let outside = tempfile::tempdir().unwrap();
    fs::rename(site.path("state/data/one"), outside.path().join("one")).unwrap();
    symlink(outside.path().join("one"), site.path("state/data/one")).unwrap();
    told(site.run(&["plan"]), &["symbolic link"]);
    told(site.apply().expect(1), &["symbolic link"]);
    fs::remove_file(site.path("state/data/one")).unwrap();
    fs::rename(outside.path().join("one"), site.path("state/data/one")).unwrap();
    site.applied();
    site.settled();
    data_is_there(&site, "one");
}

#[test]
fn a_data_folder_removed_under_a_running_server_is_held_and_not_restarted() {
    let site = site();
    let (pid, port) = (site.pid("one"), site.port("one"));
    fs::remove_dir_all(site.path("state/data/one")).unwrap();
    site.declare(&format!("{}{}", instance("one", "config = { databases = 3 }"), instance("two", "")));
    told(site.run(&["plan"]), &["its data is only in memory", "valkey-cli --rdb"]);
    told(site.apply().expect(1), &["its data is only in memory"]);
    assert_eq!(site.pid("one"), pid);
    let mut client = Client::to(port).unwrap();
    client.ask(&format!("AUTH app {PASSWORD}"));
    assert_eq!(client.ask("GET kept"), "yes");
}

#[test]
fn a_state_folder_removed_under_running_servers_is_held() {
    let site = site();
    let ports = [site.port("one"), site.port("two")];
    fs::remove_dir_all(site.path("state")).unwrap();
    let plan = told(site.run(&["plan"]).expect(2), &["data/one", "data/two", "only in memory", "valkey-cli --rdb"]);
    assert!(!plan.out.contains("+ instance one"), "an empty one would be made beside the data that is still in memory");
    told(site.apply().expect(1), &[]);
    for port in ports {
        let mut client = Client::to(port).unwrap();
        client.ask(&format!("AUTH app {PASSWORD}"));
        assert_eq!(client.ask("GET kept"), "yes");
    }
}

#[test]
fn a_copied_state_folder_is_never_taken_for_the_real_one() {
    let site = site();
    let copy = Site::new(&two());
    let status = std::process::Command::new("cp").arg("-a").args([site.path("state"), copy.path("state")]).status().unwrap();
    assert!(status.success());
    told(copy.run(&["plan"]), &["another machine"]);
    told(copy.apply().expect(4), &["another machine"]);
    data_is_there(&site, "one");
    site.settled();
}

#[test]
fn a_moved_state_folder_says_so() {
    let site = site();
    fs::rename(site.path("state"), site.path("moved")).unwrap();
    let text = site.read("fleet.toml").replace("./state", "./moved");
    site.write("fleet.toml", text);
    told(site.run(&["plan"]), &["another machine or folder"]);
    told(site.apply().expect(4), &["another machine or folder"]);
    fs::rename(site.path("moved"), site.path("state")).unwrap();
    site.declare(&two());
    site.settled();
    data_is_there(&site, "one");
}

/// A file of a node after an accident: cut, with other bytes, emptied, doubled, or of something else.
fn mutate(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = random.random_range(0..=bytes.len());
    match random.random_range(0..7) {
        0 => bytes.truncate(place),
        1 => drop(bytes.drain(..place)),
        2 => bytes.clear(),
        3 => bytes.extend(bytes.clone()),
        4 => bytes = (0..random.random_range(0..2000)).map(|_| random.random()).collect(),
        5 => bytes.splice(place..place, (0..10).map(|_| random.random::<u8>())).for_each(drop),
        _ if bytes.is_empty() => bytes.push(random.random()),
        _ => {
            for _ in 0..3 {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
        }
    }
    bytes
}

#[test]
fn files_of_a_node_that_turn_to_nonsense_lose_no_data() {
    let random = &mut StdRng::seed_from_u64(seed());
    let site = site();
    let files = ["instances/one.toml", "config/one.conf", "data/one/users.acl", "fleet-prod.toml", "run/one.pid", "lock"];
    let rounds = if soak() { 200 } else { 60 };
    for round in 0..rounds {
        let file = format!("state/{}", files[random.random_range(0..files.len())]);
        let good = fs::read(site.path(&file)).unwrap();
        let bad = mutate(&good, random);
        site.write(&file, &bad);
        let context = format!("round {round}: {file}: {:?}", String::from_utf8_lossy(&bad));
        let plan = site.run(&["plan"]);
        assert!(matches!(plan.code, Some(0 | 2 | 4)), "{context}\n{}", plan.all());
        assert!(!plan.err.contains("panicked"), "{context}\n{}", plan.all());
        let applied = site.apply();
        assert!(matches!(applied.code, Some(0 | 1 | 4)), "{context}\n{}", applied.all());
        assert!(!applied.err.contains("panicked"), "{context}\n{}", applied.all());
        if applied.code != Some(0) {
            // What cannot be known again is put back by the person who is told.
            let told = applied.all();
            assert!(
                told.contains("one.toml") || told.contains("fleet-prod.toml") || told.contains("marker"),
                "{context}\n{told}"
            );
            site.write(&file, &good);
            let after = site.apply();
            assert_eq!(after.code, Some(0), "{context}\n{}", after.all());
        }
        let plan = site.run(&["plan"]);
        assert!(plan.code == Some(0), "{context}\n{}", plan.all());
        for name in ["one", "two"] {
            let mut client = site.client_or_refusal(name, "app", PASSWORD).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(client.ask("GET kept"), "yes", "{context}");
            assert!(Client::to(site.port(name)).unwrap().ask("PING").contains("NOAUTH"), "{context}");
        }
    }
}

#[test]
fn a_marker_of_nonsense_shows_no_password() {
    let site = site();
    let marker = site.read("state/instances/one.toml");
    let password = marker.lines().find_map(|line| line.strip_prefix("operator_password = ")).unwrap().trim_matches('"');
    for broken in
        [marker.replace(password, &format!("{password}\u{1}\"")), marker.replace("operator_password", "operator_passwort")]
    {
        site.write("state/instances/one.toml", broken);
        for ran in [site.run(&["plan"]), site.run(&["observe"]), site.apply()] {
            assert!(!ran.all().contains(password), "{}", ran.all());
        }
    }
    assert!(Path::new(&site.path("state/data/one")).exists());
}
