//! What HTTP callers see: the only place that picks statuses and headers.

use bytes::Bytes;
use serde_json::json;
use shop_domain::{
    id::Id,
    problem::{Code, Problem},
};
use shop_nats::rpc::request::Reply;
use warp::{
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    reply::Response,
};

use crate::{
    auth::Denial,
    browser,
    prefer::Prefer,
    routes::{Found, Route},
};

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// When to try again if nobody says, in seconds: a process restarts faster.
const RETRY_AFTER_DEFAULT: HeaderValue = HeaderValue::from_static("1");

/// The fact that says in how many seconds a look shows what became of a write.
pub(crate) const LOOK_AFTER: &str = "look_after";

/// What was asked, as far as the answer depends on it.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The row of the API.
    pub(crate) route: &'static Route,
    /// The entity; `None` if the request is about a whole kind.
    pub(crate) id: Option<Id>,
    /// How long the caller wants to wait.
    pub(crate) prefer: Prefer,
    /// Whether the caller gave an idempotency key.
    pub(crate) with_key: bool,
}

/// What a door or an entity answered.
pub(crate) fn of(reply: Reply, asked: &Asked) -> Response {
    let mut response = match reply.error {
        Some(code) => error(code, reply.body, reply.retry_after.as_deref()),
        None if reply.not_modified => not_modified(),
        None if reply.accepted => accepted(reply.body, asked),
        None => settled(reply.body, asked),
    };
    if let Some(version) = reply.version {
        set(&mut response, ETAG, version.to_string());
    }
    if reply.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// An order of which no door says that it was taken, and that the bridge goes on asking for: accepted,
/// but it may take a while until it can be seen, and nobody has looked how it is.
pub(crate) fn promised(asked: &Asked) -> Response {
    let mut response = accepted(json!({ "id": asked.id.as_ref().map(Id::as_str) }).to_string().into(), asked);
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_DEFAULT);
    response
}

/// An answer that carries this ends its connection, though the client may still be sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut;

/// The same answer to a client that is not listened to any more: it may still be sending.
pub(crate) fn cut(response: Response) -> Response {
    let mut response = last(response);
    response.extensions_mut().insert(Cut);
    response
}

/// The same answer, after which the caller has to connect anew.
pub(crate) fn last(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What the bridge itself has to refuse.
pub(crate) fn problem(problem: &Problem) -> Response {
    let look_after = problem.facts.get(LOOK_AFTER).map(ToString::to_string);
    let mut response = error(problem.code, problem.to_json().into(), look_after.as_deref());
    // RFC 9110, section 12.5.3: so a client learns that it is the coding which was refused.
    if problem.facts.contains_key("content_encoding") {
        response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    response
}

/// Who asks is not let in.
pub(crate) fn denied(denial: Denial) -> Response {
    let Denial { problem, challenge, retry_after, .. } = denial;
    let retry_after = retry_after.map(|seconds| seconds.to_string());
    let mut response = error(problem.code, problem.to_json().into(), retry_after.as_deref());
    if let Some(challenge) = challenge {
        set(&mut response, WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The path exists, with these other methods.
pub(crate) fn other_methods(methods: &str) -> Response {
    let mut response =
        problem(&Problem::new(Code::METHOD_NOT_ALLOWED, format!("this path can be used with {methods}")));
    set(&mut response, ALLOW, methods.to_owned());
    response
}

/// What a path can be used with.
pub(crate) fn options(methods: &str) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    set(&mut response, ALLOW, methods.to_owned());
    response
}

/// A client takes the bridge for a proxy.
pub(crate) fn no_proxy() -> Response {
    let mut response = problem(&Problem::new(Code::NOT_FOUND, "this is not a proxy"));
    browser::tell(&Found::Nothing, &Method::CONNECT, &mut response);
    response
}

/// A page of the bridge's own that says that all is well.
pub(crate) fn page(content_type: &'static str, body: impl Into<Bytes>) -> Response {
    build(StatusCode::OK, HeaderValue::from_static(content_type), body.into())
}

/// A page of the bridge's own that says that it cannot serve.
pub(crate) fn unready(body: impl Into<Bytes>) -> Response {
    let mut response = build(StatusCode::SERVICE_UNAVAILABLE, JSON, body.into());
    response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_DEFAULT);
    response
}

fn settled(body: Bytes, asked: &Asked) -> Response {
    let status = status(asked.route.success);
    let mut response = build(status, JSON, body);
    if status == StatusCode::CREATED {
        set_location(&mut response, asked);
    }
    response
}

/// Who asks has it already.
fn not_modified() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

fn accepted(body: Bytes, asked: &Asked) -> Response {
    let mut response = build(StatusCode::ACCEPTED, JSON, body);
    set_location(&mut response, asked);
    set(&mut response, PREFERENCE_APPLIED, asked.prefer.applied());
    response
}

fn error(code: Code, body: Bytes, retry_after: Option<&str>) -> Response {
    let status = status(code.status);
    let mut response = build(status, PROBLEM, body);
    let retry_after = retry_after.and_then(|seconds| HeaderValue::from_str(seconds).ok());
    if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
        response.headers_mut().insert(RETRY_AFTER, retry_after.unwrap_or(RETRY_AFTER_DEFAULT));
    }
    response
}

fn build(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn set_location(response: &mut Response, asked: &Asked) {
    if let Some(id) = &asked.id {
        set(response, LOCATION, format!("/{}/{id}", asked.route.collection()));
    }
}

fn set(response: &mut Response, name: HeaderName, value: String) {
    let value = HeaderValue::try_from(value).expect("made from ids, names and words of the bridge, which are ASCII");
    response.headers_mut().insert(name, value);
}

/// Statuses come from two tables, of routes and of codes; a test reads both through here.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).expect("the tables hold only HTTP statuses")
}

#[cfg(test)]
mod tests {
    use shop_domain::version::Version;
    use warp::http::HeaderMap;

    use super::*;
    use crate::routes::{self, ROUTES};

    fn answer(reply: Reply, method: Method, path: &str, prefer: &str) -> (u16, Vec<String>) {
        let Found::Route { number, id } = routes::find(&method, path) else { panic!("no route for {path}") };
        let headers: HeaderMap = [(HeaderName::from_static("prefer"), prefer.parse().unwrap())].into_iter().collect();
        let id = if id.is_empty() { "o-1" } else { id };
        let asked =
            Asked { route: &ROUTES[number], id: id.parse().ok(), prefer: Prefer::of(&headers), with_key: false };
        let response = of(reply, &asked);
        let headers = response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        (response.status().as_u16(), headers.collect())
    }

    fn reply() -> Reply {
        Reply::default()
    }

    #[test]
    fn every_status_of_the_tables_is_one() {
        assert!(ROUTES.iter().all(|route| status(route.success).is_success()));
        assert!(Code::ALL.iter().all(|code| !status(code.status).is_success()));
    }

    #[test]
    fn what_was_created_is_told_with_its_place() {
        let (status, headers) = answer(reply(), Method::POST, "/orders", "");
        assert_eq!(status, 201);
        assert_eq!(headers, ["content-type: application/json", "location: /orders/o-1"]);
    }

    #[test]
    fn a_settled_change_is_ok_without_further_headers() {
        let (status, headers) = answer(reply(), Method::POST, "/wallets/alice/top-up", "respond-async");
        assert_eq!(status, 200);
        assert_eq!(headers, ["content-type: application/json"]);
    }

    #[test]
    fn what_is_taken_but_not_settled_is_accepted_with_its_place_and_the_applied_preference() {
        let taken = Reply { accepted: true, ..reply() };
        let (status, headers) = answer(taken.clone(), Method::POST, "/orders/o-2/cancel", "respond-async");
        assert_eq!(status, 202);
        assert_eq!(headers[1..], ["location: /orders/o-2", "preference-applied: respond-async"]);
        let (_, headers) = answer(taken, Method::POST, "/deliveries/o-2/dispatch", "wait=2");
        assert_eq!(headers[1..], ["location: /deliveries/o-2", "preference-applied: wait=2"]);
    }

    #[test]
    fn what_is_promised_is_accepted_under_its_id_and_may_not_be_seen_at_once() {
        for (method, path) in [(Method::POST, "/orders"), (Method::DELETE, "/orders/o-1")] {
            let Found::Route { number, .. } = routes::find(&method, path) else { panic!("no route for {path}") };
            let prefer = Prefer::of(&HeaderMap::new());
            let asked = Asked { route: &ROUTES[number], id: "o-1".parse().ok(), prefer, with_key: false };
            let response = promised(&asked);
            assert_eq!(response.status(), 202);
            for (name, value) in [(LOCATION, "/orders/o-1"), (PREFERENCE_APPLIED, "wait=5"), (RETRY_AFTER, "1")] {
                assert_eq!(response.headers()[&name], value, "{path}: {name}");
            }
        }
    }

    #[test]
    fn a_refusal_is_a_problem_with_the_status_of_its_code_and_may_be_replayed() {
        let refused = Reply { error: Some(Code::OUT_OF_STOCK), replayed: true, ..reply() };
        let (status, headers) = answer(refused, Method::POST, "/orders", "");
        assert_eq!(status, 409);
        assert_eq!(headers, ["content-type: application/problem+json", "idempotency-replayed: true"]);
    }

    #[test]
    fn whatever_is_unavailable_says_when_to_try_again() {
        let unavailable = Reply { error: Some(Code::UNAVAILABLE), ..reply() };
        let (status, headers) = answer(unavailable.clone(), Method::GET, "/orders/o-1", "");
        assert_eq!((status, headers[1].as_str()), (503, "retry-after: 1"));
        let told = Reply { retry_after: Some("7".to_owned()), ..unavailable };
        assert_eq!(answer(told, Method::GET, "/orders/o-1", "").1[1], "retry-after: 7");
    }

    #[test]
    fn what_is_shown_has_its_tag_also_when_who_asks_has_it_already() {
        let shown = Reply { version: Version::of_tag("\"7\""), ..reply() };
        let (status, headers) = answer(shown.clone(), Method::GET, "/orders/o-1", "");
        assert_eq!((status, headers), (200, vec!["content-type: application/json".into(), "etag: \"7\"".into()]));
        let known = Reply { not_modified: true, ..shown };
        assert_eq!(answer(known, Method::GET, "/orders/o-1", ""), (304, vec!["etag: \"7\"".into()]));
    }

    #[test]
    fn another_method_is_told_which_ones_are_allowed() {
        let response = other_methods("GET, HEAD");
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD");
    }
}
