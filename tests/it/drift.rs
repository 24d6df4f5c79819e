//! What somebody changes by hand is found, shown as drift and put right; and what a change costs the clients, to the letter.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

use crate::site::{Client, Ran, Site};
use crate::support::signal;

const PASSWORD: &str = "drift-test-secret";
/// SHA-256 of the password above, and of `second`.
fn hash(of: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(of.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn declared(settings: &str, passwords: &[&str], privileges: &str) -> String {
    let hashes: Vec<String> = passwords.iter().map(|password| format!("\"{}\"", hash(password))).collect();
    format!(
        "[instances.one]\nshard = \"a\"\n{settings}\n[instances.one.users.app]\npassword_sha256 = [{}]\nprivileges = [{privileges}]\n\
         [instances.other]\nshard = \"a\"\n",
        hashes.join(", ")
    )
}

fn base() -> String {
    declared("config = { timeout = 0, hz = 20 }", &[PASSWORD], "\"+@all\"")
}

fn site() -> Site {
    let site = Site::new(&base());
    site.applied();
    let mut client = site.client("one", "app", PASSWORD);
    for number in 0..50 {
        client.ask(&format!("SET key:{number} {number}"));
    }
    site
}

/// Found, shown as drift and not as a request, put right; the data and the other instance stay as they are.
#[track_caller]
fn repaired(site: &Site) -> Ran {
    let plan = site.run(&["plan"]).expect(2).says("drift");
    assert!(!plan.out.contains("requested"), "{}", plan.out);
    let json = site.run(&["plan", "--json"]).expect(2).json();
    assert_eq!(json["resource_changes"], serde_json::json!([]), "{json:#}");
    assert_eq!(json["resource_drift"][0]["name"], "one", "{json:#}");
    let other = site.pid("other");
    site.applied();
    site.settled();
    assert_eq!(site.pid("other"), other);
    let mut client = site.client("one", "app", PASSWORD);
    assert_eq!(client.ask("DBSIZE"), ":50");
    assert_eq!(client.ask("CONFIG GET hz"), "hz 20");
    assert!(Client::to(site.port("one")).unwrap().ask("PING").contains("NOAUTH"), "default is closed");
    plan
}

#[track_caller]
fn drift(commands: &[&str]) -> Ran {
    let site = site();
    let pid = site.pid("one");
    let mut client = site.client("one", "app", PASSWORD);
    for command in commands {
        let reply = client.ask(command);
        assert!(!reply.starts_with('-'), "{command}: {reply}");
    }
    let plan = repaired(&site);
    if !plan.out.contains("restart") {
        assert_eq!(site.pid("one"), pid);
    }
    plan
}

#[test]
fn a_setting_changed_by_hand_is_drift() {
    drift(&["CONFIG SET hz 33 maxmemory-samples 9"]).says("hz: 33 -> 20").says("maxmemory-samples: 9 -> 5");
}

#[test]
fn a_setting_rewritten_by_the_server_is_drift() {
    drift(&["CONFIG SET hz 33", "CONFIG REWRITE"]).says("hz: 33 -> 20");
}

#[test]
fn a_user_changed_by_hand_is_drift() {
    drift(&["ACL SETUSER app -flushall &news >second"]).says("user app");
}

#[test]
fn the_default_user_opened_by_hand_is_closed() {
    drift(&["ACL SETUSER default on nopass ~* &* +@all"]).says("user default");
}

#[test]
fn the_operator_changed_by_hand_is_put_right() {
    drift(&["ACL SETUSER valkeeper ~* +@all"]).says("user valkeeper");
}

#[test]
fn the_operator_removed_by_hand_comes_back_and_the_plan_says_what_that_costs() {
    drift(&["ACL DELUSER valkeeper"]).says("restart");
    drift(&["ACL DELUSER valkeeper", "ACL SAVE"]).says("restart");
    drift(&["ACL SETUSER valkeeper resetpass >hijacked"]).says("restart");
}

#[test]
fn an_operator_password_edited_in_the_marker_is_given_to_the_server() {
    let site = site();
    let marker = site.read("state/instances/one.toml");
    site.write("state/instances/one.toml", marker.replace("operator_password = \"", "operator_password = \"x"));
    repaired(&site).says("restart");
}

#[test]
fn a_server_made_a_replica_by_hand_is_a_primary_again() {
    drift(&["REPLICAOF 127.0.0.1 1"]).says("replicaof: 127.0.0.1 1 -> \"\"");
}

#[test]
fn a_declared_user_removed_by_hand_comes_back() {
    let site = site();
    site.operator("one").ask("ACL DELUSER app");
    repaired(&site).says("user app");
}

#[test]
fn an_edited_config_file_is_drift() {
    let site = site();
    let config = site.read("state/config/one.conf");
    site.write("state/config/one.conf", config.replace("hz 20", "hz 40").replace("appendonly yes", "appendonly no"));
    repaired(&site).says("hz");
    site.write("state/config/one.conf", format!("{config}\nrequirepass hunter2\nsave 1 1\n"));
    let plan = repaired(&site);
    assert!(!plan.all().contains("hunter2"), "{}", plan.all());
    site.write("state/config/one.conf", [0xff, 0xfe, 0x00]);
    repaired(&site);
    fs::remove_file(site.path("state/config/one.conf")).unwrap();
    let plan = site.run(&["plan"]).expect(2).says("drift");
    assert!(!plan.out.contains("requested"), "{}", plan.out);
    site.applied();
    site.settled();
}

#[test]
fn an_edited_or_deleted_acl_file_is_drift() {
    let site = site();
    let acl = site.read("state/data/one/users.acl");
    for text in [
        "",
        "nonsense\n",
        &acl.replace("user app on", "user app off"),
        &acl.replace("user default off", "user default on nopass"),
    ] {
        site.write("state/data/one/users.acl", text);
        repaired(&site).says("ACL file");
    }
    site.write("state/data/one/users.acl", [0xff; 100]);
    repaired(&site).says("ACL file");
    fs::remove_file(site.path("state/data/one/users.acl")).unwrap();
    repaired(&site).says("ACL file");
}

#[test]
fn a_killed_server_is_started_with_its_data_and_its_files_put_right() {
    let site = site();
    std::thread::sleep(Duration::from_millis(1100));
    signal(site.pid("one"), "-9");
    repaired(&site).says("start the server, which is down");
    // An open ACL file under a server that is down must not open it for a moment.
    let pid = site.pid("one");
    signal(pid, "-TERM");
    site.write("state/data/one/users.acl", "user default on nopass ~* &* +@all\n");
    let config = site.read("state/config/one.conf");
    site.write("state/config/one.conf", config.replace("hz 20", "hz 77"));
    while fs::read_link(format!("/proc/{pid}/cwd")).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    repaired(&site).says("ACL file");
}

#[test]
fn a_server_that_cannot_read_its_data_says_why() {
    let site = site();
    signal(site.pid("one"), "-9");
    site.write("state/data/one/appendonlydir/appendonly.aof.1.base.rdb", "nonsense");
    let told = site.apply().expect(1).says("the server ended ").says("Bad file format");
    assert!(!told.all().contains("closed the connection"), "{told:?}");
    assert!(!told.all().contains("something else listens"), "{told:?}");
}

#[test]
fn rights_that_are_given_drop_nobody() {
    let site = Site::new(&declared("", &[PASSWORD], "\"+@read\", \"+client\""));
    site.applied();
    let mut client = site.client("one", "app", PASSWORD);
    let id = client.ask("CLIENT ID");
    site.declare(&declared("max_memory_mb = 128\nconfig = { hz = 50 }", &[PASSWORD, "second"], "\"+@all\""));
    let plan = site.run(&["plan"]).expect(2).says("no connection is dropped");
    assert!(!plan.out.contains("closes"), "{}", plan.out);
    site.applied();
    assert_eq!(client.ask("CLIENT ID"), id);
    assert_eq!(client.ask("SET a b"), "+OK");
    assert_eq!(client.ask("CONFIG GET maxmemory"), "maxmemory 134217728");
    site.client("one", "app", "second");
    site.settled();
}

#[test]
fn whose_rights_shrink_is_closed_and_others_are_not() {
    let tables = |rights: &str| {
        format!(
            "{}[instances.one.users.bystander]\npassword_sha256 = \"{}\"\nprivileges = [\"+@all\"]\n",
            declared("", &[PASSWORD, "second"], rights).replace("[instances.other]\nshard = \"a\"\n", ""),
            hash(PASSWORD)
        )
    };
    let site = Site::new(&tables("\"+@all\""));
    site.applied();
    let mut bystander = site.client("one", "bystander", PASSWORD);
    for change in [
        tables("\"+@all\", \"-flushall\""),
        tables("\"+@all\", \"-flushall\"").replacen(&format!(", \"{}\"", hash("second")), "", 1),
    ] {
        let mut clients = [site.client("one", "app", PASSWORD), site.client("one", "app", PASSWORD)];
        site.declare(&change);
        site.run(&["plan"]).expect(2).says("closes 2 connections of user app");
        site.applied();
        for client in &mut clients {
            assert_eq!(client.try_ask("PING"), None, "its connection is closed");
        }
        assert_eq!(bystander.ask("PING"), "+PONG");
        site.settled();
    }
    let mut client = site.client("one", "app", PASSWORD);
    assert!(client.ask("FLUSHALL").contains("NOPERM"));
    // The user leaves the text: it goes, and so do its connections.
    let text = tables("\"+@all\"");
    let user = text.find("[instances.one.users.app]").unwrap();
    let next = text.find("[instances.one.users.bystander]").unwrap();
    site.declare(&format!("{}{}", &text[..user], &text[next..]));
    site.run(&["plan"]).expect(2).says("- user app").says("closes 1 connection of user app");
    site.applied();
    assert_eq!(client.try_ask("PING"), None);
    assert_eq!(bystander.ask("PING"), "+PONG");
    site.settled();
}

#[test]
fn a_restart_is_announced_and_keeps_the_data() {
    let site = site();
    let pid = site.pid("one");
    let _client = site.client("one", "app", PASSWORD);
    site.declare(&base().replace("hz = 20", "hz = 20, databases = 4"));
    site.run(&["plan"]).expect(2).says("restart: 1 connection dropped").says("databases: 16 -> 4");
    site.applied();
    site.settled();
    assert_ne!(site.pid("one"), pid);
    assert_eq!(site.client("one", "app", PASSWORD).ask("DBSIZE"), ":50");
}

#[test]
fn what_comes_up_after_the_question_is_asked_again() {
    let site = site();
    site.declare(&base().replace("hz = 20", "hz = 30"));
    let mut apply = std::process::Command::new("script")
        .args(["-qec", concat!(env!("CARGO_BIN_EXE_valkeeper"), " apply"), "/dev/null"])
        .current_dir(site.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keys, mut screen) = (apply.stdin.take().unwrap(), apply.stdout.take().unwrap());
    let mut until = |words: &str| {
        let (mut shown, mut byte) = (String::new(), [0]);
        while !shown.ends_with(words) {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{words:?} is missing in:\n{shown}");
            shown.push(char::from(byte[0]));
        }
        shown
    };
    assert!(until("Apply this? [y/N] ").contains("hz: 20 -> 30"));
    site.operator("one").ask("ACL SETUSER app -flushall");
    keys.write_all(b"y\n").unwrap();
    let asked = until("Apply this too? [y/N] ");
    assert!(asked.contains("user app") && asked.contains("drift"), "{asked}");
    keys.write_all(b"n\n").unwrap();
    apply.wait().unwrap();
    site.run(&["plan"]).expect(2).says("~ user app");
}

#[test]
fn a_server_whose_socket_is_gone_is_told_with_its_process() {
    let site = site();
    let pid = site.pid("one");
    fs::remove_file(site.path("state/run/one.sock")).unwrap();
    site.run(&["plan"]).expect(4).says(&format!("process {pid} runs, and its socket")).says(&format!("kill {pid}"));
    signal(pid, "-TERM");
    std::thread::sleep(Duration::from_millis(300));
    site.applied();
    site.settled();
}

/// Which limits close connections is found here by closing some; that others stay open is part of it.
#[test]
fn connections_beyond_a_tighter_limit_are_announced_and_closed() {
    let site = Site::new(&base());
    site.applied();
    let mut idle = site.client("one", "app", PASSWORD);
    let mut slow = site.client("one", "app", PASSWORD);
    assert_eq!(slow.ask("SETRANGE app:big 3000000 x"), ":3000001");
    let change = |settings: &str| {
        site.declare(&base().replace("timeout = 0", settings));
        let plan = site.run(&["plan"]).expect(2);
        site.applied();
        plan.out
    };
    site.declare(&base().replace("timeout = 0", "maxclients = 1"));
    site.run(&["plan"]).expect(2).says("2 connections stay open, and new ones, valkeeper's too, are refused");
    assert!(change("timeout = 0, client-output-buffer-limit = \"normal 1mb 0 0\"").contains("more unread replies than"));
    assert_eq!(slow.try_ask("GET app:big"), None, "its reply is larger than the limit");
    let plan = change("timeout = 1, client-output-buffer-limit = \"normal 1mb 0 0\"");
    assert!(plan.contains("closes connections that are idle for more than 1 second]"), "{plan}");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(idle.try_ask("PING"), None);
    assert!(change("timeout = 500").contains("live, no connection is dropped"));
}

#[test]
fn persistence_that_comes_with_a_restart_saves_the_data_and_one_that_goes_is_held() {
    let persistence = |words: &str| base().replace("hz = 20", &format!("hz = 20, {words}"));
    let site = Site::new(&persistence("appendonly = false, save = \"\""));
    site.applied();
    let count = |site: &Site| site.client("one", "app", PASSWORD).ask("DBSIZE");
    assert_eq!(site.client("one", "app", PASSWORD).ask("SET app:k 1"), "+OK");
    site.declare(&persistence("appendonly = true, save = \"\", databases = 32"));
    let plan = site.run(&["plan"]).expect(2).says("restart: 0 connections dropped");
    assert!(!plan.out.contains("LOST"), "{}", plan.out);
    site.applied();
    assert_eq!(count(&site), ":1");
    assert_eq!(site.client("one", "app", PASSWORD).ask("SET app:l 1"), "+OK");
    site.declare(&persistence("appendonly = false, save = \"\", databases = 40"));
    site.applied().says("so a restart would empty it");
    assert_eq!(count(&site), ":2");
}

#[test]
fn databases_that_hold_keys_do_not_go() {
    let site = site();
    let mut client = site.client("one", "app", PASSWORD);
    assert_eq!(client.ask("SET app:k zero"), "+OK");
    assert_eq!(client.ask("SELECT 9"), "+OK");
    assert_eq!(client.ask("SET app:k nine"), "+OK");
    site.declare(&base().replace("hz = 20", "hz = 20, databases = 4"));
    let held = "databases 4 to 15 would go, and there are keys up to database 9";
    site.run(&["plan"]).expect(2).says(held).says("1 held");
    site.apply().expect(1).says(held);
    signal(site.pid("one"), "-KILL");
    site.apply().expect(1).says(held);
    let mut client = site.client("one", "app", PASSWORD);
    assert_eq!(client.ask("SELECT 9"), "+OK");
    assert_eq!(client.ask("GET app:k"), "nine");
    // Their history is still in the append-only file, where it would be that of keys in database 0.
    assert_eq!(client.ask("DEL app:k"), ":1");
    site.applied();
    site.settled();
    let mut client = site.client("one", "app", PASSWORD);
    assert_eq!((client.ask("GET app:k"), client.ask("DBSIZE")), ("zero".to_owned(), ":51".to_owned()));
    assert_eq!(site.operator("one").ask("CONFIG GET databases"), "databases 4");
}

#[test]
fn undeclared_users_are_kept_and_told_or_removed() {
    let site = site();
    site.operator("one").ask("ACL SETUSER stranger on nopass +ping");
    site.run(&["plan"]).says("undeclared user stranger");
    site.applied();
    site.settled_with_notes();
    site.declare(&format!("[guard]\nundeclared_users = \"remove\"\n{}", base()));
    site.run(&["plan"]).expect(2).says("- user stranger");
    site.applied();
    site.settled();
    assert!(!site.operator("one").ask("ACL USERS").contains("stranger"));
}

#[test]
fn no_name_hides_a_user_and_none_moves_the_cursor() {
    let site = site();
    for name in ["st\u{1b}[2Kranger", "st\u{a0}ranger"] {
        site.operator("one").ask(&format!("ACL SETUSER {name} on nopass +ping"));
    }
    let told = site.run(&["plan"]).expect(0).says("undeclared user st\\u{1b}[2Kranger").says("undeclared user st\u{a0}ranger");
    assert!(!told.all().contains('\u{1b}'), "{told:?}");
    site.declare(&format!("[guard]\nundeclared_users = \"remove\"\n{}", base()));
    site.applied();
    site.settled();
    assert!(!site.operator("one").ask("ACL USERS").contains("ranger"));
}

/// A package puts a new file in the place of the old one, which runs on without a name.
#[test]
fn a_server_whose_program_was_replaced_is_restarted_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("valkey-server");
    let install = |tail: &str| {
        let mut bytes = fs::read(crate::support::SERVER).unwrap();
        bytes.extend(tail.bytes());
        let new = folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::rename(new, &program).unwrap();
    };
    install("");
    let mut site = Site::new(&base());
    site.serve_with(&program);
    site.applied();
    let mut client = site.client("one", "app", PASSWORD);
    client.ask("SET kept 1");
    let pids = (site.pid("one"), site.pid("other"));
    install("");
    site.settled();
    install("another build");
    let plan = site.run(&["plan"]).expect(2).says("another build").says("guard.max_restarts = 1");
    assert!(!plan.out.contains("requested"), "{}", plan.out);
    assert_eq!((site.pid("one"), site.pid("other")), pids);
    site.applied();
    site.settled();
    assert!(site.pid("one") != pids.0 && site.pid("other") != pids.1);
    assert_eq!(site.client("one", "app", PASSWORD).ask("GET kept"), "1");
}
