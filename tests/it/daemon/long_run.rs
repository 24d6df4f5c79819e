//! Many commits and many passes: a handful of passes for a storm, and nothing that grows with time.
//!
//! `VALKEEPER_SOAK=1` takes 5,000 passes instead of 150; `VALKEEPER_SEED` repeats a run.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{PASSWORD, Post, feed, instance, is_settled, open_files, process_status};
use crate::chance::{seed, soak};
use crate::support::signal;

const STORM: u32 = 1000;

#[test]
fn a_storm_of_commits_leads_to_a_handful_of_passes_and_ends_at_the_last() {
    let post = Post::new(&instance("one", "hz = 11"));
    let daemon = post.start();
    daemon.settles(post.git.at("HEAD").as_str());
    let before = daemon.passes();
    let stream: String = (0..STORM)
        .map(|number| {
            let text = post
                .site
                .text("", &instance("one", &format!("hz = {}, maxmemory-samples = {}", 10 + number % 80, 1 + number % 60)));
            let from = if number == 0 { "from refs/heads/main\n" } else { "" };
            format!(
                "commit refs/heads/storm\nmark :{}\ncommitter Anna <anna@example.com> {} +0000\ndata 1\nx\n{from}\
                 M 100644 inline fleet.toml\ndata {}\n{text}\n",
                number + 1,
                1_700_000_000 + number,
                text.len()
            )
        })
        .collect();
    let marks = post.git.path("marks");
    let mut import = Command::new("git");
    import.current_dir(post.git.work()).args(["fast-import", "--quiet"]).arg(format!("--export-marks={}", marks.display()));
    feed(import, &stream);
    let marks = std::fs::read_to_string(marks).unwrap();
    let mut commits: Vec<(u32, &str)> = marks
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(mark, commit)| (mark[1..].parse().unwrap(), commit))
        .collect();
    commits.sort_unstable();
    // One after the other, as 1,000 pushes are.
    let begun = Instant::now();
    let mut update = Command::new("git");
    update.current_dir(post.git.work()).args(["update-ref", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut update = update.spawn().unwrap();
    let mut pushes = update.stdin.take().unwrap();
    for (_, commit) in &commits {
        write!(pushes, "start\nupdate refs/heads/main {commit}\ncommit\n").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(pushes);
    assert!(update.wait().unwrap().success());
    let took = begun.elapsed();
    let last = commits.last().unwrap().1;
    let settled = daemon.settles(last);
    let passes = daemon.passes() - before;
    eprintln!("{STORM} commits within {took:?}: {passes} passes, settled {settled:?} after the last");
    // A few at once, then one every two seconds; each acts, and looks whether it is settled.
    let bound = 10 + took.as_secs() * 2;
    assert!(passes <= bound, "{passes} passes are no handful");
    assert!(settled < Duration::from_secs(5));
    assert_eq!(post.site.client("one", "app", PASSWORD).ask("CONFIG GET hz"), format!("hz {}", 10 + (STORM - 1) % 80));
}

#[test]
fn memory_and_open_files_stay_as_they_are_over_many_passes() {
    let random = &mut StdRng::seed_from_u64(seed());
    let passes = if soak() { 5000 } else { 150 };
    let warm = if soak() { 500 } else { 50 };
    let post = Post::new(&(instance("one", "hz = 11") + &instance("two", "hz = 11")));
    let daemon = post.start();
    let mut good = post.git.at("HEAD").to_string();
    daemon.settles(&good);
    let looks = || (process_status(daemon.pid(), "VmRSS"), open_files(daemon.pid()), process_status(daemon.pid(), "Threads"));
    let (mut first, mut slowest) = (looks(), Duration::ZERO);
    for pass in 0..passes {
        if pass == warm {
            first = looks();
        }
        match random.random_range(0..10) {
            0 | 1 => {
                let (one, two) = (random.random_range(10..90), random.random_range(10..90));
                let three = if random.random_bool(0.3) {
                    instance("three", "hz = 11").replacen("shard", "ensure = \"absent\"\nshard", 1)
                } else {
                    instance("three", "hz = 11")
                };
                let text = instance("one", &format!("hz = {one}")) + &instance("two", &format!("hz = {two}")) + &three;
                good = post.commit(&text);
            }
            2 => {
                let bad = ["[instances.one\n", "[fleet]\nname = \"prod\"\n[guard]\nnonsense = 1\n"][random.random_range(0..2)];
                post.git.commit(&[("fleet.toml", bad)]);
            }
            3 => drop(post.site.operator("one").ask("CONFIG SET hz 99")),
            4 => signal(post.site.pid("two"), "-9"),
            5 => drop(daemon.page("/metrics")),
            _ => {}
        }
        let begun = Instant::now();
        let status = daemon.sync();
        slowest = slowest.max(begun.elapsed());
        assert!(is_settled(&status, &good), "pass {pass}: {status:#}\n{}", daemon.log());
    }
    let last = looks();
    eprintln!("{passes} syncs, {} passes, the slowest sync took {slowest:?}", daemon.passes());
    eprintln!("resident kB, open files, threads: {first:?} after {warm} syncs, {last:?} at the end");
    assert!(last.1 <= first.1 + 4, "open files grow");
    assert!(last.0 < first.0 + 24_000, "memory grows");
    assert!(slowest < Duration::from_secs(10), "a pass was stuck");
}
