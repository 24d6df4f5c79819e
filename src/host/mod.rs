//! Primitives on one machine: its files, its processes, the server's socket. Knows nothing of plans.

#![expect(clippy::disallowed_methods, reason = "touching the machine is what this room is for")]

pub mod cargo;
pub mod clock;
pub mod files;
pub mod held;
pub mod layout;
pub mod lock;
pub mod machine;
pub mod ports;
pub mod process;
pub mod scratch;
pub mod ssh;
pub mod supervisor;
pub mod systemd;
pub mod tell;
pub mod unit;
pub mod valkey;
pub mod way;
