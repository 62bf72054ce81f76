//! Answers that come late, get lost, or are asked for again, while processes come and go: every
//! request happens once, and is answered the same for ever.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use hyper::Method;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    jetstream::JetStreamLog,
    log::Log,
    stream::topology::Topology,
};
use shop_tests::{
    client::{Answer, Ask, Client},
    cluster::{A_PROCESS_PER_KIND, ALL_KINDS, Cluster, delete},
    proxy::{Line, Proxy},
    wait::{LIMIT, until},
};
use tokio::time::timeout;

const HOST: &str = "host";
/// How soon a question is answered once the line is good again: far below the 5 seconds for which
/// an answer is waited that was not lost.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_top_up_that_is_retried_with_its_key_counts_once_also_after_a_restart() {
    let mut cluster = Cluster::start(2, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    open_wallet(&client, "alice", 100).await;
    let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 5 })).key("once");
    let first = settled(&client, &top_up).await;
    assert_eq!(first.json(200)["balance"], 105);
    repeats(&settled(&client, &top_up).await, &first);

    cluster.take_host(HOST).kill().await;
    cluster.start_host(HOST);
    repeats(&settled(&client, &top_up).await, &first);

    cluster.stop().await;
    delete(&cluster.data_dir(HOST));
    cluster.start_again().await;
    repeats(&settled(&client, &top_up).await, &first);
    assert_eq!(client.get("/wallets/alice").await.json(200)["balance"], 105);
    let statement = client.items("/wallets/alice/statement", "before").await;
    assert_eq!(statement.iter().filter(|entry| entry["key"] == "once").count(), 1, "{statement:?}");
}

#[tokio::test]
async fn a_cancel_is_taken_while_the_host_of_wallets_is_down_and_the_money_comes_back_with_it() {
    let mut cluster = Cluster::start(1, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    open_wallet(&client, "alice", 1_000).await;
    offer(&client, "apple", 100, 10).await;
    let order =
        |id: &str, quantity: u64| json!({ "id": id, "user": "alice", "product": "apple", "quantity": quantity });
    client.post("/orders", &order("confirmed", 3)).await.json(201);
    cluster.take_host("wallets").kill().await;

    // Nothing of the cancel of a confirmed order can be refused by the wallet, so nobody waits for it.
    let cancelled = client.post("/orders/confirmed/cancel", &json!({})).await.json(200);
    assert_eq!(cancelled["status"], "CANCELLED");
    // One that is still to be paid is not settled before the wallet says whether it was.
    assert_eq!(client.post("/orders", &order("pending", 2)).await.json(202)["status"], "PENDING");
    let cancel = Ask::new(Method::POST, "/orders/pending/cancel").body(json!({ "reason": "too slow" })).key("c");
    assert_eq!(client.exchange(&cancel).await.unwrap().json(202)["status"], "CANCELLING");
    assert_eq!(client.get("/orders/pending").await.json(200)["status"], "CANCELLING");
    assert_eq!(client.get("/wallets/alice").await.status, 503);

    cluster.start_host("wallets");
    let answer = settled(&client, &cancel).await;
    assert_eq!(answer.json(200)["status"], "CANCELLED");
    assert_eq!(client.read("/orders/pending").await.json(200), answer.json(200));
    assert_eq!(client.read("/wallets/alice").await.json(200)["balance"], 1_000);
    assert_eq!(client.read("/products/apple").await.json(200)["stock"], 10);
    let page = client.items("/mypages/alice", "before").await;
    assert!(page.len() == 2 && page.iter().all(|order| order["status"] == "CANCELLED"), "{page:?}");
}

#[tokio::test]
async fn an_answer_that_is_lost_on_its_way_is_given_again_byte_for_byte() {
    let cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    open_wallet(&client, "alice", 1_000).await;
    offer(&client, "apple", 100, 10).await;
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 3 });
    let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 50 })).key("t-1");
    let cases = [
        (Ask::new(Method::POST, "/orders").body(order), 201, 700),
        (top_up, 200, 750),
        (Ask::new(Method::DELETE, "/orders/o-1").key("c-1"), 200, 1_050),
    ];
    let line = Proxy::to(client.address()).await;
    for (ask, status, balance) in cases {
        line.set(Line::Unanswered);
        let through_the_line = Client::new(line.address());
        let (lost, ()) = tokio::join!(through_the_line.exchange(&ask), async {
            until(&format!("{ask} is carried out"), async || {
                let wallet = client.get("/wallets/alice").await.json(200);
                (wallet["balance"] == balance).then_some(())
            })
            .await;
            line.cut();
        });
        assert!(lost.is_err(), "{ask} was answered: {lost:?}");

        line.set(Line::Good);
        let again = settled(&through_the_line, &ask).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (status, Some("true")), "{ask}: {again:?}");
        repeats(&settled(&client, &ask).await, &again);
        assert_eq!(client.get("/wallets/alice").await.json(200)["balance"], balance, "{ask}");
    }
}

#[tokio::test]
async fn a_request_that_its_host_died_with_is_asked_again_also_for_callers_who_wait_only_briefly() {
    let mut cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    open_wallet(&client, "alice", 0).await;
    let nats = async_nats::connect(cluster.nats().url()).await.unwrap();
    // Serves wallets as well, until it is gone with the first request that it gets.
    let mut dying = nats.queue_subscribe("shop.wallet.>", "shop".into()).await.unwrap();
    nats.flush().await.unwrap();
    let dies = async {
        dying.next().await.unwrap();
        dying.unsubscribe().await.unwrap();
    };
    let asks = async {
        // The server gives each request to either of the two, by chance.
        for number in 1..=64 {
            let top_up = Ask::new(Method::POST, "/wallets/alice/top-up").body(json!({ "amount": 1 }));
            let top_up = Ask { prefer: "wait=2", ..top_up.key(format!("t-{number}")) };
            assert_eq!(client.exchange(&top_up).await.unwrap().json(200)["balance"], number);
        }
    };
    tokio::join!(asks, timeout(LIMIT, dies)).1.expect("one of 64 requests comes to the one that dies with it");
}

#[tokio::test]
async fn the_last_piece_is_sold_once_among_two_hundred_buyers_though_the_host_of_products_is_killed() {
    let mut cluster = Cluster::start(2, &A_PROCESS_PER_KIND).await;
    let client = cluster.client();
    offer(&client, "apple", 100, 1).await;
    let users: Vec<String> = (0..200).map(|number| format!("user-{number}")).collect();
    join_all(users.iter().map(|user| open_wallet(&client, user, 100))).await;
    let orders: Vec<Ask> = users
        .iter()
        .map(|user| {
            let line = json!([{ "product": "apple", "quantity": 1, "unit_price": 100 }]);
            let order = json!({ "id": format!("o-{user}"), "user": user, "lines": line });
            Ask::new(Method::POST, "/orders").body(order)
        })
        .collect();
    let (answers, ()) = tokio::join!(join_all(orders.iter().map(|order| settled(&client, order))), async {
        cluster.take_host("products").kill().await;
        cluster.start_host("products");
    });
    let sold = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| answer.status == 409 && answer.json(409)["code"] == "out_of_stock");
    assert_eq!((sold, refused.count()), (1, 199));
    assert_eq!(client.read("/products/apple").await.json(200)["stock"], 0);
    for (user, answer) in users.iter().zip(&answers) {
        let wallet = client.read(&format!("/wallets/{user}")).await.json(200);
        assert_eq!(wallet["balance"], if answer.status == 201 { 0 } else { 100 }, "{user}: {answer:?}");
    }
}

#[tokio::test]
async fn an_order_id_that_another_user_has_used_is_refused_also_after_a_restart() {
    let mut cluster = Cluster::start(2, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    open_wallet(&client, "alice", 1_000).await;
    open_wallet(&client, "bob", 1_000).await;
    offer(&client, "apple", 100, 10).await;
    let order = |user: &str| {
        let order = json!({ "id": "o-1", "user": user, "product": "apple", "quantity": 3 });
        Ask::new(Method::POST, "/orders").body(order)
    };
    let hers = settled(&client, &order("alice")).await;
    assert_eq!(hers.json(201)["user"], "alice");
    for round in ["at once", "after a restart"] {
        let his = settled(&client, &order("bob")).await;
        let problem = his.json(409);
        assert_eq!(problem["code"], "idempotency_key_reused", "{round}");
        assert!(!problem.to_string().contains("alice"), "{round}: whose it is, is nobody's business: {problem}");
        repeats(&settled(&client, &order("alice")).await, &hers);
        assert_eq!(client.read("/orders/o-1").await.json(200), hers.json(201), "{round}");
        assert_eq!(client.read("/wallets/bob").await.json(200)["balance"], 1_000, "{round}");
        assert_eq!(client.read("/mypages/bob").await.json(200)["items"], json!([]), "{round}");
        assert_eq!(client.read("/products/apple").await.json(200)["stock"], 7, "{round}");
        cluster.take_host(HOST).kill().await;
        cluster.start_host(HOST);
    }
}

#[tokio::test]
async fn a_question_to_the_log_that_is_lost_with_the_line_is_asked_again_at_once() {
    let mut cluster = Cluster::without_processes(1).await;
    let line = Proxy::to(SocketAddr::from(([127, 0, 0, 1], cluster.nats().port()))).await;
    let connection = Connection::connect(&Access::to(format!("nats://{}", line.address())), "test").await.unwrap();
    connection
        .ensure_log(Kind::Wallet, Topology { partitions: None, replicas: None, log_max_bytes: None })
        .await
        .unwrap();
    let log = JetStreamLog::open(&connection, &connection).await.unwrap();
    line.set(Line::Silent);
    let start = Instant::now();
    let (last, ()) = tokio::join!(log.last_sequence(Kind::Wallet), async {
        until("the question is on the line", async || (start.elapsed() > SOON / 10).then_some(())).await;
        line.cut();
        line.set(Line::Good);
    });
    assert_eq!(last.unwrap(), 0);
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
}

async fn open_wallet(client: &Client, id: &str, balance: u64) {
    client.post("/wallets", &json!({ "id": id, "balance": balance })).await.json(201);
}

async fn offer(client: &Client, id: &str, price: u64, stock: u64) {
    client.post("/products", &json!({ "id": id, "name": id, "price": price, "stock": stock })).await.json(201);
}

/// Asks until there is a definite answer.
async fn settled(client: &Client, ask: &Ask) -> Answer {
    until(&format!("{ask} is answered"), async || {
        client.exchange(ask).await.ok().filter(|answer| ![202, 503].contains(&answer.status))
    })
    .await
}

/// The first answer once more, byte for byte.
fn repeats(again: &Answer, first: &Answer) {
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
}
