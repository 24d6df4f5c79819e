//! All integration tests as one binary: every further binary would link the whole crate again.

mod problems;
