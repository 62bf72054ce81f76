//! From where to where the keys of a run go, sort by sort. Ids of orders grow with time, and so do the
//! keys of the rows that name them: nearly all runs end before what is new.

use serde::{Deserialize, Serialize};

use super::key;

/// The bounds of a run's keys: one for each sort that it has, which are few.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Bounds(Vec<Bound>);

/// What bounds look at of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    sort: u64,
    id: Beginning,
    row: Beginning,
}

/// The first and the last of the keys of one sort.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bound {
    sort: u64,
    ids: (Beginning, Beginning),
    rows: (Beginning, Beginning),
}

/// The first 16 bytes of something as a number, the first byte the most significant: of two that
/// differ, the smaller one has no larger number.
type Beginning = u128;

impl Shape {
    /// The shape of a key. Its sort is what its row's key has up to the first slash, as far as eight bytes of it
    /// tell; two sorts that they do not tell apart share their bounds.
    pub(super) fn of(key: &[u8]) -> Self {
        let (id, row) = key::parts(key);
        let (sort, row) = row.split_at(row.iter().position(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
        Self { sort: (beginning(sort) >> 64) as u64, id: beginning(id), row: beginning(row) }
    }
}

impl Bounds {
    /// Whether a key of that shape may be in the run.
    pub(super) fn may_hold(&self, shape: Shape) -> bool {
        let within = |(first, last): (Beginning, Beginning), it| first <= it && it <= last;
        let bound = self.0.iter().find(|bound| bound.sort == shape.sort);
        bound.is_some_and(|bound| within(bound.ids, shape.id) && within(bound.rows, shape.row))
    }

    /// The bounds of all that these are the bounds of.
    pub(super) fn around<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut around = Self::default();
        all.into_iter().flat_map(|bounds| &bounds.0).for_each(|bound| around.widen(*bound));
        around
    }

    /// Takes in a key of that shape.
    pub(super) fn extend(&mut self, Shape { sort, id, row }: Shape) {
        self.widen(Bound { sort, ids: (id, id), rows: (row, row) });
    }

    fn widen(&mut self, other: Bound) {
        let wider =
            |one: (Beginning, Beginning), other: (Beginning, Beginning)| (one.0.min(other.0), one.1.max(other.1));
        match self.0.iter_mut().find(|bound| bound.sort == other.sort) {
            Some(bound) => (bound.ids, bound.rows) = (wider(bound.ids, other.ids), wider(bound.rows, other.rows)),
            None => self.0.push(other),
        }
    }
}

impl FromIterator<Shape> for Bounds {
    fn from_iter<I: IntoIterator<Item = Shape>>(shapes: I) -> Self {
        let mut bounds = Self::default();
        shapes.into_iter().for_each(|shape| bounds.extend(shape));
        bounds
    }
}

fn beginning(bytes: &[u8]) -> Beginning {
    let mut first = [0; 16];
    let length = bytes.len().min(16);
    first[..length].copy_from_slice(&bytes[..length]);
    Beginning::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use shop_domain::id::Id;

    use super::*;

    fn state(id: &str) -> Vec<u8> {
        key::of_state(&id.parse().unwrap())
    }

    fn row(id: &str, row: &str) -> Vec<u8> {
        let id: Id = id.parse().unwrap();
        key::of_row(&id, row)
    }

    #[test]
    fn a_run_may_hold_what_it_holds_and_what_is_in_between_but_nothing_else() {
        let held = [state("carol"), row("bob", "charge/o-3"), row("dave", "charge/o-5"), row("bob", "entry/7")];
        let [one, other] = [&held[..2], &held[2..]].map(|held| held.iter().map(|key| Shape::of(key)).collect());
        let bounds = Bounds::around([&one, &other]);
        let may_hold = |key: &[u8]| bounds.may_hold(Shape::of(key));
        assert!(held.iter().all(|key| may_hold(key)));
        assert!(may_hold(&row("carol", "charge/o-4")));
        for key in [state("bob"), state("carola"), row("alice", "charge/o-4"), row("carol", "charge/o-6")] {
            assert!(!may_hold(&key), "{key:?}");
        }
        for key in [row("bob", "entry/6"), row("bob", "answer/o-4"), row("bob", "charge"), row("bob", "")] {
            assert!(!may_hold(&key), "{key:?}");
        }
    }

    #[test]
    fn what_sixteen_bytes_do_not_tell_apart_may_be_there() {
        let held = Shape::of(&row("0123456789abcdef-1", "a-sort-of-rows/0123456789abcdef-1"));
        let bounds = Bounds::from_iter([held]);
        assert!(bounds.may_hold(Shape::of(&row("0123456789abcdef-2", "a-sort-of-rows/0123456789abcdef"))));
        assert!(bounds.may_hold(Shape::of(&row("0123456789abcdef", "a-sort-of-other/0123456789abcdef"))));
    }
}
