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

/// Processor time of this process and of the children it waited for: what others on the machine do hardly changes it.
/// From fields 14 to 17 of /proc/self/stat, in ticks of 10 ms (proc(5), `USER_HZ`).
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_ascii_whitespace().skip(11).take(4).map(|field| field.parse::<u64>().expect("ticks"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// One line: the median of what was measured, that of its floor, and their ratio.
pub fn compare(what: &str, times: &[Duration], floor: &str, floors: &[Duration], target: &str) {
    let (time, least) = (median(times).as_secs_f64(), median(floors).as_secs_f64());
    println!("{what}: {time:.4} s; {floor}: {least:.4} s; ratio {:.2} (target {target})", time / least);
}
