//! Every message that an entity sends to another, from its cause to its arrival.
//!
//! The replay tells both: what was sent, with its number on the link, and what a link let in.
//! Both are counted from 1 without a gap, so the two ends of a link are compared one by one, and
//! kept only until they have met.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use shop_domain::{id::Id, kind::Kind, message::Envelope};
use shop_nats::log::{Logs, PartitionId, frame::Origin};

use super::Differences;
use crate::{
    operator::words,
    replay::{Arrival, Content, Fate, Handled, Layout, Replay, Step},
};

/// The messages on all links.
pub(super) struct Messages {
    /// Of each layout, the epochs by which links know the logs.
    epochs: Vec<BTreeMap<Kind, u64>>,
    links: BTreeMap<Between, Link>,
    /// How many arrived as they were sent.
    pub(super) matched: u64,
    /// How many were put right by repairs.
    pub(super) mended: u64,
}

/// Two partitions under one layout: nothing is under way between two layouts.
type Between = (Layout, PartitionId, PartitionId);

#[derive(Default)]
struct Link {
    /// What its two ends said in their snapshots: the last number sent, and the last one accepted.
    began: (u64, u64),
    /// The same at the end.
    ended: (u64, u64),
    /// Sent and not arrived.
    sent: VecDeque<Waiting>,
    /// Arrived and not sent.
    arrived: VecDeque<Waiting>,
    /// By number, what was sent where something else arrived, and that in words.
    wrong: BTreeMap<u64, (Envelope, String)>,
}

struct Waiting {
    number: u64,
    envelope: Envelope,
    /// The sequence that caused it, or at which it arrived.
    sequence: u64,
}

/// A message on a link, by name.
pub(super) struct Named<'m> {
    /// From which partition.
    pub(super) from: PartitionId,
    to: PartitionId,
    waiting: &'m Waiting,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, waiting: Waiting { number, envelope, .. } } = self;
        let what = words::line_of(&envelope.message);
        write!(f, "message {number} from {} to {}, to {} \"{what}\",", name(*from), name(*to), envelope.to)
    }
}

fn name((kind, partition): PartitionId) -> String {
    format!("{kind}/{partition}")
}

impl Messages {
    /// Nothing has been sent but what the snapshots say with which the replay begins.
    pub(super) fn new(replay: &Replay) -> Self {
        let acceptor = replay.acceptor();
        let of_logs = |logs: &Logs| logs.iter().map(|(kind, log)| (*kind, log.link_epoch)).collect();
        let epochs: Vec<BTreeMap<_, _>> = acceptor.course().layouts().iter().map(of_logs).collect();
        let mut links = BTreeMap::<_, Link>::new();
        for (here, known) in acceptor.all_links() {
            let layout = acceptor.layout(here.0);
            let is_of = |kind: Kind, epoch: u64| epochs[layout].get(&kind) == Some(&epoch);
            for (target, number) in known.all_sent().filter(|(to, _)| is_of(to.kind, to.epoch)) {
                let link = links.entry((layout, here, (target.kind, target.partition))).or_default();
                (link.began.0, link.ended.0) = (number, number);
            }
            for (source, number) in known.all_accepted() {
                let Origin::Partition(kind, partition) = source.origin else { continue };
                if is_of(kind, source.epoch) {
                    let link = links.entry((layout, (kind, partition), here)).or_default();
                    (link.began.1, link.ended.1) = (number, number);
                }
            }
        }
        Self { epochs, links, matched: 0, mended: 0 }
    }

    /// Enters what a record brought and caused.
    pub(super) fn enter(&mut self, step: &Step<Handled>, differences: &mut Differences) {
        let Step { kind, sequence, partition, layout, content, .. } = step;
        let (here, layout) = ((*kind, *partition), *layout);
        let Content::Frame { source, messages } = content else { return };
        let mended = match (step.mended_to, source.origin) {
            (Some(number), Origin::Partition(kind, partition)) => {
                let link = self.links.entry((layout, (kind, partition), here)).or_default();
                self.mended += link.mend(number, messages.iter().map(|handled| &handled.arrival), *sequence);
                self.matched += link.meet(((kind, partition), here), differences);
                true
            }
            (Some(_), Origin::Door) | (None, _) => false,
        };
        for Handled { arrival, sent, .. } in messages.iter().filter(|handled| has_arrived(handled)) {
            let number = arrival.number;
            let envelope = || arrival.envelope.clone();
            match source.origin {
                Origin::Door => {}
                Origin::Partition(..) if mended => {}
                Origin::Partition(kind, _) if self.epochs[layout].get(&kind) != Some(&source.epoch) => {
                    let what = words::line_of(&arrival.envelope.message);
                    differences.name(|| {
                        format!(
                            "{} at sequence {sequence}: message {number} to {} \"{what}\" is from {source}, \
                             but that log has another epoch: nobody has sent it",
                            name(here),
                            arrival.envelope.to
                        )
                    });
                }
                Origin::Partition(kind, partition) => {
                    let link = self.links.entry((layout, (kind, partition), here)).or_default();
                    link.ended.1 = number;
                    if number > link.began.0 {
                        link.arrived.push_back(Waiting { number, envelope: envelope(), sequence: *sequence });
                    }
                    self.matched += link.meet(((kind, partition), here), differences);
                }
            }
            for message in sent {
                let (number, envelope) = (message.number, message.envelope.clone());
                let link = self.links.entry((layout, here, message.to)).or_default();
                link.ended.0 = number;
                if number > link.began.1 {
                    link.sent.push_back(Waiting { number, envelope, sequence: *sequence });
                }
                self.matched += link.meet((here, message.to), differences);
            }
        }
    }

    /// The orders to which the messages on their way belong.
    pub(super) fn orders(&self) -> BTreeSet<Id> {
        let waiting = self.links.values().flat_map(|link| link.sent.iter().chain(&link.arrived));
        waiting.filter_map(|waiting| words::order_of(&waiting.envelope)?.parse().ok()).collect()
    }

    /// What was caused up to the cut, and has not arrived.
    pub(super) fn missing<'m>(&'m self, cut: &'m BTreeMap<Kind, u64>) -> impl Iterator<Item = Named<'m>> {
        self.links.iter().flat_map(move |((_, from, to), link)| {
            let is_due = |waiting: &&Waiting| waiting.sequence <= cut.get(&from.0).copied().unwrap_or(0);
            link.sent.iter().filter(is_due).map(|waiting| Named { from: *from, to: *to, waiting })
        })
    }

    /// Names what arrived under the number of something else, and was not put right.
    pub(super) fn name_wrong(&self, differences: &mut Differences) {
        let wrong = self.links.values().flat_map(|link| link.wrong.values());
        wrong.for_each(|(_, in_words)| differences.name(|| in_words.clone()));
    }

    /// Names what was sent before one snapshot, or had arrived before another, and is not at the other end.
    pub(super) fn name_lost(&self, differences: &mut Differences) {
        for ((_, from, to), link) in &self.links {
            let (link_name, (sent, arrived)) = (format!("from {} to {}", name(*from), name(*to)), link.ended);
            if arrived < link.began.0 {
                let began = link.began.0;
                differences
                    .name(|| format!("{began} messages were sent {link_name}, but only {arrived} are in the log"));
            }
            if sent < link.began.1 {
                let began = link.began.1;
                differences.name(|| format!("{began} messages arrived {link_name}, but only {sent} were sent"));
            }
        }
    }

    /// Names what had arrived at the cut, and was not caused even then when more had been read.
    pub(super) fn name_unexpected(&self, cut: &BTreeMap<Kind, u64>, differences: &mut Differences) {
        for ((_, from, to), link) in &self.links {
            let end = cut.get(&to.0).copied().unwrap_or(0);
            for waiting in link.arrived.iter().filter(|waiting| waiting.sequence <= end) {
                let message = Named { from: *from, to: *to, waiting };
                differences.name(|| {
                    format!("{message} is in the log at sequence {}, but nobody has sent it", waiting.sequence)
                });
            }
        }
    }
}

impl Link {
    /// Compares what has come together; returns how many were the same.
    fn meet(&mut self, (from, to): (PartitionId, PartitionId), differences: &mut Differences) -> u64 {
        let mut same = 0;
        while let (Some(_), Some(_)) = (self.sent.front(), self.arrived.front()) {
            let (Some(sent), Some(arrived)) = (self.sent.pop_front(), self.arrived.pop_front()) else { break };
            if sent.number == arrived.number && sent.envelope == arrived.envelope {
                same += 1;
                continue;
            }
            let in_words = || {
                let message = Named { from, to, waiting: &sent };
                let (number, Envelope { to, message: other, .. }) = (arrived.number, &arrived.envelope);
                let what = words::line_of(other);
                let (cause, sequence) = (sent.sequence, arrived.sequence);
                format!(
                    "{message} caused at sequence {cause}, is not what the log has at sequence {sequence}: \
                     message {number}, to {to} \"{what}\""
                )
            };
            match sent.number == arrived.number {
                true => {
                    let in_words = in_words();
                    self.wrong.insert(sent.number, (sent.envelope, in_words));
                }
                false => differences.name(in_words),
            }
        }
        same
    }

    /// It was repaired at that sequence: from there on that is the number of what arrived last, and these have arrived as
    /// well. Returns how many messages that puts right.
    fn mend<'a>(&mut self, last: u64, delivered: impl Iterator<Item = &'a Arrival>, sequence: u64) -> u64 {
        let before = self.arrived.len();
        self.arrived.retain(|waiting| waiting.number <= last);
        let mut mended = before - self.arrived.len();
        for Arrival { number, envelope, .. } in delivered {
            let before = self.arrived.len();
            if self.wrong.get(number).is_some_and(|(sent, _)| sent == envelope) {
                self.wrong.remove(number);
                mended += 1;
                continue;
            }
            self.arrived.retain(|waiting| waiting.number != *number);
            mended += before - self.arrived.len();
            let at = self.arrived.partition_point(|waiting| waiting.number < *number);
            self.arrived.insert(at, Waiting { number: *number, envelope: envelope.clone(), sequence });
        }
        self.ended.1 = last;
        mended as u64
    }
}

fn has_arrived(handled: &Handled) -> bool {
    handled.arrival.fate == Fate::Accepted
}
