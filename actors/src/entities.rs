//! The entities of one partition: activated by their first message, passivated when others are
//! used more, and all at work at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use ractor::{ActorRef, ActorRuntime};
use shop_domain::{
    entity::{self, Effect},
    id::Id,
    kind::Kind,
    rows::Rows,
};
use tokio::sync::mpsc;

use crate::{
    entity_actor::{EntityActor, Input, Outcome, Position, Start, Work},
    memory::{Changed, Look, Memory},
    store::StoreError,
};

/// Most entities of one partition that are active at a time, about 3 KB each. The least recently
/// used is passivated: its state is in memory or in the checkpoint, so stopping it loses nothing.
const ACTIVE_MAX: NonZeroUsize = NonZeroUsize::new(2_048).expect("not zero");

/// The actors of one partition.
#[derive(Debug)]
pub struct Entities {
    kind: Kind,
    memory: Arc<Memory>,
    active: LruCache<Id, ActorRef<Work>>,
}

/// What a round made.
#[derive(Debug)]
pub struct Applied {
    /// What changed, by entity.
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
        Self { kind, memory, active: LruCache::unbounded() }
    }

    /// Applies a round: one mailbox message per touched entity, all entities at once.
    pub async fn apply(&mut self, inputs: Vec<Input>) -> Result<Applied, ApplyError> {
        let last = inputs.last().map_or(0, |input| input.position.0);
        let mut by_entity: BTreeMap<Id, Vec<Input>> = BTreeMap::new();
        for input in inputs {
            by_entity.entry(input.envelope.to.clone()).or_default().push(input);
        }
        let mut waiting: BTreeMap<Id, u64> = BTreeMap::new();
        let (done, mut outcomes) = mpsc::channel(by_entity.len().max(1));
        let memory = Arc::clone(&self.memory);
        memory.look(|look| {
            for (id, inputs) in by_entity {
                let rows = load_rows(look, &id, &inputs)?;
                waiting.insert(id.clone(), inputs.first().map_or(0, |input| input.position.0));
                let actor = self.activate(look, id)?;
                // An actor that ended takes no message: its outcome is missed below.
                let _ = actor.send_message(Work { inputs, rows, done: done.clone() });
            }
            Ok(())
        })?;
        drop(done);
        let mut changed = Vec::with_capacity(waiting.len());
        let mut effects: Vec<(Position, Vec<Effect>)> = Vec::new();
        while let Some(Outcome { changed: change, effects: more }) = outcomes.recv().await {
            waiting.remove(&change.id);
            changed.push(change);
            effects.extend(more);
        }
        if let Some((id, sequence)) = waiting.pop_first() {
            return Err(ApplyError::Panicked { kind: self.kind, id, sequence, last });
        }
        self.passivate();
        // Which entity was done first is chance; the order of the log is not.
        effects.sort_unstable_by_key(|(position, _)| *position);
        changed.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(Applied { changed, effects: effects.into_iter().flat_map(|(_, effects)| effects).collect() })
    }

    fn activate(&mut self, look: &Look<'_>, id: Id) -> Result<&ActorRef<Work>, StoreError> {
        if !self.active.contains(&id) {
            let start = Start { kind: self.kind, id: id.clone(), state: look.state(&id)? };
            // Without a name nothing can be taken already, and without a name it cannot fail.
            let (actor, _) = ActorRuntime::spawn_instant(None, EntityActor, start).expect("an unnamed actor spawns");
            self.active.put(id.clone(), actor);
        }
        Ok(self.active.get(&id).expect("it was just put there"))
    }

    /// How many are active.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    fn passivate(&mut self) {
        while self.active.len() > ACTIVE_MAX.get() {
            if let Some((_, actor)) = self.active.pop_lru() {
                actor.stop(None);
            }
        }
    }
}

impl Drop for Entities {
    fn drop(&mut self) {
        for (_, actor) in &self.active {
            actor.stop(None);
        }
    }
}

fn load_rows(look: &Look<'_>, id: &Id, inputs: &[Input]) -> Result<Rows, StoreError> {
    let mut rows = Rows::default();
    let named: BTreeSet<_> = inputs.iter().flat_map(|input| entity::rows(&input.envelope)).collect();
    for row in named {
        let bytes = look.row(id, &row)?.map(Vec::from);
        rows.load(row, bytes);
    }
    Ok(rows)
}
