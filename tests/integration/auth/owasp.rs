//! The OWASP API Security Top 10 of 2023, <https://owasp.org/API-Security/editions/2023/en/0x11-t10/>: a test for each row,
//! of what an attacker would try first. What is tried in more ways is named at each.

use hyper::Method;
use serde_json::{Value, json};
use shop_bridge_http::{
    auth::{Mode, Options as Auth},
    routes::{PAGES, ROUTES},
};
use shop_local::Options;
use shop_tests::login::{CUSTOMER, STAFF};

use super::{
    demands,
    issuer::{Issuer, base64, claims, now},
    place::{Place, found},
    shop_of, with,
};
use crate::shop::TestShop;

/// Apples, and bob with a wallet and an order.
async fn shop_of_bob(issuer: &Issuer) -> TestShop {
    let shop = shop_of(issuer, |auth| auth).await;
    let staff = issuer.token("mary", STAFF);
    let apple = json!({ "id": "apple", "name": "apple", "price": 10, "stock": 100 });
    with(shop.post("/products", apple), &staff).await.is(201);
    with(shop.post("/wallets", json!({ "id": "bob", "balance": 1_000 })), &staff).await.is(201);
    let order = json!({ "id": "o-bob", "user": "bob", "product": "apple", "quantity": 1 });
    with(shop.post("/orders", order), &issuer.token("bob", CUSTOMER)).await.is(201);
    shop
}

/// More: `auth::owners`, `callers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api1_broken_object_level_authorization_an_id_of_anothers_opens_nothing() {
    let issuer = Issuer::new("a");
    let shop = shop_of_bob(&issuer).await;
    let alice = issuer.token("alice", CUSTOMER);
    for path in ["/wallets/bob", "/wallets/bob/statement", "/orders/o-bob", "/deliveries/o-bob", "/mypages/bob"] {
        with(shop.get(path), &alice).await.refused(404, "not_found");
    }
    with(shop.post("/orders/o-bob/cancel", json!({})), &alice).await.refused(403, "forbidden");
    let for_bob = json!({ "id": "o-2", "user": "bob", "product": "apple", "quantity": 1 });
    with(shop.post("/orders", for_bob), &alice).await.refused(403, "forbidden");
    shop.close().await;
}

/// More: `auth::tokens`, `auth::programs`, `auth::gateways`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api2_broken_authentication_what_nobody_signed_or_is_over_lets_nobody_in() {
    let (issuer, forger) = (Issuer::new("a"), Issuer::new("a"));
    let shop = shop_of_bob(&issuer).await;
    let good = issuer.token("bob", CUSTOMER);
    let (body, signature) = good.rsplit_once('.').unwrap();
    let none = format!("{}.{}.", base64(br#"{"alg":"none"}"#), base64(claims("bob", CUSTOMER).to_string().as_bytes()));
    let mut over = claims("bob", CUSTOMER);
    over["exp"] = json!(now() - 120);
    let forged =
        [forger.token("bob", CUSTOMER), format!("{body}."), format!("{body}.{}", signature.to_lowercase()), none];
    for token in forged.into_iter().chain([issuer.sign("EdDSA", over)]) {
        let answer = with(shop.get("/wallets/bob"), &token).await.refused(401, "unauthorized");
        assert!(answer.header("www-authenticate").is_some_and(|told| told.starts_with("Bearer ")), "{answer}");
    }
    shop.get("/wallets/bob").await.refused(401, "unauthorized");
    with(shop.get("/wallets/bob"), &good).await.is(200);
    shop.close().await;
}

/// More: `input`, `contract`, which holds each answer of each test against the document.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api3_broken_object_property_level_authorization_what_the_shop_decides_cannot_be_sent_along() {
    let issuer = Issuer::new("a");
    let shop = shop_of_bob(&issuer).await;
    let bob = issuer.token("bob", CUSTOMER);
    let order = |more: Value| {
        let mut order = json!({ "id": "o-2", "user": "bob", "product": "apple", "quantity": 1 });
        order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        order
    };
    for more in [
        json!({ "status": "DELIVERED" }),
        json!({ "amount": 0 }),
        json!({ "quote": { "offer": { "price": 0, "stock": 9 } } }),
        json!({ "placed_at": "2020-01-01T00:00:00Z" }),
        json!({ "caller": "mary" }),
        json!({ "reach": "any" }),
    ] {
        with(shop.post("/orders", order(more)), &bob).await.refused(422, "invalid");
    }
    let shown = with(shop.get("/orders/o-bob"), &bob).await.is(200);
    let members: Vec<&String> = shown.body.as_object().unwrap().keys().collect();
    for inner in ["phase", "placers", "cancellers", "version", "fingerprint", "key", "caller"] {
        assert!(!members.iter().any(|member| *member == inner), "{inner} is shown: {shown}");
    }
    shop.close().await;
}

/// More: `limits`, `auth::rates`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api4_unrestricted_resource_consumption_size_number_and_rate_have_an_end() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| Auth { rate_per_caller: Some(1), rate_burst: 4, ..auth }).await;
    let alice = issuer.token("alice", STAFF);
    let padded = format!("{{\"amount\":1{}}}", " ".repeat(2 * 1024 * 1024));
    with(shop.ask(Method::POST, "/wallets/alice/top-up").body(padded), &alice).await.refused(413, "payload_too_large");
    with(shop.get("/wallets/alice/statement?limit=1001"), &alice).await.is(422);
    let lines: Vec<Value> = (0..51).map(|n| json!({ "product": format!("p-{n}"), "quantity": 1 })).collect();
    let order = json!({ "id": "o-1", "user": "alice", "lines": lines });
    with(shop.post("/orders", order), &alice).await.refused(422, "invalid");
    with(shop.get("/wallets/alice"), &alice).await.is(404);
    let answer = with(shop.get("/wallets/alice"), &alice).await.refused(429, "rate_limited");
    assert!(answer.header("retry-after").is_some(), "{answer}");
    shop.close().await;
}

/// More: `auth::routes`, `permissions`, `browsers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api5_broken_function_level_authorization_a_customer_does_not_run_the_shop() {
    let issuer = Issuer::new("a");
    let shop = shop_of_bob(&issuer).await;
    let bob = issuer.token("bob", CUSTOMER);
    let asks = [
        (shop.post("/products", json!({ "id": "fig", "name": "fig", "price": 1, "stock": 1 })), "catalog:write"),
        (shop.patch("/products/apple", json!({ "price": 0 })), "catalog:write"),
        (shop.post("/products/apple/restock", json!({ "quantity": 1 })), "catalog:write"),
        (shop.post("/wallets/bob/top-up", json!({ "amount": 1_000_000 })), "wallets:fund"),
        (shop.post("/deliveries/o-bob/deliver", json!({})), "deliveries:write"),
    ];
    for (ask, scope) in asks {
        with(ask, &bob).await.refused(403, "forbidden").has("/scope", scope);
    }
    // What is for those who run it is not at this address at all.
    for path in ["/metrics", "/admin", "/debug/pprof", "/api/v1/products", "/.env"] {
        with(shop.get(path), &bob).await.refused(404, "not_found");
    }
    shop.close().await;
}

/// More: `idempotency`, `concurrency`. How much of an offer one buyer may have is not limited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api6_unrestricted_access_to_sensitive_business_flows_a_program_buys_no_faster_under_other_keys() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| Auth { rate_per_caller: Some(1), rate_burst: 5, ..auth }).await;
    let mut refused = 0;
    for number in 0..20 {
        // Each with a token, a key and an order of its own.
        let mut claims = claims("bob", CUSTOMER);
        claims["jti"] = json!(number);
        let order = json!({ "user": "bob", "product": "apple", "quantity": 1 });
        let answer = with(shop.post("/orders", order), &issuer.sign("ES256", claims)).key(&format!("k-{number}")).await;
        refused += u32::from(answer.status == 429);
    }
    assert!(refused >= 10, "only {refused} of 20 were refused");
    shop.close().await;
}

/// The only address that a bridge asks for something is that of `--jwks-url`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api7_server_side_request_forgery_no_token_and_no_body_makes_the_bridge_ask_anywhere() {
    let issuer = Issuer::new("a");
    let place = Place::open(found(&Issuer::new("evil").jwks())).await;
    let shop = shop_of_bob(&issuer).await;
    let evil = Issuer::new("evil");
    for header in ["jku", "x5u"] {
        let head = json!({ "typ": "JWT", "alg": "EdDSA", "kid": evil.kid("EdDSA"), header: place.url });
        let token = evil.sign_as("EdDSA", head, claims("bob", STAFF));
        with(shop.get("/wallets/bob"), &token).await.refused(401, "unauthorized");
    }
    let bob = issuer.token("bob", CUSTOMER);
    let order = json!({ "id": "o-9", "user": "bob", "product": "apple", "quantity": 1, "callback": place.url });
    with(shop.post("/orders", order), &bob).await.refused(422, "invalid");
    with(shop.get(place.url.clone().replace("http://", "/products/")), &bob).await.is(404);
    assert_eq!(place.asked(), 0);
    shop.close().await;
}

/// More: `http_hygiene`, `browsers`, `auth::exposure`, `processes::privacy`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api8_security_misconfiguration_what_is_dangerous_is_off_and_answers_tell_nothing_of_the_inside() {
    let issuer = Issuer::new("a");
    let shop = shop_of_bob(&issuer).await;
    let bob = issuer.token("bob", CUSTOMER);
    let answer = with(shop.get("/wallets/bob"), &bob).header("origin", "https://evil.example").await.is(200);
    answer
        .with("x-content-type-options", "nosniff")
        .with("cache-control", "no-store")
        .without("access-control-allow-origin");
    for method in [Method::TRACE, Method::PUT] {
        with(shop.ask(method, "/wallets/bob"), &bob).await.refused(405, "method_not_allowed");
    }
    let broken = with(shop.ask(Method::POST, "/orders").body("{\"user\":"), &bob).await.refused(400, "malformed");
    let told = broken.body.to_string().to_lowercase();
    for word in ["panic", "serde", "src/", ".rs", "nats", "sled", "tokio"] {
        assert!(!told.contains(word), "{word} is told: {told}");
    }
    assert!(broken.header("server").is_none() && broken.header("x-powered-by").is_none(), "{broken}");
    shop.close().await;
}

/// More: `routes::tests::the_openapi_document_lists_exactly_these_routes`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api9_improper_inventory_management_the_document_has_every_route_and_there_is_no_other_version() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    let document = shop.get("/openapi.json").await.is(200);
    let described: usize = document.body["paths"].as_object().unwrap().values().map(operations).sum();
    assert_eq!(described, ROUTES.len() + PAGES.len());
    for path in ["/v1/products", "/v2/products", "/api/products", "/beta/orders", "/internal/wallets", "/swagger.json"]
    {
        shop.get(path).await.refused(404, "not_found");
    }
    shop.close().await;
}

fn operations(path: &Value) -> usize {
    path.as_object().unwrap().keys().filter(|member| *member != "parameters").count()
}

/// More: `auth::tokens`, which has an issuer that is away, and one whose keys change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api10_unsafe_consumption_of_apis_whatever_an_issuer_answers_lets_nobody_in_whom_it_did_not_before() {
    let issuer = Issuer::new("a");
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let keys_of_nothing = r#"{"keys":[{"kty":"RSA","kid":"a-RS256","n":"","e":""},{"kty":"EC","crv":"P-256","kid":"a-ES256","x":"AA","y":"AA"},{"kty":"oct","kid":"a-EdDSA","k":""}]}"#;
    let answers = [
        found(&deep),
        found("{\"keys\":null}"),
        found(keys_of_nothing),
        found("\u{0}\u{1}"),
        "HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        String::new(),
    ];
    for answer in answers {
        let place = Place::open(answer.clone()).await;
        let auth = Auth { auth: Mode::Jwt, jwks_url: Some(place.url.parse().unwrap()), ..demands() };
        let shop = TestShop::open_as(|options| Options { auth, ..options }).await;
        for algorithm in super::issuer::ALGORITHMS {
            let token = issuer.sign(algorithm, claims("bob", STAFF));
            let status = with(shop.get("/wallets/bob"), &token).await.status;
            assert!([401, 503].contains(&status), "{status} after {answer:.60}");
        }
        shop.get("/products").await.is(200);
        shop.close().await;
    }
}
