//! SIGHUP: the daemon's own configuration is read again. A bad one changes nothing; a good one is in force without a restart.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::follows::{hook, signature};
use super::{Daemon, PASSWORD, Post, instance, problem};
use crate::support::{free_port, signal};

fn hz(value: u32) -> String {
    instance("one", &format!("hz = {value}"))
}

/// A daemon that is told everything by its configuration.
fn by_configuration(post: &Post, config: &str, port: u16, socket: &str) -> Daemon {
    let root = post.site.folder.path().to_str().unwrap();
    let command = post.site.command(&["run", "--local-root", root, "--config", config]);
    Daemon::run(command, port, &post.site.path(socket), &post.site.path("log")).alive()
}

fn tables(post: &Post, port: u16, socket: &str) -> String {
    let socket = post.site.path(socket);
    format!("poll = \"1h\"\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n[control]\nsocket = \"{}\"\n", socket.display())
}

#[test]
fn a_good_configuration_is_taken_over_and_a_bad_one_is_not() {
    let post = Post::new(&hz(11));
    let source = format!("repo = \"{}\"\n", post.git.text("work"));
    let (port, next) = (free_port(), free_port());
    let config = post.configure(&source, &tables(&post, port, "a.sock"));
    let mut daemon = by_configuration(&post, &config, port, "a.sock");
    daemon.settles(post.git.at("HEAD").as_str());
    let server = post.site.pid("one");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = tables(&post, taken.local_addr().unwrap().port(), "b.sock");
    for (tables, words) in [("nonsense = 1\n", "nonsense"), (elsewhere.as_str(), "cannot be listened on")] {
        post.configure(&source, tables);
        signal(daemon.pid(), "-HUP");
        let status = daemon.until("refused", |status| {
            status["configuration"]["refused"].as_str().is_some_and(|refused| refused.contains(words))
        });
        assert_eq!(problem(&status), None, "{status:#}");
        assert_eq!(daemon.series("valkeeper_configuration_refused"), Some(1.0));
        daemon.say(&post.site, &["status"]).expect(0).says(words);
        assert_eq!(daemon.logged(words), 1, "{}", daemon.log());
    }
    let revision = post.commit(&hz(12));
    daemon.settles(&revision);

    // Another branch, another port, another socket, and hooks.
    post.git.git(&["checkout", "--quiet", "-b", "live"]);
    let live = post.commit(&hz(13));
    fs::write(post.git.path("hook"), "hook-secret\n").unwrap();
    let hooks = format!("[hooks]\nsecret_file = \"{}\"\n", post.git.text("hook"));
    post.configure(&format!("{source}branch = \"live\"\n"), &(tables(&post, next, "b.sock") + &hooks));
    signal(daemon.pid(), "-HUP");
    let old = std::mem::replace(&mut daemon.socket, post.site.path("b.sock"));
    let mut daemon = daemon.alive();
    daemon.port = next;
    let status = daemon.until("taken", |status| status["configuration"]["refused"].is_null());
    assert_eq!(status["source"]["branch"], "live", "{status:#}");
    daemon.settles(&live);
    assert_eq!(daemon.series("valkeeper_configuration_refused"), Some(0.0));
    assert!(UnixStream::connect(&old).is_err() && !old.exists(), "the old socket stays");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the old port stays");
    assert_eq!(hook(&daemon, &format!("x-hub-signature-256: sha256={}", signature("hook-secret", "{}"))), 202);
    // A commit is still seen at once, on the branch that is followed now.
    let revision = post.commit(&hz(14));
    daemon.settles(&revision);
    assert_eq!(post.site.pid("one"), server, "the servers ran on");
    assert!(daemon.stop());
}

#[test]
fn what_may_not_be_believed_any_more_is_not_in_force_after_a_reload() {
    let post = Post::new(&hz(11));
    let source = format!("repo = \"{}\"\n", post.git.text("work"));
    let daemon = post.start_with(&["--config", &post.configure(&source, "")]);
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    fs::write(post.git.path("signers"), "").unwrap();
    post.configure(&format!("{source}verify = \"head\"\nallowed_signers = \"{}\"\n", post.git.text("signers")), "");
    signal(daemon.pid(), "-HUP");
    let status = daemon.until("not believed", |status| problem(status) == Some("verify"));
    assert!(status["source"]["desired"].is_null(), "{status:#}");
    // And a way that leads nowhere leaves what was believed in force.
    post.configure(&source, "");
    signal(daemon.pid(), "-HUP");
    daemon.settles(&revision);
    post.configure(&source.replace("/work", "/nowhere"), "");
    signal(daemon.pid(), "-HUP");
    let status = daemon.until("not there", |status| problem(status) == Some("fetch"));
    assert_eq!(status["source"]["desired"], *revision, "{status:#}");
    post.site.operator("one").ask("CONFIG SET hz 50");
    daemon.sync();
    assert_eq!(post.site.operator("one").ask("CONFIG GET hz"), "hz 11");
}

#[test]
fn passwords_are_read_again_from_where_the_new_configuration_says() {
    let post = Post::bare();
    for (folder, password) in [("old", PASSWORD), ("new", "another-secret")] {
        fs::create_dir(post.git.path(folder)).unwrap();
        fs::write(post.git.path(folder).join("app"), password).unwrap();
    }
    let user = "[instances.one.users.app]\npassword = { file = \"app\" }\nprivileges = [\"+@all\"]\n";
    post.commit(&format!("[instances.one]\nshard = \"a\"\n{user}"));
    let revision = post.git.at("HEAD").to_string();
    let source = format!("repo = \"{}\"\n", post.git.text("work"));
    let roots = |folder: &str| format!("[roots]\nsecrets = \"{}\"\n", post.git.text(folder));
    let daemon = post.start_with(&["--config", &post.configure(&source, &roots("old"))]);
    daemon.settles(&revision);
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("PING"), "+PONG");
    post.configure(&source, &roots("new"));
    signal(daemon.pid(), "-HUP");
    daemon.until("read again", |_| daemon.logged("set user app") == 1);
    assert_eq!(post.site.client("one", "app", "another-secret").ask("PING"), "+PONG");
}
