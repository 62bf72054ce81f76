//! How snapshots are named: so that a list of names tells which is the newest, and of which log.

use std::fmt;

use object_store::path::Path;
use shop_domain::kind::Kind;

use crate::{link::NUMBER_MAX, store::Meta};
use shop_nats::log::PartitionId;

/// The name of a snapshot among those of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// See [`Meta::complete_to`]; not below the cursor.
    pub complete_to: u64,
    /// See [`Meta::cursor`].
    pub cursor: u64,
    /// The epoch of the log.
    pub epoch: u64,
}

impl Name {
    /// The name of the snapshot that goes up to there.
    pub fn of(meta: &Meta) -> Self {
        Self { complete_to: meta.needs_from() - 1, cursor: meta.cursor, epoch: meta.epoch }
    }

    /// The folder of all snapshots of a partition of a log.
    pub(super) fn folder((kind, partition): PartitionId, epoch: u64) -> Path {
        Path::from(format!("{kind}/{partition}/{epoch:016x}"))
    }

    /// Whether a path is that of something in the folder of some partition of a log.
    pub(super) fn is_of(path: &Path, kind: Kind, epoch: u64) -> bool {
        let partition = path.parts().nth(1).and_then(|part| part.as_ref().parse().ok());
        partition.is_some_and(|partition| path.prefix_matches(&Self::folder((kind, partition), epoch)))
    }

    /// Where the snapshot of a partition is.
    pub(super) fn path(&self, place: PartitionId) -> Path {
        let Self { complete_to, cursor, epoch } = self;
        Self::folder(place, *epoch).join(format!("{complete_to:020}-{cursor:020}.snapshot"))
    }

    /// The name that is there, if it is one.
    pub(super) fn at(path: &Path, epoch: u64) -> Option<Self> {
        let (complete_to, cursor) = path.filename()?.strip_suffix(".snapshot")?.split_once('-')?;
        let number = |text: &str| text.parse().ok().filter(|number| *number <= NUMBER_MAX);
        Some(Self { complete_to: number(complete_to)?, cursor: number(cursor)?, epoch })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the snapshot up to {}", self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_it_is_and_sorts_by_how_far_it_goes() {
        let name = |complete_to, cursor| Name { complete_to, cursor, epoch: 0xbeef };
        let path = name(17, 9).path((Kind::Order, 3));
        let expected = "order/3/000000000000beef/00000000000000000017-00000000000000000009.snapshot";
        assert_eq!(path.as_ref(), expected);
        assert_eq!(Name::at(&path, 0xbeef), Some(name(17, 9)));
        assert_eq!(Name::at(&Path::from("order/3/000000000000beef/notes.txt"), 0xbeef), None);
        assert_eq!(Name::at(&name(u64::MAX, 9).path((Kind::Order, 3)), 0xbeef), None, "no log comes that far");
        assert!(Name::is_of(&path, Kind::Order, 0xbeef) && !Name::is_of(&path, Kind::Order, 0xbee));
        assert!(name(17, 9) > name(9, 9) && name(17, 17) > name(17, 9));
    }
}
