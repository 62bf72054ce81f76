//! Processes that are restarted while customers order: nobody sees more of it than a longer wait.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use hyper::Method;
use serde_json::json;
use shop_nats::{
    connection::{Connection, access::Access},
    hosts::pause::PauseGuard,
};
use shop_tests::{
    client::{Ask, Client},
    cluster::{A_PROCESS_PER_KIND, ALL_KINDS, Cluster},
    market::{Market, Outcomes},
    process::{Process, Signal},
    rush::Rush,
    seed::rng,
    wait::until,
};

const HOST: &str = "host";
const ORDERS: usize = 600;
/// As short as possible, and long enough to look what a bridge says meanwhile.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// Any free port.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn every_process_is_restarted_in_the_rush_and_nobody_is_turned_away() {
    let mut cluster = Cluster::start(2, &A_PROCESS_PER_KIND).await;
    let (mut second, at) = cluster.spawn_bridge("bridge-2", ANYWHERE).await;
    let bridges = [cluster.client(), Client::new(at)];
    let mut market = Market::open(&bridges[0], rng(41), ORDERS).await;
    let mut rush = Rush::begin_patiently(&bridges, market.orders("order", ORDERS));
    for (step, (name, _)) in A_PROCESS_PER_KIND.into_iter().enumerate() {
        rush.has_answered(ORDERS * (step + 1) / 8).await;
        cluster.take_host(name).terminate().await;
        cluster.start_host(name);
        cluster.wait_for_host(name).await;
    }
    rush.has_answered(ORDERS * 6 / 8).await;
    cluster.take_bridge().terminate().await;
    cluster.start_bridge().await;
    rush.has_answered(ORDERS * 7 / 8).await;
    second.terminate().await;
    (second, _) = cluster.spawn_bridge("bridge-2", at).await;
    all_is_well(&mut cluster, &market, rush).await;
    second.terminate().await;
}

#[tokio::test]
async fn hosts_that_are_killed_in_the_rush_and_started_again_turn_nobody_away() {
    let mut cluster = Cluster::start(2, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    let mut market = Market::open(&client, rng(42), ORDERS).await;
    let mut rush = Rush::begin_patiently(&[client], market.orders("order", ORDERS));
    for (step, name) in ["orders", "products", "wallets", "orders"].into_iter().enumerate() {
        rush.has_answered(ORDERS * (step + 1) / 6).await;
        cluster.take_host(name).kill().await;
        cluster.start_host(name);
    }
    all_is_well(&mut cluster, &market, rush).await;
}

#[tokio::test]
async fn a_host_that_is_stopped_and_those_after_it_answer_all_that_has_a_key() {
    const TOP_UPS: usize = 400;
    let mut cluster = Cluster::start(2, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice" })).await.json(201);
    let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 1 })).patiently();
    let (top_up, client) = (&top_up, &client);
    let top_ups = join_all((0..16).map(async |caller| {
        for number in 0..TOP_UPS / 16 {
            client.exchange(&top_up.clone().key(format!("{caller}-{number}"))).await.unwrap().json(200);
        }
    }));
    let restarts = async {
        for part in 1..=3 {
            until("some are answered", async || {
                let wallet = client.read("/wallets/alice").await.json(200);
                (wallet["balance"].as_u64()? as usize >= TOP_UPS * part / 4).then_some(())
            })
            .await;
            cluster.take_host(HOST).terminate().await;
            cluster.start_host(HOST);
        }
    };
    tokio::join!(top_ups, restarts);
    assert_eq!(client.read("/wallets/alice").await.json(200)["balance"], TOP_UPS);
}

#[tokio::test]
async fn an_order_that_died_with_its_host_is_accepted_and_the_bridge_sees_to_it() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 1, "stock": 100 })).await.json(201);
    // What it is given waits in its socket, and dies with it.
    cluster.host("orders").signal(Signal::STOP);
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 10 });
    let answer = client.post("/orders", &order).await;
    assert_eq!(answer.json(202), json!({ "id": "o-1" }));
    assert_eq!((answer.header("location"), answer.header("retry-after")), (Some("/orders/o-1"), Some("1")));
    cluster.take_host("orders").kill().await;
    cluster.start_host("orders");
    until("the order is confirmed", async || {
        let order = client.read("/orders/o-1").await;
        (order.status == 200 && order.json(200)["status"] == "CONFIRMED").then_some(())
    })
    .await;
    assert_eq!(client.read("/wallets/alice").await.json(200)["balance"], 90);
}

#[tokio::test]
async fn a_kind_that_stays_away_is_waited_for_by_the_first_and_not_by_those_who_come_later() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice" })).await.json(201);
    cluster.take_host("wallets").terminate().await;
    let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 1 })).patiently();
    let (first, page) = tokio::join!(client.exchange(&top_up), client.get("/mypages/alice"));
    let first = first.unwrap();
    assert_eq!(first.json(503)["detail"], "no process serves wallets right now; try again");
    assert!((5..10).contains(&first.took.as_secs()), "it took {:?}", first.took);
    let later = client.get("/wallets/alice").await;
    assert_eq!((later.status, later.header("retry-after")), (503, Some("1")));
    for answer in [page, later] {
        assert!(answer.took < Duration::from_secs(1), "{answer:?}");
    }
    cluster.start_host("wallets");
    cluster.wait_for_host("wallets").await;
    assert_eq!(client.exchange(&top_up).await.unwrap().json(200)["balance"], 1);
}

#[tokio::test]
async fn a_bridge_that_is_stopped_says_so_first_and_finishes_what_it_has_begun() {
    let cluster = Cluster::without_processes(1).await.whose_bridges_leave_in(LEAVE_TIME);
    let mut cluster = cluster.with(&A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice" })).await.json(201);
    cluster.take_host("wallets").terminate().await;
    let get = Ask::new(Method::GET, "/wallets/alice");
    let bridge = cluster.take_bridge();
    let (waiting, ()) = tokio::join!(client.exchange(&get), async {
        bridge.signal(Signal::TERM);
        let said = until("the bridge says that it leaves", async || {
            let said = client.get("/readyz").await;
            (said.status == 503).then_some(said)
        })
        .await;
        assert_eq!(said.json(503), json!({ "status": "leaving" }));
        // Whoever has not noticed yet is served, once.
        let page = client.get("/mypages/alice").await;
        assert_eq!((page.status, page.header("connection")), (200, Some("close")));
        cluster.start_host("wallets");
    });
    let waiting = waiting.unwrap();
    assert_eq!((waiting.json(200)["id"].as_str(), waiting.header("connection")), (Some("alice"), Some("close")));
    let (status, _) = bridge.end_by(Signal::CONT).await;
    assert!(status.success(), "{status}");
    assert!(client.send(Method::GET, "/healthz", None).await.is_err(), "somebody still listens");
}

#[tokio::test]
async fn a_bridge_that_is_stopped_keeps_what_it_has_promised_before_it_ends() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let (connection, holding) = promise(&mut cluster).await;
    let (client, mut bridge) = (cluster.client(), cluster.take_bridge());
    bridge.signal(Signal::TERM);
    until("nobody listens any more", async || client.send(Method::GET, "/healthz", None).await.err()).await;
    connection.open_doors(holding).await;
    assert!(bridge.ends_within(Duration::from_secs(10)).await.success());
    cluster.start_bridge().await;
    assert_eq!(cluster.client().read("/orders/o-1").await.json(200)["id"], "o-1");
    cluster.stop().await;
}

#[tokio::test]
async fn a_bridge_that_has_to_end_before_it_could_keep_a_promise_says_which_one() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let (_connection, _holding) = promise(&mut cluster).await;
    let mut bridge = cluster.take_bridge();
    bridge.signal(Signal::TERM);
    assert!(bridge.ends_within(Duration::from_secs(15)).await.success());
    let said = bridge.stderr();
    assert!(said.contains("nobody has taken order o-1, whose customer was told that it is accepted"), "{said}");
    cluster.start_bridge().await;
    cluster.stop().await;
}

/// Holds the doors of a shop, and lets its bridge promise an order.
async fn promise(cluster: &mut Cluster) -> (Connection, PauseGuard) {
    let client = cluster.client();
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 1, "stock": 100 })).await.json(201);
    let connection = Connection::connect(&Access::to(cluster.nats().url()), "test").await.unwrap();
    let holding = connection.hold_doors();
    let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 0 })).without_waiting();
    until("the doors hold", async || (client.exchange(&top_up).await.unwrap().status == 503).then_some(())).await;
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 10 });
    let order = Ask::new(Method::POST, "/orders").body(order).without_waiting();
    let promised = client.exchange(&order).await.unwrap();
    assert_eq!((promised.status, promised.header("retry-after")), (202, Some("1")));
    (connection, holding)
}

/// Lets the rush come to its end: nobody was told "no" for want of a process, and the books balance.
async fn all_is_well(cluster: &mut Cluster, market: &Market, rush: Rush) {
    let (told, errors) = rush.finish_with_errors().await;
    assert!(errors.is_empty(), "{} answers were 5xx: {:?}", errors.len(), &errors[..errors.len().min(3)]);
    cluster.wait_until_ready().await;
    let Outcomes { confirmed, rejected, refunded } = market.audit(&cluster.client(), &told).await;
    assert!(confirmed > 100 && rejected > 0 && refunded > 0, "{confirmed}, {rejected}, {refunded}");
    let arguments = ["audit".to_owned(), "--nats-url".to_owned(), cluster.nats().url()];
    let said = Process::spawn(cluster.folder(), "audit", arguments).explains().await;
    assert!(said.contains("no differences"), "{said}");
}
