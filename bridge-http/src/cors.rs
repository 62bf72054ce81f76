//! Which pages of other sites may use the shop from a browser: none, unless they are named.
//!
//! This is the protocol of <https://fetch.spec.whatwg.org/#http-cors-protocol>. It keeps browsers from showing answers
//! to pages of strangers; what these may ask for is decided in `browser.rs`.

use std::{fmt, str::FromStr};

use warp::{
    http::{
        HeaderMap, HeaderValue, Uri,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
        },
    },
    reply::Response,
};

/// What requests of the shop may carry beyond what every page may send.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, traceparent");
/// The same where it is asked who sends them.
const REQUEST_HEADERS_OF_CALLERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, traceparent",
);
/// What answers of the shop carry beyond what every page may see.
const ANSWER_HEADERS: HeaderValue =
    HeaderValue::from_static("ETag, Location, Retry-After, Allow, Idempotency-Replayed, Preference-Applied");
/// The same where it is asked who sends requests, and how often.
const ANSWER_HEADERS_TO_CALLERS: HeaderValue = HeaderValue::from_static(
    "ETag, Location, Retry-After, Allow, Idempotency-Replayed, Preference-Applied, WWW-Authenticate, RateLimit, \
     RateLimit-Policy",
);
/// How long a browser may remember what is allowed, in seconds: a restart with other origins shows soon.
const MEMORY_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// Where a page comes from: `https://shop.example`, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is no origin.
#[derive(Debug)]
pub struct InvalidOrigin(String);

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no origin: give scheme and host, and the port unless it is the scheme's own, as in ",
            self.0
        )?;
        f.write_str("https://shop.example or http://localhost:3000, without a path")
    }
}

impl std::error::Error for InvalidOrigin {}

impl Origin {
    /// Whether a browser means this one.
    pub(crate) fn is(&self, given: &HeaderValue) -> bool {
        self.0 == *given
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(invalid()) };
        // A browser says nothing of a port that it need not name.
        let is_default = matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443)));
        let (host, port) = (authority.host().to_ascii_lowercase(), authority.port_u16());
        let port = port.filter(|_| !is_default).map_or_else(String::new, |port| format!(":{port}"));
        if !["http", "https"].contains(&scheme) || host.is_empty() || text.contains(['@', '*']) || text.ends_with('/') {
            return Err(invalid());
        }
        if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return Err(invalid());
        }
        HeaderValue::try_from(format!("{scheme}://{host}{port}")).map(Self).map_err(|_| invalid())
    }
}

/// The origins that are let in.
#[derive(Clone, Debug)]
pub(crate) struct Cors {
    origins: Vec<Origin>,
    has_guard: bool,
}

impl Cors {
    /// For a bridge with a guard, which asks who sends a request, or one without.
    pub(crate) fn new(origins: Vec<Origin>, has_guard: bool) -> Self {
        Self { origins, has_guard }
    }

    /// Whether pages of that origin are let in.
    pub(crate) fn has(&self, given: &HeaderValue) -> bool {
        self.origins.iter().any(|allowed| allowed.is(given))
    }

    /// Says in an answer whether a page may see it. `methods` are those of the path, if this answers a browser's
    /// question of what it may do there.
    pub(crate) fn sign(&self, asked: &HeaderMap, methods: Option<HeaderValue>, response: &mut Response) {
        if self.origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("Origin"));
        let mut given = asked.get_all(ORIGIN).iter();
        let (Some(origin), None) = (given.next(), given.next()) else { return };
        if !self.has(origin) {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let is_preflight = asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        match methods.filter(|_| is_preflight) {
            Some(methods) => {
                headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
                let requests = if self.has_guard { REQUEST_HEADERS_OF_CALLERS } else { REQUEST_HEADERS };
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requests);
                headers.insert(ACCESS_CONTROL_MAX_AGE, MEMORY_SECONDS);
            }
            None => {
                let answers = if self.has_guard { ANSWER_HEADERS_TO_CALLERS } else { ANSWER_HEADERS };
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, answers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(origins: &[&str], asked: &[(&str, &str)], methods: Option<&str>) -> Vec<String> {
        let cors = Cors::new(origins.iter().map(|origin| origin.parse().unwrap()).collect(), false);
        let mut headers = HeaderMap::new();
        for (name, value) in asked {
            headers.append(warp::http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let mut response = Response::default();
        cors.sign(&headers, methods.map(|methods| methods.parse().unwrap()), &mut response);
        response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn without_named_origins_nothing_is_said() {
        let asked = [("origin", "https://shop.example"), ("access-control-request-method", "POST")];
        assert!(signed(&[], &asked, Some("POST")).is_empty());
    }

    #[test]
    fn a_page_of_a_named_origin_may_ask_and_see_and_no_other_may() {
        let ours = ["https://shop.example", "http://localhost:3000"];
        let seen = [
            "vary: Origin",
            "access-control-allow-origin: http://localhost:3000",
            "access-control-expose-headers: ETag, Location, Retry-After, Allow, Idempotency-Replayed, Preference-Applied",
        ];
        assert_eq!(signed(&ours, &[("origin", "http://localhost:3000")], None), seen);
        let preflight = [("origin", "https://shop.example"), ("access-control-request-method", "POST")];
        let allowed = [
            "vary: Origin",
            "access-control-allow-origin: https://shop.example",
            "access-control-allow-methods: POST, OPTIONS",
            "access-control-allow-headers: Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, traceparent",
            "access-control-max-age: 600",
        ];
        assert_eq!(signed(&ours, &preflight, Some("POST, OPTIONS")), allowed);
        for stranger in ["https://shop.example.evil", "http://shop.example", "https://shop.example:444", "null", ""] {
            assert_eq!(signed(&ours, &[("origin", stranger)], None), ["vary: Origin"], "{stranger}");
        }
        let twice = [("origin", "https://shop.example"), ("origin", "https://shop.example")];
        assert_eq!(signed(&ours, &twice, None), ["vary: Origin"]);
        assert_eq!(signed(&ours, &[], None), ["vary: Origin"]);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port_as_browsers_write_it() {
        for (text, written) in [
            ("https://Shop.example", "https://shop.example"),
            ("https://shop.example:443", "https://shop.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().0, written);
        }
        for bad in [
            "*",
            "null",
            "",
            "shop.example",
            "https://",
            "https://shop.example/",
            "https://a/b",
            "ftp://a",
            "https://me@a",
            "https://*.a",
        ] {
            assert!(bad.parse::<Origin>().unwrap_err().to_string().contains("is no origin"), "{bad}");
        }
    }
}
