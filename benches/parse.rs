//! Reading and checking a large state repository: a folder of TOML files with 100,000 instances of three users each.
//! Prints figures and ratios; asserts none. The floor is the `toml` crate that only makes untyped tables of the same text.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark reads the clock and its files, and fails loudly"
)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{compare, median, timed};
use valkeeper::desired::{self, Secrets, Source};
use valkeeper::roots;

const INSTANCES: usize = 100_000;
const PER_FILE: usize = 500;
const ROUNDS: usize = 5;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    write_fleet(folder.path());
    let sources = roots::read(folder.path()).expect("files");
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    println!("{INSTANCES} instances with 3 users each: {} files, {:.1} MiB of TOML", sources.len(), bytes as f64 / 1_048_576.0);
    let (mut commands, mut wholes, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let mut processor = Vec::new();
    for _ in 0..ROUNDS {
        let before = processor_time();
        commands.push(timed(|| check_as_a_process(folder.path())).1);
        processor.push(processor_time() - before);
        wholes.push(timed(|| read_and_check(folder.path())).1);
        floors.push(timed(|| untyped(&sources)).1);
    }
    let (took, worked) = (median(&commands).as_secs_f64(), median(&processor).as_secs_f64());
    println!("valkeeper check, the whole process: {took:.2} s, of processor time {worked:.2} s (target below 3 s)");
    compare("read, parse and check", &wholes, "the toml crate alone, as many threads", &floors, "none; below 3 s");
}

fn check_as_a_process(folder: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_valkeeper")).arg("check").arg(folder).output().expect("valkeeper");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn read_and_check(folder: &Path) {
    let sources = roots::read(folder).expect("files");
    let desired = desired::parse(&sources, &Secrets::Placeholder).expect("no problem");
    assert_eq!(desired.instances.len(), INSTANCES);
}

fn untyped(sources: &[Source]) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let table: toml::Table = toml::from_str(&source.text).expect("TOML");
                    std::hint::black_box(table);
                }
            });
        }
    });
}

/// Processor time of this process and of the children it waited for: what others on the machine do hardly changes it.
/// From fields 14 to 17 of /proc/self/stat, in ticks of 10 ms (proc(5), `USER_HZ`).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_ascii_whitespace().skip(11).take(4).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn write_fleet(folder: &Path) {
    let nodes = INSTANCES / PER_FILE;
    let mut head = "[fleet]\nname = \"bench\"\n".to_owned();
    for node in 0..nodes {
        let _infallible = write!(
            head,
            "[nodes.n{node}]\nssh = \"root@n{node}.example.com\"\naddress = \"10.0.0.{node}\"\n[shards.s{node}]\nnodes = [\"n{node}\"]\nports = \"6400-7399\"\n"
        );
    }
    fs::write(folder.join("fleet.toml"), head).expect("a file");
    for node in 0..nodes {
        let text: String = (node * PER_FILE..(node + 1) * PER_FILE).map(|number| instance(number, node)).collect();
        fs::write(folder.join(format!("instances-{node}.toml")), text).expect("a file");
    }
}

fn instance(number: usize, node: usize) -> String {
    let mut text = format!(
        "\n[instances.instance-{number}]\nshard = \"s{node}\"\nmax_memory_mb = 128\n\
         config = {{ timeout = 300, client-output-buffer-limit = \"pubsub 32mb 8mb 60\" }}\n"
    );
    for user in 0..3 {
        let _infallible = write!(
            text,
            "\n[instances.instance-{number}.users.user{user}]\npassword_sha256 = \"{:064x}\"\n\
             privileges = [\"+@all\", \"-@dangerous\", \"+config|get\"]\n\
             key_pattern = [\"~app{user}:*\", \"%R~shared:*\"]\nchannels = [\"&app{user}:*\"]\n",
            (number * 3 + user + 1) * 0x9e37_79b9
        );
    }
    text
}
