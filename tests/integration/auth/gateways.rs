//! What a gateway in front of the shop says, and what others say in its place.

use shop_bridge_http::auth::{Mode, Options as Auth};
use shop_local::{Options, Shop};

use super::{demands, issuer::Issuer, let_in, number, sent_from, shop_of, with, write_private};
use crate::shop::TestShop;

const ORDER: &str = "/orders/nothing";
const GATEWAY: [u8; 4] = [127, 0, 0, 1];
const STRANGER: [u8; 4] = [127, 0, 0, 2];
const SCOPES: (&str, &str) = ("X-Shop-Scopes", "orders:read:any");

fn gateway() -> Auth {
    Auth { auth: Mode::Gateway, trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..Auth::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_named_says_who_asks_and_nothing_else_can_in_no_spelling() {
    let shop = TestShop::open_as(|options| Options { auth: gateway(), ..options }).await;
    let alice = ("X-Shop-User", "alice");
    assert_eq!(sent_from(&shop, GATEWAY, ORDER, &[alice, SCOPES]).await.0, 404);
    assert_eq!(
        sent_from(&shop, GATEWAY, ORDER, &[("x-shop-user", "alice"), ("X-SHOP-SCOPES", "orders:read:any")]).await.0,
        404
    );
    assert_eq!(sent_from(&shop, GATEWAY, ORDER, &[alice]).await.0, 403);
    // What it has checked itself, it may hand on.
    for handed_on in ["Basic YTpi", "Bearer a.b.c", "nonsense"] {
        assert_eq!(sent_from(&shop, GATEWAY, ORDER, &[alice, SCOPES, ("Authorization", handed_on)]).await.0, 404);
    }
    for lines in [
        &[alice, SCOPES][..],
        &[("x-shop-user", "alice")],
        &[("X_Shop_User", "alice")],
        &[("x-shop_user", "alice")],
        &[("X-SHOP-SCOPES", "orders:read:any")],
        &[("x_shop_scopes", "orders:read:any")],
    ] {
        let (status, answer) = sent_from(&shop, STRANGER, ORDER, lines).await;
        assert!(status == 400 && answer.contains("--trusted-proxy"), "{lines:?}: {answer}");
        // Nor where nobody is asked.
        assert_eq!(sent_from(&shop, STRANGER, "/products", lines).await.0, 400, "{lines:?}");
    }
    for lines in [
        &[("X_Shop_User", "alice"), SCOPES][..],
        &[alice, ("x_shop_user", "bob"), SCOPES],
        &[alice, alice, SCOPES],
        &[alice, ("X-Shop-User", "bob"), SCOPES],
        &[alice, SCOPES, SCOPES],
        &[alice, SCOPES, ("x-shop_scopes", "orders:write:any")],
        &[("X-Shop-User", "alice, bob"), SCOPES],
        &[("X-Shop-User", "alice@shop.example"), SCOPES],
        &[("X-Shop-User", ""), SCOPES],
        &[alice, SCOPES, ("Authorization", "Bearer shop_0123")],
    ] {
        let (status, answer) = sent_from(&shop, GATEWAY, ORDER, lines).await;
        assert_eq!(status, 400, "{lines:?}: {answer}");
    }
    for from in [GATEWAY, STRANGER] {
        assert_eq!(sent_from(&shop, from, ORDER, &[]).await.0, 401);
        assert_eq!(sent_from(&shop, from, ORDER, &[("Authorization", "Bearer a.b.c")]).await.0, 401);
    }
    assert!(number(&shop, "shop_http_auth_total{outcome=\"by_gateway\"}").await >= 5.0);
    assert!(number(&shop, "shop_http_auth_total{outcome=\"identity_header\"}").await >= 20.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_a_gateway_hands_on_is_checked_again_and_its_header_counts_for_nothing() {
    let issuer = Issuer::new("a");
    let trusted_proxies = vec!["127.0.0.0/30".parse().unwrap()];
    let shop = shop_of(&issuer, |auth| Auth { auth: Mode::Gateway, trusted_proxies, ..auth }).await;
    let_in(with(shop.get(ORDER), &issuer.token("alice", "orders:read:any")).await);
    let lines = [("X-Shop-User", "alice"), SCOPES];
    assert_eq!(sent_from(&shop, STRANGER, ORDER, &lines).await.0, 401);
    assert_eq!(sent_from(&shop, [127, 0, 0, 9], ORDER, &lines).await.0, 400);
    with(shop.get(ORDER), &Issuer::new("b").token("alice", "orders:read:any")).await.refused(401, "unauthorized");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_do_not_fit_are_refused_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks");
    write_private(&file, &Issuer::new("a").jwks());
    let jwks_file = Some(file.clone());
    let jwt = |auth: Auth| Auth { auth: Mode::Jwt, ..auth };
    for (auth, says) in [
        (jwt(demands()), "--jwks-url or --jwks-file"),
        (jwt(Auth { jwks_file: jwks_file.clone(), ..Auth::default() }), "--jwt-issuer and --jwt-audience"),
        (jwt(Auth { jwks_file: Some(folder.path().join("nothing")), ..demands() }), "--jwks-file"),
        (Auth { auth: Mode::Gateway, ..Auth::default() }, "--trusted-proxy"),
        (Auth { identity_header: "x-shop-scopes".parse().unwrap(), ..gateway() }, "must be two"),
        (Auth { identity_header: "authorization".parse().unwrap(), ..gateway() }, "cannot be the header"),
        (Auth { jwks_file: jwks_file.clone(), ..demands() }, "--auth jwt"),
    ] {
        let options = Options { auth, ..Options::for_test(folder.path().join("data")) };
        let error = Shop::start(options).await.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
    for text in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
        write_private(&file, text);
        let auth = jwt(Auth { jwks_file: jwks_file.clone(), ..demands() });
        let options = Options { auth, ..Options::for_test(folder.path().join("data")) };
        assert!(Shop::start(options).await.unwrap_err().to_string().contains("--jwks-file"), "{text}");
    }
}
