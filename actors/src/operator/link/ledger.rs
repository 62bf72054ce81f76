//! Every link with both of its ends: what its sender has sent, by the sender's log, and what the receiver has let in, by its
//! own. What agrees is forgotten at once.

use std::collections::{BTreeMap, VecDeque};

use shop_domain::{kind::Kind, message::Envelope};
use shop_nats::log::{
    PartitionId,
    frame::{EncodedMessage, FRAME_BYTES_MAX, Origin, Repair, Source},
};

use crate::replay::{Arrival, Content, Fate, Handled, Layout, LinkReceiver, Replay, Step};

/// All links under the layout in force.
pub(super) struct Ledgers {
    layout: Layout,
    /// By which epochs links know the logs.
    epochs: BTreeMap<Kind, u64>,
    links: BTreeMap<(PartitionId, PartitionId), Ledger>,
}

#[derive(Default)]
struct Ledger {
    /// What its two ends said in their snapshots: the last number sent, and the last one accepted.
    began: (u64, u64),
    /// The number of the last message that was sent.
    sent: u64,
    /// Sent, and nothing was let in under its number yet.
    unmet: VecDeque<(u64, Sent)>,
    /// Let in, and nothing was sent under its number yet: the number, what it is and where it came.
    unsent: VecDeque<(u64, Envelope, u64)>,
    /// Sent, while something else was let in under its number.
    swallowed: BTreeMap<u64, Sent>,
}

struct Sent {
    envelope: Envelope,
    /// What in the sender's log it follows from.
    cause: u64,
}

/// What is to be done about a link.
pub(super) struct Mend {
    pub(super) from: PartitionId,
    pub(super) to: PartitionId,
    source: Source,
    /// The number that was accepted last, and the one that was sent last.
    pub(super) accepted: u64,
    pub(super) sent: u64,
    /// What was sent and not let in, by its number: the message, and what it follows from.
    pub(super) swallowed: BTreeMap<u64, (Envelope, u64)>,
}

impl Ledgers {
    /// Nothing has been sent but what the snapshots say with which the replay begins.
    pub(super) fn new(replay: &Replay) -> Self {
        let acceptor = replay.acceptor();
        let layout = acceptor.course().layouts().len() - 1;
        let epochs: BTreeMap<_, _> =
            acceptor.course().logs(layout).iter().map(|(kind, log)| (*kind, log.link_epoch)).collect();
        let mut links = BTreeMap::<_, Ledger>::new();
        for (here, known) in acceptor.all_links() {
            for (target, number) in known.all_sent().filter(|(to, _)| epochs.get(&to.kind) == Some(&to.epoch)) {
                let link = links.entry((here, (target.kind, target.partition))).or_default();
                (link.began.0, link.sent) = (number, number);
            }
            for (source, number) in known.all_accepted() {
                let Origin::Partition(kind, partition) = source.origin else { continue };
                if epochs.get(&kind) == Some(&source.epoch) {
                    let link = links.entry(((kind, partition), here)).or_default();
                    link.began.1 = number;
                }
            }
        }
        Self { layout, epochs, links }
    }

    /// Enters what a record brought and caused.
    pub(super) fn enter(&mut self, step: &Step<Handled>) {
        let here = (step.kind, step.partition);
        let Content::Frame { source, messages } = &step.content else { return };
        if step.layout != self.layout {
            return;
        }
        let from = match source.origin {
            Origin::Partition(kind, partition) if self.epochs.get(&kind) == Some(&source.epoch) => {
                Some((kind, partition))
            }
            // Nobody waits for what is from nowhere.
            Origin::Partition(..) | Origin::Door => None,
        };
        if let Some(from) = from {
            let link = self.links.entry((from, here)).or_default();
            match step.mended_to {
                Some(last) => link.mend(last, messages.iter().map(|handled| &handled.arrival), step.sequence),
                None => messages.iter().for_each(|handled| link.came(&handled.arrival, step.sequence)),
            }
        }
        for sent in messages.iter().flat_map(|handled| &handled.sent) {
            let link = self.links.entry((here, sent.to)).or_default();
            link.sends(sent.number, Sent { envelope: sent.envelope.clone(), cause: step.sequence });
        }
    }

    /// The links whose numbers went too far before what is read.
    pub(super) fn unknown(&self) -> impl Iterator<Item = (PartitionId, PartitionId)> {
        self.links.iter().filter(|(_, link)| link.is_unknown()).map(|(between, _)| *between)
    }

    /// What is to be done, by what had come where the logs ended then.
    pub(super) fn mends(&self, acceptor: &LinkReceiver, ends: &BTreeMap<Kind, u64>) -> Vec<Mend> {
        let mend = |((from, to), link): (&(PartitionId, PartitionId), &Ledger)| {
            let source = Source { origin: Origin::Partition(from.0, from.1), epoch: *self.epochs.get(&from.0)? };
            let accepted = acceptor.accepted(*to, source);
            let is_damaged = link.is_damaged(accepted, ends.get(&to.0).copied().unwrap_or(0));
            if !is_damaged || link.is_unknown() {
                return None;
            }
            // What is still on its way is let in by this as well: it would be skipped, or would be skipped later.
            let unmet = link.unmet.iter().map(|(number, sent)| (number, sent));
            let missing = link.swallowed.iter().chain(unmet);
            let swallowed = missing.map(|(number, sent)| (*number, (sent.envelope.clone(), sent.cause))).collect();
            Some(Mend { from: *from, to: *to, source, accepted, sent: link.sent, swallowed })
        };
        self.links.iter().filter_map(mend).collect()
    }
}

impl Ledger {
    fn sends(&mut self, number: u64, sent: Sent) {
        self.sent = number;
        if number > self.began.1 {
            self.unmet.push_back((number, sent));
            self.meet();
        }
    }

    fn came(&mut self, Arrival { number, fate, envelope }: &Arrival, sequence: u64) {
        match fate {
            Fate::Accepted if *number > self.began.0 => {
                self.unsent.push_back((*number, envelope.clone(), sequence));
                self.meet();
            }
            Fate::Accepted | Fate::Duplicate | Fate::BeyondHole => {}
        }
    }

    /// Compares what was sent and what was let in.
    fn meet(&mut self) {
        while let (Some((sent, _)), Some((let_in, ..))) = (self.unmet.front(), self.unsent.front()) {
            // Of what is not in both, one end is in a snapshot.
            let (is_sent, is_let_in) = (sent <= let_in, let_in <= sent);
            let sent = if is_sent { self.unmet.pop_front() } else { None };
            let let_in = if is_let_in { self.unsent.pop_front() } else { None };
            if let (Some((number, sent)), Some((_, envelope, _))) = (sent, let_in)
                && sent.envelope != envelope
            {
                self.swallowed.insert(number, sent);
            }
        }
    }

    /// It was repaired at that sequence: the number counts as the last one from there on, and these were let in after all.
    fn mend<'a>(&mut self, last: u64, delivered: impl Iterator<Item = &'a Arrival>, sequence: u64) {
        self.unsent.retain(|(number, ..)| *number <= last);
        for Arrival { number, envelope, .. } in delivered {
            if self.swallowed.get(number).is_some_and(|sent| sent.envelope == *envelope) {
                self.swallowed.remove(number);
            } else {
                // What it was sent for is compared as if nothing else had come.
                self.unsent.retain(|(other, ..)| other != number);
                let at = self.unsent.partition_point(|(other, ..)| other < number);
                self.unsent.insert(at, (*number, envelope.clone(), sequence));
            }
        }
        self.meet();
    }

    /// Whether the receiver, which has accepted all numbers up to there, has let something in that was not sent, up to a
    /// sequence whose causes are all read; or has passed over something that was.
    fn is_damaged(&self, accepted: u64, end: u64) -> bool {
        let is_unsent = self.unsent.iter().any(|(_, _, sequence)| *sequence <= end);
        let is_passed_over = self.unmet.front().is_some_and(|(number, _)| *number <= accepted);
        !self.swallowed.is_empty() || is_unsent || is_passed_over
    }

    /// Whether more had come before what is read than was sent until now: what of it was sent cannot be told.
    const fn is_unknown(&self) -> bool {
        self.began.1 > self.sent
    }
}

impl Mend {
    /// What was skipped, by its number.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u64, &Envelope)> {
        self.swallowed.iter().map(|(number, (envelope, _))| (*number, envelope))
    }

    /// As much of it as one record holds: numbers without a gap, and not too many bytes. What is left is repaired by the next
    /// one.
    pub(super) fn record(&self) -> Repair {
        let first = self.swallowed.keys().next().copied().unwrap_or(1);
        let (mut messages, mut cause, mut bytes) = (Vec::new(), None, 0);
        for (expected, (number, (envelope, of))) in (first..).zip(&self.swallowed) {
            bytes += EncodedMessage::new(envelope).bytes();
            if *number != expected || bytes > FRAME_BYTES_MAX && !messages.is_empty() {
                break;
            }
            messages.push(envelope.clone());
            cause = cause.max(Some(*of));
        }
        Repair { source: self.source, cause, accepted: self.sent, first, messages }
    }
}
