//! Where each instance was found, by name: desired, in the roster, or standing on a node.

use std::collections::{BTreeMap, HashMap};

use crate::model::acl::AclUser;
use crate::model::binary::BinaryFacts;
use crate::model::desired::{Desired, DesiredInstance};
use crate::model::live::{BinaryId, Live, Member, MemberFacts, NodeFacts};
use crate::model::name::{InstanceName, NodeName};
use crate::model::operator;
use crate::model::password::Fingerprint;
use crate::model::record::{FleetRecord, Seat};

/// A member of ours on a node that was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub node: &'a NodeName,
    pub facts: &'a NodeFacts,
    pub binary: &'a BinaryFacts,
    pub member: &'a MemberFacts,
    /// The operator's rights on this binary.
    pub operator: &'a AclUser,
}

/// The operator's rights by binary, judged once for all members.
pub(super) type Operators = BTreeMap<BinaryId, AclUser>;

pub(super) fn operators(live: &Live) -> Operators {
    let rights = |(id, binary): (&BinaryId, &std::sync::Arc<BinaryFacts>)| {
        (id.clone(), operator::user(Fingerprint::of(b""), Some(&binary.acl)))
    };
    live.binaries.iter().map(rights).collect()
}

/// Everything that is known under one name.
#[derive(Debug, Default)]
pub(super) struct Places<'a> {
    pub desired: Option<&'a DesiredInstance>,
    pub seat: Option<&'a Seat>,
    pub ours: Vec<Place<'a>>,
    /// Nodes with something under this name that is not ours, and why.
    pub strange: Vec<(&'a NodeName, String)>,
    /// Creations that were begun here under an identity that the fleet gave up, and whose servers never ran.
    pub abandoned: Vec<(&'a NodeName, &'a MemberFacts)>,
}

/// All names that anything is known about, in order.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    pub instances: Vec<(&'a InstanceName, Places<'a>)>,
}

impl<'a> Found<'a> {
    pub(super) fn of(desired: &'a Desired, live: &'a Live, record: &'a FleetRecord, operators: &'a Operators) -> Self {
        let mut found = Self::declared_or_seated(desired, record);
        // Names are looked up here once for each member of each node, in a fleet of any size; the order stays the list's.
        let mut index: HashMap<&str, usize> =
            found.instances.iter().enumerate().map(|(place, (name, _))| (name.as_str(), place)).collect();
        for (node, facts) in live.seen_nodes() {
            let Some(binary) = live.binaries.get(&facts.binary) else { continue };
            let Some(operator) = operators.get(&facts.binary) else { continue };
            for (name, member) in &facts.members {
                let place = *index.entry(name.as_str()).or_insert_with(|| {
                    found.instances.push((name, Places::default()));
                    found.instances.len() - 1
                });
                let Some((_, places)) = found.instances.get_mut(place) else { continue };
                match claim(desired, places.seat, facts, member) {
                    Claim::Ours(member) => places.ours.push(Place { node, facts, binary, member, operator }),
                    Claim::Strange(why) => places.strange.push((node, why)),
                    Claim::Abandoned(member) => places.abandoned.push((node, member)),
                }
            }
        }
        found.instances.sort_by_key(|(name, _)| *name);
        found
    }

    /// Both lists are in order already, so they are walked side by side.
    fn declared_or_seated(desired: &'a Desired, record: &'a FleetRecord) -> Self {
        let mut instances = Vec::with_capacity(desired.instances.len());
        let mut seats = record.roster.iter().peekable();
        for (name, instance) in &desired.instances {
            while let Some((other, seat)) = seats.next_if(|(other, _)| *other < name) {
                instances.push((other, Places { seat: Some(seat), ..Places::default() }));
            }
            let seat = seats.next_if(|(other, _)| *other == name).map(|(_, seat)| seat);
            instances.push((name, Places { desired: Some(instance), seat, ..Places::default() }));
        }
        instances.extend(seats.map(|(name, seat)| (name, Places { seat: Some(seat), ..Places::default() })));
        Self { instances }
    }
}

enum Claim<'a> {
    Ours(&'a MemberFacts),
    Strange(String),
    Abandoned(&'a MemberFacts),
}

/// Is this member ours to touch? Only with our fleet's marker, made for this machine, with the uid that the roster names.
fn claim<'a>(desired: &Desired, seat: Option<&Seat>, facts: &NodeFacts, member: &'a Member) -> Claim<'a> {
    let member = match member {
        Member::Unmarked { unmarked } => return Claim::Strange(unmarked.clone()),
        Member::Marked(member) => member,
    };
    let marker = &member.marker;
    if marker.fleet != desired.fleet {
        return Claim::Strange(format!("it belongs to fleet {}", marker.fleet));
    }
    if marker.machine != facts.machine {
        return Claim::Strange(
            "its marker was made for another machine or folder: it was copied or moved here; put it back, or remove it if the \
             original runs elsewhere"
                .to_owned(),
        );
    }
    match seat {
        // Its node was lost from sight before its first start, and the instance was made anew elsewhere since.
        Some(seat) if seat.uid != marker.uid && member.is_unborn() => Claim::Abandoned(member),
        Some(seat) if seat.uid != marker.uid => {
            Claim::Strange(format!("its identity is {} where the fleet's roster names {}", marker.uid, seat.uid))
        }
        Some(_) | None => Claim::Ours(member),
    }
}
