//! Making a host a node, and no node again: what it has, our program on it, and what the agent there does about the rest.
//!
//! Works over ssh with a login that has a shell. What is sent to that shell is constant text ([`crate::host::ssh::Remote`]).

pub mod program;
pub mod survey;
