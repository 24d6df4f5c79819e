//! The integration tests, all in one binary: each further one would link the whole tree again.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reads files, starts programs and fails loudly; helpers outside of #[test] functions are tests too"
)]

mod deploy;
mod http;
mod laws;
mod metrics;
mod node;
mod node_speed;
mod problems;
mod sim;
mod support;
mod tidy;
mod tools;
mod world;
