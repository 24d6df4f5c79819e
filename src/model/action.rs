//! What can be done on a node: imperatives, each with what it expects to find and what it leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::acl::AclUser;
use super::change::{Change, Half, Twin};
use super::live::{Member, MemberFacts, NodeFacts, Server};
use super::marker::{Marker, Stage};
use super::name::{FleetName, InstanceName, NodeName, TenantName, UserName};
use super::password::{PasswordHash, on_the_wire};
use super::plan::{Step, Subject};
use super::record::FleetRecord;
use super::role::{Endpoint, Overlay};
use super::snapshot::Shipping;
use super::spec::InstanceSpec;

/// A user as it is wanted, with the real hashes, which only setting it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedUser {
    pub user: Arc<AclUser>,
    #[serde(with = "on_the_wire")]
    pub hashes: Arc<[PasswordHash]>,
}

/// The users of a member by name, without `default` and the operator, which every member has.
pub type WantedUsers = BTreeMap<UserName, WantedUser>;

/// One change on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Brings the node's copy of the fleet record up to date.
    WriteRecord(Change<Option<Arc<FleetRecord>>>),
    CreateInstance(Box<Creation>),
    /// Starts a server that is down, its files brought up to date first.
    StartInstance(Box<Opening>),
    /// Lets our operator user in again: stops the server, writes the ACL file, starts it.
    ReopenInstance(Box<Opening>),
    /// Restarts a running server with the program that is installed now, its files brought up to date in between.
    UpgradeInstance(Box<Upgrade>),
    /// Puts the files of a member's systemd unit right, and switches it on; no server is touched.
    RepairUnit {
        why: String,
    },
    /// Puts the file of a replica's password right, so that it also follows when its server is restarted by somebody else.
    RepairCredential {
        why: String,
    },
    ChangeInstance(Box<SpecChange>),
    /// Gives a member another role among the members of its instance.
    ChangeRole(Box<RoleChange>),
    /// Makes another member the primary: a step on the node of the old one that reaches to the node of the new one. The
    /// controller takes its parts, each on its own node.
    CutOver(Box<CutOver>),
    /// A part of a move by snapshot.
    Ship(Box<Shipping>),
    SetUser(Box<UserChange>),
    RemoveUser {
        user: UserName,
        before: Twin<Arc<AclUser>>,
    },
    /// Writes the users in memory, which are right, to the ACL file, which is not.
    SaveUsers {
        wrong: Vec<UserName>,
        why: Option<String>,
    },
    /// Changes only what the marker says; no server is touched. But where it says that a member leaves to whom no other role
    /// tells it, or that a farewell is owed no more, its clients' connections are closed.
    Mark(Box<Change<Marker>>),
    DeleteInstance {
        uid: String,
    },
    /// Removes data of a deleted member for good.
    Purge {
        uid: String,
    },
    /// Brings data of a deleted member back as a member that is down.
    Restore {
        uid: String,
    },
}

/// A member to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    pub fleet: FleetName,
    pub uid: String,
    pub tenant: Option<TenantName>,
    pub protect: bool,
    pub spec: InstanceSpec,
    pub users: WantedUsers,
    /// Only begun: who is to follow somebody has a password first, which the others are told before it is used. A replica
    /// that is refused tries again after a second.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begins: bool,
}

/// The files a server is to start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    pub before: InstanceSpec,
    pub after: InstanceSpec,
    /// The ACL file is written anew with these (others that it names are kept); nothing: it is right as it is.
    pub users: Option<WantedUsers>,
    /// Users to leave out of the new ACL file.
    pub without: Vec<UserName>,
}

/// A running server that is to give way to the installed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    pub opening: Opening,
    /// The version that runs.
    pub from: String,
    /// The version that is installed; the same where only the build differs.
    pub to: String,
}

/// Other settings for a running server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecChange {
    pub change: Change<Twin<InstanceSpec>>,
    /// What the config file will declare; memory follows from it.
    pub declared: InstanceSpec,
    pub restart: bool,
}

/// Another role for a running member, in file and memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange {
    pub stage: RoleStage,
    pub before: Twin<Overlay>,
    pub after: Twin<Overlay>,
    /// The settings as declared, over which the role is put.
    pub declared: InstanceSpec,
}

/// From a primary that takes writes to another one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOver {
    /// The node of the new primary.
    pub target: NodeName,
    /// Where the old one is reached, and the new one.
    pub from: Endpoint,
    pub to: Endpoint,
    /// The settings as declared for each, over which the roles are put.
    pub source_settings: InstanceSpec,
    pub target_settings: InstanceSpec,
}

/// The parts of a [`CutOver`], in their order; `call_off` instead of the rest, if the new one does not catch up.
#[derive(Debug, Clone)]
pub struct CutOverParts {
    pub fence: Step,
    pub call_off: Step,
    pub promote: Step,
    pub open: Step,
    pub demote: Step,
}

impl CutOver {
    /// The parts as steps like any other.
    pub fn parts(&self, whole: &Step) -> CutOverParts {
        let part = |node: &NodeName, stage, before: Twin<Overlay>, after: Twin<Overlay>, declared: &InstanceSpec| Step {
            node: node.clone(),
            action: Action::ChangeRole(Box::new(RoleChange { stage, before, after, declared: declared.clone() })),
            ..whole.clone()
        };
        let (open, fenced) = (Twin::both(Overlay::OPEN), Twin::both(Overlay::FENCED));
        let follower = Overlay::follower(self.from.clone());
        let promoted = Twin { disk: Half::Seen(follower.clone()), memory: Half::Seen(Overlay::FENCED) };
        let follows = Twin::both(Overlay::follower(self.to.clone()));
        let source = |stage, before: &Twin<Overlay>, after: &Twin<Overlay>| {
            part(&whole.node, stage, before.clone(), after.clone(), &self.source_settings)
        };
        let target = |stage, before: Twin<Overlay>, after: &Twin<Overlay>| {
            part(&self.target, stage, before, after.clone(), &self.target_settings)
        };
        CutOverParts {
            fence: source(RoleStage::Fence, &open, &fenced),
            call_off: source(RoleStage::CallOff, &fenced, &open),
            promote: target(RoleStage::Promote, Twin::both(follower), &promoted),
            open: target(RoleStage::Open, promoted.clone(), &open),
            demote: source(RoleStage::Demote, &fenced, &follows),
        }
    }
}

/// What a change of role is in the course of a move or a switch-over, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleStage {
    /// Follows the primary.
    Attach,
    /// The primary takes no more writes, so that its replica can catch up to the end.
    Fence,
    /// The fence is lifted again without a switch: nothing was promoted.
    CallOff,
    /// The replica that has everything becomes a primary, still fenced.
    Promote,
    /// The new primary takes writes: the point of no return.
    Open,
    /// The old primary follows the new one.
    Demote,
}

/// Other rights or passwords for a user, or a new user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserChange {
    pub user: UserName,
    pub change: Change<Twin<Arc<AclUser>>>,
    pub wanted: WantedUser,
    /// Something is taken away: its connections are closed in the same transaction.
    pub close: bool,
}

/// Where a node stands relative to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As the action expects to find it.
    Before,
    /// As the action leaves it.
    After,
    /// Neither: somebody else changed it since the plan was made.
    Elsewhere,
}

fn standing(after: bool, before: bool) -> Standing {
    match (after, before) {
        (true, _) => Standing::After,
        (false, true) => Standing::Before,
        (false, false) => Standing::Elsewhere,
    }
}

impl Action {
    /// Test-and-set: is the node before this action, after it, or elsewhere?
    pub fn standing(&self, subject: &Subject, node: &NodeFacts) -> Standing {
        if let Self::WriteRecord(change) = self {
            let fleet = change.after().as_ref().or(change.before().as_ref()).map(|record| &record.fleet);
            let found = fleet.and_then(|fleet| node.records.get(fleet)).cloned();
            return standing(found == *change.after(), found == *change.before());
        }
        let Subject::Instance(instance) = subject else { return Standing::Elsewhere };
        match node.members.get(instance).map(|member| &**member) {
            None => self.standing_without_member(instance, node),
            Some(Member::Unmarked { .. }) => Standing::Elsewhere,
            Some(Member::Marked(member)) => self.standing_of_member(member, node),
        }
    }

    fn standing_without_member(&self, instance: &InstanceName, node: &NodeFacts) -> Standing {
        let set_aside = |uid: &String| node.set_aside.iter().any(|kept| kept.uid == *uid && kept.instance == *instance);
        match self {
            Self::CreateInstance(creation) => {
                let record = node.records.get(&creation.fleet);
                let seat = record.and_then(|record| record.roster.get(instance));
                standing(false, seat.is_some_and(|seat| seat.uid == creation.uid))
            }
            Self::DeleteInstance { .. } => Standing::After,
            Self::Purge { uid } => standing(!set_aside(uid), true),
            Self::Restore { uid } => standing(false, set_aside(uid)),
            Self::WriteRecord(_)
            | Self::StartInstance(_)
            | Self::ReopenInstance(_)
            | Self::UpgradeInstance(_)
            | Self::RepairUnit { .. }
            | Self::RepairCredential { .. }
            | Self::ChangeInstance(_)
            | Self::ChangeRole(_)
            | Self::CutOver(_)
            | Self::Ship(_)
            | Self::SetUser(_)
            | Self::RemoveUser { .. }
            | Self::SaveUsers { .. }
            | Self::Mark(_) => Standing::Elsewhere,
        }
    }

    fn standing_of_member(&self, member: &MemberFacts, node: &NodeFacts) -> Standing {
        let twin = |user: &UserName| member.users.get(user).cloned().unwrap_or_default();
        let up = matches!(member.server, Server::Up(_));
        let down = matches!(member.server, Server::Down { .. });
        match self {
            // Answered by `standing`, before a member is looked for.
            Self::WriteRecord(_) => Standing::Elsewhere,
            Self::CreateInstance(creation) => {
                let ours = member.marker.uid == creation.uid && member.marker.fleet == creation.fleet;
                let grown = creation.begins || (up && member.marker.stage == Stage::Active);
                standing(ours && grown, ours && member.is_unborn())
            }
            Self::StartInstance(opening) => {
                let file = member.spec.disk.seen().cloned().unwrap_or_default();
                standing(up && file == opening.after, down && file == opening.before)
            }
            Self::UpgradeInstance(upgrade) => {
                let runs = |version: &str| matches!(&member.server, Server::Up(running) if running.version == version);
                let replaced = matches!(&member.server, Server::Up(running) if running.program_replaced);
                let file = member.spec.disk.seen().cloned().unwrap_or_default();
                let after = runs(&upgrade.to) && !replaced && file == upgrade.opening.after;
                standing(after, runs(&upgrade.from) && file == upgrade.opening.before)
            }
            Self::RepairUnit { why: _ } => standing(member.unit_broken.is_none(), true),
            Self::RepairCredential { why: _ } => standing(member.credential_broken.is_none(), true),
            Self::ReopenInstance(_) => standing(up, down || matches!(member.server, Server::Locked { .. })),
            Self::ChangeInstance(spec) => standing(member.spec == *spec.change.after(), member.spec == *spec.change.before()),
            Self::ChangeRole(change) => {
                let found = Twin { disk: role(&member.spec.disk), memory: role(&member.spec.memory) };
                let follows = found.memory.seen().is_some_and(|role| role.follows.is_some());
                standing(found == change.after && (!follows || member.follows_as_itself()), found == change.before)
            }
            Self::CutOver(change) => {
                let found = Twin { disk: role(&member.spec.disk), memory: role(&member.spec.memory) };
                let after = Twin::both(Overlay::follower(change.to.clone()));
                standing(found == after, found == Twin::both(Overlay::OPEN))
            }
            Self::Ship(shipping) => {
                let (after, before) = shipping.standing(member);
                standing(after, before)
            }
            Self::SetUser(user) => {
                let found = twin(&user.user);
                standing(found == *user.change.after(), found == *user.change.before())
            }
            Self::RemoveUser { user, before } => standing(twin(user) == Twin::default(), twin(user) == *before),
            Self::SaveUsers { wrong, .. } => {
                let same = |user: &UserName| halves_agree(&twin(user));
                standing(member.acl_file_broken.is_none() && wrong.iter().all(same), up)
            }
            Self::Mark(change) => standing(member.marker == *change.after(), member.marker == *change.before()),
            Self::DeleteInstance { uid } => standing(false, member.marker.uid == *uid),
            Self::Purge { uid } => {
                let kept = node.set_aside.iter().any(|kept| kept.uid == *uid);
                standing(!kept, true)
            }
            Self::Restore { uid } => standing(member.marker.uid == *uid, false),
        }
    }

    /// Is a running server stopped and started again?
    pub fn restarts(&self) -> bool {
        match self {
            Self::ChangeInstance(change) => change.restart,
            Self::ReopenInstance(_) | Self::UpgradeInstance(_) => true,
            Self::WriteRecord(_)
            | Self::CreateInstance(_)
            | Self::StartInstance(_)
            | Self::RepairUnit { .. }
            | Self::RepairCredential { .. }
            | Self::ChangeRole(_)
            | Self::CutOver(_)
            // A vessel serves nobody yet.
            | Self::Ship(_)
            | Self::SetUser(_)
            | Self::RemoveUser { .. }
            | Self::SaveUsers { .. }
            | Self::Mark(_)
            | Self::DeleteInstance { .. }
            | Self::Purge { .. }
            | Self::Restore { .. } => false,
        }
    }

    /// What it does, for people: `change settings, restart`.
    pub fn imperative(&self) -> String {
        match self {
            Self::WriteRecord(_) => "write the fleet record".to_owned(),
            Self::CreateInstance(creation) if creation.begins => "prepare".to_owned(),
            Self::CreateInstance(_) => "create".to_owned(),
            Self::StartInstance(_) => "start".to_owned(),
            Self::ReopenInstance(_) => "restart to let the operator in".to_owned(),
            Self::UpgradeInstance(upgrade) => format!("restart with valkey-server {}", upgrade.to),
            Self::RepairUnit { why: _ } => "put its unit right".to_owned(),
            Self::RepairCredential { why: _ } => "put the file of its replication password right".to_owned(),
            Self::ChangeInstance(change) if change.restart => "change settings, restart".to_owned(),
            Self::ChangeInstance(_) => "change settings".to_owned(),
            Self::ChangeRole(change) => change.imperative(),
            Self::CutOver(change) => format!("hand over to node {}", change.target),
            Self::Ship(shipping) => shipping.imperative(),
            Self::SetUser(change) => format!("set user {}", change.user),
            Self::RemoveUser { user, before: _ } => format!("remove user {user}"),
            Self::SaveUsers { .. } => "save users".to_owned(),
            Self::Mark(_) => "update the marker".to_owned(),
            Self::DeleteInstance { .. } => "delete".to_owned(),
            Self::Purge { uid } => format!("purge the data set aside as {uid}"),
            Self::Restore { uid } => format!("restore the data set aside as {uid}"),
        }
    }

    /// A short name for logs and JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WriteRecord(_) => "write-record",
            Self::CreateInstance(_) => "create-instance",
            Self::StartInstance(_) => "start-instance",
            Self::ReopenInstance(_) => "reopen-instance",
            Self::UpgradeInstance(_) => "upgrade-instance",
            Self::RepairUnit { .. } => "repair-unit",
            Self::RepairCredential { .. } => "repair-credential",
            Self::ChangeInstance(change) if change.restart => "change-instance-restart",
            Self::ChangeInstance(_) => "change-instance",
            Self::ChangeRole(change) => change.stage.kind(),
            Self::CutOver(_) => "cut-over",
            Self::Ship(shipping) => shipping.kind(),
            Self::SetUser(_) => "set-user",
            Self::RemoveUser { .. } => "remove-user",
            Self::SaveUsers { .. } => "save-users",
            Self::Mark(_) => "mark",
            Self::DeleteInstance { .. } => "delete-instance",
            Self::Purge { .. } => "purge",
            Self::Restore { .. } => "restore",
        }
    }
}

impl RoleChange {
    fn imperative(&self) -> String {
        let follows = self.after.disk.seen().and_then(|role| role.follows.as_ref());
        match (self.stage, follows) {
            (RoleStage::Attach, Some(primary)) => format!("follow {primary}"),
            (RoleStage::Demote, Some(primary)) => format!("step down and follow {primary}"),
            (RoleStage::Attach | RoleStage::Demote, None) => "take no writes and follow nobody".to_owned(),
            (RoleStage::Fence, _) => "stop taking writes".to_owned(),
            (RoleStage::CallOff, _) => "take writes again".to_owned(),
            (RoleStage::Promote, _) => "become the primary".to_owned(),
            (RoleStage::Open, _) => "take writes as the new primary".to_owned(),
        }
    }
}

impl RoleStage {
    /// A stable word for JSON.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Fence => "fence",
            Self::CallOff => "call-off",
            Self::Promote => "promote",
            Self::Open => "open",
            Self::Demote => "demote",
        }
    }
}

/// The role that one half of the settings shows.
pub fn role(half: &Half<InstanceSpec>) -> Half<Overlay> {
    match half {
        Half::Seen(spec) => Half::Seen(Overlay::of(spec)),
        Half::Absent => Half::Absent,
        Half::Unseen { unseen } => Half::Unseen { unseen: unseen.clone() },
    }
}

fn halves_agree<T: PartialEq>(twin: &Twin<T>) -> bool {
    match (&twin.disk, &twin.memory) {
        (Half::Seen(disk), Half::Seen(memory)) => disk == memory,
        (Half::Absent, Half::Absent) => true,
        (Half::Seen(_) | Half::Absent | Half::Unseen { .. }, _) => false,
    }
}
