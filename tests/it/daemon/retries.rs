//! What fails is tried again with a growing delay, never in a hot loop, and holds up nothing else.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use super::{PASSWORD, Post, instance, is_settled};
use crate::site::Site;
use crate::support::{Tmpfs, free_port, signal};

/// Kills the server and puts a folder where its log was, so that it cannot start.
fn spoil(post: &Post) -> std::path::PathBuf {
    let log = post.site.path("state/log/bad.log");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    signal(post.site.pid("bad"), "-9");
    log
}

fn both(hz: u32) -> String {
    instance("good", "hz = 11") + &instance("bad", &format!("hz = {hz}"))
}

#[test]
fn what_fails_is_tried_again_with_a_growing_delay_and_told_once() {
    let post = Post::new(&both(11));
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    let begun = daemon.passes();
    let folder = spoil(&post);
    post.site.operator("good").ask("CONFIG SET hz 50");
    daemon.sync();
    let status = daemon.until("failed three times", |status| status["instances"]["bad"]["attempts"].as_u64() >= Some(3));
    let failed = &status["instances"]["bad"];
    assert_eq!(failed["state"], "failed", "{status:#}");
    assert_eq!(post.site.operator("good").ask("CONFIG GET hz"), "hz 11", "the others are kept");
    assert!(!failed["retry_at"].is_null() && failed["message"].as_str().unwrap().contains("bad"), "{status:#}");
    // Attempts at 0 s, 1 s and 3 s; the next comes at 7 s.
    assert!(daemon.passes() - begun < 14, "{} passes for three attempts", daemon.passes() - begun);
    assert_eq!(daemon.log().lines().filter(|line| line.contains("WARN")).count(), 1, "{}", daemon.log());
    assert_eq!(daemon.series("valkeeper_instance_state{instance=\"bad\",state=\"failed\"}"), Some(1.0));
    assert!(daemon.series("valkeeper_instance_failed_attempts{instance=\"bad\"}") >= Some(3.0));
    daemon.say(&post.site, &["status", "--short"]).expect(1).says("1 failed");
    daemon.say(&post.site, &["sync", "--wait"]).expect(1).says("troubled");
    let quiet = daemon.passes();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(daemon.passes() <= quiet + 1, "a hot loop");

    daemon.say(&post.site, &["retry", "good"]).expect(1).says("good has not failed");
    fs::remove_dir(folder).unwrap();
    daemon.say(&post.site, &["retry", "bad"]).expect(0);
    let status = daemon.until("cured", |status| status["instances"]["bad"]["state"] == "active");
    assert_eq!(status["instances"]["bad"]["message"], serde_json::Value::Null);
    assert!(is_settled(&daemon.sync(), &revision));
    assert_eq!(daemon.series("valkeeper_instance_failed_attempts{instance=\"bad\"}"), Some(0.0));
    assert_eq!(daemon.logged("works again"), 1, "{}", daemon.log());
    post.site.client("bad", "app", PASSWORD);
}

#[test]
fn what_failed_is_tried_at_once_with_a_new_revision() {
    let post = Post::new(&both(11));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    let folder = spoil(&post);
    daemon.sync();
    daemon.until("failed three times", |status| status["instances"]["bad"]["attempts"].as_u64() >= Some(3));
    fs::remove_dir(folder).unwrap();
    let revision = post.commit(&both(12));
    let took = daemon.settles(&revision);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// What is held is not tried, so its time to be tried again is no reason for a pass.
#[test]
fn what_failed_and_is_then_suspended_makes_no_passes() {
    let post = Post::new(&both(11));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    spoil(&post);
    daemon.sync();
    daemon.say(&post.site, &["suspend", "bad", "--reason", "x", "--for", "1h"]).expect(0);
    daemon.sync();
    std::thread::sleep(Duration::from_millis(1200));
    let before = daemon.passes();
    std::thread::sleep(Duration::from_secs(2));
    assert!(daemon.passes() <= before + 1, "a hot loop: {} passes", daemon.passes() - before);
}

#[test]
fn a_declaration_that_the_server_would_refuse_is_named_and_the_others_are_kept() {
    let post = Post::new(&(instance("good", "hz = 11") + &instance("bad", "nonsense = 1")));
    let daemon = post.start();
    let status = daemon.sync();
    assert_eq!(status["instances"]["good"]["state"], "active", "{status:#}");
    assert_eq!(status["instances"]["bad"]["held"][0]["reason"], "refused", "{status:#}");
    daemon.sync();
    assert_eq!(daemon.logged("nonsense"), 1, "{}", daemon.log());
}

#[test]
fn an_instance_whose_port_a_stranger_has_is_held_until_it_is_free() {
    let port = free_port();
    let stranger = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let declared = instance("one", "hz = 11").replacen("shard", &format!("port = {port}\nshard"), 1);
    let post = Post::new(&(declared + &instance("two", "hz = 11")));
    let daemon = post.start();
    let status = daemon.sync();
    assert_eq!(status["instances"]["one"]["held"][0]["reason"], "port-taken", "{status:#}");
    assert_eq!(status["instances"]["one"]["state"], "pending", "{status:#}");
    assert_eq!(status["instances"]["two"]["state"], "active", "{status:#}");
    assert!(status["settled"].is_null());
    drop(stranger);
    assert!(is_settled(&daemon.sync(), post.git.at("HEAD").as_str()));
    assert_eq!(post.site.port("one"), port);
}

/// Nothing is made that the fleet might not remember, however often it is tried.
#[test]
fn a_full_disk_is_reported_and_nothing_is_made_behind_the_record() {
    let Some(disk) = Tmpfs::new("1m") else { return };
    let mut post = Post::bare();
    post.site = Site::below(disk.folder.path(), "");
    let filler = disk.folder.path().join("filler");
    // It is small enough to be held for that already.
    post.commit(&("[guard]\nwithout_room = \"warn\"\n".to_owned() + &instance("one", "hz = 11")));
    let daemon = post.start_logging_to(&post.git.path("log"), |_| {
        fs::create_dir(post.site.path("state")).unwrap();
        let _full = fs::write(&filler, vec![1; 2 << 20]);
    });
    let status = daemon.until("troubled", |status| status["last_pass"]["result"] == "troubled");
    std::thread::sleep(Duration::from_secs(4));
    assert!(daemon.passes() < 14, "a hot loop: {}", daemon.passes());
    assert_eq!(post.servers(), 0, "{status:#}");
    assert!(!post.site.path("state/instances/one.toml").exists());
    assert!(daemon.log().contains("no space is left"), "{}", daemon.log());
    assert!(daemon.log().lines().filter(|line| line.contains("WARN")).count() <= 2, "{}", daemon.log());
    fs::remove_file(filler).unwrap();
    daemon.say(&post.site, &["retry"]).expect(0);
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
}

#[test]
fn a_record_that_cannot_be_read_makes_its_node_unseen() {
    let post = Post::new(&instance("one", "hz = 11"));
    fs::create_dir_all(post.site.path("state/fleet-prod.toml/x")).unwrap();
    let daemon = post.start();
    for _ in 0..2 {
        let status = daemon.sync();
        assert_eq!((post.servers(), status["nodes"]["here"]["seen"].as_bool()), (0, Some(false)), "{status:#}");
    }
    daemon.say(&post.site, &["status"]).expect(4).says("not a plain file");
    daemon.say(&post.site, &["sync", "--wait"]).expect(4);
    assert_eq!(daemon.logged("cannot be seen"), 1, "{}", daemon.log());
    fs::remove_dir_all(post.site.path("state/fleet-prod.toml")).unwrap();
    assert!(is_settled(&daemon.sync(), post.git.at("HEAD").as_str()));
    assert_eq!(daemon.logged("is seen again"), 1, "{}", daemon.log());
}

/// The disk of another node is full: it would not remember an instance that is made now.
#[test]
fn nothing_is_made_while_a_seen_node_cannot_remember_it() {
    let post = Post::bare();
    let Some(disk) = Tmpfs::below(post.site.folder.path(), "64k") else { return };
    let there = disk.folder.path().file_name().unwrap().to_str().unwrap();
    fs::create_dir(disk.folder.path().join("there")).unwrap();
    let filler = disk.folder.path().join("filler");
    let _full = fs::write(&filler, vec![1; 1 << 20]);
    post.commit(&format!("[nodes.there]\nlocal = \"./{there}/there\"\n{}", instance("one", "hz = 11")));
    let daemon = post.start();
    daemon.until("failed", |status| status["last_pass"]["failed"].as_u64() > Some(0));
    let until = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < until {
        daemon.sync();
        assert_eq!(post.servers(), 0, "{}", daemon.log());
    }
    fs::remove_file(filler).unwrap();
    daemon.say(&post.site, &["retry"]).expect(0);
    daemon.until("made", |status| is_settled(status, post.git.at("HEAD").as_str()));
}
