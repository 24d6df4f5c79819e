//! The node side against real servers: what is done to a node is what it shows afterwards.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use valkeeper::fleet::{Execute as _, Observe as _};
use valkeeper::model::action::{Action, Opening};
use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::change::{Half, Twin};
use valkeeper::model::live::{Folder, Observed, Server};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::spec::InstanceSpec;
use valkeeper::observe::binary::BinaryMemory;

use crate::support::*;

async fn facts() -> BinaryFacts {
    let scratch = tempfile::tempdir().unwrap();
    let bench = valkeeper::host::scratch::Bench { below: scratch.path().to_owned(), account: None };
    let asked = BinaryMemory::default().get(Path::new(SERVER), scratch.path(), &bench, Duration::from_secs(5)).await;
    (*asked.unwrap().facts).clone()
}

/// `UPDATE=1` writes the golden file anew.
#[tokio::test]
async fn a_binary_says_what_the_golden_file_holds() {
    let facts = facts().await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/binaries/{}.json", facts.version));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&golden, serde_json::to_string_pretty(&facts).unwrap() + "\n").unwrap();
    }
    let known: BinaryFacts = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    assert!(facts == known, "this binary is another build of the same version, or the probe changed");
}

#[tokio::test]
async fn what_is_created_is_what_is_seen() {
    let world = World::new().await;
    let begin = Instant::now();
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    eprintln!("created in {:?}", begin.elapsed());
    let member = world.member("a").await;
    let (_, binary) = world.look().await;
    assert_eq!(member.spec.disk, Half::Seen(spec.clone()));
    assert_eq!(member.spec.memory.seen().unwrap().settings, binary.without_defaults(&spec.settings));
    assert_eq!(member.spec.memory.seen().unwrap().foreign, [""; 0]);
    assert_eq!(member.acl_file_broken, None);
    assert_eq!(member.users.len(), 3);
    for (name, twin) in &member.users {
        assert_eq!(twin.disk, twin.memory, "{name}");
    }
    assert_eq!(member.users["app"], Twin::both(Arc::clone(&app_user()[&user_name("app")].user)));
    assert!(world.cli("a", "default", "", &["ping"]).contains("NOAUTH"));
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
    assert_eq!(world.on("a", creation(&spec, app_user())).await, Outcome::AlreadyDone);
}

#[tokio::test]
async fn a_live_change_keeps_the_process() {
    let world = World::new().await;
    let spec = with(&plain(free_port()), &[("timeout", "30")]);
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    let pid = world.pid("a").await;
    let mut declared = with(&spec, &[("maxmemory", "134217728"), ("hz", "20"), ("notify-keyspace-events", "AKE")]);
    declared.settings.remove("timeout");
    assert_eq!(world.change("a", &declared, false).await, Outcome::Done);
    assert_eq!(world.pid("a").await, pid);
    assert_eq!(world.operator("a", &["config", "get", "timeout"]), "timeout\n0");
    assert_eq!(world.operator("a", &["config", "get", "hz"]), "hz\n20");
}

#[tokio::test]
async fn a_restart_brings_settings_that_cannot_be_set_live() {
    let world = World::new().await;
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    let pid = world.pid("a").await;
    assert_eq!(world.change("a", &with(&spec, &[("databases", "4"), ("hz", "11")]), true).await, Outcome::Done);
    assert_ne!(world.pid("a").await, pid);
}

#[tokio::test]
async fn data_survives_switching_the_aof_on_and_off() {
    let world = World::new().await;
    let spec = plain(free_port());
    let aof = with(&spec, &[("appendonly", "yes")]);
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
    assert_eq!(world.change("a", &aof, false).await, Outcome::Done);
    assert!(world.member("a").await.data.aof);
    signal(world.pid("a").await, "-9");
    reopen(&world, &aof).await;
    assert_eq!(world.cli("a", "app", "secret", &["get", "app:x"]), "1");
    assert_eq!(world.change("a", &spec, false).await, Outcome::Done);
    let data = world.member("a").await.data;
    assert!(data.rdb && !data.aof);
    signal(world.pid("a").await, "-9");
    reopen(&world, &spec).await;
    assert_eq!(world.cli("a", "app", "secret", &["get", "app:x"]), "1");
}

pub async fn until_down(world: &World) -> Option<String> {
    for _ in 0..500 {
        if let Server::Down { why } = world.member("a").await.server {
            return why;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it stays up")
}

fn opening(before: &InstanceSpec, after: &InstanceSpec) -> Box<Opening> {
    Box::new(Opening { before: before.clone(), after: after.clone(), users: None, without: Vec::new() })
}

async fn reopen(world: &World, spec: &InstanceSpec) {
    until_down(world).await;
    assert_eq!(world.on("a", Action::StartInstance(opening(spec, spec))).await, Outcome::Done);
}

#[tokio::test]
async fn a_killed_server_is_down_and_starts_again() {
    let world = World::new().await;
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    signal(world.pid("a").await, "-9");
    assert!(until_down(&world).await.is_some(), "it did not end because it was told to");
    reopen(&world, &spec).await;
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
}

#[tokio::test]
async fn added_rights_drop_no_client_and_taken_rights_do() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    let _client = Client::polling(&world);
    let before = connection_id(&world).await;
    let more = wanted("secret", "~app:* ~more:* +@all");
    assert_eq!(world.set_user("a", "app", &more, false).await, Outcome::Done);
    assert_eq!(connection_id(&world).await, before);
    let seen = world.member("a").await;
    let Server::Up(running) = seen.server else { panic!("{:?}", seen.server) };
    assert_eq!(running.connections.by_user.unwrap()["app"], 1);
    assert_eq!(world.set_user("a", "app", &wanted("secret", "~app:* +get"), true).await, Outcome::Done);
    assert!(!world.operator("a", &["client", "list"]).contains(&format!("{before} ")));
    let twin = world.member("a").await.users["app"].clone();
    let remove = Action::RemoveUser { user: user_name("app"), before: twin };
    assert_eq!(world.on("a", remove).await, Outcome::Done);
    assert!(!fs::read_to_string(world.file("data/a/users.acl")).unwrap().contains("user app"));
}

#[tokio::test]
async fn a_user_without_connections_can_lose_rights_and_a_new_one_can_be_closed() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    assert_eq!(world.set_user("a", "app", &wanted("secret", "+get"), true).await, Outcome::Done);
    assert_eq!(world.set_user("a", "new", &wanted("other", "(~x +get) +config|get"), true).await, Outcome::Done);
    assert_eq!(world.cli("a", "new", "other", &["get", "x"]), "");
}

#[tokio::test]
async fn changes_by_hand_are_seen() {
    let world = World::new().await;
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    world.operator("a", &["config", "set", "maxmemory", "1gb", "requirepass", "hunter2"]);
    world.operator("a", &["acl", "setuser", "app", "+flushall"]);
    world.operator("a", &["acl", "setuser", "stray", "on", "nopass", "~*", "+@all"]);
    let config = world.file("config/a.conf");
    let text = fs::read_to_string(&config).unwrap().replace("maxmemory-policy allkeys-lru", "maxmemory-policy noeviction");
    fs::write(&config, text + "rename-command FLUSHALL \"\"\nmasterauth hunter2\n").unwrap();

    let member = world.member("a").await;
    let (disk, memory) = (member.spec.disk.seen().unwrap(), member.spec.memory.seen().unwrap());
    assert_eq!(memory.get("maxmemory"), Some("1073741824"));
    assert_eq!(disk.get("maxmemory-policy"), Some("noeviction"));
    assert_eq!(disk.foreign, ["rename-command FLUSHALL "]);
    assert_ne!(member.users["app"].disk, member.users["app"].memory);
    assert_eq!(member.users["stray"].disk, Half::Absent);
    assert!(!format!("{member:?}").contains("hunter2"));
    assert!(disk.get("primaryauth").is_some() && memory.get("requirepass").is_some());
    let Outcome::Conflict(why) = world.on("a", Action::RemoveUser { user: user_name("app"), before: Twin::default() }).await
    else {
        panic!("a step whose expectation is not met must not be taken")
    };
    assert!(why.contains("app:*") || why.contains("something found"), "{why}");
}

#[tokio::test]
async fn a_server_that_hangs_is_silent_within_the_deadline_and_the_others_are_seen() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    assert_eq!(world.create("b", &plain(free_port()), app_user()).await, Outcome::Done);
    let pid = world.pid("a").await;
    signal(pid, "-STOP");
    let begin = Instant::now();
    let a = world.member("a").await;
    assert!(begin.elapsed() < Duration::from_millis(2600), "{:?}", begin.elapsed());
    assert!(matches!(&a.server, Server::Silent { pid: found, .. } if *found == pid), "{:?}", a.server);
    assert!(matches!(a.spec.memory, Half::Unseen { .. }) && a.spec.disk.seen().is_some());
    assert!(matches!(world.member("b").await.server, Server::Up(_)));
    let change = world.set_user("a", "app", &wanted("secret", "+get"), false).await;
    assert!(matches!(&change, Outcome::NotReached(why) if why.contains("did not answer")), "{change:?}");
    signal(pid, "-CONT");
    assert!(matches!(world.member("a").await.server, Server::Up(_)));
}

#[tokio::test]
async fn a_server_whose_socket_and_pidfile_are_gone_is_still_found() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    let pid = world.pid("a").await;
    fs::remove_file(world.file("run/a.sock")).unwrap();
    fs::remove_file(world.file("run/a.pid")).unwrap();
    let server = world.member("a").await.server;
    assert!(matches!(&server, Server::Silent { pid: found, .. } if *found == pid), "{server:?}");
}

#[tokio::test]
async fn a_data_folder_removed_under_a_running_server_is_noticed() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    fs::remove_dir_all(world.file("data/a")).unwrap();
    let member = world.member("a").await;
    assert!(matches!(member.server, Server::Up(_)));
    assert_eq!(member.data.folder, Folder::Missing);
    assert!(member.acl_file_broken.unwrap().contains("missing"));
    fs::create_dir(world.file("data/a")).unwrap();
    assert_eq!(world.member("a").await.data.folder, Folder::Replaced);
}

#[tokio::test]
async fn deleted_data_is_set_aside_and_comes_back() {
    let world = World::new().await;
    let spec = with(&plain(free_port()), &[("save", "900 1")]);
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
    let delete = Action::DeleteInstance { uid: UID.to_owned() };
    assert_eq!(world.on("a", delete.clone()).await, Outcome::Done);
    assert_eq!(world.on("a", delete.clone()).await, Outcome::AlreadyDone);
    let (node, _) = world.look().await;
    assert!(node.members.is_empty(), "{:?}", node.members);
    assert_eq!((node.set_aside[0].instance.as_str(), node.set_aside[0].uid.as_str()), ("a", UID));
    assert!(node.set_aside[0].bytes > 0);

    assert_eq!(world.on("a", Action::Restore { uid: UID.to_owned() }).await, Outcome::Done);
    let member = world.member("a").await;
    assert!(matches!(member.server, Server::Down { .. }) && member.data.rdb);
    reopen(&world, &spec).await;
    assert_eq!(world.cli("a", "app", "secret", &["get", "app:x"]), "1");
    assert!(world.look().await.0.set_aside.is_empty());

    assert_eq!(world.on("a", delete).await, Outcome::Done);
    assert_eq!(world.on("a", Action::Purge { uid: UID.to_owned() }).await, Outcome::Done);
    assert!(world.look().await.0.set_aside.is_empty());
    assert_eq!(fs::read_dir(world.file("set-aside")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_killed_writers_left_is_swept_by_the_next_who_acts() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    let left = ["data/a/.new-x", "instances/.new-y", "config/.new-z"].map(|file| world.file(file));
    left.iter().for_each(|file| fs::write(file, "half").unwrap());
    let purge = world.file(&format!("set-aside/b-{UID}.purge"));
    fs::create_dir_all(purge.join("data")).unwrap();
    assert!(world.look().await.0.set_aside.is_empty());
    world.fleet.release().await;
    fleet_at(&world.state, &surroundings()).acquire("the next").await.unwrap();
    assert!(!purge.exists() && left.iter().all(|file| !file.exists()));
    assert!(matches!(world.member("a").await.server, Server::Up(_)));
}

#[tokio::test]
async fn a_restore_that_was_cut_off_goes_on() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    assert_eq!(world.on("a", Action::DeleteInstance { uid: UID.to_owned() }).await, Outcome::Done);
    let kept = world.file(&format!("set-aside/a-{UID}"));
    fs::write(kept.join("restoring"), "").unwrap();
    fs::rename(kept.join("data"), world.file("data/a")).unwrap();
    assert_eq!(world.on("a", Action::Restore { uid: UID.to_owned() }).await, Outcome::Done);
    let member = world.member("a").await;
    assert!(member.data.folder == Folder::Present && member.spec.disk.seen().is_some());
    assert!(!kept.exists());
}

#[tokio::test]
async fn a_delete_that_was_cut_off_goes_on() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    let marker = fs::read_to_string(world.file("instances/a.toml")).unwrap();
    let delete = Action::DeleteInstance { uid: UID.to_owned() };
    assert_eq!(world.on("a", delete.clone()).await, Outcome::Done);
    let kept = world.file(&format!("set-aside/a-{UID}"));
    fs::remove_file(kept.join("marker.toml")).unwrap();
    fs::write(world.file("instances/a.toml"), marker.replace("\"active\"", "\"deleting\"")).unwrap();
    assert!(world.look().await.0.set_aside.is_empty(), "what is half set aside cannot be restored");
    assert_eq!(world.on("a", delete).await, Outcome::Done);
    assert_eq!(world.look().await.0.set_aside.len(), 1);
    assert!(kept.join("data/users.acl").exists());
}

#[tokio::test]
async fn files_of_nonsense_spoil_only_their_own_half() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    assert_eq!(world.create("b", &plain(free_port()), app_user()).await, Outcome::Done);
    fs::write(world.file("config/a.conf"), [0xff, 0xfe, b'\n']).unwrap();
    let acl = world.file("data/a/users.acl");
    let text = fs::read_to_string(&acl).unwrap();
    fs::write(&acl, text.get(..text.len() - 20).unwrap()).unwrap();
    let member = world.member("a").await;
    assert!(matches!(&member.spec.disk, Half::Unseen { unseen } if unseen.contains("a.conf")), "{:?}", member.spec.disk);
    assert!(member.spec.memory.seen().is_some() && matches!(member.server, Server::Up(_)));
    fs::write(&acl, "rubbish\n").unwrap();
    assert!(world.member("a").await.acl_file_broken.unwrap().contains("line 1"));
    let save = Action::SaveUsers { wrong: vec![user_name("app")], why: None };
    assert_eq!(world.on("a", save).await, Outcome::Done);

    let marker = world.file("instances/a.toml");
    let text = fs::read_to_string(&marker).unwrap();
    let password = text.lines().find(|line| line.starts_with("operator_password")).unwrap().split('"').nth(1).unwrap();
    let cut = text.find(password).unwrap() + 10;
    fs::write(&marker, text.get(..cut).unwrap()).unwrap();
    let why = world.unmarked("a").await;
    assert!(why.contains("instances/a.toml") && !why.contains(password.get(..8).unwrap()), "{why}");
    assert!(matches!(world.on("a", Action::DeleteInstance { uid: UID.to_owned() }).await, Outcome::Conflict(_)));
    assert!(matches!(world.member("b").await.server, Server::Up(_)));
}

#[tokio::test]
async fn what_we_did_not_make_is_named_and_never_touched() {
    let world = World::new().await;
    fs::create_dir_all(world.file("data/a")).unwrap();
    fs::write(world.file("data/a/dump.rdb"), "precious").unwrap();
    assert!(world.unmarked("a").await.contains("no marker"));
    let outcome = world.create("a", &plain(free_port()), app_user()).await;
    assert!(matches!(outcome, Outcome::Conflict(_)), "{outcome:?}");
    assert_eq!(fs::read_to_string(world.file("data/a/dump.rdb")).unwrap(), "precious");
    assert!(!world.file("instances/a.toml").exists());

    let outside = tempfile::tempdir().unwrap();
    assert_eq!(world.create("b", &plain(free_port()), app_user()).await, Outcome::Done);
    fs::rename(world.file("data/b"), outside.path().join("b")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("b"), world.file("data/b")).unwrap();
    assert!(world.unmarked("b").await.contains("symbolic link"));
}

#[tokio::test]
async fn a_marker_of_another_machine_is_never_touched() {
    let world = World::new().await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    let marker = world.file("instances/a.toml");
    let text = fs::read_to_string(&marker).unwrap();
    let machine = world.member("a").await.marker.machine;
    fs::write(&marker, text.replace(&machine, "0000000000000000")).unwrap();
    let outcome = world.on("a", Action::DeleteInstance { uid: UID.to_owned() }).await;
    assert!(matches!(&outcome, Outcome::Conflict(why) if why.contains("another machine")), "{outcome:?}");
}

#[tokio::test]
async fn a_long_path_with_spaces_and_quotes_is_a_state_folder() {
    let deep = format!("sp ace/quo\"te'{}/ä#$\\x", "long".repeat(30));
    let world = World::named(&deep).await;
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    let member = world.member("a").await;
    assert_eq!(member.spec.disk, Half::Seen(spec.clone()));
    assert_eq!(member.spec.memory.seen().unwrap().foreign, [""; 0]);
    assert_eq!(world.change("a", &with(&spec, &[("databases", "3")]), true).await, Outcome::Done);
}

#[tokio::test]
async fn a_port_taken_by_a_stranger_is_named_with_the_cure() {
    let world = World::new().await;
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let outcome = world.create("a", &plain(port), app_user()).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("another program has the port")), "{outcome:?}");
    assert!(world.look().await.0.ports_in_use.contains(&port));
    drop(stranger);
    assert_eq!(world.on("a", creation(&plain(port), app_user())).await, Outcome::Done, "a second try takes it up");
}

#[tokio::test]
async fn a_config_that_the_server_refuses_never_reaches_the_instance() {
    let world = World::new().await;
    let spec = plain(free_port());
    let outcome = world.create("a", &with(&spec, &[("io-threads", "9999")]), app_user()).await;
    assert!(matches!(&outcome, Outcome::Refused(why) if why.contains("io-threads")), "{outcome:?}");
    assert!(!world.file("instances/a.toml").exists());
    assert_eq!(world.on("a", creation(&spec, app_user())).await, Outcome::Done);
    let before = fs::read_to_string(world.file("config/a.conf")).unwrap();
    assert!(matches!(world.change("a", &with(&spec, &[("io-threads", "9999")]), true).await, Outcome::Refused(_)));
    assert_eq!(fs::read_to_string(world.file("config/a.conf")).unwrap(), before);
    assert!(matches!(world.member("a").await.server, Server::Up(_)));
}

#[tokio::test]
async fn a_locked_out_operator_is_let_in_again() {
    let world = World::new().await;
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    world.operator("a", &["acl", "setuser", "valkeeper", "resetpass", "off"]);
    let member = world.member("a").await;
    assert!(matches!(member.server, Server::Locked { .. }), "{:?}", member.server);
    assert!(matches!(member.spec.memory, Half::Unseen { .. }));
    let mut cure = opening(&spec, &spec);
    cure.users = Some(app_user());
    assert_eq!(world.on("a", Action::ReopenInstance(cure)).await, Outcome::Done);
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
}

#[tokio::test]
async fn one_hand_at_a_time() {
    let world = World::new().await;
    let other = fleet_at(&world.state, &surroundings());
    assert_eq!(other.acquire("another").await.unwrap_err().why, "it is held by a test");
    let step_without_right = other.observe().await;
    assert!(matches!(step_without_right.nodes.into_values().next(), Some(Observed::Seen(_))));
}

#[tokio::test]
async fn looking_at_nothing_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let live = fleet_at(&state, &surroundings()).observe().await;
    assert!(matches!(live.nodes.into_values().next(), Some(Observed::Seen(node)) if node.members.is_empty()));
    assert!(!state.exists());
    let mut without = surroundings();
    without.server = None;
    let live = fleet_at(&state, &without).observe().await;
    let Some(Observed::Unseen { unseen }) = live.nodes.into_values().next() else { panic!("no server, no look") };
    assert!(unseen.contains("apt-get install -t bookworm-backports valkey-server"), "{unseen}");
}

#[tokio::test]
async fn a_copy_of_the_binarys_facts_that_was_cut_off_is_asked_anew() {
    let world = World::new().await;
    let (_, asked) = world.look().await;
    let copy = || fs::read_dir(&world.state).unwrap().flatten().find(|file| file.path().extension() == Some("json".as_ref()));
    let path = copy().unwrap().path();
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.get(..whole.len() / 2).unwrap()).unwrap();
    let live = fleet_at(&world.state, &surroundings()).observe().await;
    assert_eq!(live.binaries.into_values().next(), Some(asked));
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
}
