//! What the daemon says of itself, to whom, and what it never says.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::{PASSWORD, Post, hash, instance};
use crate::tools::promtool;

#[test]
fn the_status_is_shown_whole_short_as_json_and_again_when_it_changes() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    let json = daemon.say(&post.site, &["status", "--json"]).expect(0).json();
    assert_eq!(json["settled"]["revision"], *revision);
    let short = daemon.say(&post.site, &["status", "--short"]).expect(0);
    assert_eq!(short.out, format!("prod@{} settled\n", &revision[..12]));
    daemon.say(&post.site, &["status"]).expect(0).says("INSTANCE").says("one").says(&revision);

    let mut watch = post.site.command(&["status", "--short", "--watch"]).env("VALKEEPER_SOCKET", &daemon.socket).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.next().unwrap().contains(&revision[..12]));
    let next = post.commit(&instance("one", "hz = 12"));
    assert!(lines.any(|line| line.contains(&next[..12])));
    watch.kill().unwrap();
    watch.wait().unwrap();

    let gone = post.site.path("c9.sock");
    post.site.run(&["status", "--socket", gone.to_str().unwrap()]).expect(1).says("no daemon answers");
}

#[test]
fn the_control_socket_is_for_its_owner_alone() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    let mode = fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = daemon.socket.clone();
    assert!(daemon.stop());
    assert!(!socket.exists(), "it goes with the daemon");
}

/// A password from a file, one from the environment, a hook's secret, the operator's password, and the hashes of all of them.
#[test]
fn no_password_and_no_hash_is_said_anywhere() {
    let post = Post::bare();
    let secrets = post.git.path("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("app"), "canary-of-a-file\n").unwrap();
    fs::write(post.git.path("hook"), "canary-of-a-hook\n").unwrap();
    let text = |privileges: &str| {
        format!(
            "{}[instances.two]\nshard = \"a\"\n[instances.two.users.app]\npassword = {{ file = \"app\" }}\nprivileges = [\"{privileges}\"]\n",
            instance("one", "hz = 11")
        )
    };
    post.commit(&text("+@read"));
    let config = format!(
        "[source]\nrepo = \"{}\"\n[roots]\nsecrets = \"{}\"\n[hooks]\nsecret_file = \"{}\"\n",
        post.git.text("work"),
        post.git.text("secrets"),
        post.git.text("hook")
    );
    fs::write(post.git.path("valkeeper.toml"), config).unwrap();
    let daemon = post.start_with(&["--config", &post.git.text("valkeeper.toml"), "--log", "json"]);
    daemon.settles(post.git.at("HEAD").as_str());
    post.site.client("two", "app", "canary-of-a-file").ask("PING");
    // Changes, drift, failure and refusal: whatever may be tempted to show what it compares.
    post.site.operator("two").ask(&format!("ACL SETUSER app >canary-by-hand #{}", hash("other-canary")));
    daemon.sync();
    fs::remove_file(secrets.join("app")).unwrap();
    let revision = post.commit(&text("+@all"));
    let status = daemon.sync();
    assert_eq!(super::problem(&status), Some("invalid"), "{status:#}");
    fs::write(secrets.join("app"), "canary-of-a-file-2\n").unwrap();
    daemon.sync();
    daemon.settles(&revision);
    let operator = post.site.read("state/instances/two.toml");
    let operator = operator.lines().find(|line| line.starts_with("operator_password")).unwrap().split('"').nth(1).unwrap();
    let mut said = vec![daemon.status().to_string(), daemon.log(), daemon.say(&post.site, &["plan", "--ref", "main"]).all()];
    said.extend(["/metrics", "/readyz", "/healthz", "/hooks/push"].map(|page| daemon.page(page).1));
    said.push(fs::read_to_string(format!("/proc/{}/cmdline", daemon.pid())).unwrap());
    said.push(post.site.read("state/fleet-prod.toml"));
    let clear =
        ["canary-of-a-file", "canary-of-a-hook", "canary-by-hand", "canary-of-a-file-2", "other-canary", PASSWORD, operator];
    for text in &said {
        for secret in clear {
            assert!(!text.contains(secret) && !text.contains(&hash(secret)), "{secret} is in {text}");
        }
    }
    assert!(post.site.read("state/data/two/users.acl").contains(&hash("canary-of-a-file-2")), "the search finds what is there");
}

#[test]
fn the_log_as_json_is_an_object_on_each_line_with_what_programs_look_for() {
    let post = Post::new(&instance("one", "hz = 11"));
    let work = post.git.text("work");
    let daemon = post.start_with(&["--repo", &work, "--log", "json"]);
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    post.git.commit(&[("fleet.toml", "[instances.\"one\n\u{1b}[2J")]);
    daemon.sync();
    let log = daemon.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let step = lines.iter().find(|line| line["step"] == "create-instance").unwrap_or_else(|| panic!("{log}"));
    for key in ["revision", "pass", "node", "instance", "step", "timestamp", "level", "message"] {
        assert!(!step[key].is_null(), "{key}: {step:#}");
    }
    let settled = lines.iter().find(|line| line["message"] == "settled").unwrap();
    assert_eq!(settled["revision"], *revision);
    assert!(!log.contains('\u{1b}'), "control characters of others reach the log");
}

#[test]
fn what_goes_on_being_wrong_is_logged_once() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    post.git.commit(&[("fleet.toml", "[instances.one\n")]);
    crate::support::signal(post.site.pid("one"), "-9");
    fs::rename(post.site.path("state/data/one"), post.site.path("state/data/gone")).unwrap();
    daemon.sync();
    let lines = daemon.log().lines().count();
    for _ in 0..5 {
        daemon.sync();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(daemon.log().lines().count(), lines, "{}", daemon.log());
    assert_eq!(daemon.logged("held"), 1, "{}", daemon.log());
    assert!(daemon.status()["source"]["problem"]["count"].as_u64() >= Some(6));
}

#[test]
fn prometheus_takes_what_a_running_daemon_serves() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    promtool(&["check", "metrics"], &daemon.metrics());
}
