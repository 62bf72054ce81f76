//! Error answers: one table of stable codes, and RFC 9457 problems made from it.

use serde_json::{Map, Value, json};

/// What went wrong, for programs: the code is stable, the HTTP status and title follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The stable name, for example `out_of_stock`.
    pub name: &'static str,
    /// The HTTP status that goes with it.
    pub status: u16,
    /// A short title for people.
    pub title: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $constant: Self = Self { name: $name, status: $status, title: $title };)*

            /// Every code, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$constant),*];
        }
    };
}

codes! {
    /// A body, id or number breaks a rule.
    INVALID = "invalid", 422, "The request breaks a rule";
    /// Not JSON, or a bad query string.
    MALFORMED = "malformed", 400, "The request cannot be read";
    /// It is not known who asks, and that has to be known.
    UNAUTHORIZED = "unauthorized", 401, "Unauthorized";
    /// It is known who asks, who may not do that: a scope is missing (the fact `scope`), or it is another's.
    FORBIDDEN = "forbidden", 403, "Forbidden";
    /// A page of another site asks for a change, and that site is not let do so.
    CROSS_SITE = "cross_site", 403, "Cross-site request";
    /// No such product, wallet, order, delivery or route.
    NOT_FOUND = "not_found", 404, "Not found";
    /// The path exists, but not with this method.
    METHOD_NOT_ALLOWED = "method_not_allowed", 405, "Method not allowed";
    /// Create with an id that is in use.
    ALREADY_EXISTS = "already_exists", 409, "Already exists";
    /// The wallet holds less than the order costs.
    INSUFFICIENT_BALANCE = "insufficient_balance", 409, "Insufficient balance";
    /// The product has fewer pieces than the order wants.
    OUT_OF_STOCK = "out_of_stock", 409, "Out of stock";
    /// The price is no longer the one that the customer agreed to.
    PRICE_CHANGED = "price_changed", 409, "Price changed";
    /// The order was dispatched, delivered or rejected.
    NOT_CANCELLABLE = "not_cancellable", 409, "Not cancellable";
    /// The delivery is not scheduled.
    NOT_DISPATCHABLE = "not_dispatchable", 409, "Not dispatchable";
    /// The delivery is not dispatched.
    NOT_DELIVERABLE = "not_deliverable", 409, "Not deliverable";
    /// A sum would leave the range that the shop counts in.
    LIMIT_EXCEEDED = "limit_exceeded", 409, "Limit exceeded";
    /// The same idempotency key (or order id) came with another body.
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", 409, "Idempotency key reused";
    /// The entity is not as `If-Match` or `If-None-Match` demands.
    PRECONDITION_FAILED = "precondition_failed", 412, "Precondition failed";
    /// The request did not arrive in time.
    REQUEST_TIMEOUT = "request_timeout", 408, "Request timeout";
    /// The body is larger than allowed.
    PAYLOAD_TOO_LARGE = "payload_too_large", 413, "Payload too large";
    /// Path and query are longer than allowed.
    URI_TOO_LONG = "uri_too_long", 414, "URI too long";
    /// The body is not JSON by its content type, or is in another coding.
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", 415, "Unsupported media type";
    /// The host that the request names is none of the bridge's.
    MISDIRECTED = "misdirected", 421, "Misdirected request";
    /// More was asked than this caller, or this address, may ask in that time.
    RATE_LIMITED = "rate_limited", 429, "Rate limited";
    /// The head has more lines or bytes than allowed.
    HEADERS_TOO_LARGE = "headers_too_large", 431, "Request header fields too large";
    /// More requests wait than the shop holds at a time.
    OVERLOADED = "overloaded", 503, "Overloaded";
    /// The service that owns the resource is not running.
    UNAVAILABLE = "unavailable", 503, "Unavailable";
}

impl Code {
    /// The code of that name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name == name)
    }

    /// Whether the same request may succeed when it is sent again, and do no harm, if the problem does not
    /// say otherwise: nothing was done, for a reason that passes by itself.
    pub const fn is_retryable(self) -> bool {
        self.status == Self::UNAVAILABLE.status
            || self.status == Self::REQUEST_TIMEOUT.status
            || self.status == Self::RATE_LIMITED.status
    }
}

/// The fact that tells a door that holds from one that cannot: `true`.
pub const HELD: &str = "held";
/// The fact that says of a write that it was not done and never will be: `false`.
pub const DONE: &str = "done";
/// The fact that tells an entity on which too many wait from a door that too many use: how many wait.
pub const WAITING: &str = "waiting";
/// The fact that names the scope that a caller would need.
pub const SCOPE: &str = "scope";
/// The member that says whether the same request may be sent again.
const RETRYABLE: &str = "retryable";

/// An error answer: an RFC 9457 problem with a stable code and the facts behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// One sentence about this occurrence.
    pub detail: String,
    /// Further members: the numbers and ids that explain the refusal.
    pub facts: Map<String, Value>,
}

impl Problem {
    /// A problem without further facts.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), facts: Map::new() }
    }

    /// The doors let nothing in for a while that changes something: nothing was done, and it may be asked again.
    pub fn held(detail: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, detail).fact(HELD, true)
    }

    /// The same problem with one more fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// The same problem, after which the same request may (or must not) be sent again, whatever its code says.
    #[must_use]
    pub fn retryable(self, is_retryable: bool) -> Self {
        self.fact(RETRYABLE, is_retryable)
    }

    /// The problem as `application/problem+json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut members = self.head();
        members.insert(RETRYABLE.into(), json!(self.code.is_retryable()));
        members.extend(self.facts.clone());
        Value::Object(members).to_string().into_bytes()
    }

    /// The problem as it was told before problems said whether they are retryable.
    pub(crate) fn to_former_json(&self) -> Vec<u8> {
        let mut members = self.head();
        members.extend(self.facts.clone());
        Value::Object(members).to_string().into_bytes()
    }

    fn head(&self) -> Map<String, Value> {
        let Code { name, status, title } = self.code;
        let mut members = Map::new();
        members.insert("type".into(), json!(format!("urn:shop:problem:{name}")));
        members.insert("title".into(), json!(title));
        members.insert("status".into(), json!(status));
        members.insert("code".into(), json!(name));
        members.insert("detail".into(), json!(self.detail));
        members
    }
}
