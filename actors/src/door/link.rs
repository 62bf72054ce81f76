//! The numbers of a door's messages to one partition, and what becomes of them there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use shop_domain::kind::Kind;
use shop_nats::log::frame::{Origin, Source};
use tokio::sync::oneshot;

use crate::admissions::{Admission, Admissions};

/// A door that was idle this long counts its messages from 1 again under a new epoch, because
/// partitions remember the doors' numbers only for the most recent ones.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The sending end of a door's link.
#[derive(Debug)]
pub struct Link {
    /// Into whose log.
    pub kind: Kind,
    /// To which partition.
    pub partition: u16,
    admissions: Arc<Admissions>,
    source: Source,
    next: u64,
    used: Instant,
}

impl Link {
    /// A link on which nothing was sent.
    pub fn new(kind: Kind, partition: u16, admissions: Arc<Admissions>) -> Self {
        let source = draw();
        admissions.begin(partition, source.epoch);
        Self { kind, partition, admissions, source, next: 1, used: Instant::now() }
    }

    /// Under which source the next messages go, and the number of the first of them. Counts anew where what comes under
    /// the numbers so far may not be let in.
    pub fn numbers(&mut self) -> (Source, u64) {
        let is_spoilt = self.admissions.is_spoilt(self.partition, self.source.epoch);
        if is_spoilt || self.used.elapsed() > IDLE_MAX {
            self.admissions.leave(self.partition, self.source.epoch);
            (self.source, self.next) = (draw(), 1);
            self.admissions.begin(self.partition, self.source.epoch);
        }
        self.used = Instant::now();
        (self.source, self.next)
    }

    /// A frame is about to be appended whose first message has the next number, and which is followed by the number
    /// `after`. What it returns tells what becomes of it.
    pub fn take(&mut self, frame: Bytes, after: u64) -> oneshot::Receiver<Admission> {
        let first = std::mem::replace(&mut self.next, after);
        self.admissions.expect(self.partition, self.source.epoch, first, frame)
    }

    /// The frame that was taken last is not in the log, and will not be: the next one has its numbers.
    pub fn take_back(&mut self, first: u64) {
        self.admissions.withdraw(self.partition, self.source.epoch, first);
        self.next = first;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.admissions.leave(self.partition, self.source.epoch);
    }
}

fn draw() -> Source {
    Source { origin: Origin::Door, epoch: uuid::Uuid::new_v4().as_u64_pair().0 }
}
