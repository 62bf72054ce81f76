//! How often a caller and an address may ask.

use shop_bridge_http::auth::Options as Auth;
use shop_local::Options;

use super::{
    issuer::{Issuer, claims},
    let_in, number, sent_from, shop_of, with,
};
use crate::shop::{TestShop, eventually};

const ORDER: &str = "/orders/nothing";
/// More than any bucket of these tests holds.
const MANY: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_asks_too_often_is_429_until_it_has_waited_and_nobody_else_is() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| Auth { rate_per_caller: Some(1), rate_burst: 3, ..auth }).await;
    let alice = issuer.token("alice", "orders:read:any");
    let another = issuer.sign("ES256", claims("alice", "orders:read:any"));
    let mut let_in_before = 0;
    let refused = loop {
        // The same caller with either token.
        let token = if let_in_before % 2 == 0 { &alice } else { &another };
        let answer = with(shop.get(ORDER), token).await.with("ratelimit-policy", "\"caller\";q=3;w=3");
        assert!(answer.header("ratelimit").unwrap().starts_with("\"caller\";r="), "{answer}");
        if answer.status == 429 {
            break answer;
        }
        let_in(answer);
        let_in_before += 1;
        assert!(let_in_before < MANY, "nobody is refused");
    };
    assert!(let_in_before >= 3, "only {let_in_before} were let in");
    let refused = refused.refused(429, "rate_limited").has("/retryable", true).with("retry-after", "1");
    refused.with("ratelimit", "\"caller\";r=0;t=1").with("cache-control", "no-store").without("www-authenticate");
    let_in(with(shop.get(ORDER), &issuer.token("bob", "orders:read:any")).await);
    // Who has not said who it is has no such limit.
    for _ in 0..5 {
        shop.get(ORDER).await.refused(401, "unauthorized").without("ratelimit");
        shop.get("/products").await.is(200);
    }
    let status = || async { with(shop.get(ORDER), &alice).await.status };
    eventually("the next turn", status, |status| *status == 404).await;
    assert_eq!(number(&shop, "shop_http_rate_buckets{by=\"caller\"}").await, 2.0);
    assert!(number(&shop, "shop_http_auth_total{outcome=\"caller_rate\"}").await >= 1.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_asks_too_often_is_429_whoever_it_says_it_is_and_a_proxy_names_it_only_if_it_is_believed() {
    let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let auth = Auth { rate_per_address: 1, rate_burst: 2, trusted_proxies, ..Auth::default() };
    let shop = TestShop::open_as(|options| Options { auth, ..options }).await;
    let asked = async |from: u8, forwarded: &str| {
        let lines = [("X-Forwarded-For", forwarded)];
        sent_from(&shop, [127, 0, 0, from], "/wallets/nobody", &lines).await.0
    };
    // How many are let in until one is not.
    let until_refused = async |from: u8, forwarded: &dyn Fn(usize) -> String| {
        for number in 0..MANY {
            match asked(from, &forwarded(number)).await {
                404 => {}
                status => return (number, status),
            }
        }
        panic!("nobody is refused")
    };
    // A stranger is where it comes from, whatever it says.
    let (count, status) = until_refused(2, &|number| format!("198.51.100.{number}")).await;
    assert!(count >= 2 && status == 429, "{count}: {status}");
    let (status, answer) = sent_from(&shop, [127, 0, 0, 2], "/products", &[]).await;
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains("\r\nratelimit: \"address\";r=") && [200, 429].contains(&status), "{answer}");
    assert!(status == 200 || answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    // A proxy says who it is for; what was said to the proxy counts for nothing.
    for number in 0..MANY {
        assert_eq!(asked(1, &format!("198.51.100.7, 203.0.113.{number}, 127.0.0.1")).await, 404);
    }
    let (count, status) = until_refused(1, &|number| format!("203.0.113.{number}, 198.51.100.7")).await;
    assert!(count >= 2 && status == 429, "{count}: {status}");
    let (count, status) = until_refused(1, &|number| format!("2001:db8::{number}")).await;
    assert!(count >= 2 && status == 429, "of one network: {count}: {status}");
    // Probes are for balancers.
    for _ in 0..5 {
        assert_eq!(sent_from(&shop, [127, 0, 0, 2], "/readyz", &[]).await.0, 200);
    }
    assert!(number(&shop, "shop_http_auth_total{outcome=\"address_rate\"}").await >= 3.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_auth_there_is_no_limit_and_no_word_of_one() {
    let shop = TestShop::open().await;
    for _ in 0..300 {
        shop.get("/wallets/nobody").await.refused(404, "not_found").without("ratelimit").without("www-authenticate");
    }
    assert_eq!(number(&shop, "shop_http_auth_total{outcome=\"by_nothing\"}").await, 0.0);
    shop.close().await;
}
