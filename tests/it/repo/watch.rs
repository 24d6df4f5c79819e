//! Being told of a change on this machine.

use std::fs;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use valkeeper::repo::{Location, Spec, Watcher, watch};

use super::World;

const SOON: Duration = Duration::from_secs(1);
/// Longer than it takes to see that a folder is there again.
const REARMED: Duration = Duration::from_secs(4);

fn watched(spec: &Spec) -> (Watcher, Receiver<()>) {
    let (sender, seen) = channel();
    let watcher = watch(spec, move || {
        let _ = sender.send(());
    })
    .unwrap()
    .expect("can be watched");
    (watcher, seen)
}

/// Waits until nothing has been told for a while.
fn quiet(seen: &Receiver<()>) {
    while seen.recv_timeout(Duration::from_millis(600)).is_ok() {}
}

#[test]
fn a_push_to_a_bare_repository_is_seen_within_a_second() {
    let world = World::new();
    let (_watcher, seen) = watched(&world.spec(Location::Local(world.bare())));
    world.commit(&[("a.toml", "a = 2\n")]);
    quiet(&seen);
    let pushed = Instant::now();
    world.push(&["main"]);
    seen.recv_timeout(SOON).expect("the push is seen");
    println!("seen {} ms after the push began", pushed.elapsed().as_millis());
}

#[test]
fn a_commit_on_a_branch_with_a_slash_and_packed_branches_are_seen() {
    let world = World::new();
    let (_watcher, seen) = watched(&world.spec(Location::Local(world.work())));
    quiet(&seen);
    world.git(&["checkout", "--quiet", "-b", "team/live"]);
    seen.recv_timeout(SOON).expect("the branch is seen");
    quiet(&seen);
    world.commit(&[("a.toml", "a = 2\n")]);
    seen.recv_timeout(SOON).expect("the commit is seen");
    quiet(&seen);
    world.git(&["pack-refs", "--all"]);
    seen.recv_timeout(SOON).expect("packing is seen");
}

#[tokio::test]
async fn reading_is_no_change() {
    let world = World::new();
    let repo = world.local();
    let (_watcher, seen) = watched(repo.spec());
    let folder = valkeeper::repo::Repo::open(world.spec(Location::Folder(world.work()))).unwrap();
    let (_other, also_seen) = watched(folder.spec());
    tokio::time::sleep(Duration::from_millis(300)).await;
    while seen.try_recv().is_ok() || also_seen.try_recv().is_ok() {}
    for repo in [&repo, &folder] {
        let newest = repo.head().await.unwrap();
        repo.read(&newest.revision).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(seen.try_recv().is_err() && also_seen.try_recv().is_err());
}

#[test]
fn a_file_that_is_replaced_in_a_plain_folder_is_seen() {
    let world = World::new();
    let (_watcher, seen) = watched(&world.spec(Location::Folder(world.work())));
    quiet(&seen);
    fs::write(world.path("new"), "a = 2\n").unwrap();
    fs::rename(world.path("new"), world.work().join("a.toml")).unwrap();
    seen.recv_timeout(SOON).expect("the new file is seen");
}

#[test]
fn a_source_that_is_removed_and_made_again_is_watched_again() {
    let world = World::new();
    for location in [Location::Folder(world.work()), Location::Local(world.work())] {
        let (_watcher, seen) = watched(&world.spec(location));
        quiet(&seen);
        fs::rename(world.work(), world.path("away")).unwrap();
        seen.recv_timeout(REARMED).expect("going is seen");
        quiet(&seen);
        fs::rename(world.path("away"), world.work()).unwrap();
        seen.recv_timeout(REARMED).expect("coming back is seen");
        quiet(&seen);
        world.commit(&[("a.toml", &format!("{:?}", Instant::now()))]);
        seen.recv_timeout(SOON).expect("a change after that is seen");
    }
}

#[test]
fn what_is_not_there_yet_is_watched_as_soon_as_it_is() {
    let world = World::new();
    let later = world.path("later.git");
    let (_watcher, seen) = watched(&world.spec(Location::Local(later.clone())));
    world.git(&["clone", "--quiet", "--bare", ".", later.to_str().unwrap()]);
    seen.recv_timeout(REARMED).expect("the repository is seen");
}

#[test]
fn nothing_is_told_after_the_watcher_is_gone() {
    let world = World::new();
    let (watcher, seen) = watched(&world.spec(Location::Local(world.work())));
    drop(watcher);
    quiet(&seen);
    world.commit(&[("a.toml", "a = 2\n")]);
    assert!(seen.recv_timeout(Duration::from_millis(1500)).is_err());
}
