//! How fast moves go: what those who look again and again remember of the looks before. Needed by nobody to be right.
//!
//! Never reads a clock: it is told the time, by one that never jumps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::moves::{Amount, Flow, Move, MoveStage, Pace};
use crate::model::name::{InstanceName, NodeName};

/// A rate is taken over what was seen within this time, or between the last two looks where these are further apart.
const WINDOW: Duration = Duration::from_secs(10);
/// Two looks that are closer to each other than this give no rate.
const APART: Duration = Duration::from_millis(200);
/// Of looks in quick succession not every one is kept.
const MARKS_MAX: usize = 128;

/// What is remembered of every move.
#[derive(Debug, Default)]
pub struct Paces {
    known: BTreeMap<InstanceName, Known>,
}

#[derive(Debug)]
struct Known {
    stage: MoveStage,
    since: Duration,
    /// How often each stage was tried. It may come again, when it is called off.
    tries: BTreeMap<MoveStage, u32>,
    flow: Option<(NodeName, Flow)>,
    marks: VecDeque<Mark>,
    furthest: Furthest,
}

/// The best that was seen: what is called off and tried again is not progress.
#[derive(Debug)]
struct Furthest {
    stage: MoveStage,
    done: u64,
    left: u64,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    done: u64,
    left: u64,
}

impl Paces {
    /// Enters a look, and says of each move how fast it goes. `now`: since any one moment. `in_vain`: instances of which a step
    /// was tried since the look before and did not come to its end. Tells whether any of them came nearer to its end than ever.
    pub fn enter(&mut self, moves: &mut [Move], now: Duration, in_vain: &BTreeSet<InstanceName>) -> bool {
        let mut nearer = false;
        self.known.retain(|name, _| moves.iter().any(|it| it.instance == *name && it.now().is_some()));
        for it in moves {
            let Some(stage) = it.now().map(|act| act.stage) else { continue };
            let known = self.known.entry(it.instance.clone()).or_insert_with(|| Known::begun(stage, now));
            known.enter(stage, now, in_vain.contains(&it.instance));
            known.mark(it.amount.as_ref(), now);
            nearer |= known.furthest.comes_nearer(stage, it.amount.as_ref());
            it.pace = Some(known.pace(now));
        }
        nearer
    }
}

impl Known {
    fn begun(stage: MoveStage, now: Duration) -> Self {
        let furthest = Furthest { stage, done: 0, left: u64::MAX };
        Self { stage, since: now, tries: [(stage, 1)].into(), flow: None, marks: VecDeque::new(), furthest }
    }

    fn enter(&mut self, stage: MoveStage, now: Duration, in_vain: bool) {
        let moved = self.stage != stage;
        if moved {
            (self.stage, self.since) = (stage, now);
        }
        if moved || in_vain {
            let tries = self.tries.entry(stage).or_default();
            *tries = tries.saturating_add(1);
        }
    }

    fn mark(&mut self, amount: Option<&Amount>, now: Duration) {
        let flow = amount.map(|amount| (amount.node.clone(), amount.of));
        let began_anew = self.marks.back().is_some_and(|last| amount.is_some_and(|amount| amount.done < last.done));
        if flow != self.flow || began_anew {
            self.marks.clear();
        }
        self.flow = flow;
        let Some(amount) = amount else { return };
        // The last two stay, however far apart they are.
        while self.marks.len() > 1 && self.marks.get(1).is_some_and(|second| now.saturating_sub(second.at) >= WINDOW) {
            self.marks.pop_front();
        }
        let mark = Mark { at: now, done: amount.done, left: amount.left() };
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_back();
        }
        self.marks.push_back(mark);
    }

    fn pace(&self, now: Duration) -> Pace {
        let ends = self.marks.front().zip(self.marks.back());
        let ends = ends.filter(|(first, last)| last.at.saturating_sub(first.at) >= APART);
        let rate = |much: u64, first: &Mark, last: &Mark| {
            let millis = last.at.saturating_sub(first.at).as_millis();
            u64::try_from(u128::from(much) * 1000 / millis.max(1)).unwrap_or(u64::MAX)
        };
        let nearer = ends.map(|(first, last)| rate(first.left.saturating_sub(last.left), first, last));
        let left = self.marks.back().map(|last| last.left);
        Pace {
            seconds_in_stage: now.saturating_sub(self.since).as_secs(),
            attempt: self.tries.get(&self.stage).copied().unwrap_or(1),
            per_second: ends.map(|(first, last)| rate(last.done.saturating_sub(first.done), first, last)),
            seconds_left: left.zip(nearer).and_then(|(left, nearer)| if left == 0 { Some(0) } else { left.checked_div(nearer) }),
        }
    }
}

impl Furthest {
    fn comes_nearer(&mut self, stage: MoveStage, amount: Option<&Amount>) -> bool {
        let later = stage > self.stage;
        self.stage = self.stage.max(stage);
        let Some(amount) = amount else { return later };
        let more = match amount.of {
            Flow::Dataset | Flow::DatasetOfUnknownSize | Flow::Keys => amount.done > self.done,
            // The stream grows while clients write: only less that is left is nearer.
            Flow::Stream => amount.left() < self.left,
        };
        match amount.of {
            Flow::Dataset | Flow::DatasetOfUnknownSize | Flow::Keys => self.done = self.done.max(amount.done),
            Flow::Stream => self.left = self.left.min(amount.left()),
        }
        later || more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::moves::{Act, Progress};

    fn at(stage: MoveStage, done: u64, total: u64) -> [Move; 1] {
        let node = NodeName::new("n2").unwrap();
        let amount = Amount { node: node.clone(), of: Flow::Dataset, done, total };
        [Move {
            instance: InstanceName::new("cache").unwrap(),
            from: None,
            to: None,
            script: vec![Act { stage, nodes: vec![node], progress: Progress::Now }],
            amount: Some(amount),
            waits_for: None,
            remaining: Vec::new(),
            pace: None,
        }]
    }

    fn entered(paces: &mut Paces, mut moves: [Move; 1], seconds: u64, in_vain: bool) -> Pace {
        let in_vain = moves.iter().filter(|_| in_vain).map(|it| it.instance.clone()).collect();
        paces.enter(&mut moves, Duration::from_secs(seconds), &in_vain);
        moves[0].pace.unwrap()
    }

    #[test]
    fn a_rate_and_the_time_left_follow_from_two_looks() {
        let paces = &mut Paces::default();
        let first = entered(paces, at(MoveStage::CatchUp, 100, 1100), 5, false);
        assert_eq!((first.per_second, first.seconds_left), (None, None));
        let second = entered(paces, at(MoveStage::CatchUp, 300, 1100), 7, false);
        assert_eq!((second.per_second, second.seconds_left), (Some(100), Some(8)));
        assert_eq!(second.seconds_in_stage, 2);
    }

    #[test]
    fn what_does_not_come_nearer_has_no_time_left() {
        let paces = &mut Paces::default();
        entered(paces, at(MoveStage::CatchUp, 100, 200), 0, false);
        let runs_away = entered(paces, at(MoveStage::CatchUp, 150, 300), 1, false);
        assert_eq!((runs_away.per_second, runs_away.seconds_left), (Some(50), None));
    }

    #[test]
    fn a_transfer_that_begins_anew_has_no_rate_of_the_one_before() {
        let paces = &mut Paces::default();
        entered(paces, at(MoveStage::CatchUp, 900, 1000), 0, false);
        assert_eq!(entered(paces, at(MoveStage::CatchUp, 10, 1000), 1, false).per_second, None);
    }

    #[test]
    fn a_stage_that_was_tried_in_vain_or_came_again_is_another_attempt() {
        let paces = &mut Paces::default();
        assert_eq!(entered(paces, at(MoveStage::CutOver, 1, 1), 0, false).attempt, 1);
        assert_eq!(entered(paces, at(MoveStage::CutOver, 1, 1), 1, true).attempt, 2);
        assert_eq!(entered(paces, at(MoveStage::CatchUp, 1, 2), 2, false).attempt, 1);
        assert_eq!(entered(paces, at(MoveStage::CutOver, 2, 2), 3, false).attempt, 3);
        paces.enter(&mut [], Duration::from_secs(4), &BTreeSet::new());
        assert_eq!(entered(paces, at(MoveStage::CutOver, 2, 2), 5, false).attempt, 1, "a move that ended is forgotten");
    }

    #[test]
    fn what_is_called_off_and_tried_again_does_not_come_nearer() {
        let paces = &mut Paces::default();
        let mut look = |stage, done, total, seconds| {
            paces.enter(&mut at(stage, done, total), Duration::from_secs(seconds), &BTreeSet::new())
        };
        assert!(look(MoveStage::CatchUp, 10, 100, 0));
        assert!(look(MoveStage::CatchUp, 20, 100, 1));
        assert!(!look(MoveStage::CatchUp, 20, 100, 2));
        assert!(!look(MoveStage::CatchUp, 15, 100, 3), "it began anew");
        assert!(look(MoveStage::CutOver, 20, 100, 4));
        assert!(!look(MoveStage::CatchUp, 20, 100, 5), "it was called off");
        assert!(!look(MoveStage::CutOver, 20, 100, 6));
    }

    #[test]
    fn a_long_wait_keeps_a_bounded_memory() {
        let paces = &mut Paces::default();
        for look in 0..10_000 {
            let now = Duration::from_millis(look);
            paces.enter(&mut at(MoveStage::CatchUp, look, 20_000), now, &BTreeSet::new());
        }
        assert!(paces.known.values().all(|known| known.marks.len() <= MARKS_MAX));
        let pace = entered(paces, at(MoveStage::CatchUp, 12_000, 20_000), 12, false);
        assert_eq!(pace.per_second, Some(1000));
    }
}
