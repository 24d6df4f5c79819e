//! Performing one step on this machine: look, compare, write, look again. The one rule for every effect.

use std::sync::Arc;

use super::difference::{Expected, describe};
use super::proof::{Disproof, Proofs};
use super::server::{Acting, Halt, failed};
use super::snapshot::Snapshots;
use crate::host::clock::Deadline;
use crate::host::files;
use crate::host::tell::Tell;
use crate::model::action::{Action, Standing};
use crate::model::effect::{Effect, effects};
use crate::model::live::{NodeFacts, Server};
use crate::model::name::FleetName;
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::model::record::FleetRecord;
use crate::observe::binary::Binary;
use crate::observe::{LocalNode, chain, node};

/// Performs steps on one local node.
#[derive(Debug)]
pub struct Performer {
    node: Arc<LocalNode>,
    proofs: Proofs,
    snapshots: Snapshots,
}

impl Performer {
    pub fn new(node: Arc<LocalNode>) -> Self {
        Self { node, proofs: Proofs::default(), snapshots: Snapshots::default() }
    }

    pub fn node(&self) -> &Arc<LocalNode> {
        &self.node
    }

    /// Takes the step, within its time limit, and tells what it does. `fleet`: whose members may be touched, if the caller knows.
    pub async fn perform(&self, step: &Step, fleet: Option<&FleetName>, tell: &Tell) -> Outcome {
        let limits = self.node.limits();
        let end = Deadline::after(limits.step);
        // The waits inside end in time by themselves and say what they waited for; this is for what they do not cover.
        let last = end.later_by(limits.look * 2);
        match last.bound(self.converge(step, fleet, end, tell)).await {
            Some(outcome) => outcome,
            None => Outcome::Failed(format!("it was not done within {:?}; the next look shows how far it came", limits.step)),
        }
    }

    async fn converge(&self, step: &Step, fleet: Option<&FleetName>, end: Deadline, tell: &Tell) -> Outcome {
        let binary = match self.node.binary().await {
            Ok(binary) => binary,
            Err(error) => return Outcome::Failed(chain(&error)),
        };
        let found = match self.look(step, &binary).await {
            Ok(found) => found,
            Err(error) => return Outcome::Failed(error),
        };
        if let Err(whose) = self.check_ours(step, &found, fleet) {
            return Outcome::Conflict(whose);
        }
        if let Some(why) = silence(step, &found) {
            return Outcome::NotReached(why);
        }
        match step.action.standing(&step.subject, &found) {
            Standing::After => return Outcome::AlreadyDone,
            Standing::Elsewhere => {
                return Outcome::Conflict(describe(&step.action, &step.subject, &found, Expected::Before));
            }
            Standing::Before => {}
        }
        match self.act(step, &found, &binary, end, tell).await {
            Ok(()) => {}
            Err(Halt::Pending(what)) => return Outcome::Pending(what),
            Err(Halt::Failed(why)) => return Outcome::Failed(why),
            Err(Halt::Refused(why)) => return Outcome::Refused(why),
        }
        match self.look(step, &binary).await {
            Err(error) => Outcome::Failed(format!("it was done and could not be read back: {error}")),
            Ok(left) => match step.action.standing(&step.subject, &left) {
                Standing::After => Outcome::Done,
                _ if is_gone(step, &left) => Outcome::Done,
                Standing::Before | Standing::Elsewhere => {
                    Outcome::NotKept(describe(&step.action, &step.subject, &left, Expected::After))
                }
            },
        }
    }

    async fn look(&self, step: &Step, binary: &Binary) -> Result<NodeFacts, String> {
        let name = match &step.subject {
            Subject::Fleet => None,
            Subject::Instance(name) => Some(name),
        };
        node::look_at(&self.node, name, binary).await.map_err(|error| chain(&error))
    }

    /// A member of another machine or fleet is never touched, whatever the plan says.
    fn check_ours(&self, step: &Step, found: &NodeFacts, fleet: Option<&FleetName>) -> Result<(), String> {
        let Subject::Instance(name) = &step.subject else { return Ok(()) };
        let Some(member) = found.member(name) else { return Ok(()) };
        let marker = self.node.layout.marker(name);
        if member.marker.machine != self.node.machine {
            let of = "says that it belongs to another machine or folder";
            return Err(format!("the marker {} {of}; was it copied?", marker.display()));
        }
        match fleet {
            Some(fleet) if *fleet != member.marker.fleet => {
                Err(format!("the marker {} says that it belongs to the fleet {}", marker.display(), member.marker.fleet))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn act(&self, step: &Step, found: &NodeFacts, binary: &Binary, end: Deadline, tell: &Tell) -> Result<(), Halt> {
        let list = effects(&step.action, &step.subject, found, &binary.facts);
        self.prepare().await?;
        let name = match &step.subject {
            Subject::Fleet => return self.act_on_fleet(&list).await,
            Subject::Instance(name) => name.clone(),
        };
        let mut acting = Acting::new(Arc::clone(&self.node), name, binary.clone(), end, tell.clone());
        for effect in &list {
            if end.is_over() {
                return Err(Halt::Pending("more time than one step has".to_owned()));
            }
            tell.say(effect.doing());
            self.take(effect, &mut acting).await?;
        }
        Ok(())
    }

    async fn act_on_fleet(&self, list: &[Effect]) -> Result<(), Halt> {
        for effect in list {
            match effect {
                Effect::WriteRecord(record) => self.write_record(record.clone()).await?,
                Effect::MakeMarker(_)
                | Effect::WriteMarker(_)
                | Effect::Prove(_)
                | Effect::MakeFolder
                | Effect::WriteUsers { .. }
                | Effect::WriteConfig(_)
                | Effect::WriteCredential { .. }
                | Effect::WriteUnit
                | Effect::Start
                | Effect::Stop
                | Effect::ConfigSet(_)
                | Effect::Follow(_)
                | Effect::PauseWriters
                | Effect::ResumeWriters
                | Effect::Dismiss(_)
                | Effect::AwaitAof
                | Effect::RewriteAof
                | Effect::Snapshot
                | Effect::DropAof
                | Effect::Ship(_)
                | Effect::SetUser { .. }
                | Effect::DropUser(_)
                | Effect::SaveUsers
                | Effect::SetAside
                | Effect::Purge { .. }
                | Effect::BringBack { .. } => return failed("a step of the fleet cannot change an instance"),
            }
        }
        Ok(())
    }

    async fn take(&self, effect: &Effect, acting: &mut Acting) -> Result<(), Halt> {
        match effect {
            Effect::WriteRecord(record) => self.write_record(record.clone()).await,
            Effect::MakeMarker(creation) => acting.make_marker(creation).await,
            Effect::WriteMarker(marker) => acting.write_marker((**marker).clone()).await,
            Effect::Prove(spec) => {
                let proved = self.proofs.prove(&self.node, &acting.binary, spec).await;
                proved.map_err(|why| match why {
                    Disproof::Refused(why) => Halt::Refused(why),
                    Disproof::Untried(why) => Halt::Failed(why),
                })
            }
            Effect::MakeFolder => acting.make_data_folder().await,
            Effect::WriteUsers { users, without } => acting.write_users(users, without).await,
            Effect::WriteConfig(spec) => acting.write_config(spec).await,
            Effect::WriteCredential { follows } => acting.write_credential(*follows).await,
            Effect::WriteUnit => acting.write_unit().await,
            Effect::Start => acting.start().await,
            Effect::Stop => acting.stop().await,
            Effect::ConfigSet(settings) => acting.config_set(settings).await,
            Effect::Follow(primary) => acting.follow(primary.as_ref()).await,
            Effect::PauseWriters => acting.pause_writers().await,
            Effect::ResumeWriters => acting.resume_writers().await,
            Effect::Dismiss(users) => acting.dismiss(users).await,
            Effect::AwaitAof => acting.await_aof().await,
            Effect::RewriteAof => acting.rewrite_aof().await,
            Effect::Snapshot => acting.snapshot().await,
            Effect::DropAof => acting.drop_aof().await,
            Effect::Ship(ship) => self.snapshots.take(ship, acting).await,
            Effect::SetUser { user, to, words, close } => acting.set_user(user, to, words, *close).await,
            Effect::DropUser(user) => acting.drop_user(user).await,
            Effect::SaveUsers => acting.save_users().await,
            Effect::SetAside => acting.set_aside().await,
            Effect::Purge { uid } => acting.purge(uid).await,
            Effect::BringBack { uid } => acting.bring_back(uid).await,
        }
    }

    /// The folders of the node, which the first change makes.
    async fn prepare(&self) -> Result<(), Halt> {
        self.on_disk(|node| Ok(super::node::make_folders(node)?)).await
    }

    async fn write_record(&self, record: Arc<FleetRecord>) -> Result<(), Halt> {
        self.on_disk(move |node| {
            let text = toml::to_string(&*record).map_err(|error| Halt::Failed(error.to_string()))?;
            Ok(files::replace(&node.layout.record(&record.fleet), text.as_bytes(), 0o600)?)
        })
        .await
    }

    async fn on_disk(&self, work: impl FnOnce(&LocalNode) -> Result<(), Halt> + Send + 'static) -> Result<(), Halt> {
        let node = Arc::clone(&self.node);
        match tokio::task::spawn_blocking(move || work(&node)).await {
            Ok(result) => result,
            Err(error) => failed(format!("working with files failed: {error}")),
        }
    }
}

/// Why a step that speaks with the server cannot be taken, if the server hangs: it would only wait for its time limit.
fn silence(step: &Step, found: &NodeFacts) -> Option<String> {
    match step.action {
        Action::ChangeInstance(_)
        | Action::ChangeRole(_)
        | Action::CutOver(_)
        | Action::Ship(_)
        | Action::SetUser(_)
        | Action::RemoveUser { .. }
        | Action::SaveUsers { .. }
        | Action::StartInstance(_) => {}
        // These stop the server first, or leave it alone.
        Action::CreateInstance(_)
        | Action::ReopenInstance(_)
        | Action::UpgradeInstance(_)
        | Action::RepairUnit { .. }
        | Action::RepairCredential { .. }
        | Action::DeleteInstance { .. }
        | Action::Mark(_)
        | Action::Purge { .. }
        | Action::Restore { .. }
        | Action::WriteRecord(_) => return None,
    }
    let Subject::Instance(name) = &step.subject else { return None };
    match &found.member(name)?.server {
        Server::Silent { pid, why } => Some(format!("the server of {name} (pid {pid}): {why}")),
        Server::Down { .. } | Server::Up(_) | Server::Locked { .. } => None,
    }
}

/// What a purge leaves is nothing, whatever else stands under the name.
fn is_gone(step: &Step, left: &NodeFacts) -> bool {
    matches!(&step.action, Action::Purge { uid } if left.set_aside.iter().all(|kept| kept.uid != *uid))
}
