//! The entities of one partition: activated by their first message, passivated when others are
//! used more, and all at work at once.

use std::{collections::hash_map::Entry, sync::Arc};

use foldhash::{HashMap, HashMapExt};
use ractor::{ActorRef, ActorRuntime};
use shop_domain::{
    entity::{self, Effect},
    id::Id,
    kind::Kind,
    rows::Rows,
};

use crate::{
    partition::{
        cache::{self, Cache},
        entity_actor::{EntityActor, Input, Outcome, Outcomes, Position, Start, Work},
        overlay::{Look, Overlay},
    },
    store::{StoreError, delta::Changed},
};

/// Most entities of one partition that are active at a time, about 10 KB each. One that was not used
/// of late is passivated: its state is in memory or in the checkpoint, so nothing is lost when its
/// actor goes to another entity. More actors would not stay in a processor's cache.
const ACTIVE_MAX: usize = 128;

/// The actors of one partition.
#[derive(Debug)]
pub struct Entities {
    kind: Kind,
    overlay: Arc<Overlay>,
    cache: Cache,
    active: Vec<Active>,
    /// The actor that is looked at next when one is needed.
    hand: usize,
}

/// An entity at work.
#[derive(Debug)]
struct Active {
    actor: ActorRef<Work>,
    id: Id,
    /// Whether it was used since the hand passed.
    was_used: bool,
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
    pub fn new(kind: Kind, overlay: Arc<Overlay>) -> Self {
        Self { kind, overlay, cache: Cache::default(), active: Vec::new(), hand: 0 }
    }

    /// Applies a round: one mailbox message per touched entity, all entities at once.
    pub async fn apply(&mut self, inputs: Vec<Input>) -> Result<Applied, ApplyError> {
        let last = inputs.last().map_or(0, |input| input.position.0);
        let by_entity = by_entity(inputs);
        let mut touched: Vec<(Id, u64)> = Vec::with_capacity(by_entity.len());
        let (done, outcomes) = Outcomes::new(by_entity.len());
        let overlay = Arc::clone(&self.overlay);
        overlay.look(|look| {
            for (id, inputs) in by_entity {
                let rows = load_rows(look, &id, &inputs)?;
                let (actor, start) = self.activate(look, &id)?;
                touched.push((id, inputs.first().map_or(0, |input| input.position.0)));
                // An actor that ended takes no message: its outcome is missed below.
                let _ = actor.send_message(Work { start, inputs, rows, done: Arc::clone(&done) });
            }
            Ok(())
        })?;
        drop(done);
        let mut changed = Vec::with_capacity(touched.len());
        let mut effects: Vec<(Position, Vec<Effect>)> = Vec::new();
        for Outcome { changed: change, effects: more } in outcomes.await.unwrap_or_default() {
            if let Some(state) = &change.state {
                self.cache.put_state(&change.id, state);
            }
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
    fn activate(&mut self, look: &Look<'_>, id: &Id) -> Result<(&ActorRef<Work>, Option<Start>), StoreError> {
        let state = match self.cache.get(id) {
            Some(cache::Entity { actor: Some(number), .. }) => {
                let active = &mut self.active[*number];
                active.was_used = true;
                return Ok((&active.actor, None));
            }
            Some(cache::Entity { state, actor: None }) => state.clone(),
            None => look.state(id)?,
        };
        let number = self.actor_for(id);
        self.cache.put(id.clone(), cache::Entity { state: state.clone(), actor: Some(number) });
        Ok((&self.active[number].actor, Some(Start { kind: self.kind, id: id.clone(), state })))
    }

    /// An actor for an entity: a new one, or that of an entity that was not used since the hand came by
    /// ("clock", or second chance: Corbató, "A Paging Experiment with the Multics System", 1968).
    fn actor_for(&mut self, id: &Id) -> usize {
        if self.active.len() < ACTIVE_MAX {
            self.active.push(Active { actor: spawn(), id: id.clone(), was_used: true });
            return self.active.len() - 1;
        }
        while std::mem::take(&mut self.active[self.hand].was_used) {
            self.hand = (self.hand + 1) % ACTIVE_MAX;
        }
        let number = self.hand;
        self.hand = (number + 1) % ACTIVE_MAX;
        let active = &mut self.active[number];
        // What the other entity still has in the mailbox comes before the start of this one.
        let other = std::mem::replace(&mut active.id, id.clone());
        active.was_used = true;
        self.cache.passivate(&other, number);
        number
    }

    /// How many are active.
    pub fn active(&self) -> usize {
        self.active.len()
    }
}

impl Drop for Entities {
    fn drop(&mut self) {
        for active in &self.active {
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
