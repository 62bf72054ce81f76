//! The head of a request, before it is known what it asks for: what HTTP itself demands of it.
//!
//! A server and a proxy that read a head differently can be played off against each other, so that whatever
//! may be read in two ways is refused.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use shop_domain::problem::{Code, Problem};
use warp::http::{
    HeaderMap, Request, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TRANSFER_ENCODING},
    uri::Authority,
};

/// Longest path with its query, in bytes: what RFC 9110 recommends at least, and far more than any of the shop's.
const TARGET_BYTES_MAX: usize = 8_192;

/// What the front knows of a request.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Why it is not even looked at.
    pub(crate) refusal: Option<Arc<Problem>>,
    /// The host, and most likely the port, that it is meant for.
    pub(crate) authority: Option<Arc<str>>,
    /// From where it comes, if that is known.
    pub(crate) peer: Option<IpAddr>,
    /// Whether it shares its connection with others.
    pub(crate) is_http2: bool,
    /// Whether a body comes.
    pub(crate) has_body: bool,
    /// How long it says that its body is, in bytes.
    pub(crate) declared: Option<usize>,
    /// Whether the client waits for a word (`Expect: 100-continue`) before it sends the body.
    pub(crate) awaits_word: bool,
}

impl Head {
    /// Of this request, of a client at that address.
    pub(crate) fn of<B>(request: &Request<B>, has_body: bool, peer: Option<IpAddr>) -> Self {
        let headers = request.headers();
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let awaits = |expectation: &[u8]| expectation.eq_ignore_ascii_case(b"100-continue");
        Self {
            refusal: check(request).err().map(Arc::new),
            authority: authority(request).map(Arc::from),
            peer,
            is_http2: request.version() == Version::HTTP_2,
            has_body,
            declared: length.and_then(|digits| digits.parse().ok()),
            awaits_word: headers.get_all(EXPECT).iter().any(|value| awaits(value.as_bytes().trim_ascii())),
        }
    }
}

/// That of the target counts more than the header (RFC 9112, section 3.2.2); both are the same where there are both.
fn authority<B>(request: &Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(Authority::as_str);
    target.or_else(|| request.headers().get(HOST)?.to_str().ok())
}

fn check<B>(request: &Request<B>) -> Result<(), Problem> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        let detail = format!("path and query may have {TARGET_BYTES_MAX} bytes, these have {target}");
        return Err(Problem::new(Code::URI_TOO_LONG, detail));
    }
    let checked = check_host(request).and_then(|()| check_transfer(request.headers()));
    checked.and_then(|()| check_type(request.headers())).map_err(|detail| Problem::new(Code::MALFORMED, detail))
}

/// RFC 9112, section 3.2, and for HTTP/2 RFC 9113, section 8.3.1.
fn check_host<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err("the header Host is given more than once");
    }
    let is_http_2 = request.version() >= Version::HTTP_2;
    match (host, request.uri().authority()) {
        (Some(host), _) if !is_host(host.as_bytes()) => Err("the header Host must be a host, with or without a port"),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err("the header Host is another one than the request's target, or :authority, names")
        }
        (None, Some(authority)) if !is_host(authority.as_str().as_bytes()) => {
            Err("the request's target, or :authority, must name a host, with or without a port")
        }
        (None, authority) if request.version() == Version::HTTP_11 || (is_http_2 && authority.is_none()) => {
            Err("the header Host is missing")
        }
        (_, _) => Ok(()),
    }
}

/// What RFC 3986 has for a host and a port, of which the host is not empty.
fn is_host(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let (host, rest) = match text.strip_prefix('[').and_then(|literal| literal.split_once(']')) {
        Some((address, rest)) if address.parse::<Ipv6Addr>().is_ok() => (address, rest),
        Some(_) => return false,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port =
        |port: &str| port.is_empty() || (port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let has_port = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    !host.is_empty() && has_port && (text.starts_with('[') || is_name(host.as_bytes()))
}

fn is_name(mut host: &[u8]) -> bool {
    loop {
        host = match host {
            [] => return true,
            [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            [_, ..] => return false,
        };
    }
}

/// hyper reads bodies that end with the coding `chunked` as if there were no other.
fn check_transfer(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err("the header Transfer-Encoding must be chunked, once and alone"),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), &'static str> {
    let is_doubled = headers.get_all(CONTENT_TYPE).iter().nth(1).is_some();
    if is_doubled { Err("the header Content-Type is given more than once") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(version: Version, uri: &str, headers: &[(&str, &str)]) -> Option<(u16, String)> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = Head::of(&request.body(()).unwrap(), false, None);
        head.refusal.map(|problem| (problem.code.status, problem.detail.clone()))
    }

    #[test]
    fn a_host_is_given_once_and_is_one() {
        let refused = |host: &str| refusal(Version::HTTP_11, "/", &[("host", host)]).map(|(status, _)| status);
        for host in [
            "shop",
            "SHOP.example:8080",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:8080",
            "a_b.c",
            "xn--9q8h",
            "shop:",
            "%41",
            "a-b.",
        ] {
            assert_eq!(refused(host), None, "{host}");
        }
        for host in [
            "",
            ":8080",
            "a b",
            "a/b",
            "http://shop",
            "me@shop",
            "shop:x",
            "shop:99999",
            "shop:-1",
            "shop:+1",
            "[::1",
            "[::1]x",
            "[a]",
            "::1",
            "a:1:2",
            "a?b",
            "a#b",
            "a\\b",
            "%4",
            "<a>",
            "\"a\"",
            "a, b",
        ] {
            assert_eq!(refused(host), Some(400), "{host}");
        }
        assert_eq!(refusal(Version::HTTP_11, "/", &[("host", "a"), ("host", "a")]).unwrap().0, 400);
        let (status, detail) = refusal(Version::HTTP_11, "/", &[]).unwrap();
        assert_eq!((status, detail.as_str()), (400, "the header Host is missing"));
        assert_eq!(refusal(Version::HTTP_11, "http://shop/", &[]).unwrap().0, 400);
        assert_eq!(refusal(Version::HTTP_11, "http://shop/", &[("host", "Shop")]), None);
        for target in ["http://other/", "http://shop:80/", "http://me@shop/"] {
            assert_eq!(refusal(Version::HTTP_11, target, &[("host", "shop")]).unwrap().0, 400, "{target}");
        }
        assert_eq!(refusal(Version::HTTP_10, "/", &[]), None);
        assert_eq!(refusal(Version::HTTP_10, "http://shop/", &[]), None);
        assert_eq!(refusal(Version::HTTP_10, "http://me@shop/", &[]).unwrap().0, 400);
        assert_eq!(refusal(Version::HTTP_2, "http://shop/", &[]), None);
        assert_eq!(refusal(Version::HTTP_2, "http://shop/", &[("host", "Shop")]), None);
        assert_eq!(refusal(Version::HTTP_2, "http://shop/", &[("host", "other")]).unwrap().0, 400);
        assert_eq!(refusal(Version::HTTP_2, "/", &[]).unwrap().0, 400);
    }

    #[test]
    fn a_body_is_chunked_once_or_not_at_all() {
        let refused = |values: &[&str]| {
            let headers = values.iter().map(|value| ("transfer-encoding", *value));
            let headers: Vec<_> = [("host", "shop")].into_iter().chain(headers).collect();
            refusal(Version::HTTP_11, "/", &headers).is_some()
        };
        for fine in [&[][..], &["chunked"], &[" Chunked "]] {
            assert!(!refused(fine), "{fine:?}");
        }
        for bad in
            [&["gzip, chunked"][..], &["chunked, chunked"], &["chunked", "chunked"], &["gzip"], &[""], &["x", ""]]
        {
            assert!(refused(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_body_has_one_type_and_a_target_a_length() {
        let refused = |uri: &str, headers: &[(&str, &str)]| {
            let headers: Vec<_> = [("host", "shop")].iter().chain(headers).copied().collect();
            refusal(Version::HTTP_11, uri, &headers).map(|(status, _)| status)
        };
        let json = ("content-type", "application/json");
        assert_eq!(refused("/", &[json]), None);
        assert_eq!(refused("/", &[json, json]), Some(400));
        let target = |length: usize| format!("/{}?{}", "x".repeat(100), "x".repeat(length - 102));
        assert_eq!(refused(&target(8_192), &[]), None);
        assert_eq!(refused(&target(8_193), &[]), Some(414));
    }
}
