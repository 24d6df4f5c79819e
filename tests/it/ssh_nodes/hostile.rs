//! Nodes that are broken or lie: they are unseen, with the reason, in time, and nobody else notices.

use std::time::{Duration, Instant};

use super::Hosts;

/// The first node is sound; the second one says this instead of being an agent.
#[track_caller]
fn unseen(command: &str, why: &str) -> Duration {
    let hosts = Hosts::new();
    hosts.lets_in("n2", command);
    let since = Instant::now();
    let ran = hosts.run(&["plan"]).expect(4).says("one").says(why);
    assert!(ran.all().contains("Plan: 1 to add"), "{}", ran.all());
    since.elapsed()
}

#[test]
fn a_node_without_the_program_says_so() {
    unseen("exec /usr/local/bin/there-is-no-valkeeper agent", "there-is-no-valkeeper");
}

#[test]
fn a_node_that_says_something_else_is_quoted() {
    unseen("echo This account is currently not available.", "This account is currently not available.");
}

#[test]
fn a_node_that_never_answers_is_given_up() {
    unseen("echo valkeeper agent; exec sleep 1000", "did not answer within 15 s");
}

#[test]
fn a_flood_is_cut_off() {
    unseen("exec yes", "there is no valkeeper agent");
    unseen("exec cat /dev/zero", "there is no valkeeper agent");
    unseen("echo valkeeper agent; exec cat /dev/zero", "makes no sense");
}

#[test]
fn a_frame_of_a_gigabyte_is_refused() {
    unseen("echo valkeeper agent; printf '\\100\\000\\000\\000'; exec cat /dev/zero", "frame size too big");
}

#[test]
fn an_agent_of_a_release_that_is_too_far_away_is_refused_with_the_cure() {
    let hello = r#"{"release":"9.0.0","oldest":90,"newest":91}"#;
    let length = format!("\\{:03o}", hello.len());
    unseen(
        &format!("echo valkeeper agent; printf '\\000\\000\\000{length}'; printf '%s' '{hello}'; exec sleep 1000"),
        "node upgrade",
    );
}
