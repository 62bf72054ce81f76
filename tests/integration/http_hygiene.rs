//! Requests as an attacker or a careless client writes them, byte by byte: each is read in one way or refused.

use std::time::Duration;

use futures::stream;
use http_body_util::StreamBody;
use hyper::{
    Method, Request,
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use shop_bridge_http::limits::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    input::{STATE, furnished},
    shop::{TestShop, raw},
};

/// How long an answer may take that does not depend on what the client sends next.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Every route that takes a body, with one that it would take.
pub(crate) const WRITES: [(&str, &str, &str); 10] = [
    ("POST", "/products", r#"{"name":"pear","price":1,"stock":1}"#),
    ("PATCH", "/products/apple", r#"{"price":7}"#),
    ("POST", "/products/apple/restock", r#"{"quantity":1}"#),
    ("POST", "/wallets", r#"{"balance":1}"#),
    ("POST", "/wallets/alice/top-up", r#"{"amount":1}"#),
    ("POST", "/orders", r#"{"user":"alice","product":"apple","quantity":1}"#),
    ("POST", "/orders/o-1/cancel", r#"{"reason":"x"}"#),
    ("DELETE", "/orders/o-1", r#"{"reason":"x"}"#),
    ("POST", "/deliveries/o-1/dispatch", "{}"),
    ("POST", "/deliveries/o-1/deliver", "{}"),
];

/// A request with these lines in its head beside those that every one needs.
fn request(method: &str, path: &str, lines: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The head and the problem of an answer.
#[track_caller]
fn problem(answer: &str, status: u16, code: &str) -> (String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with(&format!("http/1.1 {status} ")), "{answer}");
    assert!(head.contains("\r\ncontent-type: application/problem+json"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{answer}");
    (head, problem)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_can_be_read_in_two_ways_is_refused_and_nothing_happens() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    for (method, path, body) in WRITES.into_iter().chain([("GET", "/products", ""), ("GET", "/nothing", "")]) {
        for lines in [
            "",
            "Host: localhost\r\nHost: localhost\r\n",
            "Host: localhost\r\nhost: other\r\n",
            "Host: a b\r\n",
            "Host: localhost/x\r\n",
            "Host: me@localhost\r\n",
            "Host: localhost:http\r\n",
            "Host: [::1\r\n",
            "Host:\r\n",
            "Host: localhost\r\nContent-Type: application/json\r\nContent-Type: application/json\r\n",
            "Host: localhost\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\n",
        ] {
            let (head, _) =
                problem(&raw(&shop.address, request(method, path, lines, body).as_bytes()).await, 400, "malformed");
            assert!(head.contains("\r\nconnection: close"), "{lines:?}: {head}");
        }
        for coding in [
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
        ] {
            let length = body.len();
            // What follows would be taken for a request of its own by a server that goes on.
            let smuggled = "GET /wallets/alice HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let chunked = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{coding}\r\n{length:x}\r\n{body}\r\n0\r\n\r\n{smuggled}"
            );
            let answer = raw(&shop.address, chunked.as_bytes()).await;
            let (head, _) = problem(&answer, 400, "malformed");
            assert!(head.contains("\r\nconnection: close"), "{coding:?}: {head}");
        }
    }
    assert_eq!(shop.look(&STATE).await, before);

    // HTTP/1.0 knows no Host, and a body may come in pieces.
    let old = raw(&shop.address, b"GET /wallets/alice HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 "), "{old}");
    let pieces = "POST /wallets/alice/top-up HTTP/1.1\r\nHost: localhost:80\r\nContent-Type: application/json\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n5\r\n{\"amo\r\n7\r\nunt\":1}\r\n0\r\n\r\n";
    let answer = raw(&shop.address, pieces.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"balance\":49001"), "{answer}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_in_another_coding_is_refused_by_name_and_never_read_as_json() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    for (method, path, body) in WRITES {
        for coding in ["br", "gzip", "nonsense", "identity, gzip", "GZIP", "aws-chunked"] {
            let ask = shop.ask(method.parse().unwrap(), path).body(body).header("content-encoding", coding);
            let answer = ask.await.refused(415, "unsupported_media_type").with("accept-encoding", "identity");
            let named = coding.trim_start_matches("identity, ");
            assert!(answer.text("/detail").ends_with(&format!("not in the coding \"{named}\"")), "{answer}");
            answer.has("/content_encoding", named);
        }
        for media_type in ["application/json; charset=utf-16", "application/json, text/plain"] {
            let ask = shop.ask(method.parse().unwrap(), path).body(body).header("content-type", media_type);
            ask.await.refused(415, "unsupported_media_type").without("accept-encoding");
        }
    }
    assert_eq!(shop.look(&STATE).await, before);
    for (id, coding) in [("a", "identity"), ("b", "Identity")] {
        let ask = shop.ask(Method::POST, "/wallets").body(json!({ "id": id }).to_string());
        ask.header("content-encoding", coding).await.is(201);
    }
    shop.close().await;
}

/// The first answer to what is sent, while the connection stays open and no body comes.
async fn first_answer(address: &str, head: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\n") && !answer.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            answer.push(byte[0]);
        }
    };
    timeout(AT_ONCE, read).await.unwrap_or_else(|_| panic!("no answer to {head}"));
    // The head of a problem ends as well; its body follows.
    if answer.starts_with(b"HTTP/1.1 4") {
        let rest = timeout(AT_ONCE, stream.read_to_end(&mut answer)).await;
        rest.unwrap_or_else(|_| panic!("the connection goes on after {head}")).unwrap();
    }
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_first_hears_a_refusal_at_once_and_no_word_to_go_on() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    for (method, path, _) in WRITES {
        for (lines, status, code) in [
            ("Content-Length: 65537\r\n", 413, "payload_too_large"),
            ("Content-Length: 1048576\r\n", 413, "payload_too_large"),
            ("Content-Length: 9\r\nContent-Type: text/plain\r\n", 415, "unsupported_media_type"),
            ("Content-Length: 9\r\n", 415, "unsupported_media_type"),
            ("Content-Length: 9\r\nContent-Type: application/json\r\nOrigin: null\r\n", 403, "cross_site"),
            ("Content-Length: 9\r\nContent-Encoding: gzip\r\n", 415, "unsupported_media_type"),
            ("Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\n", 415, "unsupported_media_type"),
            ("Transfer-Encoding: gzip, chunked\r\n", 400, "malformed"),
            ("Content-Length: 9\r\nIdempotency-Key: a b\r\n", 422, "invalid"),
        ] {
            let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{lines}\r\n");
            let (_, answer) = first_answer(&shop.address, &head).await;
            let (head, _) = problem(&answer, status, code);
            assert!(head.contains("\r\nconnection: close"), "{answer}");
        }
    }
    let expecting = |line: &str| {
        let type_and_length = "Content-Type: application/json\r\nContent-Length: 14";
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nexpect: 100-Continue\r\n{type_and_length}\r\n\r\n")
    };
    for (line, status, code) in [
        ("POST /wallets/a.b/top-up", 422, "invalid"),
        ("PATCH /products/%FF", 422, "invalid"),
        ("POST /nothing", 404, "not_found"),
        ("PUT /wallets/alice", 405, "method_not_allowed"),
    ] {
        problem(&first_answer(&shop.address, &expecting(line)).await.1, status, code);
    }
    assert_eq!(shop.look(&STATE).await, before);

    // Who would be served is told to go on, and is.
    let (mut stream, word) = first_answer(&shop.address, &expecting("POST /wallets/alice/top-up")).await;
    assert_eq!(word, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"amount\":  1}").await.unwrap();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 ");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_a_refusal_comes_before_the_body_and_hosts_are_checked() {
    let limits = Limits { http2: true, ..Limits::default() };
    let shop = TestShop::open_as(|options| shop_local::Options { limits, ..options }).await;
    let socket = TcpStream::connect(&shop.address).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut status_of = async |headers: &[(&str, &str)], path: &str| {
        let mut request = Request::builder().method("POST").uri(format!("http://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A body that never comes.
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        client.ready().await.unwrap();
        let answer = timeout(AT_ONCE, client.send_request(request.body(body).unwrap())).await;
        answer.unwrap_or_else(|_| panic!("no answer to {headers:?}")).unwrap().status().as_u16()
    };
    let expect = ("expect", "100-continue");
    for (headers, path, status) in [
        (&[expect, ("content-type", "text/plain")][..], "/wallets", 415),
        (&[expect, ("content-encoding", "gzip")], "/wallets", 415),
        (&[expect, ("content-length", "70000")], "/wallets", 413),
        (&[expect], "/wallets/a.b/top-up", 422),
        (&[expect], "/nothing", 404),
        (&[("host", "other")], "/wallets", 400),
        (&[("sec-fetch-site", "cross-site")], "/wallets", 403),
        (&[("content-type", "application/json"), ("content-type", "application/json")], "/wallets", 400),
    ] {
        assert_eq!(status_of(headers, path).await, status, "{headers:?} {path}");
    }
    connection.abort();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_even_be_read_is_refused_with_a_problem_and_counted() {
    let shop = TestShop::open().await;
    let line =
        |length: usize| format!("GET /{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "x".repeat(length));
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    let large = format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {}\r\n\r\n", "x".repeat(500_000));
    for (request, status, code) in [
        ("nonsense\r\n\r\n".to_owned(), 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nbad name: x\r\n\r\n".to_owned(), 400, "malformed"),
        ("GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400, "malformed"),
        ("POST /wallets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\n{".to_owned(), 400, "malformed"),
        (line(9_000), 414, "uri_too_long"),
        (line(100_000), 414, "uri_too_long"),
        (lines(200), 431, "headers_too_large"),
        (large, 431, "headers_too_large"),
    ] {
        problem(&raw(&shop.address, request.as_bytes()).await, status, code);
    }
    let metrics = shop.metrics().await;
    for counted in [
        r#"shop_http_requests_total{method="other",route="unmatched",status="400"} 4"#,
        r#"shop_http_requests_total{method="other",route="unmatched",status="431"} 2"#,
        r#"shop_http_requests_total{method="other",route="unmatched",status="414"} 1"#,
        r#"shop_http_requests_total{method="GET",route="unmatched",status="414"} 1"#,
    ] {
        assert!(metrics.contains(counted), "{counted} is not in\n{metrics}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_says_what_a_path_can_be_used_with() {
    let shop = TestShop::open().await;
    for (path, allow) in [
        ("/", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/products", "POST, GET, HEAD, OPTIONS"),
        ("/products/apple", "GET, HEAD, PATCH, OPTIONS"),
        ("/products/apple/restock", "POST, OPTIONS"),
        ("/wallets", "POST, OPTIONS"),
        ("/wallets/a.b", "GET, HEAD, OPTIONS"),
        ("/orders/o-1", "GET, HEAD, DELETE, OPTIONS"),
        ("/mypages/alice", "GET, HEAD, OPTIONS"),
        ("*", "POST, GET, HEAD, PATCH, DELETE, OPTIONS"),
    ] {
        let answer = raw(&shop.address, request("OPTIONS", path, "Host: localhost\r\n", "").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{path}: {answer}");
        let lower = answer.to_ascii_lowercase();
        assert!(lower.contains(&format!("\r\nallow: {}\r\n", allow.to_ascii_lowercase())), "{path}: {answer}");
        assert!(!lower.contains("access-control") && answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
    let nothing = raw(&shop.address, request("OPTIONS", "/nothing", "Host: localhost\r\n", "").as_bytes()).await;
    problem(&nothing, 404, "not_found");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_named_origins_may_use_the_shop_and_no_others() {
    let origins = ["https://shop.example", "http://localhost:3000"];
    let origins = origins.map(|origin| origin.parse().unwrap()).to_vec();
    let shop = TestShop::open_as(|options| shop_local::Options { cors_origins: origins, ..options }).await;
    let asks = async |origin: &str| {
        let lines = format!("Host: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: PATCH\r\n");
        let preflight = request("OPTIONS", "/products/apple", &lines, "");
        raw(&shop.address, preflight.as_bytes()).await.to_ascii_lowercase()
    };
    let allowed = asks("http://localhost:3000").await;
    for line in [
        "http/1.1 204 no content",
        "access-control-allow-origin: http://localhost:3000",
        "access-control-allow-methods: get, head, patch, options",
        "access-control-allow-headers: content-type, idempotency-key, if-match, if-none-match, prefer, traceparent",
        "vary: origin",
    ] {
        assert!(allowed.lines().any(|found| found == line), "{line} is not in\n{allowed}");
    }
    let stranger = asks("https://evil.example").await;
    assert!(stranger.starts_with("http/1.1 204") && !stranger.contains("access-control"), "{stranger}");

    let seen = shop.post("/wallets", json!({ "id": "a" })).header("origin", "https://shop.example").await.is(201);
    let seen = seen.with("access-control-allow-origin", "https://shop.example").with("vary", "Origin");
    assert!(
        seen.header("access-control-expose-headers").is_some_and(|names| names.contains("ETag, Location")),
        "{seen}"
    );
    // A page has to be able to see why it was refused, too.
    let refused = shop.get("/wallets/b").header("origin", "https://shop.example").await.is(404);
    refused.with("access-control-allow-origin", "https://shop.example");
    let stranger = shop.get("/wallets/a").header("origin", "https://evil.example").await.is(200);
    stranger.without("access-control-allow-origin").with("vary", "Origin");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_page_is_html_that_shows_the_api_and_links_to_the_rest() {
    let shop = TestShop::open().await;
    let front = shop.get("/").await.is(200).with("content-type", "text/html; charset=utf-8");
    assert_eq!(shop.get("/docs").await.is(200).bytes, front.bytes);
    assert!(shop.ask(Method::HEAD, "/").await.is(200).bytes.is_empty());
    let page = String::from_utf8(front.bytes.to_vec()).unwrap();
    for link in page.split("href=\"/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        shop.get(format!("/{link}")).await.is(200);
    }
    for part in ["<!doctype html>", "href=\"/openapi.json\"", "/wallets/{id}/top-up", "insufficient_balance"] {
        assert!(page.contains(part), "{part} is not on the page");
    }
    shop.close().await;
}
