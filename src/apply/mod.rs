//! EFFECT: the schedule runs on the controller, performing on a node. No policy: order, budgets and approval are decided
//! in `plan/`.

pub mod schedule;
