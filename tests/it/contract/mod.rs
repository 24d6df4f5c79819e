//! The contract between what valkeeper believes of a server and what a real valkey-server does: random users, random
//! settings, the operator's rights, and the simulator held to the same suite as a real node.
//!
//! `VALKEEPER_SOAK=1` runs the full counts; `VALKEEPER_SEED` takes a seed back. Every run prints its seed.

mod scenarios;
mod settings;
mod users;

use std::sync::Mutex;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use valkeeper::cli::problems;
use valkeeper::desired::{self, Secrets, Source};
use valkeeper::fleet::{Execute, Observe};
use valkeeper::model::desired::Desired;
use valkeeper::plan::show;
use valkeeper::reconcile::{self, Applied};

/// How much is run: `few` of it as a rule, `all` of it in a soak.
fn count(few: usize, all: usize) -> usize {
    if crate::chance::soak() { all } else { few }
}

fn seeded(what: &str) -> StdRng {
    let given = std::env::var("VALKEEPER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("{what}: VALKEEPER_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

fn parse(text: &str) -> Desired {
    let sources = [Source { name: "desired.toml".to_owned(), text: text.to_owned() }];
    desired::parse(&sources, &Secrets::Placeholder)
        .unwrap_or_else(|found| panic!("{}\n{text}", problems::render(&found, &sources, false)))
}

/// Applies until nothing is left, and holds the end to it: nothing failed, nothing is refused, and nothing is planned.
async fn settle(desired: &Desired, fleet: &(impl Observe + Execute)) -> Applied {
    let first = reconcile::look(desired, fleet).await;
    let (_stop, stopped) = watch::channel(false);
    let applied = reconcile::settle(
        desired,
        fleet,
        first,
        None,
        reconcile::PATIENCE,
        &stopped,
        &Mutex::new(|_: valkeeper::apply::schedule::Event<'_>| {}),
    )
    .await;
    let failed: Vec<String> =
        applied.failed.values().map(|(step, outcome)| format!("{}: {outcome}", show::step_line(step))).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let plan = &applied.look.plan;
    assert!(plan.refused.is_empty(), "{:?}", plan.refused);
    let left: Vec<String> = plan.steps.iter().map(|step| show::identity(step).to_string()).collect();
    assert!(left.is_empty(), "still planned after it was applied:\n{}", left.join("\n"));
    applied
}
