//! What a caller prefers about waiting: `Prefer` of RFC 7240, as far as the shop knows it.

use std::time::Duration;

use warp::http::{HeaderMap, HeaderName};

/// The header; `http` has no constant for it.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Longest wait, in seconds: proxies in front commonly give up after 60.
pub(crate) const WAIT_SECONDS_MAX: u64 = 30;
/// The wait of a caller who does not say, in seconds: far more than an order takes, and
/// short enough for a person to sit through.
const WAIT_SECONDS_DEFAULT: u64 = 5;

/// How long who does not want to wait at all is kept for the word that the log has taken a write: an acceptance takes
/// some milliseconds.
const NO_WAIT: Duration = Duration::from_millis(80);

/// What the caller prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefer {
    wait_seconds: u64,
    respond_async: bool,
}

impl Prefer {
    /// Reads all `Prefer` lines. As the RFC asks: the first of several equal ones counts, and what
    /// is not understood is ignored.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut wait_seconds = None;
        let mut respond_async = false;
        let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
        for preference in lines.flat_map(|line| line.split(',')) {
            let (preference, _parameters) = preference.split_once(';').unwrap_or((preference, ""));
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            if name.trim().eq_ignore_ascii_case("respond-async") {
                respond_async = true;
            } else if name.trim().eq_ignore_ascii_case("wait") {
                wait_seconds = wait_seconds.or_else(|| seconds(value.trim().trim_matches('"')));
            }
        }
        Self { wait_seconds: wait_seconds.unwrap_or(WAIT_SECONDS_DEFAULT), respond_async }
    }

    /// Whether the caller does not want to wait for the outcome at all.
    pub(crate) fn respond_async(self) -> bool {
        self.respond_async || self.wait_seconds == 0
    }

    /// How long the caller wants to wait: after that there is an answer, whatever it is.
    pub(crate) fn wait(self) -> Duration {
        if self.wait_seconds == 0 { NO_WAIT } else { Duration::from_secs(self.wait_seconds) }
    }

    /// The preference that an answer before the outcome honours, for `Preference-Applied`.
    pub(crate) fn applied(self) -> String {
        if self.respond_async { "respond-async".to_owned() } else { format!("wait={}", self.wait_seconds) }
    }
}

/// Anything that is a number of seconds is one, however large.
fn seconds(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(WAIT_SECONDS_MAX).min(WAIT_SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(lines: &[&str]) -> (u64, bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, line.parse().unwrap());
        }
        let prefer = Prefer::of(&headers);
        (prefer.wait_seconds, prefer.respond_async)
    }

    #[test]
    fn who_says_nothing_waits_five_seconds() {
        assert_eq!(prefer(&[]), (5, false));
        assert_eq!(prefer(&[""]), (5, false));
    }

    #[test]
    fn a_wait_is_at_most_thirty_seconds() {
        assert_eq!(prefer(&["wait=10"]), (10, false));
        assert_eq!(prefer(&["wait=31"]), (30, false));
        assert_eq!(prefer(&["wait=99999999999999999999999"]), (30, false));
    }

    #[test]
    fn several_preferences_may_stand_in_one_line_or_in_several() {
        assert_eq!(prefer(&["return=minimal, Wait = \"7\"; why=\"no\" , respond-async"]), (7, true));
        assert_eq!(prefer(&["handling=strict", "wait=3", "wait=4"]), (3, false));
    }

    #[test]
    fn what_is_not_understood_is_ignored() {
        assert_eq!(prefer(&["wait=soon", "wait=-1", "wait", "wait=1.5", "depth-noroot"]), (5, false));
    }

    #[test]
    fn no_wait_at_all_is_an_answer_before_the_outcome() {
        let of = |line: &str| Prefer::of(&[(PREFER, line.parse().unwrap())].into_iter().collect());
        assert!(of("wait=0").respond_async());
        assert_eq!(of("wait=0").applied(), "wait=0");
        assert_eq!(of("respond-async, wait=9").applied(), "respond-async");
    }
}
