//! What becomes of writes without a key when a host or the nats-server is frozen with them: what was told stays true,
//! and it is told in the time that the caller waits.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use shop_tests::{
    careful::{Trials, have_done, look_after},
    client::{Answer, Ask, Client},
    cluster::{ALL_KINDS, Cluster},
    process::Signal,
    wait::until,
};
use tokio::time::sleep;

const HOST: &str = "host";
const TWO_HOSTS: [(&str, &str); 2] = [("first", ALL_KINDS), ("second", ALL_KINDS)];
/// What a caller may be kept beyond the wait: some tens of milliseconds, and as much again ten times on a busy machine.
const BEYOND_MAX: Duration = Duration::from_millis(400);
const AMOUNT: u64 = 5_000;
const CUSTOMERS: usize = 8;

#[tokio::test]
async fn a_write_that_froze_with_its_host_is_settled_when_that_was_told() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    is_heeded(&client).await;
    // Until the end of the wait, until a look is due, and beyond.
    for (user, frozen_ms) in [("brief", 1_200), ("long", 3_500), ("longest", 9_000)] {
        open(&client, user).await;
        let start = Instant::now();
        cluster.host(HOST).signal(Signal::STOP);
        let answer = client.exchange(&top_up(user)).await.unwrap();
        let look_after = look_after(&answer).expect("nobody can say now that it was not done");
        let told = Instant::now();
        assert!(look_after <= 5, "a caller is told to wait for {look_after} s");
        passed(start, Duration::from_millis(frozen_ms)).await;
        cluster.host(HOST).signal(Signal::CONT);
        passed(told, Duration::from_secs(look_after)).await;
        let balance = balance(&client, user).await;
        assert!(balance == 0 || balance == AMOUNT, "{user} has {balance}");
        stays(&client, user, balance).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn every_answer_comes_when_its_caller_has_waited_for_it_though_the_host_or_the_nats_server_is_frozen() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    open(&client, "alice").await;
    cluster.host(HOST).signal(Signal::STOP);
    all_are_answered_in_time(&client).await;
    cluster.host(HOST).signal(Signal::CONT);
    cluster.wait_until_ready().await;
    cluster.servers().signal(0, Signal::STOP);
    all_are_answered_in_time(&client).await;
    cluster.servers().signal(0, Signal::CONT);
    cluster.wait_until_ready().await;
    cluster.stop().await;
}

/// Whatever is asked, while nobody answers.
async fn all_are_answered_in_time(client: &Client) {
    let order = json!({ "user": "alice", "product": "apple", "quantity": 1, "unit_price": 1 });
    let asks = [
        (Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 1 })), 503),
        (Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 1 })).key("k"), 503),
        (Ask::new(Method::PATCH, "/products/apple").body(json!({ "price": 1 })), 503),
        (Ask::new(Method::POST, "/deliveries/o-1/dispatch"), 503),
        (Ask::new(Method::POST, "/orders").body(order), 202),
        (Ask::new(Method::DELETE, "/orders/o-1"), 202),
    ];
    let waits = [("wait=0", 0), ("wait=1", 1), ("wait=2", 2), ("wait=0, respond-async", 0)];
    let cases = asks.iter().flat_map(|ask| waits.map(|wait| (ask, wait)));
    let writes = join_all(cases.map(async |((ask, status), (prefer, seconds))| {
        let ask = Ask { prefer, ..ask.clone() };
        let answer = client.exchange(&ask).await.unwrap();
        assert_eq!(answer.status, *status, "{ask}: {answer:?}");
        is_in_time(&ask, &answer, Duration::from_secs(seconds));
        if answer.status == 503 {
            let (seconds, has_key) = (look_after(&answer), ask.key.is_some());
            assert_eq!(seconds.is_none(), has_key, "{ask}: {answer:?}");
        }
    }));
    let paths = [
        "/wallets/alice",
        "/wallets/alice/statement",
        "/products/apple",
        "/products",
        "/orders/o-1",
        "/deliveries/o-1",
        "/mypages/alice",
    ];
    let reads = join_all(paths.map(async |path| {
        let ask = Ask::new(Method::GET, path);
        let answer = client.exchange(&ask).await.unwrap();
        assert_eq!(answer.status, 503, "{ask}: {answer:?}");
        is_in_time(&ask, &answer, ask.wait());
    }));
    // The bridge answers and waits, so that no balancer should leave it out.
    let readiness = async {
        let ask = Ask::new(Method::GET, "/readyz");
        let answer = client.exchange(&ask).await.unwrap();
        assert_eq!(answer.json(200), json!({ "status": "ready" }), "{ask}");
        is_in_time(&ask, &answer, Duration::ZERO);
    };
    let questions = join_all(["/wallets/alice", "/readyz"].map(async |path| {
        let ask = Ask::new(Method::OPTIONS, path);
        let answer = client.exchange(&ask).await.unwrap();
        assert_eq!(answer.status, 204, "{ask}: {answer:?}");
        is_in_time(&ask, &answer, Duration::ZERO);
    }));
    tokio::join!(writes, reads, readiness, questions);
}

fn is_in_time(ask: &Ask, answer: &Answer, wait: Duration) {
    assert!(answer.took < wait + BEYOND_MAX, "{ask} took {:?}", answer.took);
}

#[tokio::test]
async fn of_two_hosts_one_freezes_and_nobody_who_looks_and_repeats_pays_in_twice() {
    let mut cluster = Cluster::start(4, &TWO_HOSTS).await;
    let client = cluster.client();
    is_heeded(&client).await;
    let mut trials = 0;
    for (round, frozen_ms) in [1_000, 2_500, 6_000].into_iter().enumerate() {
        let name = TWO_HOSTS[round % 2].0;
        let users = CUSTOMERS * round..CUSTOMERS * (round + 1);
        open_all(&client, users.clone()).await;
        let start = Instant::now();
        cluster.host(name).signal(Signal::STOP);
        let (paid_in, ()) = tokio::join!(all_pay_in(&client, users.clone()), async {
            passed(start, Duration::from_millis(frozen_ms)).await;
            cluster.host(name).signal(Signal::CONT);
        });
        trials += paid_in.into_iter().map(Trials::all).sum::<usize>();
        all_have_paid_in_once(&client, users).await;
    }
    assert!(trials > 0, "a host that is frozen was not noticed");
    cluster.wait_until_ready().await;
    cluster.stop().await;
}

#[tokio::test]
async fn the_nats_server_freezes_and_nobody_who_looks_and_repeats_pays_in_twice() {
    let mut cluster = Cluster::start(2, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    is_heeded(&client).await;
    let mut trials = 0;
    for (round, frozen_ms) in [1_300, 6_000].into_iter().enumerate() {
        let users = CUSTOMERS * round..CUSTOMERS * (round + 1);
        open_all(&client, users.clone()).await;
        let start = Instant::now();
        cluster.servers().signal(0, Signal::STOP);
        let (paid_in, ()) = tokio::join!(all_pay_in(&client, users.clone()), async {
            passed(start, Duration::from_millis(frozen_ms)).await;
            cluster.servers().signal(0, Signal::CONT);
        });
        trials += paid_in.into_iter().map(Trials::all).sum::<usize>();
        all_have_paid_in_once(&client, users).await;
    }
    assert!(trials > 0, "a nats-server that is frozen was not noticed");
    cluster.wait_until_ready().await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_older_change_never_lands_over_a_newer_one_that_was_answered() {
    let mut cluster = Cluster::start(2, &TWO_HOSTS).await;
    let client = cluster.client();
    let products: Vec<String> = (0..8).map(|number| format!("apple-{number}")).collect();
    let change = |product: &str, price: u64| {
        Ask::new(Method::PATCH, format!("/products/{product}")).body(json!({ "price": price }))
    };
    for product in &products {
        let new = json!({ "id": product, "name": "apple", "price": 1, "stock": 1 });
        client.post("/products", &new).await.json(201);
    }
    let frozen = Instant::now();
    cluster.host("first").signal(Signal::STOP);
    join_all(products.iter().map(|product| async { client.exchange(&change(product, 2)).await.unwrap() })).await;
    let newer = join_all(products.iter().map(async |product| {
        until("the newer change is answered", async || {
            let answer = client.exchange(&change(product, 3)).await.unwrap();
            (answer.status == 200).then(|| answer.json(200))
        })
        .await
    }));
    assert!(newer.await.iter().all(|product| product["price"] == 3));
    passed(frozen, Duration::from_secs(5)).await;
    cluster.host("first").signal(Signal::CONT);
    let awake = Instant::now();
    until("some time has passed", async || {
        for product in &products {
            let shown = client.read(&format!("/products/{product}")).await.json(200);
            assert_eq!(shown["price"], 3, "{shown}");
        }
        (awake.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    cluster.wait_until_ready().await;
    cluster.stop().await;
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn top_up(user: &str) -> Ask {
    Ask::new(Method::POST, format!("/wallets/{user}/top-up")).body(json!({ "amount": AMOUNT }))
}

async fn open(client: &Client, user: &str) {
    let wallet = Ask::new(Method::POST, "/wallets").body(json!({ "id": user })).key(user);
    until("a wallet is opened", async || {
        client.exchange(&wallet).await.ok().filter(|answer| answer.status == 201).map(drop)
    })
    .await;
}

/// A write that is answered, by which the bridge learns that the log of wallets heeds tickets.
async fn is_heeded(client: &Client) {
    client.post("/wallets", &json!({ "id": "heeded" })).await.json(201);
}

async fn open_all(client: &Client, users: Range<usize>) {
    join_all(users.map(async |number| open(client, &user(number)).await)).await;
}

async fn balance(client: &Client, user: &str) -> u64 {
    let wallet: Value = client.read(&format!("/wallets/{user}")).await.json(200);
    wallet["balance"].as_u64().expect("a balance is a number")
}

/// Customers who pay in once each, one a little after the other.
async fn all_pay_in(client: &Client, users: Range<usize>) -> Vec<Trials> {
    join_all(users.enumerate().map(async |(place, number)| {
        let (user, pause) = (user(number), Duration::from_millis(100 * place as u64));
        passed(Instant::now(), pause).await;
        have_done(client, &top_up(&user), async || balance(client, &user).await > 0).await
    }))
    .await
}

async fn all_have_paid_in_once(client: &Client, users: Range<usize>) {
    for user in users.map(user) {
        let amount = balance(client, &user).await;
        assert_eq!(amount, AMOUNT, "{user}");
    }
}

/// Waits until so much time has passed since then.
async fn passed(since: Instant, time: Duration) {
    sleep(time.saturating_sub(since.elapsed())).await;
}

/// Looks for a while, at what must not change any more.
async fn stays(client: &Client, user: &str, amount: u64) {
    let start = Instant::now();
    until("some time has passed", async || {
        assert_eq!(balance(client, user).await, amount, "{user}");
        (start.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
}
