//! EFFECT: the schedule on the controller, and performing on a node. No policy: order, budgets and approval are decided in
//! `plan/`.
//!
//! [`perform`] is the one rule for every step: look, compare, write, look again. [`instance`], [`acl`] and [`set_aside`]
//! do the single effects of their kind; [`proof`] tries a config away from the data.

pub mod acl;
mod difference;
pub mod instance;
pub mod node;
pub mod perform;
mod proof;
mod role;
pub mod schedule;
mod server;
pub mod set_aside;
pub mod snapshot;
