//! One entity as a ractor actor: holds the state, handles what its mailbox brings.

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
use tokio::sync::mpsc;

use crate::memory::Changed;

/// Where a message stands in the log: the sequence of its frame, and its place in the frame.
pub type Position = (u64, usize);

/// A message that a partition accepted.
#[derive(Debug)]
pub struct Input {
    /// Where it stands in the log.
    pub position: Position,
    /// When the log took it.
    pub now: Timestamp,
    /// How entities behave there.
    pub logic: Logic,
    /// The message.
    pub envelope: Envelope,
}

/// All that a round brings for one entity.
#[derive(Debug)]
pub struct Work {
    /// The messages, in the order of the log.
    pub inputs: Vec<Input>,
    /// The rows that they name.
    pub rows: Rows,
    /// Where the outcome goes. An actor that panics drops it, which tells.
    pub done: mpsc::Sender<Outcome>,
}

/// What an entity made of its work.
#[derive(Debug)]
pub struct Outcome {
    /// What changed.
    pub changed: Changed,
    /// What each message asked for.
    pub effects: Vec<(Position, Vec<Effect>)>,
}

/// The actor of one entity.
#[derive(Debug)]
pub struct EntityActor;

/// What the actor starts from.
#[derive(Debug)]
pub struct Start {
    /// What it is.
    pub kind: Kind,
    /// Which one it is.
    pub id: Id,
    /// Its state, unless nobody has written to it yet.
    pub state: Option<Bytes>,
}

/// What the actor holds.
#[derive(Debug)]
pub struct Held {
    id: Id,
    state: State,
    /// The state as it was last handed to the partition.
    stored: Bytes,
}

impl Actor for EntityActor {
    type Msg = Work;
    type State = Held;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<Work>, start: Start) -> Result<Held, ActorProcessingErr> {
        let Start { kind, id, state } = start;
        let (state, stored) = match state {
            Some(bytes) => (State::decode(kind, &bytes)?, bytes),
            None => (State::absent(kind), State::absent(kind).encode().into()),
        };
        Ok(Held { id, state, stored })
    }

    async fn handle(&self, _: ActorRef<Work>, work: Work, held: &mut Held) -> Result<(), ActorProcessingErr> {
        let Work { inputs, mut rows, done } = work;
        let effects = inputs
            .into_iter()
            .map(|Input { position, now, logic, envelope }| {
                (position, held.state.handle(envelope, now, logic, &mut rows))
            })
            .collect();
        let rows = rows.into_changed().map(|(row, bytes)| (row, bytes.into())).collect();
        let encoded = Bytes::from(held.state.encode());
        let state = (encoded != held.stored).then(|| encoded.clone());
        held.stored = encoded;
        let changed = Changed { id: held.id.clone(), state, rows };
        // The partition has room for every outcome; it is gone only when it is being stopped.
        let _ = done.try_send(Outcome { changed, effects });
        Ok(())
    }
}
