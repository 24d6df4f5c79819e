//! What an agent need not send again: the facts of its node's binary, and the fleet's record, of which every node has the
//! same copy. Without this a look at a thousand nodes would read the whole record a thousand times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use super::Look;
use crate::host::held::lock;
use crate::model::binary::BinaryFacts;
use crate::model::live::{BinaryId, NodeFacts};
use crate::model::name::FleetName;
use crate::model::password::Fingerprint;
use crate::model::record::FleetRecord;
use crate::wire::{Request, print_of};

/// The records that are held somewhere in this process, so that equal ones are held once.
static RECORDS: Mutex<BTreeMap<Fingerprint, Weak<FleetRecord>>> = Mutex::new(BTreeMap::new());

/// What one node said at the last look. One node has one binary and few records; lists that grow would be its doing.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    binary: Option<(BinaryId, Arc<BinaryFacts>)>,
    records: BTreeMap<FleetName, (Fingerprint, Arc<FleetRecord>)>,
}

impl Known {
    pub(super) fn request(&self) -> Request {
        let known = self.binary.iter().map(|(id, _)| id.clone()).collect();
        let records = self.records.iter().map(|(fleet, (print, _))| (fleet.clone(), *print)).collect();
        Request::Observe { known, records }
    }

    /// Makes the reply to [`Known::request`] whole again. Gives what is known from then on, too.
    ///
    /// # Errors
    /// When it leaves out what was not known.
    pub(super) fn whole(
        mut self,
        mut facts: NodeFacts,
        binary: Option<Arc<BinaryFacts>>,
        same: BTreeSet<FleetName>,
    ) -> Result<(Look, Self), String> {
        if let Some(binary) = binary {
            self.binary = Some((facts.binary.clone(), binary));
        }
        let known = self.binary.as_ref().filter(|(id, _)| *id == facts.binary);
        let Some((_, binary)) = known else { return Err("its agent did not describe the server's binary".to_owned()) };
        let binary = Arc::clone(binary);
        let mut records = BTreeMap::new();
        for (fleet, record) in std::mem::take(&mut facts.records) {
            records.insert(fleet, shared(record));
        }
        for fleet in same {
            let Some(known) = self.records.get(&fleet) else {
                return Err(format!("its agent did not send the record of fleet {fleet}"));
            };
            records.insert(fleet, known.clone());
        }
        facts.records = records.iter().map(|(fleet, (_, record))| (fleet.clone(), Arc::clone(record))).collect();
        self.records = records;
        Ok((Look { facts, binary }, self))
    }
}

/// The same record, held once.
fn shared(record: Arc<FleetRecord>) -> (Fingerprint, Arc<FleetRecord>) {
    let print = print_of(&record);
    let mut all = lock(&RECORDS);
    let known = all.get(&print).and_then(Weak::upgrade).filter(|known| *known == record);
    let record = known.unwrap_or_else(|| {
        all.retain(|_, held| held.strong_count() > 0);
        all.insert(print, Arc::downgrade(&record));
        record
    });
    (print, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(generation: Option<u64>) -> NodeFacts {
        let name = FleetName::new("f").unwrap();
        let record = |generation| FleetRecord { generation, ..FleetRecord::new(name.clone()) };
        NodeFacts {
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            machine: "m".to_owned(),
            binary: BinaryId("8".to_owned()),
            members: BTreeMap::new(),
            records: generation.map(|generation| (name.clone(), Arc::new(record(generation)))).into_iter().collect(),
            set_aside: Vec::new(),
            ports_in_use: BTreeSet::new(),
            systemd: None,
            capacity: Default::default(),
        }
    }

    fn binary() -> Arc<BinaryFacts> {
        serde_json::from_str(include_str!("../../tests/golden/binaries/8.0.1.json")).unwrap()
    }

    #[test]
    fn what_is_known_is_not_sent_again_and_held_once() {
        let nothing = Known::default;
        assert!(nothing().whole(facts(Some(1)), None, BTreeSet::new()).is_err(), "nobody described the binary");
        let (first, one) = nothing().whole(facts(Some(1)), Some(binary()), BTreeSet::new()).unwrap();
        let (second, _) = nothing().whole(facts(Some(1)), Some(binary()), BTreeSet::new()).unwrap();
        let record = |look: &Look| look.facts.records.values().next().cloned().unwrap();
        assert!(Arc::ptr_eq(&record(&first), &record(&second)));
        let same = BTreeSet::from([FleetName::new("f").unwrap()]);
        let (again, one) = one.whole(facts(None), None, same.clone()).unwrap();
        assert_eq!(again.facts, first.facts);
        assert!(nothing().whole(facts(None), Some(binary()), same).is_err(), "what was never sent is not the same");
        let (newer, _) = one.whole(facts(Some(2)), None, BTreeSet::new()).unwrap();
        assert_eq!(record(&newer).generation, 2);
    }
}
