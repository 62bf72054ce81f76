//! Tokens: which are taken, and what an issuer does meanwhile.

use futures::future::join_all;
use ring::hmac;
use serde_json::{Value, json};
use shop_bridge_http::auth::{Mode, Options as Auth};
use shop_local::Options;

use super::{
    demands,
    issuer::{ALGORITHMS, AUDIENCE, ISSUER, Issuer, base64, claims, now},
    let_in, number,
    place::{Place, found},
    shop_of,
    tls_place::TlsPlace,
    with,
};
use crate::shop::{TestShop, eventually};

const ORDER: &str = "/orders/nothing";
const SCOPE: &str = "orders:read:any";

/// A good token's claims, with one thing changed.
fn with_claim(claim: &str, value: Value) -> Value {
    let mut claims = claims("alice", SCOPE);
    claims[claim] = value;
    claims
}

fn without_claim(claim: &str) -> Value {
    let mut claims = claims("alice", SCOPE);
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_taken_if_its_issuer_signed_it_for_this_shop_and_this_moment() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    for algorithm in ALGORITHMS {
        for claims in [
            claims("alice", SCOPE),
            with_claim("aud", json!(["other", AUDIENCE])),
            with_claim("exp", json!(now() - 30)),
            with_claim("nbf", json!(now() + 30)),
            with_claim("exp", json!(u64::MAX)),
            with_claim("scope", json!(format!("openid {SCOPE}"))),
        ] {
            let token = issuer.sign(algorithm, claims);
            // The second time it is known.
            for _ in 0..2 {
                let_in(with(shop.get(ORDER), &token).await);
            }
        }
    }
    for (scopes, value) in [("scp", json!([SCOPE])), ("scp", json!(SCOPE)), ("scope", json!(SCOPE))] {
        let mut claims = without_claim("scope");
        claims[scopes] = value;
        let_in(with(shop.get(ORDER), &issuer.sign("EdDSA", claims)).await);
    }
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = json!({ "typ": kind, "alg": "ES256", "kid": issuer.kid("ES256") });
        let_in(with(shop.get(ORDER), &issuer.sign_as("ES256", header, claims("alice", SCOPE))).await);
    }
    let token = issuer.token("alice", SCOPE);
    let_in(shop.get(ORDER).header("authorization", format!("bEARER  {token} ")).await);
    assert!(number(&shop, "shop_http_auth_total{outcome=\"by_token\"}").await > 40.0);
    assert!(number(&shop, "shop_http_tokens_known").await > 20.0);
    assert_eq!(number(&shop, "shop_http_issuer_keys").await, 3.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_forged_or_not_for_this_shop_or_not_for_now_is_401_and_says_why() {
    let (issuer, stranger) = (Issuer::new("a"), Issuer::new("a"));
    let shop = shop_of(&issuer, |auth| auth).await;
    let mut bad: Vec<(&str, String)> = Vec::new();
    for none in ["none", "None", "nOnE", ""] {
        let header = json!({ "typ": "JWT", "alg": none, "kid": issuer.kid("EdDSA") });
        let message = format!("{}.{}", part(&header), part(&claims("alice", SCOPE)));
        bad.push(("cannot be read", format!("{message}.")));
        bad.push(("cannot be read", message));
    }
    // HMAC with what everybody knows.
    for algorithm in ALGORITHMS {
        for secret in issuer.public_bytes() {
            let header = json!({ "typ": "JWT", "alg": "HS256", "kid": issuer.kid(algorithm) });
            let message = format!("{}.{}", part(&header), part(&claims("alice", SCOPE)));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            bad.push(("issuer does not name", format!("{message}.{}", base64(tag.as_ref()))));
        }
    }
    // The algorithm is that of the key, whatever the token says of it.
    for (signed, said, kid) in [
        ("RS256", "ES256", "RS256"),
        ("RS256", "ES256", "ES256"),
        ("ES256", "RS256", "ES256"),
        ("ES256", "EdDSA", "ES256"),
        ("EdDSA", "ES256", "EdDSA"),
        ("RS256", "RS384", "RS256"),
        ("RS256", "PS256", "RS256"),
        ("RS256", "RS256", "ES256"),
    ] {
        let header = json!({ "typ": "JWT", "alg": said, "kid": issuer.kid(kid) });
        bad.push(("", issuer.sign_as(signed, header, claims("alice", SCOPE))));
    }
    for algorithm in ["EdDSA", "ES256"] {
        bad.push(("signature", stranger.sign(algorithm, claims("alice", SCOPE))));
    }
    for kid in ["secret", "for-encryption", "for-another", "../../dev/null", ""] {
        let header = json!({ "typ": "JWT", "alg": "RS256", "kid": kid });
        bad.push(("issuer does not name", issuer.sign_as("RS256", header, claims("alice", SCOPE))));
    }
    // A key that it brings itself, no name of a key, and what nobody here understands.
    let own: Value = serde_json::from_str(&stranger.jwks()).unwrap();
    let header = |member: &str, value: Value| {
        let mut header = json!({ "typ": "JWT", "alg": "EdDSA", "kid": issuer.kid("EdDSA") });
        header[member] = value;
        header
    };
    bad.push(("signature", stranger.sign_as("EdDSA", header("jwk", own["keys"][0].clone()), claims("alice", SCOPE))));
    bad.push(("does not name", issuer.sign_as("EdDSA", header("kid", Value::Null), claims("alice", SCOPE))));
    for (says, member, value) in [
        ("demands", "crit", json!(["exp"])),
        ("demands", "crit", json!(["b64"])),
        ("demands", "crit", json!([])),
        ("demands", "zip", json!("DEF")),
        ("kind", "typ", json!("dpop+jwt")),
        ("kind", "typ", json!("logout+jwt")),
        ("kind", "typ", json!("")),
    ] {
        bad.push((says, issuer.sign_as("EdDSA", header(member, value), claims("alice", SCOPE))));
    }
    for (says, claims) in [
        ("expired", with_claim("exp", json!(now() - 90))),
        ("expired", with_claim("exp", json!(0))),
        ("not valid yet", with_claim("nbf", json!(now() + 90))),
        ("another issuer", with_claim("iss", json!(format!("{ISSUER}/")))),
        ("another issuer", with_claim("iss", json!([ISSUER]))),
        ("another audience", with_claim("aud", json!("other"))),
        ("another audience", with_claim("aud", json!([]))),
        ("lacks", with_claim("exp", json!("tomorrow"))),
        ("lacks", with_claim("exp", json!(-1))),
        ("lacks", with_claim("nbf", json!("today"))),
        ("lacks", without_claim("exp")),
        ("lacks", without_claim("iss")),
        ("lacks", without_claim("aud")),
        ("cannot be one", without_claim("sub")),
        ("cannot be one", with_claim("sub", json!(7))),
        ("must consist of", with_claim("sub", json!("alice@shop.example"))),
        ("must consist of", with_claim("sub", json!("alice.>"))),
        ("must not be empty", with_claim("sub", json!(""))),
        ("at most 64", with_claim("sub", json!("a".repeat(65)))),
    ] {
        for algorithm in ALGORITHMS {
            bad.push((says, issuer.sign(algorithm, claims.clone())));
        }
    }
    let good = issuer.token("alice", SCOPE);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = head.split_once('.').unwrap();
    let bobs = part(&claims("bob", SCOPE));
    bad.extend([
        ("signature", format!("{header}.{bobs}.{signature}")),
        ("signature", format!("{head}.{}", "A".repeat(signature.len()))),
        ("", format!("{head}.{}", &signature[..signature.len() - 4])),
        ("", format!("{good}.{body}")),
        ("cannot be read", "a".to_owned()),
        ("cannot be read", "a.b.c".to_owned()),
        ("cannot be read", "...".to_owned()),
        ("cannot be read", issuer.sign("EdDSA", with_claim("more", json!("x".repeat(9_000))))),
    ]);
    for (says, token) in &bad {
        let answer = with(shop.get(ORDER), token).await.refused(401, "unauthorized").with("cache-control", "no-store");
        assert!(answer.text("/detail").contains(says), "{says}: {answer}");
        let challenge = answer.header("www-authenticate").unwrap().to_owned();
        assert!(
            challenge.starts_with("Bearer realm=\"shop\", error=\"invalid_token\", error_description=\""),
            "{answer}"
        );
        for secret in [ISSUER, AUDIENCE] {
            let said = answer.text("/detail") + &challenge;
            assert!(!said.replace("realm=\"shop\"", "").replace("of the shop", "").contains(secret), "{said}");
        }
    }
    assert_eq!(number(&shop, "shop_http_tokens_known").await, 0.0);
    let_in(with(shop.get(ORDER), &good).await);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_token_is_asked_for_one_and_two_are_refused() {
    let issuer = Issuer::new("a");
    let shop = shop_of(&issuer, |auth| auth).await;
    let token = issuer.token("alice", SCOPE);
    let asked = shop.get(ORDER).await.refused(401, "unauthorized");
    asked.with("www-authenticate", "Bearer realm=\"shop\"");
    let basic = shop.get(ORDER).header("authorization", "Basic YTpi").await.refused(401, "unauthorized");
    basic.with("www-authenticate", "Bearer realm=\"shop\"");
    // Not in the query, where logs keep it.
    shop.get(format!("{ORDER}?access_token={token}")).await.refused(401, "unauthorized");
    for line in ["Bearer", "Bearer ", "token", "Bearer a b", "Bearer a,b", "Bearer é"] {
        let answer = shop.get(ORDER).header("authorization", line).await.refused(400, "malformed");
        assert!(answer.header("www-authenticate").unwrap().contains("invalid_request"), "{line}: {answer}");
    }
    let twice = with(with(shop.get(ORDER), &token), &token).await.refused(400, "malformed");
    assert!(twice.header("www-authenticate").unwrap().contains("invalid_request"), "{twice}");
    with(shop.get(ORDER), &token).header("x-api-key", "k").await.refused(400, "malformed");
    shop.get(ORDER).header("x-api-key", "k").await.refused(401, "unauthorized");
    // A key of a program, where there are none.
    with(shop.get(ORDER), "shop_0123").await.refused(401, "unauthorized");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_of_an_issuer_is_noticed_by_many_with_one_question_and_one_that_is_away_takes_no_key_along() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let place = Place::open(found(&old.jwks())).await;
    let jwks_url = Some(place.url.parse().unwrap());
    let auth = Auth { auth: Mode::Jwt, jwks_url, jwt_user_claim: "preferred_username".to_owned(), ..demands() };
    let shop = TestShop::open_as(|options| Options { auth, ..options }).await;
    let token = |issuer: &Issuer| {
        let mut claims = claims("not a name", SCOPE);
        claims["preferred_username"] = "alice".into();
        issuer.sign("ES256", claims)
    };
    let (of_old, of_new) = (token(&old), token(&new));
    let_in(with(shop.get(ORDER), &of_old).await);
    assert_eq!(place.asked(), 1);

    place.say(found(&new.jwks()));
    let many = join_all((0..40).map(|_| async { with(shop.get(ORDER), &of_new).await })).await;
    many.into_iter().for_each(|answer| drop(let_in(answer)));
    assert_eq!(place.asked(), 2);
    // What was good is not, once its key is gone.
    with(shop.get(ORDER), &of_old).await.refused(401, "unauthorized");

    place.say("HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\ncontent-length: 0\r\n\r\n".to_owned());
    let invented = Issuer::new("invented");
    for _ in 0..10 {
        with(shop.get(ORDER), &token(&invented)).await.refused(401, "unauthorized");
        let_in(with(shop.get(ORDER), &of_new).await);
    }
    assert_eq!(place.asked(), 2, "it was asked just now");
    assert_eq!(number(&shop, "shop_http_issuer_keys").await, 3.0);
    assert!(number(&shop, "shop_http_issuer_keys_age_seconds").await < 60.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_keys_of_an_issuer_cannot_be_had_tokens_are_503_and_what_needs_none_goes_on() {
    let issuer = Issuer::new("a");
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n{}", " ".repeat(300_000));
    let place = Place::open(large).await;
    let auth = Auth { auth: Mode::Jwt, jwks_url: Some(place.url.parse().unwrap()), ..demands() };
    let shop = TestShop::open_as(|options| Options { auth, ..options }).await;
    shop.get("/products").await.is(200);
    place.say("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned());
    let token = issuer.token("alice", SCOPE);
    let answer = with(shop.get(ORDER), &token).await.refused(503, "unavailable").has("/retryable", true);
    assert!(answer.header("retry-after").is_some() && answer.header("www-authenticate").is_none(), "{answer}");
    assert_eq!(number(&shop, "shop_http_issuer_failures_total").await, 2.0);
    // From the next question on it is taken; a file is looked at each minute, and so is a place that did not answer.
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_come_over_tls_are_taken_from_whom_the_certificate_vouches_for() {
    let place = TlsPlace::open(found(&Issuer::new("a").jwks())).await;
    let auth = |jwks_ca| Auth { auth: Mode::Jwt, jwks_url: Some(place.url()), jwks_ca, ..demands() };
    let shop = TestShop::open_as(|options| Options { auth: auth(Some(place.authority())), ..options }).await;
    assert_eq!(number(&shop, "shop_http_issuer_keys").await, 3.0);
    let shop = shop.reopen_as(|options| Options { auth: auth(None), ..options }).await;
    let keys = || number(&shop, "shop_http_issuer_failures_total");
    eventually("the failure", keys, |failures| *failures >= 1.0).await;
    assert_eq!(number(&shop, "shop_http_issuer_keys").await, 0.0);
    shop.close().await;
}

fn part(value: &Value) -> String {
    base64(value.to_string().as_bytes())
}
