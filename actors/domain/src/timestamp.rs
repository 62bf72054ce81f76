//! Points in time, as the log tells them.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const RFC_3339_MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Milliseconds since 1970-01-01T00:00:00Z. Read by people (JSON) it is RFC 3339 in UTC with
/// milliseconds, in the log and in checkpoints it is the number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point in time, in milliseconds since the Unix epoch.
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_ms(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|time| time.format(RFC_3339_MILLISECONDS).ok());
        f.write_str(text.as_deref().unwrap_or("9999-12-31T23:59:59.999Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_rfc_3339_in_utc_with_milliseconds() {
        let time = Timestamp::from_unix_ms(1_700_000_000_007);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.007Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), r#""2023-11-14T22:13:20.007Z""#);
    }

    #[test]
    fn the_log_keeps_the_number() {
        let time = Timestamp::from_unix_ms(1_700_000_000_007);
        let bytes = rmp_serde::to_vec_named(&time).unwrap();
        assert_eq!(rmp_serde::from_slice::<u64>(&bytes).unwrap(), 1_700_000_000_007);
        assert_eq!(rmp_serde::from_slice::<Timestamp>(&bytes).unwrap(), time);
    }
}
