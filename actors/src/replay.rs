//! The replay: entities as the logs make them, in memory, without a host.
//!
//! It accepts messages by the same [`Links`], handles them with the same domain code, and numbers
//! what they send in the same way as a partition does; so what a healthy host knows and has sent
//! is what comes out here. A host handles messages in rounds, the replay one by one: which is the
//! same, because a message is handled with what all those before it have made.
//!
//! A partition whose entity panics is parked there, as on a host: what comes behind it waits.
//!
//! Owns accepting and applying. Must not send, answer or store anything.

use std::{
    any::Any,
    collections::BTreeMap,
    hash::Hasher,
    panic::{AssertUnwindSafe, catch_unwind},
};

use shop_domain::{
    entity::{self, Effect, Reply, State},
    id::Id,
    kind::Kind,
    logic::{Logic, UnknownLogic},
    message::Envelope,
    rows::{RowKey, Rows, decode_row},
    timestamp::Timestamp,
};
use shop_nats::{
    frame::{Frame, Payload, Source},
    log::Record,
    subject::partition_of,
};

use crate::{
    link::{Links, Target},
    outbox::Logs,
    partition::OTHER_PARTITION,
};

/// The entities of some kinds, and the links between their partitions.
#[derive(Debug)]
pub struct Replay {
    logs: Logs,
    links: Acceptor,
    /// As on a host, an entity belongs to the partition that its messages came to.
    entities: BTreeMap<Place, BTreeMap<Id, Entity>>,
    parked: BTreeMap<Place, Parked>,
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

/// One entity.
#[derive(Debug)]
pub struct Entity {
    /// Its state.
    pub state: State,
    rows: BTreeMap<RowKey, Vec<u8>>,
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
    /// When the log took it.
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
    pub to: Place,
    /// Its number on the link to there.
    pub number: u64,
    /// To whom, and what.
    pub envelope: Envelope,
}

/// The receiving ends of all links: tells what a partition lets in, without handling it.
#[derive(Clone, Debug)]
pub struct Acceptor {
    logs: Logs,
    links: BTreeMap<Place, Links>,
    /// Of the partitions that were upgraded.
    logic: BTreeMap<Place, Logic>,
}

/// A partition of a kind.
pub type Place = (Kind, u16);

impl Replay {
    /// Nothing has happened yet.
    pub fn new(logs: Logs) -> Self {
        Self { links: Acceptor::new(logs.clone()), logs, entities: BTreeMap::new(), parked: BTreeMap::new() }
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
        let Step { sequence, partition, time, content, .. } = self.links.read(kind, record)?;
        let unknown = |unknown| ReplayError { kind, sequence, unknown };
        let content = match content {
            Content::Upgrade(logic) => Content::Upgrade(logic),
            Content::Dead { reason, bytes } => Content::Dead { reason, bytes },
            Content::Frame { source, messages } => {
                let logic = self.links.logic((kind, partition)).map_err(unknown)?;
                let mut handle = |arrival| {
                    let handled = self.handle((kind, partition), sequence, time, logic, arrival);
                    let entities = self.entities.get(&(kind, partition));
                    let entity = entities.and_then(|entities| entities.get(&handled.arrival.envelope.to));
                    look(handled, entity)
                };
                Content::Frame { source, messages: messages.into_iter().map(&mut handle).collect() }
            }
        };
        Ok(Step { kind, sequence, partition, time, content })
    }

    /// An entity that a message has come to.
    pub fn entity(&self, kind: Kind, id: &Id) -> Option<&Entity> {
        let partition = partition_of(id, self.logs.get(&kind)?.partitions);
        self.entities.get(&(kind, partition))?.get(id)
    }

    /// All entities of a kind that a message has come to, by partition and id.
    pub fn entities(&self, kind: Kind) -> impl Iterator<Item = (u16, &Id, &Entity)> {
        let partitions = self.entities.iter().filter(move |((of, _), _)| *of == kind);
        partitions.flat_map(|((_, partition), entities)| entities.iter().map(|(id, entity)| (*partition, id, entity)))
    }

    /// The partitions that are parked.
    pub fn parked(&self) -> &BTreeMap<Place, Parked> {
        &self.parked
    }

    fn handle(&mut self, at: Place, sequence: u64, now: Timestamp, logic: Logic, arrival: Arrival) -> Handled {
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
                    let (partitions, epoch) = self.logs.get(&kind).map_or((1, 0), |log| (log.partitions, log.epoch));
                    let partition = partition_of(&envelope.to, partitions);
                    let number = self.links.of(at).number(Target { kind, partition, epoch }, 1);
                    handled.sent.push(Sent { to: (kind, partition), number, envelope });
                }
            }
        }
        handled
    }
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
        self.rows.get(key).map(|bytes| decode_row(bytes))
    }

    /// Its rows whose keys begin with `prefix`, by key; the keys come without the prefix.
    pub fn rows<'a, T: serde::de::DeserializeOwned>(
        &'a self,
        prefix: &'a str,
    ) -> impl DoubleEndedIterator<Item = (&'a str, T)> {
        let rows = self.rows.iter().filter_map(move |(key, bytes)| Some((key.strip_prefix(prefix)?, bytes)));
        rows.map(|(key, bytes)| (key, decode_row(bytes)))
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

impl Acceptor {
    /// Nothing has come yet.
    pub fn new(logs: Logs) -> Self {
        Self { logs, links: BTreeMap::new(), logic: BTreeMap::new() }
    }

    /// Reads the next record of a kind's log.
    pub fn read(&mut self, kind: Kind, record: &Record) -> Result<Step<Arrival>, ReplayError> {
        let Record { sequence, partition, time, payload } = record;
        let unknown = |unknown| ReplayError { kind, sequence: *sequence, unknown };
        let content = match Payload::decode(kind, payload) {
            Err(error) => Content::Dead { reason: error.to_string(), bytes: payload.len() },
            Ok(Payload::Upgrade(upgrade)) => {
                let place = (kind, *partition);
                let logic = Logic::try_from(upgrade.logic).map_err(unknown)?.max(self.logic(place).map_err(unknown)?);
                self.logic.insert(place, logic);
                Content::Upgrade(logic)
            }
            Ok(Payload::Frame(frame)) if !self.is_for(&frame, (kind, *partition)) => {
                Content::Dead { reason: OTHER_PARTITION.into(), bytes: payload.len() }
            }
            Ok(Payload::Frame(Frame { source, first, messages })) => {
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
        Ok(Step { kind, sequence: *sequence, partition: *partition, time: *time, content })
    }

    /// How the entities of a partition behave now.
    fn logic(&self, place: Place) -> Result<Logic, UnknownLogic> {
        let began_with = || Logic::try_from(self.logs.get(&place.0).map_or(Logic::NEWEST.number(), |log| log.logic));
        self.logic.get(&place).copied().map_or_else(began_with, Ok)
    }

    /// The number of the last message that a partition has accepted from a source.
    pub fn accepted(&self, partition: Place, source: Source) -> u64 {
        self.links.get(&partition).map_or(0, |links| links.accepted(source))
    }

    fn is_for(&self, frame: &Frame, (kind, partition): Place) -> bool {
        let partitions = self.logs.get(&kind).map_or(1, |log| log.partitions);
        frame.messages.iter().all(|envelope| partition_of(&envelope.to, partitions) == partition)
    }

    fn of(&mut self, partition: Place) -> &mut Links {
        self.links.entry(partition).or_default()
    }
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
        frame::{self, EncodedMessage, Origin},
        log::Identity,
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
        let (first_sequence, last_sequence) = (1, 0);
        let identity =
            Identity { created_unix_ns: 0, epoch: 7, partitions: 1, logic: 1, first_sequence, last_sequence };
        let logs = Kind::ALL.map(|kind| (kind, identity)).into();
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
