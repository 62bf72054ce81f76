//! The versions of the entities' behaviour.
//!
//! A log is replayed for as long as it exists, so what a message once did it must do for ever. A
//! change of behaviour (not of speed) gets a version of its own here, and the code asks
//! [`Context::logic`](crate::entity::Context::logic) which one holds. A log begins with a version,
//! and an upgrade in it switches each partition over, at the same message in every replay: never
//! does a newer program by itself.

use std::fmt;

use crate::timestamp::Timestamp;

/// A version of the entities' behaviour, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Logic {
    /// How the first shops behaved.
    V1 = 1,
    /// What changes nothing is no change: a product that gets the name and the price that it has,
    /// a restock of no pieces and a top-up of no money keep the time of the last change, and such
    /// a top-up makes no entry in the statement.
    V2 = 2,
    /// A partition's clock never goes back: where that of the log does, what happens next happens at
    /// the latest time that there was before.
    /// An order keeps a cancel that was accepted and then lost to a dispatch; its page is told the facts of
    /// a refusal; of too many callers who wait for it, each is told so and none is forgotten. Who uses a key
    /// or an order's id for something else is told which of them, and a key that comes with an order
    /// without an id is its customer's own.
    /// Tickets are heeded: see [`ticket`](crate::ticket).
    /// Refusals tell more: whether the request may be repeated, what was not found, ids in quotes, and a
    /// price that nobody named as one that was quoted. A sum that leaves the range has a code of its own.
    V3 = 3,
    /// Versions are counted, and preconditions heeded: see [`version`](crate::version).
    V4 = 4,
    /// Callers are heeded: see [`caller`](crate::caller). A key is its caller's own, where there is one.
    V5 = 5,
}

/// A version that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logic version {0} is needed, and this program knows only those up to {newest}: use a newer one", newest = Logic::NEWEST)]
pub struct UnknownLogic(pub u32);

impl Logic {
    /// Every version.
    pub const ALL: [Self; 5] = [Self::V1, Self::V2, Self::V3, Self::V4, Self::V5];
    /// The version that a new shop begins with.
    pub const NEWEST: Self = Self::V5;

    /// The version's number, as it is written in logs and checkpoints.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// What the time is for the messages of a record that the log took at `taken`, by the clock of
    /// its partition. The clock begins with the third version, at the first record under it.
    pub fn now(self, clock: &mut Timestamp, taken: Timestamp) -> Timestamp {
        if self < Self::V3 {
            return taken;
        }
        *clock = taken.max(*clock);
        *clock
    }
}

impl TryFrom<u32> for Logic {
    type Error = UnknownLogic;

    fn try_from(number: u32) -> Result<Self, UnknownLogic> {
        Self::ALL.into_iter().find(|logic| logic.number() == number).ok_or(UnknownLogic(number))
    }
}

impl fmt::Display for Logic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_its_number() {
        for logic in Logic::ALL {
            assert_eq!(Logic::try_from(logic.number()), Ok(logic));
        }
        assert_eq!(Logic::ALL.into_iter().max(), Some(Logic::NEWEST));
    }

    #[test]
    fn a_version_of_a_newer_program_is_refused_in_words_that_help() {
        let error = Logic::try_from(6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "logic version 6 is needed, and this program knows only those up to 5: use a newer one"
        );
    }

    #[test]
    fn a_clock_goes_back_with_the_log_only_where_it_always_did() {
        let times = [5, 7, 3, 8].map(Timestamp::from_unix_ms);
        let told = |logic: Logic| {
            let mut clock = Timestamp::default();
            times.map(|taken| logic.now(&mut clock, taken).unix_ms())
        };
        assert_eq!((told(Logic::V2), told(Logic::V3)), ([5, 7, 3, 8], [5, 7, 7, 8]));
    }
}
