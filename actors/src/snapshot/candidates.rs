//! The snapshots of a partition, one after the other, until one is of use.
//!
//! A host writes and removes snapshots while others look through them: what is listed may be gone before it is read.
//! Then there are newer ones, and not to look at them would mean to find none where there always was one.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
};

use shop_nats::log::PartitionId;

use super::{Kept, Name, SnapshotError, Snapshots};

/// Which of them come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest.
    NewestFirst,
    /// The oldest.
    OldestFirst,
}

/// What is still to be looked at.
#[derive(Debug)]
pub struct Candidates<'a> {
    snapshots: &'a Snapshots,
    place: PartitionId,
    epoch: u64,
    order: Order,
    waiting: VecDeque<Kept>,
    listed: BTreeSet<Name>,
    is_one_gone: bool,
}

impl<'a> Candidates<'a> {
    /// Lists the snapshots of a partition of the log of that epoch.
    pub async fn list(
        snapshots: &'a Snapshots,
        place: PartitionId,
        epoch: u64,
        order: Order,
    ) -> Result<Self, SnapshotError> {
        let (waiting, listed) = (VecDeque::new(), BTreeSet::new());
        let mut candidates = Self { snapshots, place, epoch, order, waiting, listed, is_one_gone: false };
        candidates.list_what_is_new().await?;
        Ok(candidates)
    }

    /// The next one. Each is returned once.
    pub async fn next(&mut self) -> Result<Option<Kept>, SnapshotError> {
        if self.waiting.is_empty() && std::mem::take(&mut self.is_one_gone) {
            self.list_what_is_new().await?;
        }
        Ok(self.waiting.pop_front())
    }

    /// One that was returned was removed meanwhile.
    pub fn is_gone(&mut self) {
        self.is_one_gone = true;
    }

    async fn list_what_is_new(&mut self) -> Result<(), SnapshotError> {
        let mut kept = self.snapshots.list(self.place, self.epoch).await?;
        kept.retain(|kept| self.listed.insert(kept.name));
        match self.order {
            Order::NewestFirst => kept.sort_by_key(|kept| Reverse(kept.name)),
            Order::OldestFirst => kept.sort_by_key(|kept| kept.name),
        }
        self.waiting = kept.into();
        Ok(())
    }
}
