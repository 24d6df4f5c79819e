//! What the daemon believes: the last good revision, history, and who may act.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::{PASSWORD, Post, instance, is_settled, problem};
use crate::repo::{run, signed};

fn hz(value: u32) -> String {
    instance("one", &format!("hz = {value}"))
}

fn shows(post: &Post, value: u32) {
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), format!("hz {value}"));
}

/// What must hold of a source that went wrong: it is said, and what was good stays, also for a daemon that starts now.
#[track_caller]
fn stays(post: &Post, args: &[&str], good: &str, kind: &str, words: &str) {
    let daemon = post.start_with(args);
    for _ in 0..2 {
        let status = daemon.sync();
        assert_eq!(problem(&status), Some(kind), "{status:#}");
        assert!(status["source"]["problem"]["message"].as_str().unwrap().contains(words), "{status:#}");
        assert_eq!(status["source"]["desired"], good, "{status:#}");
        assert_eq!(daemon.series(&format!("valkeeper_source_problem{{kind=\"{kind}\"}}")), Some(1.0));
    }
    daemon.say(&post.site, &["status"]).expect(1).says(words);
    assert_eq!(daemon.logged("the source: "), 1, "{}", daemon.log());
    // Still true to the last good one: drift is put right.
    post.site.operator("one").ask("CONFIG SET hz 99");
    daemon.sync();
    shows(post, 11);
}

#[test]
fn a_revision_that_does_not_parse_leaves_the_last_good_in_force() {
    let post = Post::new(&hz(11));
    let good = post.git.at("HEAD").to_string();
    let work = post.git.text("work");
    let daemon = post.start();
    daemon.settles(&good);
    for bad in ["[instances.one\n", "[fleet]\nname = \"prod\"\n[instances.one]\nshard = \"nowhere\"\n", ""] {
        post.git.commit(&[("fleet.toml", bad)]);
        let status = daemon.sync();
        assert_eq!(problem(&status), Some("invalid"), "{bad}: {status:#}");
        assert_eq!(status["source"]["desired"], *good);
    }
    assert_eq!(daemon.page("/readyz").0, 200, "a bad revision does not make the daemon unready");
    drop(daemon);
    stays(&post, &["--repo", &work], &good, "invalid", "fleet.toml");
    let cured = post.commit(&hz(12));
    let daemon = post.start();
    daemon.settles(&cured);
}

#[test]
fn an_unsigned_revision_leaves_the_last_good_in_force() {
    let post = Post::bare();
    let key = signed::ssh_key(&post.git, "anna");
    signed::ssh_key(&post.git, "mallory");
    fs::write(post.git.path("signers"), format!("anna@example.com {key}\n")).unwrap();
    let (work, signers) = (post.git.text("work"), post.git.text("signers"));
    let config = post.configure(&format!("repo = \"{work}\"\nverify = \"head\"\nallowed_signers = \"{signers}\"\n"), "");
    post.commit(&hz(11));
    let daemon = post.start_with(&["--config", &config]);
    let status = daemon.sync();
    assert_eq!((problem(&status), status["last_pass"]["result"].as_str()), (Some("verify"), Some("blind")), "{status:#}");
    assert_eq!(daemon.page("/readyz").0, 503);
    let good = signed::sign_with_ssh(&post.git, "anna", None).to_string();
    daemon.settles(&good);
    assert_eq!(daemon.status()["source"]["signed_by"], "anna@example.com");
    drop(daemon);
    post.commit(&hz(12));
    stays(&post, &["--config", &config], &good, "verify", "not signed");
    signed::sign_with_ssh(&post.git, "mallory", None);
    stays(&post, &["--config", &config], &good, "verify", "not among those who may sign");
}

#[test]
fn a_revision_signed_with_openpgp_is_taken_and_one_of_a_stranger_is_not() {
    let post = Post::new(&hz(11));
    let (anna, mallory) = (signed::Gpg::new("Anna <anna@example.com>"), signed::Gpg::new("Mallory <m@example.com>"));
    anna.export(&post.git.path("keys.asc"));
    let (work, keys) = (post.git.text("work"), post.git.text("keys.asc"));
    let config = post.configure(&format!("repo = \"{work}\"\nverify = \"head\"\nopenpgp_keys = \"{keys}\"\n"), "");
    let good = anna.sign(&post.git).to_string();
    let daemon = post.start_with(&["--config", &config]);
    daemon.settles(&good);
    assert_eq!(daemon.status()["source"]["signed_by"], "Anna <anna@example.com>");
    drop(daemon);
    post.commit(&hz(12));
    mallory.sign(&post.git);
    stays(&post, &["--config", &config], &good, "verify", "not among those who may sign");
    let daemon = post.start_with(&["--config", &config]);
    let cured = anna.sign(&post.git).to_string();
    daemon.settles(&cured);
    shows(&post, 12);
}

/// One after the other on top of `main`; gives the last one.
fn many_bad_commits(post: &Post, count: u32) -> String {
    let bad = "[instances.one\n";
    let stream: String = (0..count)
        .map(|number| {
            let from = if number == 0 { "from refs/heads/main^0\n" } else { "" };
            format!(
                "commit refs/heads/main\ncommitter Anna <anna@example.com> {} +0000\ndata 1\nx\n{from}\
                 M 100644 inline fleet.toml\ndata {}\n{bad}\n",
                1_700_000_000 + number,
                bad.len()
            )
        })
        .collect();
    let mut import = std::process::Command::new("git");
    import.current_dir(post.git.work()).args(["fast-import", "--quiet"]);
    super::feed(import, &stream);
    post.git.at("main").to_string()
}

#[test]
fn the_last_good_revision_is_found_again_however_many_bad_ones_follow_it() {
    let post = Post::new(&hz(11));
    let good = post.git.at("HEAD").to_string();
    post.start().settles(&good);
    many_bad_commits(&post, 500);
    let work = post.git.text("work");
    stays(&post, &["--repo", &work], &good, "invalid", "fleet.toml");
}

#[test]
fn a_history_without_a_sound_revision_is_said_to_be_one() {
    let post = Post::bare();
    post.git.commit(&[("fleet.toml", "[instances.one\n")]);
    many_bad_commits(&post, 100);
    let daemon = post.start();
    let status = daemon.sync();
    let message = status["source"]["problem"]["message"].as_str().unwrap();
    assert!(message.contains("none of the 100 revisions before it is sound either"), "{status:#}");
    assert_eq!(status["last_pass"]["result"], "blind", "{status:#}");
    let passes = daemon.passes();
    daemon.say(&post.site, &["sync", "--wait"]).expect(1);
    assert!(daemon.passes() <= passes + 2, "a hot loop");
    assert_eq!(daemon.logged("the source: "), 1, "{}", daemon.log());
}

#[test]
fn rewound_history_is_refused_until_a_person_accepts_the_commit_by_name() {
    let post = Post::new(&hz(10));
    let base = post.git.at("HEAD").to_string();
    let good = post.commit(&hz(11));
    let work = post.git.text("work");
    let daemon = post.start();
    daemon.settles(&good);
    post.git.git(&["reset", "--quiet", "--hard", &base]);
    let status = daemon.sync();
    assert_eq!(problem(&status), Some("rewound"), "{status:#}");
    shows(&post, 11);
    // Forced, and a revision that never followed.
    let forced = post.commit(&hz(12));
    assert_eq!(problem(&daemon.sync()), Some("rewound"));
    drop(daemon);
    stays(&post, &["--repo", &work], &good, "rewound", &format!("valkeeper accept {forced}"));
    let daemon = post.start();
    daemon.sync();
    // What happens in between does not hide it.
    fs::rename(post.git.path("work"), post.git.path("elsewhere")).unwrap();
    assert_eq!(problem(&daemon.sync()), Some("fetch"));
    fs::rename(post.git.path("elsewhere"), post.git.path("work")).unwrap();
    assert_eq!(problem(&daemon.sync()), Some("rewound"));
    daemon.say(&post.site, &["accept", &forced[..12]]).expect(1).says("full revision");
    daemon.say(&post.site, &["accept", &base]).expect(0);
    assert_eq!(problem(&daemon.sync()), Some("rewound"), "another commit was accepted");
    daemon.say(&post.site, &["accept", &forced]).expect(0);
    daemon.settles(&forced);
    shows(&post, 12);
    assert_eq!(problem(&daemon.sync()), None);
}

/// As when the repository was made anew: what was settled is known on the nodes, and nowhere else.
#[test]
fn a_repository_that_does_not_know_what_was_settled_is_refused_until_accepted() {
    let post = Post::new(&hz(11));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    drop(daemon);
    fs::remove_dir_all(post.git.path("work/.git")).unwrap();
    post.git.git(&["init", "--quiet", "--initial-branch=main"]);
    let other = post.commit(&hz(12));
    let daemon = post.start();
    for _ in 0..2 {
        let status = daemon.sync();
        assert_eq!(problem(&status), Some("rewound"), "{status:#}");
        assert_eq!(status["source"]["desired"], serde_json::Value::Null);
    }
    shows(&post, 11);
    daemon.say(&post.site, &["accept", &other]).expect(0);
    daemon.settles(&other);
    shows(&post, 12);
}

#[test]
fn a_folder_may_be_put_under_git_later() {
    let post = Post::new(&hz(11));
    let work = post.git.text("work");
    let folder = post.start_with(&["--path", &work]);
    folder.until("settled", |status| !status["settled"].is_null());
    assert!(folder.stop());
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
}

#[test]
fn an_empty_tree_deletes_nothing() {
    let post = Post::new(&format!("[guard]\nprune = true\n{}", hz(11)));
    let good = post.git.at("HEAD").to_string();
    post.start().settles(&good);
    post.git.git(&["rm", "--quiet", "-r", "."]);
    post.git.commit_all();
    let work = post.git.text("work");
    stays(&post, &["--repo", &work], &good, "read", "no TOML file");
}

#[test]
fn a_file_that_became_a_link_or_a_submodule_is_not_followed() {
    let post = Post::new(&hz(11));
    let good = post.git.at("HEAD").to_string();
    post.start().settles(&good);
    let work = post.git.text("work");
    fs::remove_file(post.git.path("work/fleet.toml")).unwrap();
    symlink("/etc/hostname", post.git.path("work/fleet.toml")).unwrap();
    post.git.commit_all();
    stays(&post, &["--repo", &work], &good, "read", "symbolic link");
    post.git.git(&["update-index", "--force-remove", "fleet.toml"]);
    post.git.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{good},fleet.toml")]);
    post.git.git(&["commit", "--quiet", "-m", "submodule"]);
    stays(&post, &["--repo", &work], &good, "read", "submodule");
}

#[test]
fn a_branch_that_is_deleted_and_a_repository_that_vanishes_are_reported_and_found_again() {
    let post = Post::new(&hz(11));
    let good = post.git.at("HEAD").to_string();
    let daemon = post.start();
    daemon.settles(&good);
    post.git.git(&["checkout", "--quiet", "--detach"]);
    post.git.git(&["branch", "-D", "main"]);
    let status = daemon.sync();
    assert_eq!(problem(&status), Some("fetch"), "{status:#}");
    assert!(status["source"]["problem"]["message"].as_str().unwrap().contains("no branch"), "{status:#}");
    assert_eq!(status["source"]["desired"], *good);
    post.git.git(&["checkout", "--quiet", "-b", "main"]);
    daemon.until("sound again", |status| problem(status).is_none());

    fs::rename(post.git.path("work"), post.git.path("elsewhere")).unwrap();
    post.site.operator("one").ask("CONFIG SET hz 99");
    let status = daemon.sync();
    assert_eq!(problem(&status), Some("fetch"), "{status:#}");
    shows(&post, 11);
    fs::rename(post.git.path("elsewhere"), post.git.path("work")).unwrap();
    assert_eq!(problem(&daemon.sync()), None);
    let next = post.commit(&hz(12));
    daemon.settles(&next);
}

#[test]
fn a_daemon_that_starts_while_its_remote_is_down_keeps_to_what_was_fetched() {
    let post = Post::new(&hz(11));
    let good = post.git.at("HEAD").to_string();
    let (sshd, source) = post.behind_ssh();
    let config = post.configure(&source, "");
    post.start_with(&["--config", &config]).settles(&good);
    drop(sshd);
    stays(&post, &["--config", &config], &good, "fetch", "cannot be reached");
}

#[test]
fn a_second_daemon_only_watches_and_takes_over_when_the_first_dies() {
    let post = Post::new(&hz(11));
    let first = post.start();
    first.settles(post.git.at("HEAD").as_str());
    let second = post.start();
    let status = second.until("watching", |status| status["last_pass"]["result"] == "watching");
    let holder = format!("valkeeper run (process {} on ", first.pid());
    assert!(status["watching"].as_str().unwrap().contains(&holder), "{status:#}");
    assert_eq!(second.series("valkeeper_watching"), Some(1.0));
    let revision = post.commit(&hz(12));
    first.settles(&revision);
    assert_eq!(second.logged("change settings"), 0, "{}", second.log());
    first.kill();
    let revision = post.commit(&hz(13));
    let took = second.settles(&revision);
    eprintln!("taken over and settled in {took:?}");
    shows(&post, 13);
    assert!(second.stop());
}

#[test]
fn an_apply_beside_a_daemon_is_refused_unless_the_fleet_is_suspended() {
    let post = Post::new(&hz(11));
    let daemon = post.start();
    let revision = post.git.at("HEAD").to_string();
    daemon.settles(&revision);
    post.site.write("fleet.toml", post.site.text("", &hz(30)));
    post.site.apply().expect(1).says(&format!("held by valkeeper run (process {} on ", daemon.pid()));
    shows(&post, 11);
    daemon.say(&post.site, &["suspend", "--reason", "by hand", "--for", "10m"]).expect(0);
    daemon.until("suspended", |status| !status["suspended"].is_null());
    post.site.applied();
    shows(&post, 30);
    std::thread::sleep(Duration::from_millis(300));
    daemon.sync();
    shows(&post, 30);
    daemon.say(&post.site, &["resume"]).expect(0);
    daemon.until("back", |status| is_settled(status, &revision) && status["suspended"].is_null());
    shows(&post, 11);
}

#[test]
fn a_second_daemon_on_the_same_socket_does_not_start() {
    let post = Post::new(&hz(11));
    let daemon = post.start();
    let socket = daemon.socket.to_str().unwrap().to_owned();
    let work = post.git.text("work");
    let ran = post.site.run(&["run", "--repo", &work, "--socket", &socket, "--listen", "127.0.0.1:0"]);
    ran.expect(1).says("another daemon listens");
    daemon.settles(post.git.at("HEAD").as_str());
    // What a killed daemon leaves is not in the way.
    daemon.kill();
    let ran = run("sh", post.site.folder.path(), &["-c", &format!("test -S {socket} && echo there")], &[]);
    assert_eq!(ran, "there");
    let args = ["run", "--repo", &work, "--socket", &socket, "--listen", "127.0.0.1:0"];
    let mut again = post.site.command(&args).spawn().unwrap();
    let begun = std::time::Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(begun.elapsed() < super::PATIENCE && again.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    again.kill().unwrap();
    again.wait().unwrap();
}
