//! What a person holds: suspensions, which end by themselves, and deletions that wait for a word.

use std::time::{Duration, Instant};

use super::{Daemon, Post, instance, is_settled};

fn both() -> String {
    instance("one", "hz = 11") + &instance("two", "hz = 11")
}

fn settled() -> (Post, String, Daemon) {
    let post = Post::new(&both());
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    (post, revision, daemon)
}

fn meddle(post: &Post) {
    for name in ["one", "two"] {
        post.site.operator(name).ask("CONFIG SET hz 50");
    }
}

fn shows(post: &Post) -> [String; 2] {
    ["one", "two"].map(|name| post.site.operator(name).ask("CONFIG GET hz").replace("hz ", ""))
}

#[test]
fn a_suspended_instance_is_left_alone_also_by_the_next_daemon_until_resumed() {
    let (post, revision, daemon) = settled();
    daemon
        .say(&post.site, &["suspend", "one", "--reason", "Anna debugs", "--for", "1h"])
        .expect(0)
        .says("one is suspended until");
    meddle(&post);
    let status = daemon.sync();
    assert_eq!(shows(&post), ["50", "11"]);
    assert_eq!(status["instances"]["one"]["suspended"]["reason"], "Anna debugs", "{status:#}");
    assert!(status["instances"]["two"]["suspended"].is_null());
    daemon.kill();
    let daemon = post.start();
    assert!(is_settled(&daemon.sync(), &revision), "a guard that a person set is no trouble");
    assert_eq!(shows(&post), ["50", "11"]);
    assert_eq!(daemon.series("valkeeper_instance_suspended{instance=\"one\"}"), Some(1.0));
    assert!(daemon.metrics().contains("reason=\"Anna debugs\""));
    daemon.say(&post.site, &["status"]).says("Anna debugs");
    daemon.say(&post.site, &["resume", "one"]).expect(0);
    daemon.until("put right", |_| shows(&post) == ["11", "11"]);
    assert_eq!(daemon.series("valkeeper_instance_suspended{instance=\"one\"}"), Some(0.0));
    assert!(!daemon.metrics().contains("Anna debugs"));
}

#[test]
fn a_suspension_ends_by_itself() {
    let (post, revision, daemon) = settled();
    for args in [&["suspend", "one", "--reason", "x", "--for", "2s"][..], &["suspend", "--reason", "x", "--for", "2s"]] {
        let begun = Instant::now();
        daemon.say(&post.site, args).expect(0);
        meddle(&post);
        daemon.sync();
        assert_eq!(shows(&post)[0], "50");
        // The poll is an hour away, and nobody asks.
        daemon.until("put right", |_| shows(&post) == ["11", "11"]);
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(8), "{args:?}: {took:?}");
        daemon.until("settled", |status| is_settled(status, &revision) && status["suspended"].is_null());
    }
}

#[test]
fn a_suspended_fleet_follows_and_does_nothing() {
    let (post, revision, daemon) = settled();
    daemon.say(&post.site, &["suspend", "--reason", "move of the racks", "--for", "2h"]).expect(0);
    meddle(&post);
    let next = post.commit(&(both() + &instance("three", "hz = 11")));
    let status = daemon.sync();
    assert_eq!((&status["source"]["desired"], &status["settled"]["revision"]), (&next.clone().into(), &revision.into()));
    assert_eq!(shows(&post), ["50", "50"]);
    assert_eq!(post.servers(), 2);
    assert_eq!(daemon.series("valkeeper_suspended"), Some(1.0));
    daemon.say(&post.site, &["status", "--short"]).says("suspended");
    daemon.kill();
    let daemon = post.start();
    daemon.sync();
    assert_eq!((shows(&post), post.servers()), (["50".to_owned(), "50".to_owned()], 2));
    daemon.say(&post.site, &["resume"]).expect(0);
    daemon.settles(&next);
    assert_eq!(shows(&post), ["11", "11"]);
    assert_eq!(post.servers(), 3);
}

#[test]
fn what_a_suspension_may_not_be_is_said() {
    let (post, _, daemon) = settled();
    let bad = [
        (&["suspend", "one", "--reason", "x", "--for", "soon"][..], "is not a duration"),
        (&["suspend", "one", "--reason", "x", "--for", "31d"], "30 days"),
        (&["suspend", "oen", "--reason", "x", "--for", "1h"], "no instance oen"),
        (&["suspend", "one", "--reason", " ", "--for", "1h"], "--reason"),
        (&["suspend", "One!", "--reason", "x", "--for", "1h"], "One!"),
    ];
    for (args, words) in bad {
        daemon.say(&post.site, args).expect(1).says(words);
    }
    daemon.say(&post.site, &["suspend", "--for", "1h"]).expect(1).says("--reason");
    assert!(daemon.status()["suspended"].is_null());
}

#[test]
fn deleting_too_much_waits_for_an_approval_by_name() {
    let gone = |name: &str| instance(name, "hz = 11").replacen("shard", "ensure = \"absent\"\nshard", 1);
    let guard = "[guard]\nmax_deletes = 1\n";
    let post = Post::new(&format!("{guard}{}", both()));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    let revision = post.commit(&format!("{guard}{}{}", gone("one"), gone("two")));
    for _ in 0..2 {
        let status = daemon.sync();
        assert_eq!(status["instances"]["one"]["held"][0]["reason"], "approval", "{status:#}");
        assert_eq!(post.servers(), 2);
    }
    daemon.say(&post.site, &["approve", "--daemon", "main"]).expect(1).says("full revision");
    daemon.say(&post.site, &["approve", "--daemon", &"0".repeat(40)]).expect(0);
    daemon.sync();
    assert_eq!(post.servers(), 2, "another revision was approved");
    daemon.say(&post.site, &["approve", "--daemon", &revision]).expect(0);
    daemon.until("deleted", |status| ["one", "two"].iter().all(|name| status["instances"][name]["state"] == "deleted"));
    assert!(is_settled(&daemon.sync(), &revision));
    assert_eq!(post.servers(), 0);
    let record = post.site.read("state/fleet-prod.toml");
    let approvals = record.split("approvals = ").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(approvals, format!("[\"{}\"]", "0".repeat(40)), "what served is gone, what is yet to come is kept");
    assert!(post.site.path("state/set-aside").read_dir().unwrap().count() >= 2, "its data is kept");
}
