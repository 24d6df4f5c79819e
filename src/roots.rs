//! From what is desired to the nodes it names, within the roots that this process was given.

use std::collections::BTreeMap;

use crate::fleet::local::{LocalFleet, Place, ssh_is_not_offered};
use crate::model::desired::{Desired, Reach};
use crate::model::name::NodeName;
use crate::observe::{Limits, Surroundings};

/// Where each node is.
pub type Places = BTreeMap<NodeName, Place>;
