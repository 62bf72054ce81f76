//! What a page can make its reader's browser do to a shop that is within reach, and what browsers are told.

use futures::stream;
use http_body_util::StreamBody;
use hyper::{
    Method, Request,
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use shop_bridge_http::{auth, limits::Limits};
use shop_local::Options;
use tokio::net::TcpStream;

use crate::{
    http_hygiene::WRITES,
    input::{STATE, furnished},
    shop::{Ask, TestShop, raw},
};

const JSON: (&str, &str) = ("content-type", "application/json");

fn with(ask: Ask, headers: &[(&'static str, &str)]) -> Ask {
    headers.iter().fold(ask, |ask, (name, value)| ask.header(name, *value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_changes_nothing_whatever_it_has_the_browser_send() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let own = format!("http://{}", shop.address);
    let neighbour = "http://127.0.0.1:1";
    for (method, path, body) in WRITES {
        let ask = |body: &'static str| shop.ask(method.parse().unwrap(), path).body(body).untyped();
        for headers in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "null")],
            &[("origin", neighbour)],
            &[("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ] {
            for body in [body, ""] {
                with(ask(body), headers).await.refused(403, "cross_site");
                with(ask(body), headers).header(JSON.0, JSON.1).await.refused(403, "cross_site");
            }
        }
        // What a form can send, from whatever site, and a script without asking the bridge first.
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            ask(body).header("content-type", media_type).await.refused(415, "unsupported_media_type");
            ask("")
                .header("origin", &own)
                .header("content-type", media_type)
                .await
                .refused(415, "unsupported_media_type");
        }
        ask(body).await.refused(415, "unsupported_media_type");
        ask("").header("origin", &own).await.refused(415, "unsupported_media_type");
    }
    assert_eq!(shop.look(&STATE).await, before);

    // It may ask, and its browser does not show it the answer.
    shop.get("/products").header("origin", "https://evil.example").header("sec-fetch-site", "cross-site").await.is(200);
    // The shop's own pages, those of a site that was named, and what is no browser change what they like.
    let shop =
        shop.reopen_as(|options| Options { cors_origins: vec!["https://a.example".parse().unwrap()], ..options });
    let shop = shop.await;
    let own = format!("http://{}", shop.address);
    for (number, headers) in [
        &[("origin", own.as_str()), ("sec-fetch-site", "same-origin")][..],
        &[("origin", "https://a.example"), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "none")],
        &[],
    ]
    .into_iter()
    .enumerate()
    {
        with(shop.post("/wallets", json!({ "id": format!("w-{number}") })), headers).await.is(201);
    }
    shop.ask(Method::POST, "/orders/o-1/cancel").await.is(200).has("/status", "CANCELLED");
    shop.close().await;
}

/// What is answered to a request that is meant for this host.
async fn asked_as(shop: &TestShop, line: &str, host: &str) -> (u16, Value) {
    let typed = "Content-Type: application/json\r\nContent-Length: 2";
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{typed}\r\n\r\n{{}}");
    let answer = raw(&shop.address, request.as_bytes()).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str(body).unwrap_or_default());
    (status.unwrap_or_else(|| panic!("{answer}")), body.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_its_owner_points_to_a_bridge_is_none_of_the_bridges() {
    let shop = furnished().await;
    let before = shop.look(&STATE).await;
    let reads = STATE.map(|path| format!("GET {path}")).into_iter().chain(["GET /docs".into(), "GET /nothing".into()]);
    let writes = WRITES.map(|(method, path, _)| format!("{method} {path}"));
    for line in reads.chain(writes).chain(["OPTIONS /wallets".to_owned()]) {
        for host in ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7"]
        {
            let (status, problem) = asked_as(&shop, &line, host).await;
            assert_eq!((status, &problem["code"]), (421, &json!("misdirected")), "{line} as {host}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains(&format!("{host:?}")), "{problem}");
        }
        // The target of a request counts, and is not another one than its header says.
        let (method, path) = line.split_once(' ').unwrap();
        let absolute = format!("{method} http://evil.example{path}");
        assert_eq!(asked_as(&shop, &absolute, "evil.example").await.0, 421, "{absolute}");
        assert_eq!(asked_as(&shop, &absolute, "localhost").await.0, 400, "{absolute}");
    }
    // Probes and balancers have names of their own for a bridge.
    for line in ["GET /healthz", "GET /readyz", "HEAD /readyz"] {
        assert_eq!(asked_as(&shop, line, "10.0.0.7:8080").await.0, 200, "{line}");
    }
    assert_eq!(shop.look(&STATE).await, before);

    let own = shop.address.clone();
    for host in ["localhost", "LocalHost.:9", "shop.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:8080", own.as_str()]
    {
        assert_eq!(asked_as(&shop, "GET /wallets/alice", host).await.0, 200, "{host}");
    }
    assert_eq!(asked_as(&shop, "GET http://localhost/wallets/alice", "localhost").await.0, 200);

    let limits = Limits { http2: true, ..Limits::default() };
    let names = ["shop.default.svc", "10.0.0.7"].map(|host| host.parse().unwrap()).to_vec();
    let shop = shop.reopen_as(|options| Options { allow_hosts: names, limits: limits.clone(), ..options }).await;
    for (host, status) in [
        ("SHOP.default.svc.:8080", 200),
        ("10.0.0.7", 200),
        ("localhost", 200),
        ("10.0.0.8", 421),
        ("default.svc", 421),
        ("evil.example", 421),
    ] {
        assert_eq!(asked_as(&shop, "GET /wallets/alice", host).await.0, status, "{host}");
    }

    // Over HTTP/2 the host is in `:authority`.
    let socket = TcpStream::connect(&shop.address).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (host, status) in [("evil.example", 421), ("shop.default.svc:8080", 200)] {
        let request = Request::builder().uri(format!("http://{host}/wallets/alice"));
        let body = StreamBody::new(stream::empty::<Result<Frame<Bytes>, std::io::Error>>());
        client.ready().await.unwrap();
        assert_eq!(client.send_request(request.body(body).unwrap()).await.unwrap().status(), status, "{host}");
    }
    connection.abort();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_listens_everywhere_is_asked_by_any_address_and_by_no_name_of_others() {
    let auth = auth::Options { allow_anonymous: true, ..auth::Options::default() };
    let shop = TestShop::open_as(|options| Options { http_addr: "0.0.0.0:0".to_owned(), auth, ..options }).await;
    shop.wallet("alice", 1).await;
    // As Kubernetes and Prometheus do, which know the addresses of pods.
    for (host, status) in [("10.0.0.7:8080", 200), ("[fd00::7]", 200), ("evil.example", 421), ("shop", 421)] {
        assert_eq!(asked_as(&shop, "GET /wallets/alice", host).await.0, status, "{host}");
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_tells_browsers_what_to_make_of_it() {
    let shop = furnished().await;
    let tag = shop.get("/products/apple").await.is(200).header("etag").unwrap().to_owned();
    let line =
        |first: &str, lines: &str| format!("{first} HTTP/1.1\r\nHost: localhost\r\n{lines}Connection: close\r\n\r\n");
    let typed = |body: &str| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let pay = r#"{"amount":1}"#;
    for (request, status, keeping) in [
        (line("GET /", ""), 200, "public, max-age=300"),
        (line("GET /docs", ""), 200, "public, max-age=300"),
        (line("GET /openapi.json", ""), 200, "public, max-age=300"),
        (line("GET /products", ""), 200, "no-cache"),
        (line("HEAD /products/apple", ""), 200, "no-cache"),
        (line("GET /products/apple", &format!("If-None-Match: {tag}\r\n")), 304, "no-cache"),
        (line("GET /products/pear", ""), 404, "no-store"),
        (line("POST /products/apple/restock", &typed(pay)) + pay, 422, "no-store"),
        (line("GET /wallets/alice", ""), 200, "no-store"),
        (line("GET /wallets/alice/statement", ""), 200, "no-store"),
        (line("POST /wallets/alice/top-up", &typed(pay)) + pay, 200, "no-store"),
        (line("POST /wallets/alice/top-up", "Origin: null\r\n"), 403, "no-store"),
        (line("GET /orders/o-1", ""), 200, "no-store"),
        (line("GET /deliveries/o-1", ""), 200, "no-store"),
        (line("GET /mypages/alice", ""), 200, "no-store"),
        (line("OPTIONS /wallets", ""), 204, "no-store"),
        (line("PUT /wallets", ""), 405, "no-store"),
        (line("GET /nothing", ""), 404, "no-store"),
        (line("GET /healthz", ""), 200, "no-store"),
        (line("GET /readyz", ""), 200, "no-store"),
        (line("CONNECT localhost:80", ""), 404, "no-store"),
        ("GET /docs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), 421, "no-store"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400, "no-store"),
        ("nonsense\r\n\r\n".to_owned(), 400, "no-store"),
    ] {
        let answer = raw(&shop.address, request.as_bytes()).await;
        let head = answer.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {answer}");
        let keeping = format!("cache-control: {keeping}");
        for header in [&*keeping, "x-content-type-options: nosniff", "referrer-policy: no-referrer"] {
            assert_eq!(head.lines().filter(|line| *line == header).count(), 1, "{header}, {request}: {head}");
        }
        let is_page = ["GET / ", "GET /docs "].iter().any(|page| request.starts_with(page)) && status == 200;
        assert_eq!(head.contains("content-type: text/html"), is_page, "{request}: {head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
        assert_eq!(policy.is_some(), is_page, "{request}: {head}");
        for word in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"] {
            assert!(policy.is_none_or(|policy| policy.contains(word)), "{head}");
        }
    }
    for path in ["/readyz", "/metrics", "/nothing"] {
        let answer = shop.inside().get(path).await;
        let told = ["x-content-type-options", "cache-control"].map(|name| answer.header(name));
        assert_eq!(told, [Some("nosniff"), Some("no-store")], "{path}");
    }
    shop.close().await;
}
