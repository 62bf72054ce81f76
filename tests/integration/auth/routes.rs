//! What each route asks for, over every version of HTTP, and what needs nothing.

use hyper::Method;
use shop_bridge_http::{
    limits::Limits,
    routes::{PAGES, ROUTES},
    scope::Scope,
};
use shop_local::Options;
use shop_tests::client::{Ask, Client};

use super::{ask, guarded, issuer::Issuer, over_http2, shop_of, with};
use crate::contract;

/// All scopes but that one, for everybody's things, and that one misspelt.
fn all_but(scope: Scope) -> String {
    let others = Scope::ALL.into_iter().filter(|other| *other != scope).map(|other| format!("{}:any", other.name()));
    let name = scope.name();
    format!("{} {name}:all {name}s {}", others.collect::<Vec<_>>().join(" "), name.to_uppercase())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_is_401_without_a_token_403_without_its_scope_and_let_in_with_it() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    let mut seen = 0;
    for route in guarded() {
        let scope = route.scope.unwrap();
        let methods = if route.is_write() { vec![route.method.clone()] } else { vec![Method::GET, Method::HEAD] };
        for method in methods {
            let asked = || {
                let path = route.path.replace("{id}", "nothing").replace("{user}", "nobody");
                if method == Method::HEAD { shop.ask(Method::HEAD, path) } else { ask(&shop, route) }
            };
            let refused = asked().await.is(401);
            assert_eq!(refused.bytes.is_empty(), method == Method::HEAD, "{refused}");
            let poor = with(asked(), &issuer.token("alice", &all_but(scope))).await.is(403);
            let challenge = format!("Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"{}\"", scope.name());
            let poor = poor.with("www-authenticate", &challenge);
            if method != Method::HEAD {
                poor.refused(403, "forbidden").has("/scope", scope.name()).has("/retryable", false);
            }
            let rich = with(asked(), &issuer.token("alice", &format!("{}:any", scope.name()))).await;
            assert!(![401, 403].contains(&rich.status), "{rich}");
            seen += 1;
        }
    }
    assert_eq!(seen, 15 + 5, "rows that ask for something, and those that answer HEAD as well");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everybody_may_see_needs_no_token_but_one_that_is_sent_must_be_good() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    for (path, _) in PAGES {
        shop.get(path).await.is(200);
        // A probe may send what it likes.
        with(shop.get(path), "x").await.is(200);
    }
    shop.get("/products").await.is(200);
    shop.get("/products/apple").await.refused(404, "not_found");
    with(shop.get("/products"), &issuer.token("alice", "")).await.is(200);
    with(shop.get("/products"), "x").await.refused(401, "unauthorized");
    // Before a body is read, and before a wrong one is looked at.
    shop.ask(Method::POST, "/orders").body("nonsense").await.refused(401, "unauthorized");
    shop.ask(Method::POST, "/orders").body("x".repeat(70_000)).await.refused(401, "unauthorized");
    // Paths and methods that there are not are no secret.
    shop.get("/nothing").await.refused(404, "not_found");
    shop.ask(Method::PUT, "/orders").await.refused(405, "method_not_allowed");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_learns_without_a_token_what_it_may_send_and_shows_its_page_why_it_was_refused() {
    let issuer = Issuer::new("a");
    let origin = "https://front.example";
    let shop = shop_of(&issuer, |auth| auth).await;
    let shop = shop.reopen_as(|options| Options { cors_origins: vec![origin.parse().unwrap()], ..options });
    let shop = shop.await;
    // No operation of the document, which every other answer is held against.
    let preflight = Ask::new(Method::OPTIONS, "/orders").header("origin", origin);
    let preflight = preflight.header("access-control-request-method", "POST");
    let preflight = preflight.header("access-control-request-headers", "authorization");
    let told = Client::new(shop.shop.http_address()).exchange(&preflight).await.unwrap();
    assert_eq!((told.status, told.header("access-control-allow-origin")), (204, Some(origin)), "{told:?}");
    assert_eq!(told.header("www-authenticate"), None, "{told:?}");
    let allowed = told.header("access-control-allow-headers").unwrap().to_ascii_lowercase();
    assert!(allowed.split(", ").any(|name| name == "authorization"), "{told:?}");
    let refused = shop.get("/orders/nothing").header("origin", origin).await.refused(401, "unauthorized");
    let refused = refused.with("access-control-allow-origin", origin).with("vary", "Origin");
    assert!(refused.header("access-control-expose-headers").unwrap().contains("WWW-Authenticate"), "{refused}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_it_is_the_same() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    let limits = Limits { http2: true, ..Limits::default() };
    let shop = shop.reopen_as(|options| Options { limits, ..options }).await;
    let good = issuer.token("alice", "orders:read:any");
    for (lines, status) in [
        (vec![], 401),
        (vec!["Bearer x".to_owned()], 401),
        (vec![format!("Bearer {}", issuer.token("alice", ""))], 403),
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], 400),
        (vec![format!("Bearer {good}")], 404),
    ] {
        assert_eq!(over_http2(&shop.address, "/orders/nothing", &lines).await, status, "{lines:?}");
    }
    shop.close().await;
}

#[test]
fn the_openapi_document_has_the_scope_of_every_route_and_what_is_answered_without_it() {
    for route in &ROUTES {
        let operation = contract::operation(route.method.as_str(), route.path);
        let names = route.scope.map(Scope::name);
        let security = operation["security"].as_array().unwrap();
        let of = |scheme: &str| security.iter().find_map(|one| Some(one.get(scheme)?[0].as_str().unwrap()));
        assert_eq!((of("token"), of("key")), (names, names), "{} {}", route.method, route.path);
        assert_eq!(security.len(), if names.is_some() { 2 } else { 0 }, "{} {}", route.method, route.path);
        for (status, is_told) in [("401", true), ("403", names.is_some()), ("429", true)] {
            assert_eq!(
                operation["responses"][status].is_object(),
                is_told,
                "{} {}: {status}",
                route.method,
                route.path
            );
        }
    }
}

#[test]
fn the_page_about_auth_has_the_scope_of_every_route() {
    let page = include_str!("../../../bridge-http/auth.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    for route in &ROUTES {
        let asked = format!("`{} {}`", route.method, route.path);
        let row = rows.iter().find(|row| row.contains(&asked)).unwrap_or_else(|| panic!("{asked} is in no row"));
        let scope = route.scope.map_or("none".to_owned(), |scope| format!("`{}`", scope.name()));
        assert!(row.starts_with(&format!("| {asked} | {scope} |")), "{row}");
    }
}
