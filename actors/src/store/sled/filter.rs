//! A Bloom filter: tells of nearly every key that is not in a run that it is not there.
//!
//! It is stored beside its run, so its bits must mean the same for ever: FNV-1a (64 bit), and from
//! that by double hashing (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006) the
//! places of the bits.

use std::hash::Hasher;

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};

/// Bits per key. With [`PLACES`] places a key that is not there is taken for one in 120 times.
const BITS_PER_KEY: usize = 10;
/// Bits that each key sets.
const PLACES: u64 = 6;

/// The keys of one run, roughly.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Filter {
    words: Vec<u64>,
}

/// What the filter looks at of a key; the same for every filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint(u64);

impl Fingerprint {
    pub(super) fn of(key: &[u8]) -> Self {
        let mut hasher = FnvHasher::default();
        hasher.write(key);
        Self(hasher.finish())
    }
}

impl Filter {
    /// The filter of these keys.
    pub(super) fn new(keys: &[Fingerprint]) -> Self {
        let mut filter = Self { words: vec![0; (keys.len() * BITS_PER_KEY).div_ceil(64).max(1)] };
        for key in keys {
            for (word, bit) in filter.places(*key) {
                filter.words[word] |= bit;
            }
        }
        filter
    }

    /// Whether the key may be among them; if not, it is not.
    pub(super) fn may_hold(&self, key: Fingerprint) -> bool {
        self.places(key).all(|(word, bit)| self.words.get(word).is_some_and(|found| found & bit != 0))
    }

    fn places(&self, Fingerprint(key): Fingerprint) -> impl Iterator<Item = (usize, u64)> + use<> {
        let bits = self.words.len() as u64 * 64;
        // The step is odd, so that the places of one key differ.
        let step = (key >> 32) | 1;
        (0..PLACES).map(move |place| {
            let hash = key.wrapping_add(place.wrapping_mul(step)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bit = ((u128::from(hash) * u128::from(bits)) >> 64) as u64;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> Vec<Fingerprint> {
        range.map(|n| Fingerprint::of(format!("rorder-{n}\0entry/{n:020}").as_bytes())).collect()
    }

    #[test]
    fn every_key_is_found_and_few_others_are() {
        for count in [1, 7, 100, 20_000] {
            let filter = Filter::new(&keys(0..count));
            assert!(keys(0..count).iter().all(|key| filter.may_hold(*key)));
            let others = keys(1_000_000..1_100_000);
            let wrong = others.iter().filter(|key| filter.may_hold(**key)).count();
            assert!(wrong < others.len() / 50, "{wrong} of {} keys that are not there, with {count}", others.len());
        }
    }

    #[test]
    fn the_bits_of_a_key_never_change() {
        let filter = Filter::new(&[Fingerprint::of(b"salice")]);
        assert_eq!(filter.words, [297_239_808_797_835_328]);
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        assert!(!Filter::new(&[]).may_hold(Fingerprint::of(b"salice")));
    }
}
