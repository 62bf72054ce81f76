//! What a partition knows of the entities that it touched not long ago: their states, so that they
//! start again without a look into the checkpoint, and which actor they are.

use bytes::Bytes;
use lru::LruCache;
use shop_domain::id::Id;

/// Most bytes of one partition, some ten thousand wallets.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// About what an entry takes beside its id and its state.
const ENTRY_BYTES: usize = 160;

/// The entities that were touched last; those that were not touched for longest are forgotten.
#[derive(Debug)]
pub struct Cache {
    entities: LruCache<Id, Entity>,
    bytes: usize,
}

/// What is known of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entity {
    /// Its state, unless nobody has written to it yet.
    pub state: Option<Bytes>,
    /// The number of its actor, while it is active.
    pub actor: Option<usize>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { entities: LruCache::unbounded(), bytes: 0 }
    }
}

impl Cache {
    /// What is known of an entity that is being touched.
    pub fn get(&mut self, id: &Id) -> Option<&Entity> {
        self.entities.get(id)
    }

    /// Takes in all that is to be known of an entity.
    pub fn put(&mut self, id: Id, entity: Entity) {
        self.bytes += cost(&id, &entity);
        if let Some((id, replaced)) = self.entities.push(id, entity) {
            self.bytes -= cost(&id, &replaced);
        }
        self.forget();
    }

    /// Takes in an entity's new state. One that was forgotten meanwhile stays so.
    pub fn put_state(&mut self, id: &Id, state: &Bytes) {
        let Some(entity) = self.entities.peek_mut(id) else { return };
        self.bytes -= cost(id, entity);
        entity.state = Some(state.clone());
        self.bytes += cost(id, entity);
        self.forget();
    }

    /// That actor is not the entity's any more.
    pub fn passivate(&mut self, id: &Id, actor: usize) {
        if let Some(entity) = self.entities.peek_mut(id).filter(|entity| entity.actor == Some(actor)) {
            entity.actor = None;
        }
    }

    fn forget(&mut self) {
        while self.bytes > BYTES_MAX {
            let Some((id, entity)) = self.entities.pop_lru() else { break };
            self.bytes -= cost(&id, &entity);
        }
    }
}

fn cost(id: &Id, entity: &Entity) -> usize {
    id.as_str().len() + entity.state.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Id {
        format!("id-{number}").parse().unwrap()
    }

    fn with(state: impl Into<Bytes>) -> Entity {
        Entity { state: Some(state.into()), actor: None }
    }

    #[test]
    fn the_newest_state_is_known_until_others_need_the_room() {
        let mut known = Cache::default();
        known.put(id(0), with("old"));
        known.put_state(&id(0), &"new".into());
        assert_eq!(known.get(&id(0)), Some(&with("new")));
        let large = || with(vec![0; BYTES_MAX / 4]);
        (1..5).for_each(|number| known.put(id(number), large()));
        assert_eq!(known.get(&id(0)), None);
        assert_eq!(known.get(&id(1)), None);
        assert!((2..5).all(|number| known.get(&id(number)) == Some(&large())));
        known.put_state(&id(0), &"newer".into());
        assert_eq!(known.get(&id(0)), None);
        (2..5).for_each(|number| known.put(id(number), Entity::default()));
        assert_eq!(known.bytes, 3 * cost(&id(2), &Entity::default()));
    }

    #[test]
    fn an_entity_that_is_passivated_keeps_its_state() {
        let mut known = Cache::default();
        known.put(id(0), Entity { actor: Some(7), ..with("state") });
        known.passivate(&id(0), 8);
        assert_eq!(known.get(&id(0)).unwrap().actor, Some(7));
        known.passivate(&id(0), 7);
        assert_eq!(known.get(&id(0)), Some(&with("state")));
    }
}
