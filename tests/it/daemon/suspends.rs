//! What a person holds: suspensions, which end by themselves, and deletions that wait for a word.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
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

/// Debian's libfaketime, where it is installed.
fn faketime() -> Option<PathBuf> {
    let below = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = below("/usr/lib").map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists());
    if found.is_none() {
        // Past the capture of the test's output: a check that did not happen is said, also when all is well.
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: jumps of the clock: libfaketime is not installed");
    }
    found
}

/// The poll goes by a clock that never jumps; only what a person said in terms of time goes by the clock on the wall.
#[test]
fn a_clock_that_jumps_holds_up_no_pass_and_ends_suspensions_at_their_time() {
    let Some(library) = faketime() else { return };
    let post = Post::new(&both());
    let clock = post.site.path("clock");
    let jump = |offset: &str| fs::write(&clock, offset).unwrap();
    jump("+0");
    let (root, work, socket) = (post.site.folder.path().to_str().unwrap(), post.git.text("work"), post.site.path("c.sock"));
    let port = crate::support::free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = ["run", "--listen", &listen, "--local-root", root, "--repo", &work, "--poll", "1s", "--socket"];
    let mut command = post.site.command(&args);
    command.arg(&socket).env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command.envs([("FAKETIME_NO_CACHE", "1"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]);
    let daemon = Daemon::run(command, port, &socket, &post.site.path("log")).alive();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    daemon.say(&post.site, &["suspend", "one", "--reason", "x", "--for", "10m"]).expect(0);
    for offset in ["-7200", "+0", "-60"] {
        jump(offset);
        assert_eq!((daemon.page("/readyz").0, daemon.page("/healthz").0), (200, 200), "at {offset} s");
        meddle(&post);
        daemon.until("put right", |_| shows(&post)[1] == "11");
        assert_eq!(shows(&post)[0], "50", "it is suspended still, at {offset} s");
    }
    jump("+3600");
    daemon.until("over", |_| shows(&post) == ["11", "11"]);
    daemon.until("settled", |status| is_settled(status, &revision));
    let passes = daemon.passes();
    std::thread::sleep(Duration::from_secs(2));
    assert!(daemon.passes() <= passes + 5, "a hot loop");
}
