//! valkeeper: GitOps for Valkey on plain Linux hosts.
//!
//! The rooms of the house, and the one way data flows through them (ARCHITECTURE.md has the picture):
//!
//! - [`model`]: nouns; pure values that every other room speaks of
//! - [`desired`]: intent; TOML text to [`model::desired::Desired`], or all that is wrong with it; pure
//! - [`plan`]: decision; desired and live to a plan, and the plan to words; pure
//! - [`apply`]: effect; the schedule on the controller, performing on a node
//! - [`observe`]: looking at one node
//! - [`host`]: primitives on one machine: files, processes, the server's socket
//! - [`fleet`]: all nodes as one: looking and acting, here and over ssh
//! - [`wire`]: what crosses to the agent of a node
//! - [`agent`]: the node side of the wire
//! - [`prepare`]: making a host a node, and no node again
//! - [`repo`]: the source: following git, and reading the text of a revision
//! - [`roots`]: what the text names on this machine, within the roots that the process was given
//! - [`reconcile`]: look, then act: the one path of `plan` and `apply`
//! - [`daemon`]: triggers, passes, back-off, requests
//! - [`metrics`]: what Prometheus scrapes
//! - [`http`]: metrics, health and push hooks over TCP
//! - [`cli`]: what people type

pub mod agent;
pub mod apply;
pub mod cli;
pub mod daemon;
pub mod desired;
pub mod fleet;
pub mod host;
pub mod http;
pub mod metrics;
pub mod model;
pub mod observe;
pub mod plan;
pub mod prepare;
pub mod reconcile;
pub mod repo;
pub mod roots;
pub mod wire;
