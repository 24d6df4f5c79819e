//! How much of what is random is taken, and which. Of the lab (`tests/fleet/`) as well.

/// From `VALKEEPER_SEED`, which repeats a run; printed, so that it can be.
pub fn seed() -> u64 {
    let seed = std::env::var("VALKEEPER_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    eprintln!("VALKEEPER_SEED={seed}");
    seed
}

/// Is all of it asked for, with `VALKEEPER_SOAK=1`?
pub fn soak() -> bool {
    std::env::var_os("VALKEEPER_SOAK").is_some()
}
