//! Moves of instances between two nodes on this machine, against the same protocol driven by hand and against the servers'
//! own full sync of the same data. Real servers, all below temporary folders. Prints figures and ratios; asserts no time.
//!
//! `VALKEEPER_BENCH=gap,ten,memory` takes some of them.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, starts programs, and fails loudly"
)]

#[path = "floor/by_hand.rs"]
mod by_hand;
#[path = "../tests/it/client.rs"]
mod client;
#[path = "moves/pair.rs"]
mod pair;
mod support;
#[path = "moves/writers.rs"]
mod writers;

use std::time::Duration;

use by_hand::ByHand;
use pair::Pair;
use support::{compare, timed};
use writers::Writers;

const MEGABYTES: usize = 200;
const ROUNDS: usize = 3;
/// So many instances move at once, with so much data each.
const AT_ONCE: usize = 10;
const MEGABYTES_EACH: usize = 20;

fn main() {
    let asked = std::env::var("VALKEEPER_BENCH").unwrap_or_else(|_| "gap,ten,memory".to_owned());
    if asked.contains("gap") {
        one_move_under_writers();
    }
    if asked.contains("ten") {
        ten_moves();
    }
    if asked.contains("memory") {
        memory();
    }
}

/// One move at 5,000 writes/s, by hand and by `valkeeper apply`.
fn one_move_under_writers() {
    let (mut gaps, mut gaps_by_hand, mut moves, mut syncs, mut rates) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let hand = ByHand::new(MEGABYTES);
        let writers = Writers::start(hand.places());
        std::thread::sleep(Duration::from_millis(300));
        syncs.push(timed(|| hand.sync()).1);
        hand.cut_over();
        std::thread::sleep(Duration::from_millis(300));
        gaps_by_hand.push(writers.end().longest_gap);
        drop(hand);

        let pair = Pair::new(1);
        pair.apply(&["a"]);
        pair.fill("i0", MEGABYTES);
        let writers = Writers::start(pair.places("i0"));
        std::thread::sleep(Duration::from_millis(300));
        moves.push(timed(|| pair.apply(&["b"])).1);
        std::thread::sleep(Duration::from_millis(300));
        let written = writers.end();
        gaps.push(written.longest_gap);
        rates.push(written.rate);
    }
    rates.sort_unstable();
    println!("writes acknowledged in a second, the moves included: {rates:?}");
    compare(&format!("longest gap of a writer, {MEGABYTES} MB"), &gaps, "the same protocol by hand", &gaps_by_hand, "3");
    compare(&format!("a whole move, {MEGABYTES} MB"), &moves, "a full sync by REPLICAOF", &syncs, "1.5");
}

/// Ten moves in one apply, against ten applies of one move.
fn ten_moves() {
    let pair = Pair::new(AT_ONCE);
    pair.apply(&["a"; AT_ONCE]);
    (0..AT_ONCE).for_each(|number| pair.fill(&format!("i{number}"), MEGABYTES_EACH));
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        together.push(timed(|| pair.apply(&["b"; AT_ONCE])).1);
        let mut shards = ["b"; AT_ONCE];
        let one_by_one = || {
            for number in 0..AT_ONCE {
                shards[number] = "a";
                pair.apply(&shards);
            }
        };
        apart.push(timed(one_by_one).1);
    }
    compare(&format!("{AT_ONCE} moves of {MEGABYTES_EACH} MB at once"), &together, "one by one", &apart, "less than 1");
}

/// The most memory that the controller has in a move, by the size of what is moved.
fn memory() {
    let most = |megabytes: usize| {
        let pair = Pair::new(1);
        pair.apply(&["a"]);
        pair.fill("i0", megabytes);
        let runs: Vec<u64> = ["b", "a", "b"].into_iter().map(|shard| pair.apply(&[shard])).collect();
        *runs.iter().max().unwrap()
    };
    for megabytes in [1, 20, MEGABYTES, 2 * MEGABYTES] {
        println!("memory of the controller (which is the agent too) in a move of {megabytes} MB: {} kB at most", most(megabytes));
    }
}
