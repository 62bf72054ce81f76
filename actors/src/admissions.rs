//! Admissions: whether a log has let in what a door of this host appended to it.
//!
//! That the log has a frame does not mean that its messages count: a partition skips those whose numbers it has had, and
//! ignores a frame beyond a gap (see [`crate::link`]). A door numbers on without gaps, so both come only of somebody
//! else who appends under the door's number, or under so many other ones that a partition forgets it. The reader of the log
//! tells, record by record, because what a partition lets in is a function of its log; what another process says is not
//! asked for.
//!
//! Of a partition that is held here the links are known, and whatever is said of it is certain. Of one that is held by
//! other hosts only what came since this host reads is known: it is not known which doors the partition remembers.
//! As long as fewer other doors have shown up since the last frame than a partition remembers, it has not forgotten; where
//! more have, the frame is in doubt, and is not sent again.
//!
//! Owns telling. Must not send anything: the [appender](crate::door::appender) does.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use shop_domain::kind::Kind;
use shop_nats::{
    log::{
        Record,
        frame::{self, Frame, Origin, Payload, Source},
    },
    subject::partition_of,
};
use tokio::sync::oneshot;

use crate::link::Links;

/// What became of the frames of one kind's door.
#[derive(Debug)]
pub struct Admissions {
    kind: Kind,
    read: Mutex<Read>,
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The log has it, and of its messages these were let in.
    LetIn(Range<usize>),
    /// Nobody here can tell, because so many other doors came before it.
    InDoubt,
    /// It was not read: the reader had to begin anew behind it.
    Unread,
}

/// What a partition is known to let in when it begins to be read.
#[derive(Debug)]
pub struct Known {
    /// The sequence up to which that is so.
    pub cursor: u64,
    /// Its links.
    pub links: Links,
}

#[derive(Debug)]
struct Read {
    /// The sequence up to which the log was read without a gap.
    to: Option<u64>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// The sequence up to which its records are entered.
    to: u64,
    /// Of all doors.
    links: Links,
    /// Whether those are the partition's, and not only what came since it is read.
    is_known: bool,
    /// The doors of this host, by their numbers.
    own: BTreeMap<u64, Own>,
}

/// A door of this host.
#[derive(Debug, Default)]
struct Own {
    /// The number of its last message that was read.
    seen: u64,
    /// Whether something stands in its way: whatever comes under this number may not be let in.
    is_spoilt: bool,
    /// Nothing more comes under this number.
    is_left: bool,
    /// What was appended and not read yet, by the number of its first message.
    frames: BTreeMap<u64, Expected>,
}

#[derive(Debug)]
struct Expected {
    frame: Bytes,
    done: oneshot::Sender<Admission>,
}

impl Admissions {
    /// Of the door into the log of a kind with so many partitions.
    pub fn new(kind: Kind, partitions: u16) -> Self {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Self { kind, read: Mutex::new(Read { to: None, partitions }) }
    }

    /// From now on a door appends to a partition under this number.
    pub fn begin(&self, partition: u16, epoch: u64) {
        self.of(partition, |partition| drop(partition.own.insert(epoch, Own::default())));
    }

    /// Nothing more comes under this number.
    pub fn leave(&self, partition: u16, epoch: u64) {
        self.of(partition, |partition| {
            if let Some(own) = partition.own.get_mut(&epoch) {
                own.is_left = true;
            }
            partition.tidy();
        });
    }

    /// Whether whatever comes under this number may not be let in.
    pub fn is_spoilt(&self, partition: u16, epoch: u64) -> bool {
        self.of(partition, |partition| partition.own.get(&epoch).is_none_or(|own| own.is_spoilt)).unwrap_or(false)
    }

    /// A frame whose first message has that number is about to be appended. What it returns tells what became of it.
    pub fn expect(&self, partition: u16, epoch: u64, first: u64, frame: Bytes) -> oneshot::Receiver<Admission> {
        let (done, admission) = oneshot::channel();
        self.of(partition, |partition| {
            let own = partition.own.entry(epoch).or_default();
            own.frames.insert(first, Expected { frame, done });
        });
        admission
    }

    /// That frame is not in the log, and will not be.
    pub fn withdraw(&self, partition: u16, epoch: u64, first: u64) {
        self.of(partition, |partition| {
            if let Some(own) = partition.own.get_mut(&epoch) {
                own.frames.remove(&first);
            }
        });
    }

    /// The log is read from behind that sequence on; of the partitions that are held here it is known what they let in.
    pub fn read_behind(&self, after: u64, known: BTreeMap<u16, Known>) {
        let mut read = self.lock();
        let goes_on = read.to.is_some_and(|to| after <= to);
        let to = read.to.filter(|_| goes_on).unwrap_or(after);
        if !goes_on {
            read.partitions.iter_mut().for_each(|partition| partition.begin_anew(after));
        }
        for (number, Known { cursor, links }) in known {
            let Some(partition) = read.partitions.get_mut(usize::from(number)) else { continue };
            // What came between here and there was not read, if anything did.
            if !goes_on || !partition.is_known && cursor <= to {
                (partition.links, partition.to, partition.is_known) = (links, cursor, true);
            }
        }
        read.to = Some(to);
    }

    /// The next record of the log.
    pub fn read(&self, record: &Record) {
        let mut read = self.lock();
        let Read { to: Some(to), partitions } = &mut *read else { return };
        if record.sequence > *to + 1 {
            partitions.iter_mut().for_each(|partition| partition.begin_anew(record.sequence - 1));
        }
        *to = record.sequence.max(*to);
        let cut_into = partitions.len() as u16;
        let Some(partition) = partitions.get_mut(usize::from(record.partition)) else { return };
        if record.sequence <= partition.to {
            return;
        }
        partition.to = record.sequence;
        if !frame::may_be_of_a_door(&record.payload) {
            return;
        }
        let Ok(Payload::Frame(Frame { source, first, messages, .. })) = record.read(self.kind) else { return };
        let is_for_it = messages.iter().all(|envelope| partition_of(&envelope.to, cut_into) == record.partition);
        if source.origin == Origin::Door && is_for_it {
            partition.enter((self.kind, record), source, first, messages.len());
        }
    }

    fn of<T>(&self, partition: u16, look: impl FnOnce(&mut Partition) -> T) -> Option<T> {
        self.lock().partitions.get_mut(usize::from(partition)).map(look)
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().expect("nobody panics while changing it")
    }
}

impl Partition {
    /// Behind that sequence, of which nothing is known.
    fn begin_anew(&mut self, after: u64) {
        (self.links, self.to, self.is_known) = (Links::default(), after, false);
        for own in self.own.values_mut() {
            own.is_spoilt = true;
            own.tell_all(&Admission::Unread);
        }
        self.tidy();
    }

    /// Enters a frame of a door.
    fn enter(&mut self, (kind, record): (Kind, &Record), source: Source, first: u64, count: usize) {
        let Some(own) = self.own.get_mut(&source.epoch) else {
            // Where it is not known what the partition has had of it, it may be let in whatever its number is.
            let first = if self.is_known { first } else { self.links.accepted(source) + 1 };
            self.links.accept(source, first, count.max(usize::from(!self.is_known)), record.sequence);
            return self.look_for_forgotten();
        };
        let is_forgotten = own.seen > 0 && self.links.accepted(source) == 0;
        let is_ours = own.frames.get(&first).is_some_and(|expected| expected.frame == record.payload);
        let last = first.saturating_add(count as u64) - 1;
        let admission = if is_forgotten && !self.is_known {
            Admission::InDoubt
        } else {
            Admission::LetIn(self.links.accept(source, first, count, record.sequence))
        };
        if is_ours {
            own.seen = own.seen.max(last);
            own.is_spoilt |= admission != Admission::LetIn(0..count);
            if let Some(expected) = own.frames.remove(&first) {
                // A door that has ended asks for nothing more.
                let _ = expected.done.send(admission);
            }
        } else if last > own.seen && !own.is_spoilt {
            // Not one of its own once more.
            own.is_spoilt = true;
            let (partition, sequence) = (record.partition, record.sequence);
            tracing::warn!(
                "{kind}/{partition}: sequence {sequence} says that it is from {source}, which is a door of this host \
                 and has not sent it; that door goes on under another number"
            );
        }
        self.look_for_forgotten();
        self.tidy();
    }

    /// A partition that has forgotten a door would let nothing more in from it.
    fn look_for_forgotten(&mut self) {
        for (epoch, own) in &mut self.own {
            let source = Source { origin: Origin::Door, epoch: *epoch };
            own.is_spoilt |= own.seen > 0 && self.links.accepted(source) == 0;
        }
    }

    /// Forgets the numbers under which nothing comes any more.
    fn tidy(&mut self) {
        self.own.retain(|_, own| !own.is_left || !own.frames.is_empty());
    }
}

impl Own {
    fn tell_all(&mut self, admission: &Admission) {
        for (_, expected) in std::mem::take(&mut self.frames) {
            // A door that has ended asks for nothing more.
            let _ = expected.done.send(admission.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use shop_domain::{message::Envelope, money::Money, timestamp::Timestamp, wallet};
    use shop_nats::log::frame::{EncodedMessage, frames};

    use super::*;

    /// More doors than a partition remembers.
    const MANY: u64 = 300;
    const OWN: u64 = 7;

    fn frame(epoch: u64, first: u64, amounts: &[u64]) -> Bytes {
        let top_up = |amount: &u64| Envelope {
            to: "alice".parse().unwrap(),
            message: wallet::Message::TopUp { amount: Money::new(*amount).unwrap() }.into(),
            request: None,
            trace: None,
        };
        let messages: Vec<_> = amounts.iter().map(|amount| EncodedMessage::new(&top_up(amount))).collect();
        frames(Source { origin: Origin::Door, epoch }, first, &messages).remove(0).0
    }

    /// A log with one partition, read as it is written.
    struct Log {
        admissions: Admissions,
        last: u64,
    }

    impl Log {
        fn new(is_held: bool) -> Self {
            let admissions = Admissions::new(Kind::Wallet, 1);
            let known = Known { cursor: 0, links: Links::default() };
            admissions.read_behind(0, is_held.then_some((0, known)).into_iter().collect());
            admissions.begin(0, OWN);
            Self { admissions, last: 0 }
        }

        fn append(&mut self, payload: Bytes) {
            self.last += 1;
            self.admissions.read(&self.record(self.last, payload));
        }

        fn record(&self, sequence: u64, payload: Bytes) -> Record {
            Record { sequence, partition: 0, time: Timestamp::default(), payload, foreign: None, is_skipped: false }
        }

        /// What becomes of a frame of the door.
        fn send(&mut self, first: u64, amounts: &[u64]) -> Admission {
            let mut admission = self.admissions.expect(0, OWN, first, frame(OWN, first, amounts));
            self.append(frame(OWN, first, amounts));
            admission.try_recv().expect("the frame was read")
        }
    }

    #[test]
    fn what_follows_on_is_let_in_whatever_else_comes() {
        for is_held in [true, false] {
            let mut log = Log::new(is_held);
            assert_eq!(log.send(1, &[1, 2]), Admission::LetIn(0..2));
            log.append("hello".into());
            (1..200).for_each(|epoch| log.append(frame(100 + epoch, 1, &[5])));
            assert_eq!(log.send(3, &[3]), Admission::LetIn(0..1));
            // Once more, because an acknowledgement was late.
            log.append(frame(OWN, 3, &[3]));
            assert!(!log.admissions.is_spoilt(0, OWN));
            assert_eq!(log.send(4, &[4]), Admission::LetIn(0..1));
        }
    }

    #[test]
    fn what_comes_after_more_doors_than_are_remembered_is_told_from_what_is_let_in() {
        for (is_held, expected) in [(true, Admission::LetIn(0..0)), (false, Admission::InDoubt)] {
            let mut log = Log::new(is_held);
            assert_eq!(log.send(1, &[1]), Admission::LetIn(0..1));
            (0..MANY).for_each(|epoch| log.append(frame(100 + epoch, 1, &[5])));
            assert!(log.admissions.is_spoilt(0, OWN), "before anything is sent");
            assert_eq!(log.send(2, &[2]), expected);
        }
    }

    #[test]
    fn what_comes_behind_numbers_that_somebody_else_has_used_is_not_let_in() {
        for is_held in [true, false] {
            let mut log = Log::new(is_held);
            assert_eq!(log.send(1, &[1]), Admission::LetIn(0..1));
            log.append(frame(OWN, 2, &[9, 9]));
            assert!(log.admissions.is_spoilt(0, OWN));
            assert_eq!(log.send(2, &[2, 3, 4]), Admission::LetIn(2..3), "only what follows on");
            log.append(frame(OWN, 5, &[9; 10]));
            assert_eq!(log.send(5, &[5]), Admission::LetIn(0..0));
        }
    }

    #[test]
    fn a_reader_that_begins_anew_further_on_tells_nothing_of_what_it_has_not_read() {
        let mut log = Log::new(true);
        assert_eq!(log.send(1, &[1]), Admission::LetIn(0..1));
        let mut lost = log.admissions.expect(0, OWN, 2, frame(OWN, 2, &[2]));
        log.admissions.read_behind(5, BTreeMap::new());
        assert_eq!(lost.try_recv(), Ok(Admission::Unread));
        assert!(log.admissions.is_spoilt(0, OWN));
        // From a checkpoint before, it reads what it has read once more.
        let mut log = Log::new(true);
        assert_eq!(log.send(1, &[1]), Admission::LetIn(0..1));
        log.admissions.read_behind(0, BTreeMap::from([(0, Known { cursor: 0, links: Links::default() })]));
        log.admissions.read(&log.record(1, frame(OWN, 1, &[1])));
        assert_eq!(log.send(2, &[2]), Admission::LetIn(0..1));
        assert!(!log.admissions.is_spoilt(0, OWN));
    }

    #[test]
    fn nothing_is_kept_of_a_number_that_was_left() {
        let mut log = Log::new(true);
        let _admission = log.admissions.expect(0, OWN, 1, frame(OWN, 1, &[1]));
        log.admissions.leave(0, OWN);
        log.append(frame(OWN, 1, &[1]));
        assert!(log.admissions.lock().partitions[0].own.is_empty());
    }
}
