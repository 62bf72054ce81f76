//! One entity as a ractor actor: holds the state, handles what its mailbox brings.
//!
//! An entity that is used no more leaves its actor to the next one, because starting an actor costs
//! more than all the messages of an order.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use shop_domain::{
    entity::{Effect, State},
    id::Id,
    kind::Kind,
    logic::Logic,
    message::Envelope,
    rows::Rows,
    timestamp::Timestamp,
};
use tokio::sync::oneshot;

use crate::store::delta::Changed;

/// Where a message stands in the log: the sequence of its frame, and its place in the frame.
pub type Position = (u64, usize);

/// A message that a partition accepted.
#[derive(Debug)]
pub struct Input {
    /// Where it stands in the log.
    pub position: Position,
    /// When that is, by the partition's clock.
    pub now: Timestamp,
    /// How entities behave there.
    pub logic: Logic,
    /// The message.
    pub envelope: Envelope,
}

/// All that a round brings for one entity.
#[derive(Debug)]
pub struct Work {
    /// The entity, when the actor was another one's before, or nobody's.
    pub start: Option<Start>,
    /// The messages, in the order of the log.
    pub inputs: Vec<Input>,
    /// The rows that they name.
    pub rows: Rows,
    /// Where the outcome goes. An actor that panics drops it, which tells.
    pub done: Arc<Outcomes>,
}

/// What an entity made of its work.
#[derive(Debug)]
pub struct Outcome {
    /// What changed.
    pub changed: Changed,
    /// What each message asked for.
    pub effects: Vec<(Position, Vec<Effect>)>,
}

/// Where all entities of a round put their outcomes. The partition is woken once, with all of them,
/// when the last entity is done.
#[derive(Debug)]
pub struct Outcomes {
    outcomes: Mutex<Vec<Outcome>>,
    complete: Option<oneshot::Sender<Vec<Outcome>>>,
}

impl Outcomes {
    /// Room for so many outcomes, and where they come out once nobody holds it any more.
    pub fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Outcome>>) {
        let (complete, outcomes) = oneshot::channel();
        (Arc::new(Self { outcomes: Mutex::new(Vec::with_capacity(count)), complete: Some(complete) }), outcomes)
    }

    fn push(&self, outcome: Outcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        let outcomes = std::mem::take(self.outcomes.get_mut().unwrap_or_else(PoisonError::into_inner));
        // The partition is gone only when it is being stopped.
        let _ = self.complete.take().map(|complete| complete.send(outcomes));
    }
}

/// The actor of one entity.
#[derive(Debug)]
pub struct EntityActor;

/// What an entity starts from.
#[derive(Debug)]
pub struct Start {
    /// What it is.
    pub kind: Kind,
    /// Which one it is.
    pub id: Id,
    /// Its state, unless nobody has written to it yet.
    pub state: Option<Bytes>,
}

/// What the actor holds of its entity.
#[derive(Debug)]
pub struct Held {
    id: Id,
    state: State,
    /// The state as it was last handed to the partition.
    stored: Bytes,
}

impl TryFrom<Start> for Held {
    type Error = rmp_serde::decode::Error;

    fn try_from(Start { kind, id, state }: Start) -> Result<Self, Self::Error> {
        let (state, stored) = match state {
            Some(bytes) => (State::decode(kind, &bytes)?, bytes),
            None => (State::absent(kind), State::absent(kind).encode().into()),
        };
        Ok(Self { id, state, stored })
    }
}

impl Actor for EntityActor {
    type Msg = Work;
    type State = Option<Held>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Work>, (): ()) -> Result<Option<Held>, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(&self, _: ActorRef<Work>, work: Work, held: &mut Option<Held>) -> Result<(), ActorProcessingErr> {
        let Work { start, inputs, mut rows, done } = work;
        if let Some(start) = start {
            *held = Some(start.try_into()?);
        }
        let Held { id, state, stored } = held.as_mut().ok_or("an actor without entity was given work")?;
        let effects = inputs
            .into_iter()
            .map(|Input { position, now, logic, envelope }| (position, state.handle(envelope, now, logic, &mut rows)))
            .collect();
        let rows = rows.into_changed().map(|(row, bytes)| (row, bytes.into())).collect();
        let encoded = Bytes::from(state.encode());
        let state = (encoded != *stored).then(|| encoded.clone());
        *stored = encoded;
        let changed = Changed { id: id.clone(), state, rows };
        done.push(Outcome { changed, effects });
        Ok(())
    }
}
