//! The one integration-test binary: real servers in temporary folders.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod node;
mod node_speed;
mod support;
