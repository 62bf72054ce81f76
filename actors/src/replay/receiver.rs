//! The receiving ends of all links: what the records of the logs hold, and what of it is let in.

use std::collections::BTreeMap;

use shop_domain::{
    kind::Kind,
    logic::{Logic, UnknownLogic},
    message::Envelope,
    timestamp::Timestamp,
};
use shop_nats::{
    log::{
        Logs, PartitionId, Record,
        frame::{Frame, Payload, Repair, Source},
    },
    subject::partition_of,
};

use super::course::{Course, Layout};
use crate::{
    link::Links,
    partition::{NO_PARTITION, OTHER_PARTITION},
    store::Meta,
};

/// The receiving ends of all links: tells what a partition lets in, without handling it.
#[derive(Clone, Debug)]
pub struct LinkReceiver {
    course: Course,
    /// Under which layout each kind is read by now, if not under the first one.
    layouts: BTreeMap<Kind, Layout>,
    links: BTreeMap<PartitionId, Links>,
    /// Of the partitions that were upgraded.
    logic: BTreeMap<PartitionId, Logic>,
    /// Of the partitions that have one.
    clocks: BTreeMap<PartitionId, Timestamp>,
}

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
    /// Under which layout it counts.
    pub layout: Layout,
    /// Into how many partitions the kind is cut from here on, if it is cut anew here.
    pub cut_into: Option<u16>,
    /// If it is a repair: the number of the last message that counts as accepted from here on, on the link that brings
    /// what it holds.
    pub mended_to: Option<u64>,
    /// What it holds.
    pub content: Content<M>,
}

impl<M> Step<M> {
    /// Whether it brings a message of that sort.
    pub fn any(&self, is: impl Fn(&M) -> bool) -> bool {
        match &self.content {
            Content::Frame { messages, .. } => messages.iter().any(is),
            Content::Dead { .. } | Content::Upgrade(_) => false,
        }
    }
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
#[error(
    "the log of {kind} cannot be replayed from sequence {sequence} on: {unknown}; or, if no program of this shop has \
     written that: shop dead skip {kind}/{sequence}"
)]
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

impl LinkReceiver {
    /// Nothing has come yet.
    pub fn new(course: impl Into<Course>) -> Self {
        let (layouts, links, logic, clocks) = Default::default();
        Self { course: course.into(), layouts, links, logic, clocks }
    }

    /// What a partition has let in under the layout in force, and how it behaves, is as this says.
    pub fn restore(&mut self, place: PartitionId, meta: &Meta) -> Result<(), ReplayError> {
        let logic = known(place.0, meta.cursor + 1, meta.logic)?;
        self.layouts.insert(place.0, self.course.last());
        self.links.insert(place, meta.links.clone());
        self.logic.insert(place, logic);
        self.clocks.insert(place, meta.clock);
        Ok(())
    }

    /// The links of each partition that has some.
    pub fn all_links(&self) -> impl Iterator<Item = (PartitionId, &Links)> {
        self.links.iter().map(|(place, links)| (*place, links))
    }

    /// Another layout comes into force, before anything is read that counts under it but an upgrade.
    pub(super) fn go_on(&mut self, logs: Logs) {
        self.course.go_on(logs);
    }

    /// How the logs are cut, one layout after the other.
    pub const fn course(&self) -> &Course {
        &self.course
    }

    /// Under which layout a kind is read by now.
    pub fn layout(&self, kind: Kind) -> Layout {
        self.layouts.get(&kind).copied().unwrap_or(0)
    }

    /// Which logs there are under the layout that a kind is read under by now.
    pub(super) fn logs(&self, kind: Kind) -> &Logs {
        self.course.logs(self.layout(kind))
    }

    /// Reads the next record of a kind's log.
    pub fn read(&mut self, kind: Kind, record: &Record) -> Result<Step<Arrival>, ReplayError> {
        let Record { sequence, partition, time: taken, payload, .. } = record;
        let mut time = *taken;
        let layout = self.layout(kind).max(self.course.at(kind, *sequence));
        let is_cut_anew = layout > self.layout(kind);
        if is_cut_anew {
            self.cut_anew(kind, layout);
        }
        let cut_into = self.logs(kind).get(&kind).filter(|_| is_cut_anew).map(|log| log.partitions);
        let mut mended_to = None;
        let content = match record.read(kind) {
            Ok(_) if *partition >= self.partitions(kind) => {
                Content::Dead { reason: NO_PARTITION.into(), bytes: payload.len() }
            }
            Err(error) => Content::Dead { reason: error.to_string(), bytes: payload.len() },
            Ok(Payload::Upgrade(upgrade)) => {
                let place = (kind, *partition);
                let logic = known(kind, *sequence, upgrade.logic)?.max(self.logic(place, *sequence)?);
                self.logic.insert(place, logic);
                Content::Upgrade(logic)
            }
            Ok(Payload::Frame(Frame { messages, .. }) | Payload::Repair(Repair { messages, .. }))
                if !self.is_for(&messages, (kind, *partition)) =>
            {
                Content::Dead { reason: OTHER_PARTITION.into(), bytes: payload.len() }
            }
            Ok(Payload::Repair(Repair { source, accepted, first, messages, .. })) => {
                let logic = self.logic((kind, *partition), *sequence)?;
                time = logic.now(self.clocks.entry((kind, *partition)).or_default(), *taken);
                self.of((kind, *partition)).mend(source, accepted, *sequence);
                mended_to = Some(accepted);
                let numbered = messages.into_iter().zip(first..);
                let arrival = |(envelope, number)| Arrival { number, fate: Fate::Accepted, envelope };
                Content::Frame { source, messages: numbered.map(arrival).collect() }
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
        Ok(Step { kind, sequence: *sequence, partition: *partition, time, layout, cut_into, mended_to, content })
    }

    /// A kind goes on under the next layout. Nothing was under way there: all links count anew, from both ends. Every
    /// partition's clock goes on from the latest of those before.
    fn cut_anew(&mut self, kind: Kind, layout: Layout) {
        self.links.retain(|(of, _), _| *of != kind);
        self.logic.retain(|(of, _), _| *of != kind);
        let latest = self.clocks.iter().filter(|((of, _), _)| *of == kind).map(|(_, clock)| *clock).max();
        self.clocks.retain(|(of, _), _| *of != kind);
        self.layouts.insert(kind, layout);
        let partitions = self.partitions(kind);
        self.clocks.extend((0..partitions).map(|partition| ((kind, partition), latest.unwrap_or_default())));
    }

    /// How the entities of a partition behave at a sequence that comes next.
    pub fn logic(&self, place: PartitionId, sequence: u64) -> Result<Logic, ReplayError> {
        match self.logic.get(&place) {
            Some(logic) => Ok(*logic),
            None => {
                let began_with = self.logs(place.0).get(&place.0).map_or(Logic::NEWEST.number(), |log| log.logic);
                known(place.0, sequence, began_with)
            }
        }
    }

    /// The number of the last message that a partition has accepted from a source.
    pub fn accepted(&self, partition: PartitionId, source: Source) -> u64 {
        self.links.get(&partition).map_or(0, |links| links.accepted(source))
    }

    fn is_for(&self, messages: &[Envelope], (kind, partition): PartitionId) -> bool {
        let partitions = self.partitions(kind);
        messages.iter().all(|envelope| partition_of(&envelope.to, partitions) == partition)
    }

    fn partitions(&self, kind: Kind) -> u16 {
        self.logs(kind).get(&kind).map_or(1, |log| log.partitions)
    }

    pub(super) fn of(&mut self, partition: PartitionId) -> &mut Links {
        self.links.entry(partition).or_default()
    }
}

fn known(kind: Kind, sequence: u64, logic: u32) -> Result<Logic, ReplayError> {
    Logic::try_from(logic).map_err(|unknown| ReplayError { kind, sequence, unknown })
}
