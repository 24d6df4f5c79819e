//! Sizes and durations as people write them and as they are shown.
//!
//! Sizes have the server's meaning (facts C): `64mb` is 64 MiB, `64m` is 64,000,000 bytes; there is no `tb`, no decimal
//! point and no space.

use std::time::Duration;

/// Reads a size the way valkey-server 8.0 does (`memtoull` in util.c); the unit in any letter case. Bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A size for people: the largest binary unit, with one decimal where it is not whole.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (factor, unit) in UNITS {
        if bytes >= factor {
            let tenths = bytes.saturating_mul(10) / factor;
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

/// A duration for people, such as `7d` or `2h 30m`, to the second.
pub fn show_duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m"), (1, "s")];
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    for (seconds, unit) in UNITS {
        if left >= seconds {
            parts.push(format!("{}{unit}", left / seconds));
            left %= seconds;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Reads a duration such as `7d`, `90s`, `1h 30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_servers_meaning() {
        for (text, bytes) in [("64mb", 64 << 20), ("64m", 64_000_000), ("1K", 1000), ("1kB", 1024), ("010", 10), ("0", 0)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "1tb", "1.5gb", "1 mb", "-1", "mb", "99999999999999999999", "99999999999gb"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for (seconds, text) in [(0, "0s"), (604_800, "7d"), (9_000, "2h 30m"), (90, "1m 30s"), (4_000_000, "46d 7h 6m 40s")] {
            assert_eq!(show_duration(Duration::from_secs(seconds)), text);
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [(512, "512 B"), (64 << 20, "64 MiB"), (1_572_864, "1.5 MiB"), (1 << 40, "1 TiB")] {
            assert_eq!(show_size(bytes), text);
        }
    }
}
