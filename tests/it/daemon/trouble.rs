//! What hangs or is full is reported, and holds up nothing else.

use std::fs;
use std::time::{Duration, Instant};

use super::{Daemon, Post, instance, is_settled, problem};
use crate::repo::ssh::Sshd;
use crate::site::finish;
use crate::support::{Tmpfs, signal};

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

/// A daemon that follows a remote over ssh, and the revision that it has settled.
fn settled_behind_ssh() -> (Post, Sshd, Daemon, String) {
    let post = Post::new(&instance("one", "hz = 11"));
    let (sshd, source) = post.behind_ssh();
    let daemon = post.start_with(&["--config", &post.configure(&source, "")]);
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    (post, sshd, daemon, revision)
}

#[test]
fn a_remote_that_hangs_holds_up_neither_drift_nor_people_and_is_taken_up_when_it_answers() {
    let (post, sshd, daemon, revision) = settled_behind_ssh();
    sshd.hangs(true);
    let newer = post.commit(&instance("one", "hz = 12"));
    post.git.push(&["main"]);
    post.site.operator("one").ask("CONFIG SET hz 50");
    let begun = Instant::now();
    daemon.say(&post.site, &["sync"]).expect(0);
    // Nobody who asks waits for the remote.
    let asked = Instant::now();
    assert_eq!(daemon.page("/healthz").0, 200);
    daemon.say(&post.site, &["status"]);
    assert!(asked.elapsed() < Duration::from_secs(2));
    daemon.until("put right", |_| post.site.operator("one").ask("CONFIG GET hz") == "hz 11");
    let took = begun.elapsed();
    eprintln!("with a remote that hangs, drift was put right after {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    let status = daemon.until("late", |status| !status["source"]["asked_since"].is_null());
    assert_eq!(status["source"]["desired"], *revision);
    assert_eq!(daemon.series("valkeeper_source_late"), Some(1.0));
    daemon.say(&post.site, &["status"]).says("no answer for");
    // Also the plan of another branch waits for it beside the passes, and not before them.
    let plan = post.site.command(&["plan", "--ref", "main"]).env("VALKEEPER_SOCKET", &daemon.socket).spawn().unwrap();
    post.site.operator("one").ask("CONFIG SET hz 50");
    daemon.say(&post.site, &["retry"]).expect(0);
    daemon.until("put right again", |_| post.site.operator("one").ask("CONFIG GET hz") == "hz 11");
    sshd.hangs(false);
    daemon.say(&post.site, &["sync", "--wait"]).expect(0);
    assert!(is_settled(&daemon.status(), &newer), "who waits is told of what was pushed before: {:#}", daemon.status());
    assert_eq!(daemon.series("valkeeper_source_late"), Some(0.0));
    // Once for each time that it is asked; where this machine is slow, that is twice.
    assert!((1..=2).contains(&daemon.logged("has not answered yet")), "{}", daemon.log());
    let made = finish(plan);
    assert!(made.out.contains("Plan:") || made.out.contains("No changes."), "{}", made.all());
    assert!(daemon.stop());
}

#[test]
fn a_remote_that_never_answers_is_reported_and_asked_again_only_in_time() {
    let (post, sshd, daemon, revision) = settled_behind_ssh();
    sshd.hangs(true);
    let passes = daemon.passes();
    daemon.say(&post.site, &["sync", "--wait"]).expect(1);
    let status = daemon.status();
    assert_eq!(problem(&status), Some("fetch"), "{status:#}");
    assert_eq!(status["source"]["desired"], *revision);
    std::thread::sleep(Duration::from_secs(1));
    assert!(daemon.status()["source"]["asked_since"].is_null(), "it is asked again at once");
    assert!(daemon.passes() <= passes + 4, "a hot loop: {}", daemon.passes() - passes);
    sshd.hangs(false);
    daemon.say(&post.site, &["sync", "--wait"]).expect(0);
    assert_eq!(problem(&daemon.status()), None);
}

#[test]
fn a_full_disk_of_the_mirror_is_reported_and_the_last_good_revision_stays() {
    let Some(disk) = Tmpfs::new("400k") else { return };
    let post = Post::new(&instance("one", "hz = 11"));
    let (_sshd, source) = post.behind_ssh();
    let source = source.replace(&post.git.text("cache"), disk.folder.path().to_str().unwrap());
    let daemon = post.start_with(&["--config", &post.configure(&source, "")]);
    let good = post.git.at("HEAD").to_string();
    daemon.settles(&good);
    let filler = disk.folder.path().join("filler");
    let _full = fs::write(&filler, vec![1; 1 << 20]);
    let newer = post.commit(&instance("one", "hz = 12"));
    post.git.push(&["main"]);
    post.site.operator("one").ask("CONFIG SET hz 50");
    daemon.say(&post.site, &["sync", "--wait"]).expect(1);
    let status = daemon.status();
    assert_eq!(problem(&status), Some("fetch"), "{status:#}");
    assert!(status["source"]["problem"]["message"].as_str().unwrap().contains("space"), "{status:#}");
    assert_eq!(status["source"]["desired"], *good);
    assert_eq!(post.site.operator("one").ask("CONFIG GET hz"), "hz 11", "drift is put right all the same");
    fs::remove_file(filler).unwrap();
    daemon.say(&post.site, &["sync", "--wait"]).expect(0);
    assert!(is_settled(&daemon.status(), &newer));
}
