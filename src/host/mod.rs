//! Primitives on one machine: its files, its processes, the server's socket. Knows nothing of plans.

pub mod files;
pub mod layout;
pub mod lock;
pub mod ports;
pub mod process;
pub mod scratch;
pub mod valkey;
