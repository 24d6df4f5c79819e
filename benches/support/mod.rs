//! What measurements share: medians, ratios, and rounds in which what is compared takes turns.

use std::time::{Duration, Instant};

/// How long this took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// One line: the median of what was measured, that of its floor, and their ratio.
pub fn compare(what: &str, times: &[Duration], floor: &str, floors: &[Duration], target: &str) {
    let (time, least) = (median(times).as_secs_f64(), median(floors).as_secs_f64());
    println!("{what}: {time:.4} s; {floor}: {least:.4} s; ratio {:.2} (target {target})", time / least);
}
