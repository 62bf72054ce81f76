//! States of entities that were active not long ago, so that they start again without a look into
//! the checkpoint.

use bytes::Bytes;
use lru::LruCache;
use shop_domain::id::Id;

/// Most bytes of one partition, some ten thousand wallets.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// About what an entry takes beside its id and its state.
const ENTRY_BYTES: usize = 160;

/// The newest states of entities that are not active; the least recently active are forgotten.
#[derive(Debug)]
pub struct Passive {
    states: LruCache<Id, Bytes>,
    bytes: usize,
}

impl Default for Passive {
    fn default() -> Self {
        Self { states: LruCache::unbounded(), bytes: 0 }
    }
}

impl Passive {
    /// Keeps an entity's state, in place of an older one.
    pub fn put(&mut self, id: Id, state: Bytes) {
        self.take(&id);
        self.bytes += cost(&id, &state);
        self.states.put(id, state);
        while self.bytes > BYTES_MAX {
            let Some((id, state)) = self.states.pop_lru() else { break };
            self.bytes -= cost(&id, &state);
        }
    }

    /// An entity's state, which is not kept any longer.
    pub fn take(&mut self, id: &Id) -> Option<Bytes> {
        let state = self.states.pop(id)?;
        self.bytes -= cost(id, &state);
        Some(state)
    }
}

fn cost(id: &Id, state: &Bytes) -> usize {
    id.as_str().len() + state.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_state_is_kept_until_others_need_the_room() {
        let mut passive = Passive::default();
        let id = |number: usize| format!("id-{number}").parse::<Id>().unwrap();
        passive.put(id(0), Bytes::from_static(b"old"));
        passive.put(id(0), Bytes::from_static(b"new"));
        assert_eq!(passive.take(&id(0)).as_deref(), Some(&b"new"[..]));
        assert_eq!(passive.take(&id(0)), None);
        let large = Bytes::from(vec![0; BYTES_MAX / 4]);
        (0..4).for_each(|number| passive.put(id(number), large.clone()));
        assert_eq!(passive.take(&id(0)), None);
        assert!((1..4).all(|number| passive.take(&id(number)).is_some()));
        assert_eq!(passive.bytes, 0);
    }
}
