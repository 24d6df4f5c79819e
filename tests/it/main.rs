//! All integration tests as one binary: every further binary would link the whole crate again.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reads files, starts programs and fails loudly; helpers outside of #[test] functions are tests too"
)]

mod node;
mod node_speed;
mod support;
