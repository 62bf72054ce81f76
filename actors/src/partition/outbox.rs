//! The outbox of a partition: numbers what its entities send, puts it into frames, and hands the
//! frames to one go-back-N publisher per target.

use std::collections::BTreeMap;

use shop_domain::message::Envelope;
use shop_nats::{
    log::{
        Logs, SharedLog,
        frame::{self, EncodedMessage, Source},
        publisher::{Acknowledged, Publisher, Resent},
    },
    subject::partition_of,
};

use crate::link::{Links, Target};

/// Frames on their way to one partition. More would not make one fsync faster.
const WINDOW_FRAMES: usize = 16;

/// What a partition sends, on its way.
#[derive(Debug)]
pub struct Outbox {
    log: SharedLog,
    source: Source,
    logs: Logs,
    publishers: BTreeMap<Target, Publisher>,
    resent: Resent,
}

/// A message with its number on the link to its target.
#[derive(Debug)]
pub struct Numbered {
    target: Target,
    number: u64,
    envelope: Envelope,
}

impl Outbox {
    /// The outbox of the partition that `source` names.
    pub fn new(log: SharedLog, source: Source, logs: Logs, resent: Resent) -> Self {
        Self { log, source, logs, publishers: BTreeMap::new(), resent }
    }

    /// Numbers messages in their order, each on the link to its target.
    pub fn number(&self, messages: Vec<Envelope>, links: &mut Links) -> Vec<Numbered> {
        let number = |envelope| {
            let target = self.target(&envelope);
            Numbered { target, number: links.number(target, 1), envelope }
        };
        messages.into_iter().map(number).collect()
    }

    /// Sends messages that follow from what is in the log up to `cursor`. Those to one target follow on each other.
    /// Returns what to wait for until the logs have them.
    pub async fn send(&mut self, messages: &[Numbered], cursor: u64) -> Vec<Acknowledged> {
        let mut by_target: BTreeMap<Target, (u64, Vec<EncodedMessage>)> = BTreeMap::new();
        for Numbered { target, number, envelope } in messages {
            let (_, messages) = by_target.entry(*target).or_insert_with(|| (*number, vec![]));
            messages.push(EncodedMessage::new(envelope));
        }
        let mut acknowledged = Vec::with_capacity(by_target.len());
        for (target, (first, messages)) in by_target {
            let publisher = self.publishers.entry(target).or_insert_with(|| {
                let resent = Resent::clone(&self.resent);
                Publisher::counting(self.log.clone(), target.kind, target.partition, WINDOW_FRAMES, resent)
            });
            for (frame, _) in frame::frames_caused(self.source, cursor, first, &messages) {
                acknowledged.push(publisher.send(frame).await);
            }
        }
        acknowledged
    }

    fn target(&self, envelope: &Envelope) -> Target {
        let kind = envelope.message.kind();
        let log = self.logs.get(&kind).expect("every kind has a log");
        Target { kind, partition: partition_of(&envelope.to, log.partitions), epoch: log.link_epoch }
    }
}
