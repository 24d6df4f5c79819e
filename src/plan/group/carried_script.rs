//! What people are told of a move by snapshot: its stages, and which is now. Decides no step.

use super::{Group, Standing, endpoint};
use crate::model::action::RoleStage;
use crate::model::desired::MoveBy;
use crate::model::live::Saving;
use crate::model::moves::{Act, Amount, Flow, Move, MoveStage, Progress, Site};
use crate::model::name::NodeName;
use crate::model::snapshot::{Seed, Snapshot};
use crate::plan::migration;
use crate::plan::snapshot::Next;
use crate::plan::{Decision, Scene, moves};

impl Group<'_> {
    /// The script of a move from this source to this node. `next`: what comes next, if that is known.
    pub(super) fn carried_script(
        &self,
        scene: &Scene<'_>,
        decision: &Decision,
        source: usize,
        to: &NodeName,
        next: Option<&Next>,
    ) -> Option<Move> {
        let from = self.members.get(source)?;
        let target = self.members.iter().find(|member| member.place.node == to);
        let now = match next {
            Some(Next::Take { .. } | Next::Void) => MoveStage::Save,
            Some(Next::Carry(_)) => MoveStage::Carry,
            Some(Next::Turn(turn)) => match turn.stage {
                RoleStage::Fence | RoleStage::CallOff => MoveStage::Fence,
                RoleStage::Open => MoveStage::Open,
                RoleStage::Attach | RoleStage::Promote | RoleStage::Demote => MoveStage::Join,
            },
            // It reads what was put in its place.
            Some(Next::Wait | Next::Empty) | None if target.is_some_and(has_seed) => MoveStage::Carry,
            Some(Next::Wait | Next::Empty) | None => MoveStage::Join,
        };
        let all = match self.instance.move_by {
            MoveBy::SnapshotUnfenced => MoveStage::UNFENCED,
            MoveBy::Snapshot | MoveBy::Replication => MoveStage::ALL,
        };
        let mut progress = Progress::Done;
        let (source, target_node) = (|| vec![from.place.node.clone()], || vec![to.clone()]);
        let script = all.into_iter().filter_map(|stage| {
            let nodes = match stage {
                MoveStage::Fence | MoveStage::Save | MoveStage::Leave => source(),
                MoveStage::Carry => vec![from.place.node.clone(), to.clone()],
                MoveStage::Join | MoveStage::Open => target_node(),
                MoveStage::CatchUp | MoveStage::CutOver | MoveStage::Promote | MoveStage::Demote => return None,
            };
            if progress == Progress::Now {
                progress = Progress::ToCome;
            }
            if stage == now {
                progress = Progress::Now;
            }
            Some(Act { stage, nodes, progress })
        });
        let script = script.collect();
        let made = || moves::made_at(decision, to, |port| endpoint(scene, to, port).to_string());
        let address = target.map(|target| target.endpoint.to_string()).or_else(made);
        Some(Move {
            instance: self.name.clone(),
            from: Some(Site { node: from.place.node.clone(), address: Some(from.endpoint.to_string()) }),
            to: Some(Site { node: to.clone(), address }),
            script,
            amount: next.and_then(|next| amount(next, from, target)),
            waits_for: None,
            remaining: Vec::new(),
            pace: None,
        })
    }
}

/// How much of the snapshot is written, or has been carried; its sum is made when all of it is there.
fn amount(next: &Next, source: &Standing<'_>, target: Option<&Standing<'_>>) -> Option<Amount> {
    match next {
        Next::Take { fenced: _ } => {
            let is_ours = matches!(source.place.member.marker.snapshot, Some(Snapshot::Begun { .. }));
            let Saving { done_keys, total_keys } = migration::up(source.place.member)?.saving.filter(|_| is_ours)?;
            let (node, done) = (source.place.node.clone(), done_keys.min(total_keys));
            Some(Amount { node, of: Flow::Keys, done, total: total_keys })
        }
        Next::Carry(made) => {
            let target = target?;
            let arrived = target.place.member.data.arrived_bytes.unwrap_or_default();
            let (node, done) = (target.place.node.clone(), arrived.min(made.bytes));
            Some(Amount { node, of: Flow::Dataset, done, total: made.bytes })
        }
        Next::Turn(_) | Next::Empty | Next::Void | Next::Wait => None,
    }
}

fn has_seed(target: &Standing<'_>) -> bool {
    matches!(target.place.member.marker.seed, Some(Seed::Placed { .. }))
}
