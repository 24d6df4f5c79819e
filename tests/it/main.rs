//! One binary for all integration tests: every further one would link the whole tree again.

mod laws;
mod sim;
mod world;
