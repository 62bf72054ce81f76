//! The replay: entities as the logs make them, in memory, without a host.
//!
//! It accepts messages by the same [`Links`], handles them with the same domain code, and numbers
//! what they send in the same way as a partition does; so what a healthy host knows and has sent
//! is what comes out here. A host handles messages in rounds, the replay one by one: which is the
//! same, because a message is handled with what all those before it have made.
//!
//! A partition whose entity panics is parked there, as on a host: what comes behind it waits.
//!
//! Where the logs are cut into other partitions, each entity moves to where it belongs from there on, with all that
//! it has, and links count anew: which is what [`crate::repartition`] has written as snapshots there.
//!
//! Owns accepting and applying. Must not send, answer or store anything.

mod course;
pub mod merged_log;
mod receiver;

use std::{
    any::Any,
    collections::BTreeMap,
    hash::Hasher,
    panic::{AssertUnwindSafe, catch_unwind},
};

use shop_domain::{
    encode,
    entity::{self, Effect, Reply, State},
    id::Id,
    kind::Kind,
    logic::Logic,
    message::Envelope,
    rows::{RowKey, Rows},
    timestamp::Timestamp,
};
use shop_nats::{
    log::{Logs, PartitionId, Record},
    subject::partition_of,
};

pub use self::{
    course::{Course, Layout},
    receiver::{Arrival, Content, Fate, LinkReceiver, ReplayError, Step},
};
use crate::{
    link::Target,
    store::{Item, Meta},
};

/// The entities of some kinds, and the links between their partitions.
#[derive(Debug)]
pub struct Replay {
    links: LinkReceiver,
    /// As on a host, an entity belongs to the partition that its messages came to.
    entities: BTreeMap<PartitionId, Entities>,
    parked: BTreeMap<PartitionId, Parked>,
}

/// Where and why a partition stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The sequence at which it stands.
    pub sequence: u64,
    /// The entity that panicked there.
    pub id: Id,
    /// What it said.
    pub panic: String,
}

/// The entities of one partition.
pub type Entities = BTreeMap<Id, Entity>;

/// One entity.
#[derive(Debug)]
pub struct Entity {
    /// Its state.
    pub state: State,
    rows: BTreeMap<RowKey, Vec<u8>>,
}

/// A message that came and was handled, if it was accepted.
#[derive(Debug)]
pub struct Handled {
    /// The message.
    pub arrival: Arrival,
    /// Whether it waits, because its partition is parked.
    pub waits: bool,
    /// What the entity sent.
    pub sent: Vec<Sent>,
    /// Whom it answered.
    pub replies: Vec<Reply>,
}

/// A message that an entity sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// To which partition.
    pub to: PartitionId,
    /// Its number on the link to there.
    pub number: u64,
    /// To whom, and what.
    pub envelope: Envelope,
}

impl Replay {
    /// Nothing has happened yet.
    pub fn new(course: impl Into<Course>) -> Self {
        Self { links: LinkReceiver::new(course), entities: BTreeMap::new(), parked: BTreeMap::new() }
    }

    /// Puts a partition where a snapshot has it.
    pub fn restore(&mut self, place: PartitionId, meta: &Meta, entities: Entities) -> Result<(), ReplayError> {
        self.links.restore(place, meta)?;
        self.entities.insert(place, entities);
        Ok(())
    }

    /// The logs that are followed are cut into other partitions: these, from their first sequences on, of which nothing
    /// was applied yet but an upgrade that changes nothing.
    pub fn go_on(&mut self, logs: Logs) {
        self.links.go_on(logs);
    }

    /// The receiving ends of all links.
    pub const fn acceptor(&self) -> &LinkReceiver {
        &self.links
    }

    /// Applies the next record of a kind's log, if it is for the partition of that entity.
    pub fn apply_for(&mut self, id: &Id, kind: Kind, record: &Record) -> Result<(), ReplayError> {
        let logs = self.links.course().logs(self.links.course().at(kind, record.sequence));
        match logs.get(&kind) {
            Some(log) if partition_of(id, log.partitions) == record.partition => self.apply(kind, record).map(drop),
            Some(_) | None => Ok(()),
        }
    }

    /// Applies the next record of a kind's log.
    pub fn apply(&mut self, kind: Kind, record: &Record) -> Result<Step<Handled>, ReplayError> {
        self.apply_and_look(kind, record, |handled, _| handled)
    }

    /// The same, with a look at the entity right after each message that it handled: a record may
    /// hold several for one entity.
    pub fn apply_and_look<T>(
        &mut self,
        kind: Kind,
        record: &Record,
        mut look: impl FnMut(Handled, Option<&Entity>) -> T,
    ) -> Result<Step<T>, ReplayError> {
        let Step { sequence, partition, time, layout, cut_into, mended_to, content, .. } =
            self.links.read(kind, record)?;
        if let Some(partitions) = cut_into {
            self.cut_anew(kind, partitions);
        }
        let content = match content {
            Content::Upgrade(logic) => Content::Upgrade(logic),
            Content::Dead { reason, bytes } => Content::Dead { reason, bytes },
            Content::Frame { source, messages } => {
                let logic = self.links.logic((kind, partition), sequence)?;
                let mut handle = |arrival| {
                    let handled = self.handle((kind, partition), sequence, time, logic, arrival);
                    let entities = self.entities.get(&(kind, partition));
                    let entity = entities.and_then(|entities| entities.get(&handled.arrival.envelope.to));
                    look(handled, entity)
                };
                Content::Frame { source, messages: messages.into_iter().map(&mut handle).collect() }
            }
        };
        Ok(Step { kind, sequence, partition, time, layout, cut_into, mended_to, content })
    }

    /// An entity that a message has come to.
    pub fn entity(&self, kind: Kind, id: &Id) -> Option<&Entity> {
        let partition = partition_of(id, self.links.logs(kind).get(&kind)?.partitions);
        self.entities.get(&(kind, partition))?.get(id)
    }

    /// All entities of a kind that a message has come to, by partition and id.
    pub fn entities(&self, kind: Kind) -> impl Iterator<Item = (u16, &Id, &Entity)> {
        let partitions = self.entities.iter().filter(move |((of, _), _)| *of == kind);
        partitions.flat_map(|((_, partition), entities)| entities.iter().map(|(id, entity)| (*partition, id, entity)))
    }

    /// The partitions that are parked.
    pub fn parked(&self) -> &BTreeMap<PartitionId, Parked> {
        &self.parked
    }

    fn handle(&mut self, at: PartitionId, sequence: u64, now: Timestamp, logic: Logic, arrival: Arrival) -> Handled {
        let mut handled = Handled { arrival, waits: false, sent: vec![], replies: vec![] };
        match handled.arrival.fate {
            Fate::Accepted => {}
            Fate::Duplicate | Fate::BeyondHole => return handled,
        }
        handled.waits = self.parked.contains_key(&at);
        if handled.waits {
            return handled;
        }
        let envelope = handled.arrival.envelope.clone();
        let entities = self.entities.entry(at).or_default();
        let entity = entities.entry(envelope.to.clone()).or_insert_with(|| Entity::absent(at.0));
        let effects = entity.handle(envelope, now, logic).unwrap_or_else(|panic| {
            handled.waits = true;
            let id = handled.arrival.envelope.to.clone();
            self.parked.insert(at, Parked { sequence, id, panic });
            vec![]
        });
        for effect in effects {
            match effect {
                Effect::Reply(reply) => handled.replies.push(reply),
                Effect::Send(envelope) => {
                    let kind = envelope.message.kind();
                    // Of a kind that is not replayed nobody asks what it was sent.
                    let (partitions, epoch) =
                        self.links.logs(at.0).get(&kind).map_or((1, 0), |log| (log.partitions, log.link_epoch));
                    let partition = partition_of(&envelope.to, partitions);
                    let number = self.links.of(at).number(Target { kind, partition, epoch }, 1);
                    handled.sent.push(Sent { to: (kind, partition), number, envelope });
                }
            }
        }
        handled
    }

    /// Lets each entity of a kind be where it belongs among so many partitions.
    fn cut_anew(&mut self, kind: Kind, partitions: u16) {
        let (of_kind, others) = std::mem::take(&mut self.entities).into_iter().partition(|((of, _), _)| *of == kind);
        self.entities = others;
        for (id, entity) in BTreeMap::into_values(of_kind).flatten() {
            let place = (kind, partition_of(&id, partitions));
            self.entities.entry(place).or_default().insert(id, entity);
        }
    }
}

/// Takes in a state or a row as it is stored.
pub fn insert(entities: &mut Entities, kind: Kind, item: Item) -> Result<(), rmp_serde::decode::Error> {
    let entity = entities.entry(item.id).or_insert_with(|| Entity::absent(kind));
    match item.row {
        Some(row) => drop(entity.rows.insert(row, item.value.into())),
        None => entity.state = State::decode(kind, &item.value)?,
    }
    Ok(())
}

impl Entity {
    fn absent(kind: Kind) -> Self {
        Self { state: State::absent(kind), rows: BTreeMap::new() }
    }

    /// Feeds its state and all its rows, as they are stored, to a digest.
    pub fn digest(&self, hasher: &mut impl Hasher) {
        hasher.write(&self.state.encode());
        for (key, bytes) in &self.rows {
            hasher.write(key.as_bytes());
            hasher.write(bytes);
        }
    }

    /// One of its rows.
    pub fn row<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.rows.get(key).and_then(|bytes| encode::decode(bytes).ok())
    }

    /// Its rows whose keys begin with `prefix`, by key; the keys come without the prefix.
    pub fn rows<'a, T: serde::de::DeserializeOwned>(
        &'a self,
        prefix: &'a str,
    ) -> impl DoubleEndedIterator<Item = (&'a str, T)> {
        let rows = self.rows.iter().filter_map(move |(key, bytes)| Some((key.strip_prefix(prefix)?, bytes)));
        rows.filter_map(|(key, bytes)| Some((key, encode::decode(bytes).ok()?)))
    }

    /// All its rows as they are stored, by key.
    pub const fn stored_rows(&self) -> &BTreeMap<RowKey, Vec<u8>> {
        &self.rows
    }

    /// Changes nothing when it panics; what it said is the error.
    fn handle(&mut self, envelope: Envelope, now: Timestamp, logic: Logic) -> Result<Vec<Effect>, String> {
        let mut rows = Rows::default();
        for key in entity::rows(&envelope) {
            let bytes = self.rows.get(&key).cloned();
            rows.load(key, bytes);
        }
        let mut state = self.state.clone();
        // What a panic leaves half done is thrown away.
        let handle = AssertUnwindSafe(|| state.handle(envelope, now, logic, &mut rows));
        let effects = catch_unwind(handle).map_err(|panic| words_of(&*panic))?;
        self.state = state;
        self.rows.extend(rows.into_changed());
        Ok(effects)
    }
}

impl Handled {
    /// Whether the entity has handled it.
    pub fn is_handled(&self) -> bool {
        self.arrival.fate == Fate::Accepted && !self.waits
    }
}

/// What `panic!` was given.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("no words").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use shop_domain::{
        message::Message,
        money::Money,
        order,
        wallet::{self, Wallet},
    };
    use shop_nats::{
        log::{
            Identity,
            frame::{self, EncodedMessage, Origin, Source},
        },
        memory::{Calm, MemoryLog},
    };

    use super::*;

    const DOOR: Source = Source { origin: Origin::Door, epoch: 1 };
    const ORDERS: Source = Source { origin: Origin::Partition(Kind::Order, 0), epoch: 7 };

    fn money(amount: u64) -> Money {
        Money::new(amount).unwrap()
    }

    fn charge(order: &str, amount: u64) -> wallet::Message {
        wallet::Message::Charge { order: order.parse().unwrap(), amount: money(amount) }
    }

    fn frame(source: Source, first: u64, messages: Vec<wallet::Message>) -> Bytes {
        let envelope = |message| Envelope {
            to: "alice".parse().unwrap(),
            message: Message::Wallet(message),
            request: None,
            trace: None,
        };
        let encoded: Vec<_> = messages.into_iter().map(|message| EncodedMessage::new(&envelope(message))).collect();
        frame::frames(source, first, &encoded).remove(0).0
    }

    fn replay(log: &MemoryLog) -> (Replay, Vec<Step<Handled>>) {
        let logs: Logs = Kind::ALL.map(|kind| (kind, Identity::new(7))).into();
        let mut replay = Replay::new(logs);
        let records = log.records(Kind::Wallet);
        let steps = records.iter().map(|record| replay.apply(Kind::Wallet, record).unwrap()).collect();
        (replay, steps)
    }

    fn balance(replay: &Replay) -> Option<u64> {
        match &replay.entity(Kind::Wallet, &"alice".parse().unwrap())?.state {
            State::Wallet(Wallet::Open(open)) => Some(open.balance.get()),
            State::Wallet(Wallet::Absent)
            | State::Product(_)
            | State::Order(_)
            | State::Delivery(_)
            | State::Mypage(_) => None,
        }
    }

    fn fates(step: &Step<Handled>) -> Vec<Fate> {
        match &step.content {
            Content::Frame { messages, .. } => messages.iter().map(|handled| handled.arrival.fate).collect(),
            Content::Dead { .. } | Content::Upgrade(_) => vec![],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_twice_or_beyond_a_hole_is_told_and_not_handled() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.store(Kind::Wallet, 0, frame(DOOR, 1, vec![wallet::Message::Open { balance: money(100) }]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 1, vec![charge("o-1", 10)]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 3, vec![charge("o-3", 30)]));
        log.store(Kind::Wallet, 0, "hello".into());
        log.store(Kind::Wallet, 0, frame(ORDERS, 1, vec![charge("o-1", 10), charge("o-2", 20)]));
        let (replay, steps) = replay(&log);
        assert_eq!(balance(&replay), Some(70));
        let found: Vec<_> = steps.iter().map(fates).collect();
        let expected: [&[Fate]; 5] =
            [&[Fate::Accepted], &[Fate::Accepted], &[Fate::BeyondHole], &[], &[Fate::Duplicate, Fate::Accepted]];
        assert_eq!(found, expected);
        assert!(matches!(&steps[3].content, Content::Dead { reason, bytes: 5 } if reason.contains("version")));
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_log_is_cut_anew_entities_move_with_all_they_have_and_links_count_anew() {
        let log = MemoryLog::new(3, Arc::new(Calm));
        // Among three partitions, alice belongs into another one than among one.
        let here = partition_of(&"alice".parse().unwrap(), 3);
        assert_ne!(here, 0);
        log.store(Kind::Wallet, 0, frame(DOOR, 1, vec![wallet::Message::Open { balance: money(100) }]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 1, vec![charge("o-1", 10)]));
        log.store(Kind::Wallet, 0, frame::Upgrade { logic: 2 }.encode());
        let orders_now = Source { epoch: 8, ..ORDERS };
        log.store(Kind::Wallet, here, frame(orders_now, 1, vec![charge("o-1", 10), charge("o-2", 20)]));
        // A host that has missed it: not its place, and not its number any more.
        log.store(Kind::Wallet, 0, frame(ORDERS, 2, vec![charge("o-3", 30)]));
        let before: Logs = Kind::ALL.map(|kind| (kind, Identity::new(7))).into();
        let now = Identity { partitions: 3, first_sequence: 3, ..Identity::new(8) };
        let course = Course::new(vec![before, Kind::ALL.map(|kind| (kind, now)).into()]);
        let mut replay = Replay::new(course);
        let mut cuts = Vec::new();
        let mut sent = Vec::new();
        for record in log.records(Kind::Wallet) {
            let step = replay.apply(Kind::Wallet, &record).unwrap();
            cuts.push((step.layout, step.cut_into));
            let Content::Frame { messages, .. } = step.content else { continue };
            sent.extend(messages.into_iter().flat_map(|handled| handled.sent).map(|sent| sent.number));
        }
        assert_eq!(cuts, [(0, None), (0, None), (1, Some(3)), (1, None), (1, None)]);
        // The charge that it knows of already is answered, and takes nothing once more.
        assert_eq!((balance(&replay), sent), (Some(70), vec![1, 1, 2]));
        assert_eq!(replay.entities(Kind::Wallet).map(|(partition, ..)| partition).collect::<Vec<_>>(), [here]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_whose_entity_panics_is_parked_there_and_what_comes_behind_it_waits() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.store(Kind::Wallet, 0, frame(DOOR, 1, vec![wallet::Message::Open { balance: money(100) }]));
        let (mut replay, _) = replay(&log);
        // Only a row that no wallet has written makes one panic.
        let (alice, order) = ("alice".parse::<Id>().unwrap(), "o-1".parse().unwrap());
        let entity = replay.entities.get_mut(&(Kind::Wallet, 0)).unwrap().get_mut(&alice).unwrap();
        entity.rows.insert(wallet::charge_row(&order), b"\xc1".to_vec());
        log.store(Kind::Wallet, 0, frame(ORDERS, 1, vec![charge("o-1", 10), charge("o-2", 10)]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 3, vec![charge("o-3", 10)]));
        for record in &log.records(Kind::Wallet)[1..] {
            let Content::Frame { messages, .. } = replay.apply(Kind::Wallet, record).unwrap().content else { panic!() };
            assert!(messages.iter().all(|handled| handled.waits && handled.sent.is_empty()), "{messages:?}");
        }
        assert_eq!(balance(&replay), Some(100));
        let parked = &replay.parked()[&(Kind::Wallet, 0)];
        assert_eq!((parked.sequence, &parked.id), (2, &alice));
        assert!(parked.panic.starts_with("a stored row decodes"), "{parked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_entity_sends_is_numbered_in_the_order_of_its_log() {
        let log = MemoryLog::new(1, Arc::new(Calm));
        log.store(Kind::Wallet, 0, frame(DOOR, 1, vec![wallet::Message::Open { balance: money(100) }]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 1, vec![charge("o-1", 10), charge("o-2", 200)]));
        log.store(Kind::Wallet, 0, frame(ORDERS, 3, vec![charge("o-3", 90)]));
        let (replay, steps) = replay(&log);
        assert_eq!(balance(&replay), Some(0));
        let sent: Vec<_> = steps
            .iter()
            .flat_map(|step| match &step.content {
                Content::Frame { messages, .. } => messages.iter().flat_map(|handled| &handled.sent).collect(),
                Content::Dead { .. } | Content::Upgrade(_) => vec![],
            })
            .map(|sent| {
                (sent.number, sent.envelope.to.as_str(), sent.envelope.message == order::Message::Charged.into())
            })
            .collect();
        assert_eq!(sent, [(1, "o-1", true), (2, "o-2", false), (3, "o-3", true)]);
    }
}
