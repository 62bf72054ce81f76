//! The entities of one partition: activated by their first message, passivated when others are
//! used more, and all at work at once.

use std::{collections::hash_map::Entry, sync::Arc};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use lru::LruCache;
use ractor::{ActorRef, ActorRuntime};
use shop_domain::{
    entity::{self, Effect},
    id::Id,
    kind::Kind,
    rows::Rows,
};

use crate::{
    changes::Changed,
    entity_actor::{EntityActor, Input, Outcome, Outcomes, Position, Start, Work},
    memory::{Look, Memory},
    passive::Passive,
    store::StoreError,
};

/// Most entities of one partition that are active at a time, about 10 KB each. The least recently
/// used is passivated: its state is in memory or in the checkpoint, so nothing is lost when its
/// actor goes to another entity. More would not stay in a processor's cache.
const ACTIVE_MAX: usize = 512;

/// The actors of one partition.
#[derive(Debug)]
pub struct Entities {
    kind: Kind,
    memory: Arc<Memory>,
    active: LruCache<Id, Active>,
    passive: Passive,
}

/// An entity at work.
#[derive(Debug)]
struct Active {
    actor: ActorRef<Work>,
    /// Its state behind the last round, if there is one.
    state: Option<Bytes>,
}

/// What a round made.
#[derive(Debug)]
pub struct Applied {
    /// What changed, one for each entity, in no order.
    pub changed: Vec<Changed>,
    /// What the messages asked for, in the order of the log.
    pub effects: Vec<Effect>,
}

/// Why a round could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An entity panicked, which is a bug.
    #[error("{kind} {id} panicked while it handled the messages at sequence {sequence}")]
    Panicked {
        /// What it is.
        kind: Kind,
        /// Which one.
        id: Id,
        /// The first message that it was given.
        sequence: u64,
        /// The last message of the round.
        last: u64,
    },
    /// Its state or rows could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Entities {
    /// No actor is active yet.
    pub fn new(kind: Kind, memory: Arc<Memory>) -> Self {
        Self { kind, memory, active: LruCache::unbounded(), passive: Passive::default() }
    }

    /// Applies a round: one mailbox message per touched entity, all entities at once.
    pub async fn apply(&mut self, inputs: Vec<Input>) -> Result<Applied, ApplyError> {
        let last = inputs.last().map_or(0, |input| input.position.0);
        let by_entity = by_entity(inputs);
        let mut touched: Vec<(Id, u64)> = Vec::with_capacity(by_entity.len());
        let (done, outcomes) = Outcomes::new(by_entity.len());
        let memory = Arc::clone(&self.memory);
        memory.look(|look| {
            for (id, inputs) in by_entity {
                let rows = load_rows(look, &id, &inputs)?;
                touched.push((id.clone(), inputs.first().map_or(0, |input| input.position.0)));
                let (actor, start) = self.activate(look, id)?;
                // An actor that ended takes no message: its outcome is missed below.
                let _ = actor.send_message(Work { start, inputs, rows, done: Arc::clone(&done) });
            }
            Ok(())
        })?;
        drop(done);
        let mut changed = Vec::with_capacity(touched.len());
        let mut effects: Vec<(Position, Vec<Effect>)> = Vec::new();
        for Outcome { changed: change, effects: more } in outcomes.await.unwrap_or_default() {
            self.know(&change);
            changed.push(change);
            effects.extend(more);
        }
        if changed.len() < touched.len() {
            let is_done = |id: &Id| changed.iter().any(|change| change.id == *id);
            if let Some((id, sequence)) = touched.into_iter().filter(|(id, _)| !is_done(id)).min() {
                return Err(ApplyError::Panicked { kind: self.kind, id, sequence, last });
            }
        }
        // Which entity was done first is chance; the order of the log is not.
        effects.sort_unstable_by_key(|(position, _)| *position);
        Ok(Applied { changed, effects: effects.into_iter().flat_map(|(_, effects)| effects).collect() })
    }

    /// The entity's actor, and what it is to start from if it was not active.
    fn activate(&mut self, look: &Look<'_>, id: Id) -> Result<(&ActorRef<Work>, Option<Start>), StoreError> {
        let mut start = None;
        if !self.active.contains(&id) {
            let known = self.passive.take(&id);
            let state = if known.is_some() { known } else { look.state(&id)? };
            // What another entity of this round has in its mailbox comes before the start.
            let left = if self.active.len() < ACTIVE_MAX { None } else { self.active.pop_lru() };
            let actor = match left {
                Some((other, Active { actor, state })) => {
                    state.into_iter().for_each(|state| self.passive.put(other.clone(), state));
                    actor
                }
                None => spawn(),
            };
            start = Some(Start { kind: self.kind, id: id.clone(), state: state.clone() });
            self.active.put(id.clone(), Active { actor, state });
        }
        let active = self.active.get(&id).expect("it was just put there");
        Ok((&active.actor, start))
    }

    /// Remembers an entity's new state for when it is activated again.
    fn know(&mut self, Changed { id, state, .. }: &Changed) {
        let Some(state) = state else { return };
        match self.active.peek_mut(id) {
            Some(active) => active.state = Some(state.clone()),
            // It was passivated by another entity of the same round.
            None => self.passive.put(id.clone(), state.clone()),
        }
    }

    /// How many are active.
    pub fn active(&self) -> usize {
        self.active.len()
    }
}

impl Drop for Entities {
    fn drop(&mut self) {
        for (_, active) in &self.active {
            active.actor.stop(None);
        }
    }
}

fn spawn() -> ActorRef<Work> {
    // Without a name nothing can be taken already, and without a name it cannot fail.
    let (actor, _) = ActorRuntime::spawn_instant(None, EntityActor, ()).expect("an unnamed actor spawns");
    actor
}

/// The messages of each entity, in the order of the log.
fn by_entity(inputs: Vec<Input>) -> Vec<(Id, Vec<Input>)> {
    let mut places: HashMap<Id, usize> = HashMap::with_capacity(inputs.len());
    let mut grouped: Vec<(Id, Vec<Input>)> = Vec::with_capacity(inputs.len());
    for input in inputs {
        match places.entry(input.envelope.to.clone()) {
            Entry::Occupied(place) => grouped[*place.get()].1.push(input),
            Entry::Vacant(place) => {
                grouped.push((place.key().clone(), vec![input]));
                place.insert(grouped.len() - 1);
            }
        }
    }
    grouped
}

fn load_rows(look: &Look<'_>, id: &Id, inputs: &[Input]) -> Result<Rows, StoreError> {
    let mut rows = Rows::default();
    for row in inputs.iter().flat_map(|input| entity::rows(&input.envelope)) {
        if !rows.is_loaded(&row) {
            let bytes = look.row(id, &row)?.map(Vec::from);
            rows.load(row, bytes);
        }
    }
    Ok(rows)
}
