//! What somebody changes by hand is found by the next pass, counted, and put right; or only reported, where so declared.

use std::fs;
use std::time::Duration;

use super::{Daemon, PASSWORD, Post, instance, is_settled};
use crate::support::signal;

fn both() -> String {
    instance("one", "hz = 11") + &instance("two", "hz = 11")
}

fn found(daemon: &Daemon) -> [f64; 2] {
    ["one", "two"].map(|name| {
        let series = format!("valkeeper_instance_drift_found_total{{instance=\"{name}\"}}");
        daemon.series(&series).unwrap_or_else(|| panic!("{series}: {}", daemon.metrics()))
    })
}

#[test]
fn whatever_is_changed_by_hand_is_put_right_by_the_next_pass_and_counted() {
    let post = Post::new(&both());
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    post.site.client("one", "app", PASSWORD).ask("SET key 1");
    let other = post.site.pid("two");
    let config = post.site.read("state/config/one.conf");
    let by_hand: [(&str, &dyn Fn()); 5] = [
        ("CONFIG SET", &|| drop(post.site.operator("one").ask("CONFIG SET hz 50"))),
        ("ACL SETUSER", &|| drop(post.site.client("one", "app", PASSWORD).ask("ACL SETUSER app -@write"))),
        ("ACL DELUSER", &|| drop(post.site.client("one", "app", PASSWORD).ask("ACL DELUSER app"))),
        ("an edited file", &|| post.site.write("state/config/one.conf", config.replace("hz 11", "hz 60"))),
        ("kill -9", &|| {
            // Only what is on disk is there afterwards.
            let _ = post.site.client("one", "app", PASSWORD).ask("WAITAOF 1 0 5000");
            signal(post.site.pid("one"), "-9");
        }),
    ];
    for (count, (what, change)) in by_hand.into_iter().enumerate() {
        let before = daemon.passes();
        change();
        let status = daemon.sync();
        assert!(is_settled(&status, &revision), "{what}: {status:#}");
        assert!(daemon.passes() <= before + 2, "{what}: one pass repairs, one looks");
        assert_eq!(found(&daemon), [count as f64 + 1.0, 0.0], "{what}");
        let mut client = post.site.client("one", "app", PASSWORD);
        assert_eq!((client.ask("CONFIG GET hz").as_str(), client.ask("GET key").as_str()), ("hz 11", "1"), "{what}");
        assert_eq!(post.site.read("state/config/one.conf"), config, "{what}");
    }
    assert_eq!(post.site.pid("two"), other);
    let metrics = daemon.metrics();
    let planned = metrics.lines().filter(|line| line.starts_with("valkeeper_planned_steps_total") && line.contains("drift"));
    assert!(planned.clone().count() >= 3, "{:#?}", planned.collect::<Vec<_>>());
    assert!(daemon.series("valkeeper_node_observe_duration_seconds{node=\"here\"}") > Some(0.0));
    post.site.settled();
}

#[test]
fn drift_is_found_by_the_poll_without_being_asked() {
    let post = Post::new(&both());
    let work = post.git.text("work");
    let daemon = post.start_with(&["--repo", &work, "--poll", "1s"]);
    daemon.settles(post.git.at("HEAD").as_str());
    post.site.operator("one").ask("CONFIG SET hz 50");
    daemon.until("found", |_| found(&daemon) == [1.0, 0.0]);
    daemon.until("put right", |_| post.site.operator("one").ask("CONFIG GET hz") == "hz 11");
}

#[test]
fn an_observed_fleet_is_reported_and_left_as_it_is() {
    let post = Post::new(&both());
    post.start().settles(post.git.at("HEAD").as_str());
    post.commit_text(&post.site.text("mode = \"observe\"\n", &(instance("one", "hz = 12") + &instance("three", "hz = 11"))));
    post.site.operator("one").ask("CONFIG SET maxmemory-samples 9");
    let before = fs::read_to_string(post.site.path("state/config/one.conf")).unwrap();
    let daemon = post.start();
    let status = daemon.sync();
    assert_eq!(status["instances"]["one"]["held"][0]["reason"], "observe-only", "{status:#}");
    assert_eq!(status["instances"]["three"]["held"][0]["reason"], "observe-only", "{status:#}");
    assert_eq!(status["instances"]["three"]["state"], "pending", "{status:#}");
    assert_eq!(
        daemon.series("valkeeper_instance_held{instance=\"one\",reason=\"observe-only\"}"),
        Some(1.0),
        "{}",
        daemon.metrics()
    );
    assert!(status["instances"]["one"]["drift"].as_u64() > Some(0), "{status:#}");
    assert!(status["instances"]["one"]["requested"].as_u64() > Some(0), "{status:#}");
    assert!(daemon.series("valkeeper_instance_steps_due{instance=\"one\",cause=\"drift\"}") > Some(0.0));
    assert!(daemon.series("valkeeper_instance_drift_found_total{instance=\"one\"}") > Some(0.0), "{}", daemon.metrics());
    assert_eq!(post.site.operator("one").ask("CONFIG GET maxmemory-samples"), "maxmemory-samples 9");
    assert_eq!(post.site.operator("one").ask("CONFIG GET hz"), "hz 11");
    assert_eq!(fs::read_to_string(post.site.path("state/config/one.conf")).unwrap(), before);
    assert_eq!(post.servers(), 2);
    daemon.say(&post.site, &["status"]).says("observe");
}

#[test]
fn an_observed_instance_is_left_as_it_is_and_the_others_are_kept() {
    let observed = instance("one", "hz = 11").replacen("shard", "mode = \"observe\"\nshard", 1);
    let post = Post::new(&both());
    post.start().settles(post.git.at("HEAD").as_str());
    post.commit(&(observed + &instance("two", "hz = 11")));
    let daemon = post.start();
    for name in ["one", "two"] {
        post.site.operator(name).ask("CONFIG SET hz 50");
    }
    let status = daemon.sync();
    assert_eq!(status["instances"]["one"]["held"][0]["reason"], "observe-only", "{status:#}");
    assert_eq!((status["instances"]["one"]["drift"].as_u64(), found(&daemon)[0] >= 1.0), (Some(1), true), "{status:#}");
    assert_eq!(post.site.operator("one").ask("CONFIG GET hz"), "hz 50");
    assert_eq!(post.site.operator("two").ask("CONFIG GET hz"), "hz 11");
    // Changing its mind is enough.
    let revision = post.commit(&both());
    daemon.settles(&revision);
    assert_eq!(post.site.operator("one").ask("CONFIG GET hz"), "hz 11");
}

#[test]
fn a_pass_with_nothing_to_do_writes_nothing() {
    let post = Post::new(&both());
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    daemon.sync();
    let listing = || {
        let mut found = post.site.listing();
        found.retain(|path, _| path.starts_with(post.site.path("state")) && !path.starts_with(post.site.path("state/log")));
        found
    };
    let before = listing();
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..3 {
        daemon.sync();
    }
    assert_eq!(listing(), before);
}
