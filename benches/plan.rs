//! The pure plan with nothing to do, on large fleets: time, growth and memory. Prints figures and ratios; asserts none.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark reads the clock and its input, and fails loudly"
)]

mod settled;

use std::time::{Duration, Instant};

use valkeeper::model::binary::BinaryFacts;
use valkeeper::plan::plan;

/// Instances on one node: a host with 500 is a full one.
const PER_NODE: usize = 500;

fn main() {
    let binary = settled::binary();
    let small = measure(10_000, &binary);
    let large = measure(100_000, &binary);
    println!("growth 10,000 -> 100,000: {:.1}x (linear is 10x, the bound 12x)", large.as_secs_f64() / small.as_secs_f64());
    println!("peak memory of this process: {} MiB (the bound 2048 MiB)", peak_kib() / 1024);
}

/// The median of five plans.
fn measure(instances: usize, binary: &BinaryFacts) -> Duration {
    let desired = settled::wanted(instances, PER_NODE);
    let live = settled::shown(&desired, binary);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            let made = plan(&desired, &live);
            let took = begun.elapsed();
            assert!(made.steps.is_empty() && made.held.is_empty(), "there is nothing to do");
            took
        })
        .collect();
    times.sort_unstable();
    println!(
        "plan, nothing to do, {instances} instances with 3 users each: {:.3} s (the bound 1 s at 100,000)",
        times[2].as_secs_f64()
    );
    times[2]
}

/// The most memory this process ever held. KiB, from `VmHWM` of /proc/self/status.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
