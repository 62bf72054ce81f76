//! What a page may have its reader's browser do, and what browsers and caches are told of every answer.
//!
//! Somebody's browser asks on behalf of any page that it shows, and a shop on that machine, or in that network, takes
//! it for its user. Reading is the browser's to prevent (`cors.rs`); that a page changes something is prevented here:
//! by `Origin`, which browsers send with every change that a page of another site asks for, and where there is none by
//! `Sec-Fetch-Site`. A neighbour is another site too (`same-site`: a page of another port of this machine, or of a
//! sister of the shop's name, whose owner may be another one). What is no browser sends neither. The rest is the
//! content type: a form cannot send JSON, and a script has to ask first (`body.rs`).

use shop_domain::{
    kind::Kind,
    problem::{Code, Problem},
    text::quoted,
};
use warp::{
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    reply::Response,
};

use crate::{
    cors::{Cors, Origin},
    routes::{Found, PAGES, Page, ROUTES},
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Personal, or of this moment: nothing keeps it.
const KEEP_NOT: HeaderValue = HeaderValue::from_static("no-store");
/// The same for everybody, and of this moment: may be kept to be asked for by its entity tag.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");
/// The same for everybody until the bridge is another program.
const KEEP_FIVE_MINUTES: HeaderValue = HeaderValue::from_static("public, max-age=300");
/// The pages are text and one style sheet of their own; nothing may be fetched, sent or shown around them.
const NOTHING_ELSE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Refuses a change that a page of another site asks for, unless that site was named.
pub(crate) fn check(
    method: &Method,
    headers: &HeaderMap,
    authority: Option<&str>,
    cors: &Cors,
) -> Result<(), Box<Problem>> {
    if method.is_safe() {
        return Ok(());
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    match (origins.next(), origins.next()) {
        (Some(_), Some(_)) => return refusal("two origins".to_owned()),
        (Some(origin), None) if cors.has(origin) => return Ok(()),
        (Some(origin), None) if !is_own(origin, authority) => {
            let text = String::from_utf8_lossy(origin.as_bytes());
            return refusal(quoted(&text));
        }
        (Some(_) | None, _) => {}
    }
    let (site, another) = (sites.next().map(HeaderValue::as_bytes), sites.next());
    match (site, another) {
        (None, _) | (Some(b"same-origin" | b"none"), None) => Ok(()),
        (Some(site), _) => {
            refusal(format!("another site (Sec-Fetch-Site: {})", quoted(&String::from_utf8_lossy(site))))
        }
    }
}

/// Tells browsers and caches what they may do with an answer.
pub(crate) fn tell(found: &Found<'_>, method: &Method, response: &mut Response) {
    let keeping = match (found, response.status()) {
        (Found::Route { number, .. }, StatusCode::OK | StatusCode::NOT_MODIFIED)
            if method.is_safe() && ROUTES[*number].kind == Kind::Product =>
        {
            ASK_AGAIN
        }
        (Found::Page { number }, StatusCode::OK) => match PAGES[*number].1 {
            Page::Docs | Page::Description => KEEP_FIVE_MINUTES,
            Page::Health | Page::Ready => KEEP_NOT,
        },
        (Found::Route { .. } | Found::Page { .. } | Found::OtherMethods { .. } | Found::Nothing, _) => KEEP_NOT,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, keeping);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if headers.get(CONTENT_TYPE).is_some_and(|given| given.as_bytes().starts_with(b"text/html")) {
        headers.insert(CONTENT_SECURITY_POLICY, NOTHING_ELSE);
    }
}

/// Whether a page comes from the host that it asks. With or without TLS: what stands before a bridge may have taken it
/// off, and a page that came without it is told by `Sec-Fetch-Site`.
fn is_own(origin: &HeaderValue, authority: Option<&str>) -> bool {
    let own = |scheme| format!("{scheme}://{}", authority?).parse::<Origin>().ok();
    ["http", "https"].into_iter().filter_map(own).any(|own| own.is(origin))
}

fn refusal(of: String) -> Result<(), Box<Problem>> {
    let detail = format!("a page of {of} may not change anything in this shop");
    Err(Box::new(Problem::new(Code::CROSS_SITE, detail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a change is answered that comes with these lines.
    fn asked(lines: &[(&'static str, &str)]) -> Option<&'static str> {
        let cors = Cors::new(vec!["https://front.example".parse().unwrap()], false);
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let authority = Some("Shop.example:8080").filter(|_| !lines.contains(&("x-no-host", "")));
        let checked = |method| check(&method, &headers, authority, &cors);
        for reading in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(checked(reading), Ok(()), "{lines:?}");
        }
        let [posted, others @ ..] =
            [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, "BREW".parse().unwrap()].map(checked);
        assert!(others.iter().all(|other| *other == posted), "{lines:?}");
        posted.err().map(|problem| problem.code.name)
    }

    #[test]
    fn what_is_no_browser_and_a_page_of_the_shop_or_of_a_named_site_may_change_something() {
        for lines in [
            &[][..],
            &[("origin", "https://front.example")],
            &[("origin", "https://front.example"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://shop.example:8080")],
            &[("origin", "https://shop.example:8080"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(asked(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_change_nothing() {
        for lines in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://shop.example")],
            &[("origin", "http://shop.example:8081")],
            &[("origin", "http://shop.example:8080.evil.example")],
            &[("origin", "http://front.example")],
            &[("origin", "https://front.example:444")],
            &[("origin", "https://front.example, https://evil.example")],
            &[("origin", "https://front.example"), ("origin", "https://evil.example")],
            &[("origin", "http://shop.example:8080"), ("x-no-host", "")],
            &[("origin", "http://shop.example:8080"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "Same-Origin")],
            &[("sec-fetch-site", "")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(asked(lines), Some("cross_site"), "{lines:?}");
        }
    }
}
