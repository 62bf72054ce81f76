//! Several runs on their way to become one, a little at a time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    block::Block,
    bounds::Bounds,
    files::RunFolder,
    sorted_run::{Run, RunWriter},
};
use crate::store::StoreError;

/// Runs that are being merged.
#[derive(Debug)]
pub(super) struct Merge {
    /// The runs, oldest first.
    runs: Vec<Arc<Run>>,
    cursors: Vec<Cursor>,
    /// The next entry of each run that has one: the smallest key first, and of a key that several
    /// runs have, the newest run's.
    heads: BinaryHeap<Reverse<(Bytes, Reverse<usize>)>>,
    /// The key that was written last.
    last: Option<Bytes>,
    writer: RunWriter,
}

/// A place in a run.
#[derive(Debug)]
struct Cursor {
    run: Arc<Run>,
    next_block: usize,
    /// The bytes in which the block is stored, and the block.
    block: Option<(Vec<u8>, Block)>,
    place: usize,
}

/// How far a merge came.
#[derive(Debug)]
pub(super) enum Progress {
    /// There is more to do.
    Begun(Merge),
    /// The runs, oldest first, and what takes their place.
    Done(Vec<Arc<Run>>, Run),
}

impl Merge {
    /// Begins to merge runs, oldest first, into the one with that number.
    pub(super) fn new(folder: &RunFolder, runs: Vec<Arc<Run>>, number: u64) -> Result<Self, StoreError> {
        let entries = runs.iter().map(|run| run.info.entries).sum();
        let level = runs.iter().map(|run| run.info.level).max().unwrap_or(0) + 1;
        let bounds = Bounds::around(runs.iter().map(|run| run.bounds()));
        let writer = RunWriter::new(folder, number, level, entries, bounds)?;
        let cursors = runs.iter().map(|run| Cursor { run: Arc::clone(run), next_block: 0, block: None, place: 0 });
        let mut merge = Self { cursors: cursors.collect(), runs, heads: BinaryHeap::new(), last: None, writer };
        for (age, cursor) in merge.cursors.iter_mut().enumerate() {
            merge.heads.extend(cursor.key()?.map(|key| Reverse((key, Reverse(age)))));
        }
        Ok(merge)
    }

    /// Merges until about so many bytes are written.
    pub(super) fn go_on(mut self, bytes_max: usize) -> Result<Progress, StoreError> {
        let mut bytes = 0;
        while bytes < bytes_max {
            let written = match self.whole_block()? {
                Some(written) => Some(written),
                None => self.entry()?,
            };
            let Some(written) = written else { return Ok(Progress::Done(self.runs, self.writer.finish()?)) };
            bytes += written;
        }
        self.writer.sync()?;
        Ok(Progress::Begun(self))
    }

    /// Takes over the block with the smallest key as it is stored, if no other run has a key within it, and returns
    /// how many bytes that were. Orders and deliveries sort by time, and so do nearly all of their blocks.
    fn whole_block(&mut self) -> Result<Option<usize>, StoreError> {
        let Some(head) = self.heads.peek_mut() else { return Ok(None) };
        let Reverse((key, Reverse(age))) = &*head;
        let (age, cursor) = (*age, &mut self.cursors[*age]);
        if cursor.place > 0 || self.last.as_ref() == Some(key) {
            return Ok(None);
        }
        let head = PeekMut::pop(head);
        let next = self.heads.peek().map(|Reverse((key, _))| &key[..]);
        let is_alone = |block: &Block| next.is_none_or(|next| block.key(block.len() - 1) < next);
        let Some((stored, block)) = cursor.block.as_ref().filter(|(_, block)| is_alone(block)) else {
            self.heads.push(head);
            return Ok(None);
        };
        let bytes = stored.len();
        self.writer.push_block(block, stored)?;
        cursor.place = block.len();
        self.heads.extend(cursor.key()?.map(|key| Reverse((key, Reverse(age)))));
        Ok(Some(bytes))
    }

    /// Writes the entry with the smallest key, unless a newer one was written; how many bytes that were. Nothing when
    /// there is none.
    fn entry(&mut self) -> Result<Option<usize>, StoreError> {
        let Some(mut head) = self.heads.peek_mut() else { return Ok(None) };
        let Reverse((key, Reverse(age))) = &*head;
        let (age, cursor) = (*age, &mut self.cursors[*age]);
        let mut bytes = 0;
        if self.last.as_ref() != Some(key) {
            let value = cursor.value();
            self.writer.push(key, &value)?;
            bytes = key.len() + value.len();
            self.last = Some(key.clone());
        }
        cursor.place += 1;
        match cursor.key()? {
            Some(next) => *head = Reverse((next, Reverse(age))),
            None => drop(PeekMut::pop(head)),
        }
        Ok(Some(bytes))
    }
}

impl Cursor {
    /// The key of the entry here, if the run does not end here.
    fn key(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            match &self.block {
                Some((_, block)) if self.place < block.len() => return Ok(Some(block.entry(self.place).0)),
                Some(_) | None if self.next_block == self.run.blocks() => return Ok(None),
                Some(_) | None => {
                    self.block = Some(self.run.block_as_stored(self.next_block)?);
                    (self.next_block, self.place) = (self.next_block + 1, 0);
                }
            }
        }
    }

    fn value(&self) -> Bytes {
        self.block.as_ref().map(|(_, block)| block.entry(self.place).1).unwrap_or_default()
    }
}
