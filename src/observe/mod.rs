//! Looking at one node: its binary, its members, their files and servers. Changes nothing, decides nothing.

pub mod binary;
mod probe;
