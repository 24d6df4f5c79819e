//! The daemon: follows a source and keeps the nodes as it says.

pub mod backoff;
pub mod notify;
pub mod status;
