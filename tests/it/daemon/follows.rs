//! A commit settles, however the daemon learns of it.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use super::{Daemon, PASSWORD, Post, ask, hash, instance, is_settled};
use crate::repo::https;
use crate::support::signal;

#[test]
fn a_commit_settles_and_everybody_says_so() {
    let post = Post::new(&instance("one", "hz = 11"));
    let first = post.git.at("HEAD").to_string();
    let daemon = post.start();
    eprintln!("the first commit settled in {:?}", daemon.settles(&first));
    let second = post.commit(&instance("one", "hz = 12"));
    eprintln!("the second commit settled in {:?}", daemon.settles(&second));
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), "hz 12");
    let record = post.site.read("state/fleet-prod.toml");
    assert!(record.contains(&second), "{record}");
    for state in ["desired", "settled"] {
        assert_eq!(daemon.series(&format!("valkeeper_revision_info{{state=\"{state}\",revision=\"{second}\"}}")), Some(1.0));
    }
    assert!(!daemon.metrics().contains(&first), "series of an old revision stay");
    let status = daemon.status();
    assert_eq!(status["instances"]["one"]["state"], "active");
    daemon.say(&post.site, &["status"]).expect(0).says(&second).says("active");
    assert_eq!(daemon.page("/readyz").0, 200);
    assert_eq!(daemon.page("/healthz").0, 200);
    post.site.settled();
    let pid = post.site.pid("one");
    assert!(daemon.stop());
    assert_eq!(post.site.pid("one"), pid);
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("PING"), "+PONG", "servers outlive the daemon");
}

#[test]
fn one_changed_user_among_many_settles_quickly() {
    let count = 100;
    // A site's own range of ports is too small; this one is below all of those.
    let first = 7000 + std::process::id() % 20 * 100;
    let text = |rights: &str| {
        let hash = hash(PASSWORD);
        let instances: String = (0..count)
            .map(|n| {
                let rights = if n == 7 { rights } else { "+@read" };
                format!(
                    "[instances.i{n}]\nshard = \"many\"\nconfig = {{ save = \"\", appendonly = false }}\n\
                     [instances.i{n}.users.app]\npassword_sha256 = \"{hash}\"\nprivileges = [\"{rights}\"]\n"
                )
            })
            .collect();
        format!("[shards.many]\nnodes = [\"here\"]\nports = \"{first}-{}\"\n{instances}", first + 99)
    };
    let post = Post::new(&text("+@read"));
    let daemon = post.start();
    let took = daemon.settles(post.git.at("HEAD").as_str());
    eprintln!("{count} instances made in {took:?}");
    let mut best = Duration::MAX;
    for rights in ["+@all", "+@write", "+@all"] {
        let revision = post.commit(&text(rights));
        best = best.min(daemon.settles(&revision));
    }
    eprintln!("one changed user among {count} instances settled in {best:?} at best of 3");
    assert_eq!(post.site.client("i7", "app", PASSWORD).ask("SET a 1"), "+OK");
}

#[test]
fn a_push_to_a_repository_on_this_machine_is_seen_at_once() {
    let post = Post::new(&instance("one", "hz = 11"));
    let bare = post.git.bare();
    let daemon = post.start_with(&["--repo", bare.to_str().unwrap()]);
    daemon.settles(post.git.at("HEAD").as_str());
    let pushed = post.commit(&instance("one", "hz = 12"));
    post.git.push(&["main"]);
    daemon.settles(&pushed);
}

#[test]
fn a_folder_without_git_is_followed() {
    let post = Post::bare();
    let folder = post.git.path("plain");
    fs::create_dir(&folder).unwrap();
    let write =
        |hz: u32| fs::write(folder.join("fleet.toml"), post.site.text("", &instance("one", &format!("hz = {hz}")))).unwrap();
    write(11);
    let daemon = post.start_with(&["--path", folder.to_str().unwrap()]);
    let settled = daemon.until("settled", |status| status["last_pass"]["result"] == "settled");
    let first = settled["settled"]["revision"].clone();
    write(12);
    let status = daemon.until("settled again", |status| status["settled"]["revision"] != first);
    assert_eq!(status["settled"]["revision"].as_str().map(str::len), Some(64), "{status:#}");
    assert_eq!(status["source"]["branch"], serde_json::Value::Null);
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), "hz 12");
}

/// With a remote nobody tells, so each way to ask shows that it works.
#[test]
fn a_remote_over_ssh_is_followed_and_each_way_to_ask_for_a_look_works() {
    let post = Post::new(&instance("one", "hz = 11"));
    let (_sshd, source) = post.behind_ssh();
    fs::write(post.git.path("hook"), "hook-secret\n").unwrap();
    let config = post.configure(&source, &format!("[hooks]\nsecret_file = \"{}\"\n", post.git.text("hook")));
    let daemon = post.start_with(&["--config", &config]);
    daemon.settles(post.git.at("HEAD").as_str());

    let push = |hz: u32| {
        let revision = post.commit(&instance("one", &format!("hz = {hz}")));
        post.git.push(&["main"]);
        revision
    };
    let revision = push(12);
    assert_eq!(hook(&daemon, "x-gitlab-token: wrong"), 401);
    assert_eq!(hook(&daemon, "x-y: z"), 401);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!is_settled(&daemon.status(), &revision), "an unsigned hook is a reason to look");
    assert_eq!(hook(&daemon, &format!("x-hub-signature-256: sha256={}", signature("hook-secret", "{}"))), 202);
    daemon.settles(&revision);

    let revision = push(13);
    signal(daemon.pid(), "-HUP");
    daemon.settles(&revision);

    let revision = push(14);
    daemon.say(&post.site, &["sync", "--wait"]).expect(0);
    assert!(is_settled(&daemon.status(), &revision), "sync --wait says when it is settled: {:#}", daemon.status());

    let revision = push(15);
    daemon.say(&post.site, &["sync"]).expect(0);
    daemon.settles(&revision);
    drop(daemon);

    let revision = push(16);
    let polling = post.start_with(&["--config", &config, "--poll", "1s"]);
    polling.settles(&revision);
    let revision = push(17);
    polling.settles(&revision);
}

pub fn signature(secret: &str, body: &str) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn hook(daemon: &Daemon, head: &str) -> u16 {
    let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    ask(stream, "POST", "/hooks/push", &format!("{head}\r\n"), "{}").0
}

#[test]
fn a_remote_over_https_is_followed_with_a_token() {
    let post = Post::new(&instance("one", "hz = 11"));
    post.git.bare();
    let server = https::Server::start(&post.git);
    let source = format!(
        "repo = \"https://127.0.0.1:{}/bare.git\"\ntoken_file = \"{}\"\nca_file = \"{}\"\ncache = \"{}\"\n",
        server.port,
        post.git.text("token"),
        post.git.text("ca.pem"),
        post.git.text("cache")
    );
    let daemon = post.start_with(&["--config", &post.configure(&source, "")]);
    daemon.settles(post.git.at("HEAD").as_str());
    let revision = post.commit(&instance("one", "hz = 12"));
    post.git.push(&["main"]);
    daemon.sync();
    daemon.settles(&revision);

    fs::write(post.git.path("token"), "wrong\n").unwrap();
    post.commit(&instance("one", "hz = 13"));
    post.git.push(&["main"]);
    let status = daemon.sync();
    assert_eq!(super::problem(&status), Some("fetch"), "{status:#}");
    assert_eq!(status["source"]["desired"], *revision, "the last good one stays");
    assert!(!daemon.log().contains(https::TOKEN) && !status.to_string().contains(https::TOKEN));
}

#[test]
fn a_plan_of_an_unmerged_branch_is_shown_and_nothing_is_done() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    let main = post.git.at("HEAD").to_string();
    daemon.settles(&main);
    post.git.git(&["checkout", "--quiet", "-b", "feature/x"]);
    post.git.commit(&[("fleet.toml", &post.site.text("", &instance("one", "hz = 50")))]);
    post.git.git(&["checkout", "--quiet", "main"]);
    daemon.say(&post.site, &["plan", "--ref", "feature/x"]).expect(2).says("hz: 11 -> 50");
    daemon.say(&post.site, &["plan", "--ref", "feature/x", "--json"]).expect(2).json();
    daemon.say(&post.site, &["plan", "--ref", "main"]).expect(0).says("No changes.");
    daemon.say(&post.site, &["plan", "--ref", "main", "--json"]).expect(0).json();
    daemon.say(&post.site, &["plan", "--ref", "nowhere"]).expect(1).says("nowhere");
    assert!(is_settled(&daemon.sync(), &main));
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), "hz 11");
}

/// What stands there belongs to the fleet of the old name, and is left alone.
#[test]
fn a_commit_that_renames_the_fleet_is_another_fleet_on_the_same_node() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    let text = post.site.text("", &instance("two", "hz = 11"));
    assert!(text.contains("\"prod\""), "{text}");
    let revision = post.commit_text(&text.replace("\"prod\"", "\"next\""));
    daemon.settles(&revision);
    post.site.operator("two").ask("CONFIG SET hz 50");
    assert!(is_settled(&daemon.sync(), &revision), "{}", daemon.log());
    assert_eq!(post.site.operator("two").ask("CONFIG GET hz"), "hz 11");
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), "hz 11");
}
