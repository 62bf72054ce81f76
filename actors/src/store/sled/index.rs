//! Where a run has what: kept in memory for each run, so it is small.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Where a run has what.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// The first keys of all blocks, one behind the other.
    first_keys: ByteBuf,
    blocks: Vec<Place>,
    /// How the first and the last key of each sort begin. Ids often grow with time, so that nearly
    /// all runs end before a key that is new.
    bounds: Vec<(Beginning, Beginning)>,
}

/// Where a block is in the file, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Where it begins, in bytes.
    pub(super) start: u64,
    /// How many bytes it has.
    pub(super) bytes: u32,
    /// XXH3 (64 bit) of them.
    pub(super) checksum: u64,
    /// Where its first key begins among the first keys, in bytes, and how many it has.
    first_key: (u32, u32),
}

/// The first 16 bytes of a key as a number, the first byte the most significant: of two keys the
/// smaller one has no larger number. The first byte, the key's sort, is that of the number.
type Beginning = u128;

fn beginning(key: &[u8]) -> Beginning {
    let mut bytes = [0; 16];
    let length = key.len().min(16);
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

const fn sort(beginning: Beginning) -> u8 {
    beginning.to_be_bytes()[0]
}

impl Index {
    /// Takes in the next key.
    pub(super) fn extend(&mut self, key: &[u8]) {
        let key = beginning(key);
        match self.bounds.last_mut() {
            Some((first, last)) if sort(*first) == sort(key) => *last = key,
            Some(_) | None => self.bounds.push((key, key)),
        }
    }

    /// Takes in the next block.
    pub(super) fn push(&mut self, first_key: &[u8], bytes: u32, checksum: u64) {
        let first = (self.first_keys.len() as u32, first_key.len() as u32);
        self.first_keys.extend_from_slice(first_key);
        self.blocks.push(Place { start: self.bytes(), bytes, checksum, first_key: first });
    }

    /// Whether the key may be in the run, as far as can be told from the first and last ones.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let key = beginning(key);
        self.bounds.iter().any(|(first, last)| *first <= key && key <= *last)
    }

    /// The blocks, in the order of their keys.
    pub(super) fn blocks(&self) -> &[Place] {
        &self.blocks
    }

    /// How many bytes all blocks have.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.last().map_or(0, |last| last.start + u64::from(last.bytes))
    }

    /// How many blocks begin with a key that is `before`, which all are up to some block.
    pub(super) fn blocks_until(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        self.blocks.partition_point(|Place { first_key: (start, length), .. }| {
            before(&self.first_keys[*start as usize..][..*length as usize])
        })
    }
}
