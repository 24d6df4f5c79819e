//! The right to act on a node.
