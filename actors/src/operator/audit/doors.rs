//! What came from doors and was not let in: a door numbers its messages without gaps and gives no number twice, so
//! somebody else has appended under its number, or has made a partition forget it.
//!
//! A door that notices sends the same message again, under another number.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
};

use foldhash::{HashMap, fast::FixedState};
use shop_domain::{encode::encode, id::Id, message::Envelope};
use shop_nats::log::{
    PartitionId,
    frame::{Origin, Source},
};

use super::Differences;
use crate::{
    operator::words,
    replay::{Content, Fate, Handled, Layout, Step},
};

/// Doors of one partition whose messages are remembered: more than the partition itself remembers.
const DOORS_MAX: usize = 512;
/// Messages of one door that are remembered, the newest ones: more than any door has on its way.
const MESSAGES_MAX: usize = 16_384;

/// The messages of all doors.
#[derive(Default)]
pub(super) struct Doors {
    known: BTreeMap<(Layout, PartitionId), BTreeMap<Source, Door>>,
    /// What was not let in, and by what it is known again.
    lost: Vec<Lost>,
    by_content: HashMap<(PartitionId, u64), Vec<usize>>,
    hasher: FixedState,
}

/// What was let in of a door.
#[derive(Default)]
struct Door {
    /// The sequence at which something was let in last.
    at: u64,
    /// The number of the last message.
    last: u64,
    /// The last messages, the newest one last: where they came, and what they are.
    messages: VecDeque<(u64, u64)>,
}

struct Lost {
    place: PartitionId,
    sequence: u64,
    source: Source,
    number: u64,
    to: Id,
    what: String,
    /// Where another message came under its number; none if it came beyond a gap.
    instead: Option<u64>,
    /// Where the same message was let in later.
    sent_again: Option<u64>,
}

impl Doors {
    /// Enters what a record brought.
    pub(super) fn enter(&mut self, step: &Step<Handled>) {
        let Step { kind, sequence, partition, layout, content, .. } = step;
        let (here, sequence) = ((*kind, *partition), *sequence);
        let Content::Frame { source, messages } = content else { return };
        if source.origin != Origin::Door {
            return;
        }
        for Handled { arrival, .. } in messages {
            let content = self.content_of(&arrival.envelope);
            let instead = match arrival.fate {
                Fate::Accepted => {
                    self.let_in((*layout, here), *source, (arrival.number, sequence, content));
                    continue;
                }
                Fate::BeyondHole => None,
                Fate::Duplicate => {
                    let door = self.known.get(&(*layout, here)).and_then(|doors| doors.get(source));
                    match door.and_then(|door| door.message(arrival.number)) {
                        Some((at, other)) if other != content => Some(at),
                        Some(_) | None => continue,
                    }
                }
            };
            self.by_content.entry((here, content)).or_default().push(self.lost.len());
            let (to, what) = (arrival.envelope.to.clone(), words::line_of(&arrival.envelope.message));
            let (source, number) = (*source, arrival.number);
            self.lost.push(Lost { place: here, sequence, source, number, to, what, instead, sent_again: None });
        }
    }

    /// Names what was not let in.
    pub(super) fn name(&self, differences: &mut Differences) {
        for lost in &self.lost {
            differences.name(|| lost.in_words());
        }
    }

    fn let_in(&mut self, at: (Layout, PartitionId), source: Source, (number, sequence, content): (u64, u64, u64)) {
        let lost = self.by_content.remove(&(at.1, content));
        lost.into_iter().flatten().for_each(|lost| self.lost[lost].sent_again = Some(sequence));
        let doors = self.known.entry(at).or_default();
        let door = doors.entry(source).or_default();
        if number != door.last + 1 {
            door.messages.clear();
        }
        door.messages.push_back((sequence, content));
        if door.messages.len() > MESSAGES_MAX {
            door.messages.pop_front();
        }
        (door.at, door.last) = (sequence, number);
        if doors.len() > DOORS_MAX {
            let oldest = doors.iter().min_by_key(|(_, door)| door.at).map(|(source, _)| *source);
            oldest.and_then(|source| doors.remove(&source));
        }
    }

    fn content_of(&self, envelope: &Envelope) -> u64 {
        self.hasher.hash_one(encode(envelope))
    }
}

impl Door {
    /// The sequence at which the message of that number was let in, and what it is; none if that is not known.
    fn message(&self, number: u64) -> Option<(u64, u64)> {
        let before = usize::try_from(self.last.checked_sub(number)?).ok()?;
        self.messages.len().checked_sub(before + 1).and_then(|index| self.messages.get(index).copied())
    }
}

impl Lost {
    fn in_words(&self) -> String {
        let Self { place, sequence, source, number, to, what, instead, sent_again } = self;
        let why = match instead {
            Some(at) => format!("another message came under its number at sequence {at}"),
            None => "messages before it are missing".to_owned(),
        };
        let then = match sent_again {
            Some(at) => format!("it was sent again, at sequence {at}"),
            None => "it was not sent again".to_owned(),
        };
        let place = words::place(*place);
        format!(
            "{place} at sequence {sequence}: message {number} from {source}, to {to} \"{what}\", was not let in: {why}; {then}"
        )
    }
}
