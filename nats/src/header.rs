//! The headers of requests and answers, all in one place.

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
/// Message without content, by which a host that leaves comes to the last one that it gets: nobody minds it.
pub const LEAVING: &str = "Shop-Leaving";

/// The value of [`PREFER`] and [`PREFERENCE_APPLIED`] for an answer before the outcome.
pub const RESPOND_ASYNC: &str = "respond-async";

/// The value of [`SERVICE_ERROR`] in the answer without a body to who has already what was asked for (HTTP 304).
pub const NOT_MODIFIED: &str = "not_modified";
/// The value of [`SERVICE_ERROR_CODE`] in the same.
pub const NOT_MODIFIED_CODE: &str = "304";

/// The value of [`TICKET`] in an answer.
pub const KEPT: &str = "kept";
