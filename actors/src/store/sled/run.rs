//! A run: entries sorted by their keys, cut into blocks, and never changed once it is written.
//!
//! A small key costs sled some ten microseconds wherever it goes, a block of a hundred entries not
//! much more (measured with sled 0.34.7): so entries are not put into sled one by one.

use std::cmp::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::filter::{Filter, Fingerprint};
use crate::store::StoreError;

/// A block is closed once it has so many bytes: a read of one entry reads one block.
const BLOCK_BYTES: usize = 16 * 1024;

/// The key of a block: `b`, the run, the block.
const BLOCK: u8 = b'b';
/// The key of a run's index: `i`, the run.
const INDEX: u8 = b'i';

/// A key and its value.
pub(super) type Entry = (Bytes, Bytes);

/// One run, as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunInfo {
    /// Its number, larger than those of all runs written before.
    pub(super) number: u64,
    /// How many entries it has.
    pub(super) entries: u64,
}

/// One run, ready to be read.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) info: RunInfo,
    index: Index,
}

/// What is kept at hand of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// The first key of each block.
    first_keys: Vec<ByteBuf>,
    filter: Filter,
}

impl Run {
    /// Reads a run's index.
    pub(super) fn open(tree: &sled::Tree, info: RunInfo) -> Result<Self, StoreError> {
        let bytes = tree.get(index_key(info.number))?.ok_or(StoreError::Missing(info.number))?;
        let index = rmp_serde::from_slice(&bytes).map_err(|error| StoreError::Index(info.number, error))?;
        Ok(Self { info, index })
    }

    /// The value of a key.
    pub(super) fn get(&self, tree: &sled::Tree, key: &[u8], print: Fingerprint) -> Result<Option<Bytes>, StoreError> {
        if !self.index.filter.may_hold(print) {
            return Ok(None);
        }
        let Some(number) = self.block_of(key) else { return Ok(None) };
        Ok(self.block(tree, number)?.get(key))
    }

    /// The entries from `start` on and before `end`, by key.
    pub(super) fn range<'a>(
        &'a self,
        tree: &'a sled::Tree,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = Result<Entry, StoreError>> + 'a {
        let first = self.block_of(start).unwrap_or(0);
        let behind = self.index.first_keys.partition_point(|key| key.as_slice() < end);
        (first..behind.max(first)).flat_map(move |number| match self.block(tree, number) {
            Ok(block) => block.range(start, end).into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// All entries, by key.
    pub(super) fn entries<'a>(&'a self, tree: &'a sled::Tree) -> impl Iterator<Item = Result<Entry, StoreError>> + 'a {
        self.range(tree, &[], &[0xff])
    }

    /// Removes the run; whoever looks for it afterwards finds nothing.
    pub(super) fn remove(&self, tree: &sled::Tree) -> Result<(), StoreError> {
        remove(tree, self.info.number)
    }

    /// The block that holds the key, if any does.
    fn block_of(&self, key: &[u8]) -> Option<usize> {
        self.index.first_keys.partition_point(|first| first.as_slice() <= key).checked_sub(1)
    }

    fn block(&self, tree: &sled::Tree, number: usize) -> Result<Block, StoreError> {
        let bytes = tree.get(block_key(self.info.number, number))?.ok_or(StoreError::Missing(self.info.number))?;
        Ok(Block(bytes))
    }
}

/// Removes the blocks and the index of the run with that number.
pub(super) fn remove(tree: &sled::Tree, run: u64) -> Result<(), StoreError> {
    // The index first: blocks that a crash leaves behind are found without it.
    tree.remove(index_key(run))?;
    for key in tree.range(block_key(run, 0)..block_key(run + 1, 0)).keys() {
        tree.remove(key?)?;
    }
    Ok(())
}

/// The numbers of all runs that have left a block behind, in ascending order.
pub(super) fn numbers(tree: &sled::Tree) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    let mut next = block_key(0, 0);
    while let Some(found) = tree.range(next..vec![BLOCK + 1]).keys().next() {
        let key = found?;
        let number = key.get(1..9).and_then(|number| Some(u64::from_be_bytes(number.try_into().ok()?)));
        let Some(number) = number else { break };
        numbers.push(number);
        next = block_key(number + 1, 0);
    }
    Ok(numbers)
}

/// Writes a run, block by block, as its entries come.
#[derive(Debug)]
pub(super) struct RunWriter<W> {
    number: u64,
    put: W,
    block: BlockWriter,
    first_keys: Vec<ByteBuf>,
    prints: Vec<Fingerprint>,
}

impl<W: FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>> RunWriter<W> {
    /// A run with this number; what sled is to hold goes to `put`.
    pub(super) fn new(number: u64, put: W) -> Self {
        Self { number, put, block: BlockWriter::default(), first_keys: vec![], prints: vec![] }
    }

    /// The next entry, whose key is larger than the one before.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.block.is_empty() {
            self.first_keys.push(ByteBuf::from(key));
        }
        self.prints.push(Fingerprint::of(key));
        self.block.push(key, value);
        if self.block.bytes.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    /// The run, complete.
    pub(super) fn finish(mut self) -> Result<Run, StoreError> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        let info = RunInfo { number: self.number, entries: self.prints.len() as u64 };
        let index = Index { first_keys: self.first_keys, filter: Filter::new(&self.prints) };
        let bytes = rmp_serde::to_vec_named(&index).expect("an index always encodes");
        (self.put)(index_key(self.number), bytes)?;
        Ok(Run { info, index })
    }

    fn close_block(&mut self) -> Result<(), StoreError> {
        let number = self.first_keys.len() - 1;
        (self.put)(block_key(self.number, number), std::mem::take(&mut self.block).finish())
    }
}

/// Entries, one after the other (length of the key, length of the value, key, value), then where
/// each begins, then how many there are; all numbers in 4 bytes, the least first.
#[derive(Debug)]
struct Block(sled::IVec);

#[derive(Debug, Default)]
struct BlockWriter {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl BlockWriter {
    fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    fn finish(mut self) -> Vec<u8> {
        for start in &self.starts {
            self.bytes.extend_from_slice(&start.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.starts.len() as u32).to_le_bytes());
        self.bytes
    }
}

impl Block {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        let place = self.place_of(key);
        let (found, value) = (place < self.len()).then(|| self.entry(place))?;
        (found == key).then(|| Bytes::copy_from_slice(value))
    }

    fn range(&self, start: &[u8], end: &[u8]) -> Vec<Entry> {
        let entry = |place| {
            let (key, value) = self.entry(place);
            (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
        };
        (self.place_of(start)..self.place_of(end)).map(entry).collect()
    }

    /// The place of the first entry whose key is not smaller.
    fn place_of(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.entry(middle).0.cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        low
    }

    fn len(&self) -> usize {
        self.number(self.0.len() - 4)
    }

    fn entry(&self, place: usize) -> (&[u8], &[u8]) {
        let start = self.number(self.0.len() - 4 - 4 * (self.len() - place));
        let (key, value) = (self.number(start), self.number(start + 4));
        self.0[start + 8..start + 8 + key + value].split_at(key)
    }

    fn number(&self, at: usize) -> usize {
        let bytes = self.0[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }
}

fn block_key(run: u64, block: usize) -> Vec<u8> {
    [&[BLOCK][..], &run.to_be_bytes(), &(block as u32).to_be_bytes()].concat()
}

fn index_key(run: u64) -> Vec<u8> {
    [&[INDEX][..], &run.to_be_bytes()].concat()
}
