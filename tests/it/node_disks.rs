//! A node on a disk that is full or read-only: small file systems of their own, where this process may mount them.

use std::fs;
use std::time::Duration;

use valkeeper::fleet::Execute as _;
use valkeeper::model::action::Action;
use valkeeper::model::live::Server;
use valkeeper::model::outcome::Outcome;

use crate::node::until_down;
use crate::support::*;

#[tokio::test]
async fn a_full_disk_fails_the_step_and_is_named() {
    let Some(disk) = Tmpfs::new("512k") else { return };
    let world = World::at(&disk.folder.path().join("state")).await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    assert!(fs::write(disk.folder.path().join("filler"), vec![0; 1 << 20]).is_err());
    let outcome = world.set_user("a", "app", &wanted("secret", "+get"), false).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("no space is left")), "{outcome:?}");
    assert!(matches!(world.member("a").await.server, Server::Up(_)));
    fs::remove_file(disk.folder.path().join("filler")).unwrap();
    assert_eq!(world.set_user("a", "app", &wanted("secret", "+get"), false).await, Outcome::Done);
}

#[tokio::test]
async fn a_read_only_folder_is_seen_and_not_changed() {
    let Some(disk) = Tmpfs::new("4m") else { return };
    let mut world = World::at(&disk.folder.path().join("state")).await;
    assert_eq!(world.create("a", &plain(free_port()), app_user()).await, Outcome::Done);
    signal(world.pid("a").await, "-9");
    until_down(&world).await;
    // Only a file system that nobody writes to can become read-only.
    world.fleet = fleet_at(&world.state, &surroundings());
    disk.read_only();
    assert!(matches!(world.member("a").await.server, Server::Down { .. }));
    world.fleet.acquire("a test").await.unwrap();
    let outcome = world.on("a", Action::DeleteInstance { uid: UID.to_owned() }).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("read-only")), "{outcome:?}");
}

#[tokio::test]
async fn a_server_that_cannot_save_is_not_stopped_and_says_why() {
    let Some(disk) = Tmpfs::new("4m") else { return };
    let mut world = World::at(&disk.folder.path().join("state")).await;
    let spec = with(&plain(free_port()), &[("save", "3600 1")]);
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    let value = "x".repeat(100_000);
    for key in ["app:1", "app:2", "app:3"] {
        assert_eq!(world.cli("a", "app", "secret", &["set", key, &value]), "OK");
    }
    assert_eq!(world.cli("a", "app", "secret", &["config", "set", "rdbcompression", "no"]), "OK");
    assert!(fs::write(disk.folder.path().join("filler"), vec![0; 8 << 20]).is_err());
    let mut hasty = surroundings();
    hasty.limits.step = Duration::from_secs(2);
    world.fleet = fleet_at(&world.state, &hasty);
    world.fleet.acquire("a test").await.unwrap();
    // The marker says "deleting" already, so that nothing has to be written before the stop.
    fs::remove_file(disk.folder.path().join("filler")).unwrap();
    let marker = world.file("instances/a.toml");
    fs::write(&marker, fs::read_to_string(&marker).unwrap().replace("\"active\"", "\"deleting\"")).unwrap();
    assert!(fs::write(disk.folder.path().join("filler"), vec![0; 8 << 20]).is_err());
    let outcome = world.on("a", Action::DeleteInstance { uid: UID.to_owned() }).await;
    assert!(matches!(&outcome, Outcome::Failed(why) if why.contains("refuses to end")), "{outcome:?}");
    assert_eq!(world.cli("a", "app", "secret", &["exists", "app:1"]), "1", "the data is still there");
}
