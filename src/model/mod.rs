//! NOUNS: the values that everything else speaks of. Pure: no I/O, no clock, no randomness, not async, no logging.

pub mod acl;
pub mod acl_file;
pub mod action;
pub mod binary;
pub mod change;
pub mod config_file;
pub mod desired;
pub mod effect;
pub mod live;
pub mod marker;
pub mod moves;
pub mod name;
pub mod operator;
pub mod outcome;
pub mod password;
pub mod path;
pub mod plan;
pub mod preflight;
mod reason_or;
pub mod record;
pub mod role;
pub mod setting;
pub mod size;
pub mod snapshot;
pub mod spec;
