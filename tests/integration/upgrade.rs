//! Logic versions: a log goes on with the behaviour that it began with until it is upgraded, and a
//! replay switches over at the same message.

use async_nats::jetstream;
use serde_json::json;
use shop_domain::{kind::Kind, logic::Logic, money::AMOUNT_MAX};
use shop_nats::{
    connection::{Connection, access::Access},
    stream::topology::Topology,
};
use shop_tests::{
    client::{Answer, Ask, Client},
    cluster::{ALL_KINDS, Cluster, delete},
    process::Process,
    wait::until,
};

use crate::operator::tool_at;

/// Partitions of every shop here.
pub(crate) const PARTITIONS: u16 = 2;

/// Logs as a shop made them before there was a second logic version.
pub(crate) async fn logs_of_an_old_shop(nats_url: &str) {
    let connection = Connection::connect(&Access::to(nats_url), "test").await.unwrap();
    let jetstream = jetstream::new(async_nats::connect(nats_url).await.unwrap());
    for kind in Kind::ALL {
        connection
            .ensure_log(kind, Topology { partitions: Some(PARTITIONS), replicas: None, log_max_bytes: None })
            .await
            .unwrap();
        let stream = jetstream.get_stream(shop_nats::subject::stream(kind)).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        assert_eq!(config.metadata.remove("shop.logic"), Some(Logic::NEWEST.to_string()));
        jetstream.update_stream(config).await.unwrap();
    }
}

/// A host of all kinds that has opened its doors.
pub(crate) async fn host_of(cluster: &Cluster) -> Process {
    let mut host = cluster.spawn_host("host", ALL_KINDS, &cluster.data_dir("host"), PARTITIONS);
    host.says("that all is served", |log| (log.matches(" is served").count() == 5).then_some(())).await;
    host
}

/// A shop whose logs were made before there was a second logic version, with a host and a bridge of today.
pub(crate) struct OldShop {
    pub(crate) cluster: Cluster,
    pub(crate) url: String,
    pub(crate) host: Process,
    pub(crate) client: Client,
}

impl OldShop {
    pub(crate) async fn open() -> Self {
        let mut cluster = Cluster::without_processes(PARTITIONS).await;
        let url = cluster.nats().url();
        logs_of_an_old_shop(&url).await;
        let host = host_of(&cluster).await;
        cluster.start_bridge().await;
        let client = cluster.client();
        Self { cluster, url, host, client }
    }
}

/// Gives a product the price that it has; whether that counted as a change.
async fn counts_as_a_change(client: &Client, product: &str) -> bool {
    let before = client.read(&format!("/products/{product}")).await.json(200);
    // A change within the same millisecond would not show.
    let is_later = async || {
        let clock = client.post("/wallets/clock/top-up", &json!({ "amount": 1 })).await.json(200);
        (clock["updated_at"].as_str() > before["updated_at"].as_str()).then_some(())
    };
    until("time passes", is_later).await;
    let change = client.send(hyper::Method::PATCH, &format!("/products/{product}"), Some(&json!({ "price": 5 }))).await;
    change.unwrap().json(200)["updated_at"] != before["updated_at"]
}

/// Tops up by nothing; how many entries the statement has then.
async fn entries_after_nothing(client: &Client) -> usize {
    client.post("/wallets/alice/top-up", &json!({ "amount": 0 })).await.json(200);
    client.items("/wallets/alice/statement", "before").await.len()
}

/// The answer to a top-up that no wallet can hold, under this key.
async fn refusal(client: &Client, key: &str) -> Answer {
    let too_much = Ask::new(hyper::Method::POST, "/wallets/alice/top-up").body(json!({ "amount": AMOUNT_MAX }));
    client.exchange(&too_much.key(key)).await.unwrap()
}

#[tokio::test]
async fn an_old_shop_behaves_as_it_did_until_it_is_upgraded_also_when_it_is_replayed() {
    let OldShop { cluster, url, host, client } = OldShop::open().await;
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 5, "stock": 1 })).await.json(201);
    for wallet in ["alice", "clock"] {
        client.post("/wallets", &json!({ "id": wallet, "balance": 10 })).await.json(201);
    }
    assert!(counts_as_a_change(&client, "apple").await);
    assert_eq!(entries_after_nothing(&client).await, 2);
    let told = refusal(&client, "k-1").await;
    assert!(told.json(422).get("retryable").is_none(), "in the words of its day: {told:?}");

    // Before the upgrade all customers share their keys.
    client.post("/wallets", &json!({ "id": "bob", "balance": 10 })).await.json(201);
    let order_of = |user: &str| {
        let body = json!({ "user": user, "product": "apple", "quantity": 1 });
        Ask::new(hyper::Method::POST, "/orders").body(body).key("1")
    };
    let (first, bobs) = (order_of("clock"), order_of("bob"));
    let placed = client.exchange(&first).await.unwrap();
    let reused = client.exchange(&bobs).await.unwrap().json(409);
    assert_eq!((&reused["code"], reused.get("reused")), (&json!("idempotency_key_reused"), None));

    let said = tool_at(&url, "upgrade --dry-run").await.exits(0);
    said.says(&[&format!("wallet/1     logic version 1; would be upgraded to {}", Logic::NEWEST), "mypage/0 "]);
    assert!(counts_as_a_change(&client, "apple").await);
    let said = tool_at(&url, "upgrade").await.exits(0);
    said.says(&[&format!("wallet/1     logic version {} behind sequence", Logic::NEWEST), "mypage/0 "]);
    assert_eq!(refusal(&client, "k-2").await.json(409)["code"], "limit_exceeded");
    assert!(!counts_as_a_change(&client, "apple").await);
    assert_eq!(entries_after_nothing(&client).await, 2);
    let log = tool_at(&url, "log product").await.exits(0).stdout;
    for line in ["upgrade", "upgrade --dry-run"] {
        let said = tool_at(&url, line).await.exits(0);
        let nothing = format!("by logic version {} already; nothing was written", Logic::NEWEST);
        assert!(said.stderr.contains(&nothing), "{}", said.stderr);
        assert_eq!(tool_at(&url, "log product").await.stdout, log);
    }
    let said = tool_at(&url, "upgrade --to 1").await.exits(1);
    assert!(said.stderr.contains("is in force already, and there is no way back to 1"), "{}", said.stderr);

    assert_eq!(client.exchange(&first).await.unwrap().json(201), placed.json(201));
    client.post("/products/apple/restock", &json!({ "quantity": 1 })).await.json(200);
    let own = client.exchange(&bobs).await.unwrap().json(201);
    assert_ne!(own["id"], placed.json(201)["id"]);
    assert_eq!(client.exchange(&bobs).await.unwrap().json(201), own);
    assert_eq!(refusal(&client, "k-1").await.bytes, told.bytes, "after the upgrade");

    let product = client.read("/products/apple").await.json(200);
    host.kill().await;
    delete(&cluster.data_dir("host"));
    let host = host_of(&cluster).await;
    assert_eq!(client.read("/products/apple").await.json(200), product);
    assert_eq!(entries_after_nothing(&client).await, 2);
    assert_eq!(refusal(&client, "k-1").await.bytes, told.bytes, "after a replay");
    tool_at(&url, "audit").await.exits(0);
    let upgrade = format!("[upgrade: logic version {} from here on]", Logic::NEWEST);
    tool_at(&url, "log wallet").await.exits(0).says(&[&upgrade]);
    host.terminate().await;
}

/// A change of the product's price under a condition; its status, and the tag that it is told with.
async fn reprice(client: &Client, price: u64, condition: (&'static str, &str)) -> (u16, Option<String>) {
    let change = Ask::new(hyper::Method::PATCH, "/products/apple").body(json!({ "price": price }));
    let answer = client.exchange(&change.header(condition.0, condition.1)).await.unwrap();
    (answer.status, answer.header("etag").map(str::to_owned))
}

#[tokio::test]
async fn an_old_shop_has_no_entity_tags_and_counts_from_0_when_it_is_upgraded() {
    let OldShop { cluster, url, host, client } = OldShop::open().await;
    let product = json!({ "id": "apple", "name": "apple", "price": 5, "stock": 9 });
    let make = Ask::new(hyper::Method::POST, "/products").body(product);
    // Nothing has a tag, so that none matches; that something is there, or is not, can be demanded.
    let made_if = async |name, value: &str| client.exchange(&make.clone().header(name, value)).await.unwrap().status;
    assert_eq!((made_if("if-match", "*").await, made_if("if-match", "\"1\"").await), (412, 412));
    assert_eq!((made_if("if-none-match", "*").await, made_if("if-none-match", "*").await), (201, 409));
    for (price, condition, status) in [
        (6, ("if-match", "\"0\""), 412),
        (6, ("if-match", "\"nonsense\""), 412),
        (6, ("if-match", "nonsense"), 400),
        (6, ("if-none-match", "*"), 412),
        (7, ("if-match", "*"), 200),
        (8, ("if-none-match", "\"1\""), 200),
    ] {
        assert_eq!(reprice(&client, price, condition).await, (status, None), "{condition:?}");
    }
    let read = async |path: &str, name, value: &str| {
        let answer = client.exchange(&Ask::new(hyper::Method::GET, path).header(name, value)).await.unwrap();
        (answer.status, answer.header("etag").map(str::to_owned))
    };
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    let order = |id: &str| json!({ "id": id, "user": "alice", "product": "apple", "quantity": 1 });
    client.post("/orders", &order("o-1")).await.json(201);
    let paths = ["/products/apple", "/wallets/alice", "/orders/o-1", "/deliveries/o-1", "/mypages/alice"];
    for path in paths {
        assert_eq!(read(path, "if-none-match", "\"0\"").await, (200, None), "{path}");
        assert_eq!(read(path, "if-none-match", "*").await, (304, None), "{path}");
        assert_eq!(read(path, "if-match", "\"0\"").await, (412, None), "{path}");
    }

    tool_at(&url, "upgrade").await.exits(0);
    let tag = |number: u64| Some(format!("\"{number}\""));
    for path in paths {
        assert_eq!(read(path, "if-match", "\"0\"").await, (200, tag(0)), "{path}");
        assert_eq!(read(path, "if-none-match", "\"0\"").await, (304, tag(0)), "{path}");
    }
    assert_eq!(reprice(&client, 9, ("if-match", "\"1\"")).await, (412, None));
    assert_eq!(reprice(&client, 9, ("if-match", "\"0\"")).await, (200, tag(1)));
    assert_eq!(reprice(&client, 10, ("if-match", "\"0\"")).await, (412, None));
    let again = client.post("/orders", &order("o-1")).await;
    assert_eq!((again.status, again.header("etag")), (201, None), "it is the first answer");
    assert_eq!(client.post("/orders", &order("o-2")).await.header("etag"), Some("\"2\""));

    let seen = async || {
        let mut seen = Vec::new();
        for path in paths {
            let answer = client.read(path).await;
            seen.push((answer.header("etag").map(str::to_owned), answer.bytes));
        }
        seen
    };
    let before = seen().await;
    let tags: Vec<_> = before.iter().map(|(tag, _)| tag.clone()).collect();
    assert_eq!(tags, [tag(2), tag(1), tag(0), tag(0), tag(2)]);
    host.kill().await;
    delete(&cluster.data_dir("host"));
    let host = host_of(&cluster).await;
    assert_eq!(seen().await, before);
    tool_at(&url, "audit").await.exits(0);
    host.terminate().await;
}

#[tokio::test]
async fn nothing_is_upgraded_to_what_no_host_says_that_it_knows() {
    let mut cluster = Cluster::without_processes(PARTITIONS).await;
    let url = cluster.nats().url();
    let mut alone = cluster.spawn_host("wallets", "wallet", &cluster.data_dir("wallets"), PARTITIONS);
    alone.says("that it serves", |log| log.contains("wallet is served").then_some(())).await;
    let said = tool_at(&url, "upgrade").await.exits(1);
    let unknown = format!("no host of product says that it knows logic version {}", Logic::NEWEST);
    assert!(said.stderr.contains(&unknown), "{}", said.stderr);
    let said = tool_at(&url, "upgrade --to 99").await.exits(2);
    assert!(said.stderr.contains("logic version 99 is needed"), "{}", said.stderr);
    tool_at(&url, "upgrade --without-hosts").await.exits(0);
}
