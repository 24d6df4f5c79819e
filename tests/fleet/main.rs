//! The lab: tests on real hosts, each with its own systemd, sshd, address and disk. `make test-fleet` runs them, as root;
//! for `make test` they are ignored, and said to be.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reads files, starts programs and fails loudly; helpers outside of #[test] functions are tests too"
)]

mod base;
mod by_hand;
mod cgroup;
#[path = "../it/chance.rs"]
mod chance;
mod cleanup;
#[expect(dead_code, reason = "shared with tests/it, which uses more of it")]
#[path = "../it/client.rs"]
mod client;
mod daemon;
mod groups;
mod host;
mod hosts;
mod identity;
mod instances;
mod lab;
mod logins;
mod moves;
mod nodes;
mod outages;
mod proxy;
#[expect(dead_code, reason = "shared with tests/it, which uses more of it")]
#[path = "../it/ran.rs"]
mod ran;
mod run;
mod secrets;
mod service;
mod site;
mod versions;
#[path = "../it/writers.rs"]
mod writers;
