//! The headers of requests and answers, all in one place.

use std::fmt;

use async_nats::{HeaderMap, HeaderValue};

/// Request: makes a write idempotent; see `Key` in the domain.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Request and answer: the ticket of a write without a key, see `Ticket` in the domain; and with an answer that is kept
/// under it, [`KEPT`].
pub const TICKET: &str = "Shop-Ticket";
/// Request: `respond-async` asks for an answer as soon as the log has taken the request.
pub const PREFER: &str = "Prefer";
/// Request: the entity tags of which one is demanded; see `version` in the domain.
pub const IF_MATCH: &str = "If-Match";
/// Request: the entity tags of which none is wanted.
pub const IF_NONE_MATCH: &str = "If-None-Match";
/// Answer: the entity tag of what it shows.
pub const ETAG: &str = "ETag";
/// Request and answer: the W3C trace context, carried through.
pub const TRACEPARENT: &str = "traceparent";
/// Answer: `true` when it is the repeated first answer to a key or order id.
pub const IDEMPOTENCY_REPLAYED: &str = "Idempotency-Replayed";
/// Answer: `respond-async` when the request was taken but is not settled yet (HTTP 202).
pub const PREFERENCE_APPLIED: &str = "Preference-Applied";
/// Answer: seconds after which a retry makes sense.
pub const RETRY_AFTER: &str = "Retry-After";
/// Error answer: the stable code (NATS service convention, ADR-32).
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// Error answer: the HTTP status (NATS service convention, ADR-32).
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// Dead letter: why the message could not be read.
pub const DEAD_REASON: &str = "Shop-Dead-Reason";
/// Dead letter: the log and the sequence that it came from, `wallet/17`.
pub const DEAD_ORIGIN: &str = "Shop-Dead-Origin";
/// Dead letter: the log and the sequence at which its bytes are once more, `wallet/23`.
pub const DEAD_REQUEUED: &str = "Shop-Dead-Requeued";
/// Record of a log, or dead letter, that was restored from a backup: when the log took it first, in milliseconds since
/// the Unix epoch.
pub const TAKEN_AT: &str = "Shop-Taken-At";
/// Record of a log, or dead letter, that was restored from a backup: the subject that it had, where that was none of
/// its stream's, so that nothing in it counts.
pub const FOREIGN_SUBJECT: &str = "Shop-Foreign-Subject";
/// Message without content, by which a host that leaves comes to the last one that it gets: nobody minds it.
pub const LEAVING: &str = "Shop-Leaving";
/// Word that doors are to hold: the public key of the owner of the pause, how often it was renewed, how long it lasts from
/// then on, and the owner's signature of these; see [`crate::hosts::pause::claim`].
pub(crate) const PAUSE_OWNER: &str = "Shop-Pause-Owner";
pub(crate) const PAUSE_RENEWAL: &str = "Shop-Pause-Renewal";
pub(crate) const PAUSE_MS: &str = "Shop-Pause-Ms";
pub(crate) const PAUSE_SIGNATURE: &str = "Shop-Pause-Signature";

/// Append: only behind the record of that sequence (nats-server).
pub(crate) const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
/// Append: only if the subject's last record has that sequence (nats-server).
pub(crate) const EXPECTED_LAST_SUBJECT_SEQUENCE: &str = "Nats-Expected-Last-Subject-Sequence";

/// The value of [`PREFER`] and [`PREFERENCE_APPLIED`] for an answer before the outcome.
pub const RESPOND_ASYNC: &str = "respond-async";

/// The value of [`SERVICE_ERROR`] in the answer without a body to who has already what was asked for (HTTP 304).
pub const NOT_MODIFIED: &str = "not_modified";
/// The value of [`SERVICE_ERROR_CODE`] in the same.
pub const NOT_MODIFIED_CODE: &str = "304";

/// The value of [`TICKET`] in an answer.
pub const KEPT: &str = "kept";

/// The header of that name, if it is one of those that a backup keeps.
pub(crate) fn kept(name: &str) -> Option<&'static str> {
    [DEAD_REASON, DEAD_ORIGIN, DEAD_REQUEUED, FOREIGN_SUBJECT].into_iter().find(|kept| *kept == name)
}

/// Headers on their way out.
///
/// The client's own map panics at a value that it cannot send (async-nats 0.51, `HeaderMap::insert`), and much of what
/// stands in headers comes from callers, logs, and files. So nothing else in the shop touches that map's `insert`: see
/// `clippy.toml`.
#[derive(Debug, Default)]
pub(crate) struct Headers(HeaderMap);

/// A value that no header can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header {0} cannot have that value: it has control characters")]
pub(crate) struct InvalidValue(&'static str);

impl Headers {
    /// Gives a header a value, unless that has control characters.
    #[expect(clippy::disallowed_methods, reason = "the value was checked")]
    pub(crate) fn set(&mut self, name: &'static str, value: impl fmt::Display) -> Result<(), InvalidValue> {
        self.0.insert(name, checked(name, value)?);
        Ok(())
    }

    /// Gives a header one more line with a value, unless that has control characters.
    #[expect(clippy::disallowed_methods, reason = "the value was checked")]
    pub(crate) fn add(&mut self, name: &'static str, value: impl fmt::Display) -> Result<(), InvalidValue> {
        self.0.append(name, checked(name, value)?);
        Ok(())
    }

    /// The same with each control character as a space.
    pub(crate) fn set_readable(&mut self, name: &'static str, value: &str) {
        let outcome = self.set(name, value.replace(char::is_control, " "));
        debug_assert_eq!(outcome, Ok(()), "without control characters every value is one");
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn checked(name: &'static str, value: impl fmt::Display) -> Result<HeaderValue, InvalidValue> {
    let value = value.to_string();
    if value.contains(char::is_control) {
        return Err(InvalidValue(name));
    }
    value.parse().map_err(|_| InvalidValue(name))
}

impl From<Headers> for HeaderMap {
    fn from(Headers(headers): Headers) -> Self {
        headers
    }
}

/// A W3C trace context, unless it is none: of the version 00, or of a later one that begins as that does
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>). One that is none is to be ignored, not refused.
pub(crate) fn trace_context(text: &str) -> Option<&str> {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_number = |part: &str, digits: usize| part.len() == digits && is_hex(part);
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    if text.len() > TRACEPARENT_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut parts = text.splitn(5, '-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = is_number(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let is_about_something = is_number(trace, 32) && is_some(trace) && is_number(parent, 16) && is_some(parent);
    (is_known && is_about_something && is_number(flags, 2)).then_some(text)
}

/// Longest trace context that is carried on; of version 00 of the standard it has 55 bytes.
const TRACEPARENT_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_no_header_can_have_is_refused_and_panics_no_process() {
        let mut headers = Headers::default();
        for value in ["a\nb", "a\rb", "\0", "a\u{7f}"] {
            assert_eq!(headers.set(TRACEPARENT, value), Err(InvalidValue(TRACEPARENT)), "{value:?}");
        }
        assert!(headers.is_empty());
        headers.set_readable(DEAD_REASON, "a\r\nb: ü");
        assert_eq!(HeaderMap::from(headers).get(DEAD_REASON).map(|value| value.as_str()), Some("a  b: ü"));
    }

    #[test]
    fn only_what_the_standard_allows_is_a_trace_context() {
        let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for fine in
            [context.to_owned(), context.replacen("00", "cc", 1), format!("{}-more", context.replacen("00", "cc", 1))]
        {
            assert_eq!(trace_context(&fine), Some(&*fine));
        }
        for wrong in [
            "a\nb",
            "",
            "00-1",
            &format!("{context}-more"),
            &format!("{context}\n"),
            &context.replacen("00", "ff", 1),
            &context.to_uppercase(),
            &context.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &context.replace("b7ad6b7169203331", &"0".repeat(16)),
            &format!("{}-{}", context.replacen("00", "cc", 1), "x".repeat(128)),
        ] {
            assert_eq!(trace_context(wrong), None, "{wrong:?}");
        }
    }
}
