//! What people ask of the daemon, answered between passes.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Passes;
use crate::daemon::command::{Command, What};
use crate::fleet::Execute as _;
use crate::fleet::nodes::Nodes;
use crate::host::clock;
use crate::model::desired::Desired;
use crate::model::name::InstanceName;
use crate::model::plan::Subject;
use crate::model::record::{FleetRecord, Suspension, Suspensions};
use crate::plan;
use crate::plan::show::{self, View};
use crate::reconcile::{self, Look};
use crate::repo::Revision;
use crate::roots::{self, Roots};

/// How many plans of other branches are made at once.
const PLANS_MAX: usize = 4;

impl Passes {
    /// Answers a request between passes. Gives whether a pass should follow at once.
    pub async fn answer(&mut self, command: Command) -> bool {
        let Command { what, answer } = command;
        let (said, soon) = match what {
            What::Sync { wait: _ } => (Ok(self.last_pass()), false),
            What::Retry { name } => (self.retry(name), true),
            What::Plan { reference, json } => {
                self.plan_of(reference, json, answer);
                return false;
            }
            What::Suspend { name, by, reason, until } => {
                let suspension = Suspension { by, reason, since: clock::now(), until };
                let said = format!(
                    "{} suspended until {until:.0}",
                    name.as_ref().map_or("the fleet is".to_owned(), |name| format!("{name} is"))
                );
                (self.change_record(said, move |record| suspend(&mut record.suspended, name, Some(suspension))).await, true)
            }
            What::Resume { name } => {
                let said = format!(
                    "{} not suspended any more",
                    name.as_ref().map_or("the fleet is".to_owned(), |name| format!("{name} is"))
                );
                (self.change_record(said, move |record| suspend(&mut record.suspended, name, None)).await, true)
            }
            What::Accept { revision } | What::Approve { revision } if Revision::new(&revision).is_err() => {
                (Err(format!("{revision:?} is not a full revision: write all of its digits")), false)
            }
            What::Accept { revision } => {
                let said = format!("revision {revision} is accepted");
                (self.change_record(said, move |record| record.accepted = Some(revision)).await, true)
            }
            What::Approve { revision } => {
                let said = format!("revision {revision} is approved");
                let approve = move |record: &mut FleetRecord| {
                    record.approvals.insert(revision);
                };
                (self.change_record(said, approve).await, true)
            }
        };
        // Who asked may have gone.
        let _gone = answer.send(said);
        soon
    }

    /// How the last pass ended, in one line.
    pub(super) fn last_pass(&self) -> String {
        let revision = self.following.in_force().map_or("no revision", |in_force| in_force.revision.as_str());
        match &self.last {
            Some(pass) => format!("pass {} at {revision}: {}", pass.number, pass.result.word()),
            None => "no pass has ended yet".to_owned(),
        }
    }

    fn retry(&mut self, name: Option<InstanceName>) -> Result<String, String> {
        match name {
            None => {
                self.backoff.hasten(clock::now());
                Ok("everything that failed is tried again".to_owned())
            }
            Some(name) if self.backoff.hasten_one(&Subject::Instance(name.clone()), clock::now()) => {
                Ok(format!("{name} is tried again"))
            }
            Some(name) => Err(format!("{name} has not failed")),
        }
    }

    async fn change_record(&mut self, said: String, change: impl FnOnce(&mut FleetRecord)) -> Result<String, String> {
        let Some(scene) = self.look().await else {
            return Err("no revision is in force yet, so the nodes are not known".to_owned());
        };
        // A suspended fleet is not held; what the fleet remembers is changed all the same.
        if let Err(held) = scene.fleet.acquire(&roots::holder("run")).await {
            return Err(held.to_string());
        }
        self.remember(&scene, change).await.map(|()| said)
    }

    /// Beside the passes: they wait neither for another branch to be fetched, nor for a look at its nodes.
    fn plan_of(&mut self, reference: String, json: bool, answer: oneshot::Sender<Result<String, String>>) {
        while self.plans.try_join_next().is_some() {}
        if self.plans.len() >= PLANS_MAX {
            let _gone = answer.send(Err("other plans are still being made: come again".to_owned()));
            return;
        }
        let (other, roots) = (self.following.of_branch(&reference), self.roots.clone());
        let ours = self.fleet.as_ref().map(|(_, fleet)| Arc::clone(fleet));
        self.plans.spawn(async move {
            let made = async { plan_of(&other?.read_head().await?, &roots, ours.as_deref(), json).await };
            let _gone = answer.send(made.await);
        });
    }
}

/// `ours` lends its connections.
async fn plan_of(desired: &Desired, roots: &Roots, ours: Option<&Nodes>, json: bool) -> Result<String, String> {
    let fleet = roots::fleet(desired, &roots::places(desired, roots), ours);
    let Look { live, plan: made } = reconcile::look(desired, &fleet).await;
    let rest = plan::rest(desired, &live, &made);
    let view = View { desired, live: &live, plan: &made, rest: &rest };
    if json { serde_json::to_string_pretty(&show::json(&view)).map_err(|error| error.to_string()) } else { Ok(show::text(&view)) }
}

fn suspend(all: &mut Suspensions, name: Option<InstanceName>, suspension: Option<Suspension>) {
    match (name, suspension) {
        (None, suspension) => all.fleet = suspension,
        (Some(name), Some(suspension)) => drop(all.instances.insert(name, suspension)),
        (Some(name), None) => drop(all.instances.remove(&name)),
    }
}
