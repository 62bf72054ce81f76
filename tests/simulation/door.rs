//! A door in simulation: appends requests, and may die with some of them on their way.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use shop_domain::{id::Id, kind::Kind, message::Envelope};
use shop_nats::{
    log::{
        frame::{EncodedMessage, Origin, Source, frames},
        publisher::Publisher,
    },
    memory::MemoryLog,
    subject::partition_of,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::life::Life;

/// Frames of a door on their way: more than the real door has, so that bursts have holes.
const DOOR_WINDOW: usize = 4;

/// The door of one partition.
pub(crate) struct Door {
    pub(crate) life: Arc<Life>,
    pub(crate) kind: Kind,
    partition: u16,
    /// Into how many the kind is cut.
    partitions: u16,
    source: Source,
    next: u64,
    frames: mpsc::UnboundedSender<Bytes>,
    /// Of the requests let in, in their order.
    let_in: Vec<usize>,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Door {
    /// A door that counts from one.
    pub(crate) fn open(life: Arc<Life>, log: &MemoryLog, kind: Kind, partition: u16) -> Self {
        let partitions = log.partitions(kind);
        let log = log.of_generation(log.generation());
        let source = Source { origin: Origin::Door, epoch: life.number };
        let (frames, to_send) = mpsc::unbounded_channel();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let publisher = Publisher::new(Arc::new(log.under(life.clone())), kind, partition, DOOR_WINDOW);
        let task = tokio::spawn(send(publisher, to_send, Arc::clone(&acknowledged)));
        Self { life, kind, partition, partitions, source, next: 1, frames, let_in: vec![], acknowledged, task }
    }

    /// Whether requests to an entity come in here.
    pub(crate) fn is_for(&self, kind: Kind, id: &Id) -> bool {
        kind == self.kind && partition_of(id, self.partitions) == self.partition
    }

    /// Lets in the request with that number.
    pub(crate) fn let_in(&mut self, request: usize, envelope: &Envelope) {
        for (frame, next) in frames(self.source, self.next, &[EncodedMessage::new(envelope)]) {
            self.next = next;
            self.let_in.push(request);
            // A door that died tells nobody; its requests are asked again.
            let _ = self.frames.send(frame);
        }
    }

    /// Closes a door that died; returns the requests that nobody knows about.
    pub(crate) fn close(mut self) -> Vec<usize> {
        self.task.abort();
        let known = usize::try_from(self.acknowledged.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        self.let_in.split_off(known)
    }

    /// Closes a door of a former layout: what it has let in may count for nothing. Returns all of it.
    pub(crate) fn leave(self) -> Vec<usize> {
        self.task.abort();
        self.let_in
    }
}

async fn send(publisher: Publisher, mut frames: mpsc::UnboundedReceiver<Bytes>, acknowledged: Arc<AtomicU64>) {
    let (sent, mut waiting) = mpsc::unbounded_channel();
    let count = async {
        while let Some(acknowledgement) = waiting.recv().await {
            let Ok(()) = acknowledgement.await else { return };
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    };
    let send = async move {
        while let Some(frame) = frames.recv().await {
            let acknowledgement: shop_nats::log::publisher::Acknowledged = publisher.send(frame).await;
            let _nobody_counts = sent.send(acknowledgement);
        }
    };
    tokio::join!(count, send);
}
