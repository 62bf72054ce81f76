//! What changed between two checkpoints, by entity.

use std::collections::BTreeMap;

use bytes::Bytes;
use foldhash::HashMap;
use shop_domain::{id::Id, rows::RowKey};

/// The newest states and rows of the entities that changed.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    entities: HashMap<Id, Change>,
}

/// What changed of one entity.
#[derive(Clone, Debug, Default)]
struct Change {
    state: Option<Bytes>,
    rows: BTreeMap<RowKey, Bytes>,
}

/// What one entity changed in one round.
#[derive(Debug)]
pub struct Changed {
    /// The entity.
    pub id: Id,
    /// Its new state, unless that is as it was.
    pub state: Option<Bytes>,
    /// The rows that it wrote.
    pub rows: Vec<(RowKey, Bytes)>,
}

impl Delta {
    /// Takes in what an entity changed later than all that is in here.
    pub fn insert(&mut self, Changed { id, state, rows }: Changed) {
        if state.is_none() && rows.is_empty() {
            return;
        }
        let change = self.entities.entry(id).or_default();
        change.rows.extend(rows);
        if state.is_some() {
            change.state = state;
        }
    }

    /// An entity's state, if it changed.
    pub fn state(&self, id: &Id) -> Option<&Bytes> {
        self.entities.get(id)?.state.as_ref()
    }

    /// One row of an entity, if it changed.
    pub fn row(&self, id: &Id, row: &str) -> Option<&Bytes> {
        self.entities.get(id)?.rows.get(row)
    }

    /// All states that changed, in no order.
    pub fn states(&self) -> impl Iterator<Item = (&Id, &Bytes)> {
        self.entities.iter().filter_map(|(id, change)| Some((id, change.state.as_ref()?)))
    }

    /// All rows that changed, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&Id, &RowKey, &Bytes)> {
        self.entities.iter().flat_map(|(id, change)| change.rows.iter().map(move |(row, bytes)| (id, row, bytes)))
    }

    /// The rows of an entity that changed and whose keys begin with `prefix`, in their order.
    pub fn rows_of(&self, id: &Id, prefix: &str) -> impl Iterator<Item = (&RowKey, &Bytes)> {
        let rows = self.entities.get(id).map(|change| change.rows.range(RowKey::from(prefix)..));
        rows.into_iter().flatten().take_while(move |(row, _)| row.starts_with(prefix))
    }
}

impl FromIterator<Changed> for Delta {
    fn from_iter<I: IntoIterator<Item = Changed>>(changed: I) -> Self {
        let mut changes = Self::default();
        changed.into_iter().for_each(|changed| changes.insert(changed));
        changes
    }
}
