//! Where the tests' random numbers begin: the same at every run, unless somebody says otherwise.

use fastrand::Rng;

/// A whole number; another one makes other orders, and strikes at other moments.
const VARIABLE: &str = "SHOP_TESTS_SEED";

/// The random numbers of one test.
pub fn rng(of_test: u64) -> Rng {
    let seed = std::env::var(VARIABLE).map_or(0, |seed| seed.parse().expect("the seed should be a whole number"));
    Rng::with_seed(of_test.wrapping_add(seed * 1_000))
}
