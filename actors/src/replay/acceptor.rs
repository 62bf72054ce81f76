//! The receiving ends of all links: what the records of the logs hold, and what of it is let in.

use std::collections::BTreeMap;

use shop_domain::{
    kind::Kind,
    logic::{Logic, UnknownLogic},
    message::Envelope,
    timestamp::Timestamp,
};
use shop_nats::{
    frame::{Frame, Payload, Source},
    log::Record,
    subject::partition_of,
};

use crate::{link::Links, outbox::Logs, partition::OTHER_PARTITION, store::Meta};

/// The receiving ends of all links: tells what a partition lets in, without handling it.
#[derive(Clone, Debug)]
pub struct Acceptor {
    logs: Logs,
    links: BTreeMap<Place, Links>,
    /// Of the partitions that were upgraded.
    logic: BTreeMap<Place, Logic>,
    /// Of the partitions that have one.
    clocks: BTreeMap<Place, Timestamp>,
}

/// A partition of a kind.
pub type Place = (Kind, u16);

/// What a record was.
#[derive(Debug)]
pub struct Step<M> {
    /// Whose log it is in.
    pub kind: Kind,
    /// Where.
    pub sequence: u64,
    /// For which partition.
    pub partition: u16,
    /// When that is, by the partition's clock.
    pub time: Timestamp,
    /// What it holds.
    pub content: Content<M>,
}

/// What a record holds.
#[derive(Debug)]
pub enum Content<M> {
    /// Messages.
    Frame {
        /// Who sent them.
        source: Source,
        /// Them, in their order.
        messages: Vec<M>,
    },
    /// Bytes that are no frame.
    Dead {
        /// Why not.
        reason: String,
        /// How many.
        bytes: usize,
    },
    /// From here on the partition's entities behave by this version, or still by a newer one.
    Upgrade(Logic),
}

/// A record that only a newer program can replay.
#[derive(Debug, thiserror::Error)]
#[error("the log of {kind} cannot be replayed from sequence {sequence} on: {unknown}")]
pub struct ReplayError {
    kind: Kind,
    sequence: u64,
    unknown: UnknownLogic,
}

/// A message that came, and what became of it.
#[derive(Debug)]
pub struct Arrival {
    /// Its number on the link from its source.
    pub number: u64,
    /// Whether the link lets it in.
    pub fate: Fate,
    /// To whom, and what.
    pub envelope: Envelope,
}

/// Whether a link lets a message in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It follows on.
    Accepted,
    /// It came before.
    Duplicate,
    /// One before it is missing; it will come again.
    BeyondHole,
}

impl Acceptor {
    /// Nothing has come yet.
    pub fn new(logs: Logs) -> Self {
        Self { logs, links: BTreeMap::new(), logic: BTreeMap::new(), clocks: BTreeMap::new() }
    }

    /// What a partition has let in, and how it behaves, is as this says.
    pub fn restore(&mut self, place: Place, meta: &Meta) -> Result<(), ReplayError> {
        let logic = known(place.0, meta.cursor + 1, meta.logic)?;
        self.links.insert(place, meta.links.clone());
        self.logic.insert(place, logic);
        self.clocks.insert(place, meta.clock);
        Ok(())
    }

    /// The links of a partition; none when it has none yet.
    pub fn links(&self, place: Place) -> Option<&Links> {
        self.links.get(&place)
    }

    /// Reads the next record of a kind's log.
    pub fn read(&mut self, kind: Kind, record: &Record) -> Result<Step<Arrival>, ReplayError> {
        let Record { sequence, partition, time: taken, payload } = record;
        let mut time = *taken;
        let content = match Payload::decode(kind, payload) {
            Err(error) => Content::Dead { reason: error.to_string(), bytes: payload.len() },
            Ok(Payload::Upgrade(upgrade)) => {
                let place = (kind, *partition);
                let logic = known(kind, *sequence, upgrade.logic)?.max(self.logic(place, *sequence)?);
                self.logic.insert(place, logic);
                Content::Upgrade(logic)
            }
            Ok(Payload::Frame(frame)) if !self.is_for(&frame, (kind, *partition)) => {
                Content::Dead { reason: OTHER_PARTITION.into(), bytes: payload.len() }
            }
            Ok(Payload::Frame(Frame { source, first, messages, .. })) => {
                let logic = self.logic((kind, *partition), *sequence)?;
                time = logic.now(self.clocks.entry((kind, *partition)).or_default(), *taken);
                let links = self.of((kind, *partition));
                let before = links.accepted(source);
                let accepted = links.accept(source, first, messages.len(), *sequence);
                let arrival = |(index, envelope)| {
                    let number = first.saturating_add(index as u64);
                    let fate = if accepted.contains(&index) {
                        Fate::Accepted
                    } else if number <= before {
                        Fate::Duplicate
                    } else {
                        Fate::BeyondHole
                    };
                    Arrival { number, fate, envelope }
                };
                Content::Frame { source, messages: messages.into_iter().enumerate().map(arrival).collect() }
            }
        };
        Ok(Step { kind, sequence: *sequence, partition: *partition, time, content })
    }

    /// How the entities of a partition behave at a sequence that comes next.
    pub(super) fn logic(&self, place: Place, sequence: u64) -> Result<Logic, ReplayError> {
        match self.logic.get(&place) {
            Some(logic) => Ok(*logic),
            None => {
                let began_with = self.logs.get(&place.0).map_or(Logic::NEWEST.number(), |log| log.logic);
                known(place.0, sequence, began_with)
            }
        }
    }

    /// The number of the last message that a partition has accepted from a source.
    pub fn accepted(&self, partition: Place, source: Source) -> u64 {
        self.links.get(&partition).map_or(0, |links| links.accepted(source))
    }

    fn is_for(&self, frame: &Frame, (kind, partition): Place) -> bool {
        let partitions = self.logs.get(&kind).map_or(1, |log| log.partitions);
        frame.messages.iter().all(|envelope| partition_of(&envelope.to, partitions) == partition)
    }

    pub(super) fn of(&mut self, partition: Place) -> &mut Links {
        self.links.entry(partition).or_default()
    }
}

fn known(kind: Kind, sequence: u64, logic: u32) -> Result<Logic, ReplayError> {
    Logic::try_from(logic).map_err(|unknown| ReplayError { kind, sequence, unknown })
}
