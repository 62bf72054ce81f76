//! Links: the numbers by which every message between two partitions is applied exactly once.
//!
//! Both numbers are a function of the log: `accepted` of what was read, `sent` of what that caused.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};
use shop_domain::kind::Kind;
use shop_nats::log::frame::{Origin, Source};

/// Most doors whose numbers a partition remembers. A door that is idle for a minute counts anew,
/// so it would take this many newer doors within that minute to forget one that still counts on.
const DOORS_MAX: usize = 256;

/// No log comes that far, nor a link, and nothing overflows that is added to it.
pub const NUMBER_MAX: u64 = 1 << 62;

/// A partition of a kind, as a target. A log that was made anew is another target: it has had nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// The kind.
    pub kind: Kind,
    /// Which of its partitions.
    pub partition: u16,
    /// The link epoch of its log.
    pub epoch: u64,
}

/// The two ends of every link of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    accepted: BTreeMap<Source, Accepted>,
    sent: BTreeMap<Target, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Accepted {
    /// The number of the last message accepted.
    number: u64,
    /// The sequence of the frame that brought it.
    at: u64,
}

impl Links {
    /// Which of the `count` messages of a frame are to be applied: those that follow on. What was
    /// accepted before falls away; a frame beyond a hole is ignored as a whole, because its sender
    /// will send again from the hole on.
    pub fn accept(&mut self, source: Source, first: u64, count: usize, at: u64) -> Range<usize> {
        let accepted = self.accepted(source);
        let next = first.saturating_add(count as u64);
        if next <= accepted + 1 || first > accepted + 1 || count == 0 {
            return 0..0;
        }
        let last = next - 1;
        self.accepted.insert(source, Accepted { number: last, at });
        if source.origin == Origin::Door {
            self.forget_doors();
        }
        (accepted + 1 - first) as usize..count
    }

    /// From the sequence `at` on, that is the number of the last message accepted from a source, as an operator says.
    pub fn mend(&mut self, source: Source, number: u64, at: u64) {
        match number {
            0 => drop(self.accepted.remove(&source)),
            number => drop(self.accepted.insert(source, Accepted { number, at })),
        }
    }

    /// The number of the last message accepted from a source; 0 when there is none.
    pub fn accepted(&self, source: Source) -> u64 {
        self.accepted.get(&source).map_or(0, |accepted| accepted.number)
    }

    /// The number of the last message accepted from each source.
    pub fn all_accepted(&self) -> impl Iterator<Item = (Source, u64)> {
        self.accepted.iter().map(|(source, accepted)| (*source, accepted.number))
    }

    /// The number of the last message sent to each target.
    pub fn all_sent(&self) -> impl Iterator<Item = (Target, u64)> {
        self.sent.iter().map(|(target, number)| (*target, *number))
    }

    /// Whether so many messages can have been sent and accepted.
    pub fn are_possible(&self) -> bool {
        let accepted = self.accepted.values().flat_map(|accepted| [accepted.number, accepted.at]);
        accepted.chain(self.sent.values().copied()).all(|number| number <= NUMBER_MAX)
    }

    /// Numbers the next `count` messages to a target; returns the first number.
    pub fn number(&mut self, target: Target, count: usize) -> u64 {
        let sent = self.sent.entry(target).or_default();
        let first = *sent + 1;
        *sent += count as u64;
        first
    }

    fn forget_doors(&mut self) {
        let doors = || self.accepted.iter().filter(|(source, _)| source.origin == Origin::Door);
        if doors().count() > DOORS_MAX {
            let oldest = doors().min_by_key(|(_, accepted)| accepted.at).map(|(source, _)| *source);
            oldest.and_then(|source| self.accepted.remove(&source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Source = Source { origin: Origin::Partition(Kind::Order, 0), epoch: 1 };

    #[test]
    fn messages_that_follow_on_are_applied_once() {
        let mut links = Links::default();
        assert_eq!(links.accept(A, 1, 3, 1), 0..3);
        assert_eq!(links.accept(A, 1, 3, 2), 0..0);
        assert_eq!(links.accept(A, 2, 4, 3), 2..4);
        assert_eq!(links.accept(A, 6, 1, 4), 0..1);
    }

    #[test]
    fn a_frame_beyond_a_hole_is_ignored_until_the_hole_is_filled() {
        let mut links = Links::default();
        assert_eq!(links.accept(A, 2, 2, 1), 0..0);
        assert_eq!(links.accept(A, 1, 1, 2), 0..1);
        assert_eq!(links.accept(A, 2, 2, 3), 0..2);
    }

    #[test]
    fn a_log_that_was_made_anew_counts_from_one_again() {
        let mut links = Links::default();
        assert_eq!(links.accept(A, 1, 3, 1), 0..3);
        assert_eq!(links.accept(Source { epoch: 2, ..A }, 1, 1, 2), 0..1);
        assert_eq!(links.accept(A, 4, 1, 3), 0..1);
    }

    #[test]
    fn a_link_that_is_mended_goes_on_where_its_sender_is() {
        let mut links = Links::default();
        assert_eq!(links.accept(A, 1, 7, 1), 0..7);
        links.mend(A, 2, 2);
        assert_eq!(links.accept(A, 1, 3, 3), 2..3);
        links.mend(A, 0, 4);
        assert_eq!(links, Links::default());
    }

    #[test]
    fn an_empty_frame_changes_nothing() {
        let mut links = Links::default();
        assert_eq!(links.accept(A, 1, 0, 1), 0..0);
        assert_eq!(links, Links::default());
    }

    #[test]
    fn numbers_are_per_target_and_per_message() {
        let mut links = Links::default();
        let target = |partition, epoch| Target { kind: Kind::Wallet, partition, epoch };
        assert_eq!(links.number(target(0, 1), 3), 1);
        assert_eq!(links.number(target(1, 1), 1), 1);
        assert_eq!(links.number(target(0, 1), 2), 4);
        assert_eq!(links.number(target(0, 2), 2), 1, "a log that was made anew has had nothing");
    }

    #[test]
    fn only_the_longest_silent_door_is_forgotten() {
        let mut links = Links::default();
        let door = |epoch| Source { origin: Origin::Door, epoch };
        for epoch in 0..=DOORS_MAX as u64 {
            assert_eq!(links.accept(door(epoch), 1, 1, epoch + 1), 0..1);
        }
        assert_eq!(links.accept(door(1), 2, 1, 1000), 0..1);
        assert_eq!(links.accept(door(0), 2, 1, 1001), 0..0);
    }
}
