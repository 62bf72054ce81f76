//! A block: some entries of a run, sorted by their keys; compressed (LZ4) where it is stored.
//!
//! Uncompressed it is entry after entry (length of the key, length of the value, key, value), then
//! where each begins, then how many there are; all numbers in 4 bytes, the least first.

use std::cmp::Ordering;

use bytes::Bytes;

/// A key and its value.
pub(super) type Entry = (Bytes, Bytes);

/// A block, ready to be read.
#[derive(Debug)]
pub(super) struct Block(Bytes);

/// A block that is being written.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl BlockWriter {
    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How many bytes its entries have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next entry.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.starts.push(self.bytes.len() as u32);
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    /// The block as it is stored; begins anew.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        for start in &self.starts {
            self.bytes.extend_from_slice(&start.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(self.starts.len() as u32).to_le_bytes());
        let stored = lz4_flex::compress_prepend_size(&self.bytes);
        self.bytes.clear();
        self.starts.clear();
        stored
    }
}

impl Block {
    /// Reads a block as it is stored, if it is one.
    pub(super) fn read(stored: &[u8]) -> Option<Self> {
        let block = Self(lz4_flex::decompress_size_prepended(stored).ok()?.into());
        (block.0.len() >= 4).then_some(block)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        let place = self.place_of(key);
        let (found, value) = (place < self.len()).then(|| self.entry(place))?;
        // A copy, because the value may be kept for long, and the block is large.
        (found == key).then(|| Bytes::copy_from_slice(&value))
    }

    /// The entries from `start` on and before `end`.
    pub(super) fn range(&self, start: &[u8], end: &[u8]) -> Vec<Entry> {
        (self.place_of(start)..self.place_of(end)).map(|place| self.entry(place)).collect()
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.number(self.0.len() - 4)
    }

    /// The entry at a place.
    pub(super) fn entry(&self, place: usize) -> Entry {
        let (key, value) = self.lengths_at(place);
        let start = self.start(place) + 8;
        (self.0.slice(start..start + key), self.0.slice(start + key..start + key + value))
    }

    /// The key at a place.
    pub(super) fn key(&self, place: usize) -> &[u8] {
        let start = self.start(place) + 8;
        &self.0[start..start + self.lengths_at(place).0]
    }

    /// The place of the first entry whose key is not smaller.
    fn place_of(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        low
    }

    fn start(&self, place: usize) -> usize {
        self.number(self.0.len() - 4 - 4 * (self.len() - place))
    }

    fn lengths_at(&self, place: usize) -> (usize, usize) {
        let start = self.start(place);
        (self.number(start), self.number(start + 4))
    }

    fn number(&self, at: usize) -> usize {
        let bytes = self.0[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }
}
