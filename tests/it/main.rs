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

mod bad_input;
mod chance;
mod cli;
mod client;
mod contract;
mod crash;
mod daemon;
mod deploy;
mod drift;
mod group_laws;
mod http;
mod laws;
mod matrix;
mod metrics;
mod moved_clients;
mod moved_data;
mod moves;
mod node;
mod node_disks;
mod node_forms;
mod node_rights;
mod pages;
mod plans;
mod problems;
mod ran;
mod repo;
mod sim;
mod site;
mod snapshots;
mod ssh_nodes;
mod support;
mod tidy;
mod tools;
mod world;
mod writers;
