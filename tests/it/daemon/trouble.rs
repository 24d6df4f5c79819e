//! What hangs holds up nothing else.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::{Post, instance, is_settled, problem};
use crate::repo::ssh;
use crate::support::signal;

#[test]
fn a_server_that_hangs_is_reported_and_the_others_are_kept() {
    let post = Post::new(&(instance("one", "hz = 11") + &instance("two", "hz = 11")));
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    let hung = post.site.pid("one");
    signal(hung, "-STOP");
    post.site.operator("two").ask("CONFIG SET hz 50");
    let begun = Instant::now();
    let status = daemon.sync();
    let took = begun.elapsed();
    signal(hung, "-CONT");
    eprintln!("a pass with a hung server took {took:?}");
    assert!(took < Duration::from_secs(15));
    assert_eq!(post.site.operator("two").ask("CONFIG GET hz"), "hz 11");
    assert_eq!(status["instances"]["one"]["held"][0]["reason"], "not-answering", "{status:#}");
    assert_eq!(status["last_pass"]["result"], "progress", "{status:#}");
    assert!(is_settled(&daemon.sync(), &revision));
    assert_eq!(post.site.pid("one"), hung, "it was not taken for dead");
}

#[test]
fn a_remote_that_hangs_is_reported_and_drift_is_still_put_right() {
    let post = Post::new(&instance("one", "hz = 11"));
    post.git.bare();
    let sshd = ssh::Sshd::start(&post.git);
    let url = format!("ssh://{}@127.0.0.1:{}{}", ssh::user(), sshd.port, post.git.path("bare.git").display());
    let config = format!(
        "[source]\nrepo = \"{url}\"\nssh_key = \"{}\"\nknown_hosts = \"{}\"\ncache = \"{}\"\n",
        post.git.text("user_key"),
        post.git.text("known_hosts"),
        post.git.text("cache")
    );
    fs::write(post.git.path("valkeeper.toml"), config).unwrap();
    let daemon = post.start_with(&["--config", &post.git.text("valkeeper.toml")]);
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    let port = sshd.port;
    drop(sshd);
    let _silent = TcpListener::bind(("127.0.0.1", port)).unwrap();
    post.site.operator("one").ask("CONFIG SET hz 50");
    let begun = Instant::now();
    daemon.say(&post.site, &["sync"]).expect(0);
    // Nobody who asks waits for the remote.
    let asked = Instant::now();
    assert_eq!(daemon.page("/healthz").0, 200);
    daemon.say(&post.site, &["status"]);
    assert!(asked.elapsed() < Duration::from_secs(2));
    daemon.until("put right", |_| post.site.operator("one").ask("CONFIG GET hz") == "hz 11");
    eprintln!("with a remote that hangs, drift was put right after {:?}", begun.elapsed());
    let status = daemon.until("reported", |status| problem(status) == Some("fetch"));
    assert_eq!(status["source"]["desired"], *revision);
    assert!(daemon.stop());
}
