//! Money and quantities: integers from 0 to what a JSON number carries exactly, checked always.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// The largest amount of money and the largest quantity: 2⁵³ − 1, the largest integer that
/// every JSON reader represents exactly (RFC 8259, section 6).
pub const AMOUNT_MAX: u64 = 9_007_199_254_740_991;

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            /// The largest there is, see [`AMOUNT_MAX`].
            pub const MAX: Self = Self(AMOUNT_MAX);

            /// An amount, unless it is beyond [`AMOUNT_MAX`].
            pub const fn new(units: u64) -> Option<Self> {
                if units <= AMOUNT_MAX { Some(Self(units)) } else { None }
            }

            /// The number of units.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum, unless it leaves the range.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                Self::new(self.0 + other.0)
            }

            /// The difference, unless it would be negative.
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let units = u64::deserialize(deserializer)?;
                Self::new(units).ok_or_else(|| D::Error::custom(format_args!("{units} is beyond {AMOUNT_MAX}")))
            }
        }
    };
}

amount!(
    /// Money in the smallest unit of the shop's one currency.
    Money
);
amount!(
    /// A number of pieces of a product.
    Quantity
);

impl Money {
    /// The price of `quantity` pieces, unless it leaves the range.
    pub fn checked_mul(self, quantity: Quantity) -> Option<Self> {
        self.0.checked_mul(quantity.0).and_then(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_leaves_the_range_is_refused_never_wrapped() {
        assert_eq!(Money::MAX.checked_add(Money(1)), None);
        assert_eq!(Money(AMOUNT_MAX - 1).checked_add(Money(1)), Some(Money::MAX));
        assert_eq!(Money(1).checked_sub(Money(2)), None);
        assert_eq!(Money(2).checked_sub(Money(2)), Some(Money::ZERO));
        assert_eq!(Money::MAX.checked_mul(Quantity(2)), None);
        assert_eq!(Money(u64::MAX / 2).checked_mul(Quantity(3)), None);
        assert_eq!(Money(1000).checked_mul(Quantity(10)), Some(Money(10_000)));
    }

    #[test]
    fn an_amount_beyond_the_range_is_not_read_from_bytes() {
        assert!(serde_json::from_str::<Quantity>("9007199254740992").is_err());
        assert_eq!(serde_json::from_str::<Quantity>("9007199254740991").ok(), Some(Quantity::MAX));
        assert!(serde_json::from_str::<Quantity>("-1").is_err());
    }
}
