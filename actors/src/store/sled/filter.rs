//! A Bloom filter: tells of nearly every key that is not in a run that it is not there.
//!
//! It is cut into blocks of one cache line, of which a key sets bits in one only, so that a look
//! costs one access to memory (Putze, Sanders and Singler, "Cache-, Hash- and Space-Efficient Bloom
//! Filters", 2007). It is stored beside its run, so its bits must mean the same for ever.

use twox_hash::XxHash3_64;

/// Bits per key. A key that is not there is taken for one about once in a thousand times.
const BITS_PER_KEY: usize = 16;
/// Bits that each key sets.
const PLACES: u32 = 7;
/// Words of a block, which is what a processor fetches at a time.
const BLOCK_WORDS: usize = 8;

/// The keys of one run, roughly.
#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
}

/// Most keys for which there is room: a snapshot says how many it has, and a wrong number must not take all memory.
const KEYS_MAX: u64 = 1 << 27;

/// What the filter looks at of a key; the same for every filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    /// XXH3 (64 bit, without a seed), which is the same everywhere and reads many bytes at a time.
    pub(super) fn of(key: &[u8]) -> Self {
        Self(XxHash3_64::oneshot(key))
    }
}

impl Filter {
    /// A filter for so many keys; for more than [`KEYS_MAX`] it errs more often.
    pub(super) fn for_keys(keys: u64) -> Self {
        let blocks = (keys.min(KEYS_MAX) as usize * BITS_PER_KEY).div_ceil(BLOCK_WORDS * 64).max(1);
        Self { words: vec![0; blocks * BLOCK_WORDS] }
    }

    /// The filter that has these bytes, if one can have them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let is_whole = rest.is_empty() && !words.is_empty() && words.len().is_multiple_of(BLOCK_WORDS);
        is_whole.then(|| Self { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    /// Its bytes, the least of each word first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Puts a key in.
    pub(super) fn insert(&mut self, key: Fingerprint) {
        let block = self.block_of(key);
        for (word, bit) in places(key) {
            self.words[block + word] |= bit;
        }
    }

    /// Whether the key may be in it; if not, it is not.
    pub(super) fn may_hold(&self, key: Fingerprint) -> bool {
        let block = &self.words[self.block_of(key)..][..BLOCK_WORDS];
        places(key).all(|(word, bit)| block[word] & bit != 0)
    }

    /// The first word of the key's block: by the upper half of the fingerprint.
    fn block_of(&self, Fingerprint(key): Fingerprint) -> usize {
        let blocks = (self.words.len() / BLOCK_WORDS) as u64;
        (((key >> 32) * blocks) >> 32) as usize * BLOCK_WORDS
    }
}

/// Words and bits within the block: 9 bits of a product each.
fn places(Fingerprint(key): Fingerprint) -> impl Iterator<Item = (usize, u64)> {
    let bits = (key | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PLACES).map(move |place| {
        let place = (bits >> (place * 9)) as usize & 511;
        (place / 64, 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> impl Iterator<Item = Fingerprint> {
        range.map(|n| Fingerprint::of(format!("rorder-{n}\0entry/{n:020}").as_bytes()))
    }

    fn filter(range: std::ops::Range<u32>) -> Filter {
        let mut filter = Filter::for_keys(range.len() as u64);
        keys(range).for_each(|key| filter.insert(key));
        filter
    }

    #[test]
    fn every_key_is_found_and_few_others_are() {
        for count in [1, 7, 100, 20_000] {
            let filter = filter(0..count);
            assert!(keys(0..count).all(|key| filter.may_hold(key)));
            let wrong = keys(1_000_000..1_100_000).filter(|key| filter.may_hold(*key)).count();
            assert!(wrong < 250, "{wrong} of 100000 keys that are not there, with {count}");
        }
    }

    #[test]
    fn the_bits_of_a_key_never_change() {
        let mut filter = Filter::for_keys(1);
        filter.insert(Fingerprint::of(b"salice"));
        let words = [36_028_797_018_964_480, 0, 268_435_456, 1_073_741_824, 8, 288_230_376_151_711_744, 33_554_432, 0];
        assert_eq!(filter.words, words);
    }

    #[test]
    fn a_filter_is_read_back_from_its_bytes() {
        let filter = filter(0..1_000);
        assert_eq!(Filter::from_bytes(&filter.to_bytes()).unwrap().words, filter.words);
        assert!(Filter::from_bytes(b"").is_none());
        assert!(Filter::from_bytes(&filter.to_bytes()[1..]).is_none());
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        assert!(!Filter::for_keys(0).may_hold(Fingerprint::of(b"salice")));
    }
}
