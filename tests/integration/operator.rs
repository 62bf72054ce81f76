//! The operator's tools as programs, beside a shop that is open.

use std::{path::Path, process::Stdio, time::Duration};

use async_nats::{Client as Nats, HeaderMap, jetstream};
use futures::StreamExt;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_tests::{client::Client, cluster::Cluster, market::Market, programs::Program, rush::Rush, seed::rng};
use tokio::{process::Command, time::timeout};

use crate::shop::{TestShop, eventually};

/// How long a tool may take on a busy machine. An audit that misses messages looks for 10 s.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const ORDERS: usize = 150;

/// What a tool said.
#[derive(Debug)]
pub(crate) struct Said {
    code: i32,
    stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "{part:?} is missing:\n{}\n{}", self.stdout, self.stderr);
        }
        self
    }

    #[track_caller]
    fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs a tool, `log wallet --json`, on a server.
pub(crate) async fn tool_at(nats_url: &str, line: &str) -> Said {
    let mut command = Command::new(Program::Actors.path());
    command.args(line.split(' ')).args(["--nats-url", nats_url]);
    command.env_remove("RUST_LOG").env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(TOOL_LIMIT, command.output()).await.unwrap_or_else(|_| panic!("{line}: no end"));
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("{line}: {}", output.status));
    Said { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

async fn tool(shop: &TestShop, line: &str) -> Said {
    tool_at(&shop.shop.nats_url(), line).await
}

async fn nats(shop: &TestShop) -> Nats {
    async_nats::connect(shop.shop.nats_url()).await.unwrap()
}

/// Apples, pears, and Alice with 1000.
async fn small_shop() -> TestShop {
    let shop = TestShop::open().await;
    shop.product("apple", 100, 5).await;
    shop.product("pear", 10, 3).await;
    shop.wallet("alice", 1000).await;
    shop
}

/// An order of two lines at agreed prices: it is paid, and then there are not enough pears.
async fn rejected_order(shop: &TestShop) {
    shop.order("o-1", "alice", "pear", 2).await;
    let line = |product: &str, price: u64| json!({ "product": product, "quantity": 2, "unit_price": price });
    let order = json!({ "id": "o-2", "user": "alice", "lines": [line("apple", 100), line("pear", 10)] });
    shop.post("/orders", order).await.refused(409, "out_of_stock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_an_open_shop_finds_no_difference_in_the_rush_and_after_it() {
    let shop = TestShop::open_with(3).await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(61), ORDERS).await;
    let mut rush = Rush::begin(&client, market.orders("rush", ORDERS));
    rush.has_answered(ORDERS / 4).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    let told = rush.finish().await;

    let confirmed: Vec<&String> =
        told.iter().filter(|(_, (_, answer))| answer.status == 201).map(|(id, _)| id).collect();
    let (cancelled, dispatched) = confirmed.split_at(confirmed.len() / 3);
    for id in cancelled {
        client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(200);
    }
    for id in dispatched.iter().step_by(2) {
        client.post(&format!("/deliveries/{id}/dispatch"), &json!({})).await.json(200);
        client.post(&format!("/orders/{id}/cancel"), &json!({})).await.json(409);
    }
    client.post("/wallets/customer-0/top-up", &json!({ "amount": 77 })).await.json(200);

    let report = tool(&shop, "audit --json").await.exits(0).json().remove(0);
    assert_eq!((&report["clean"], &report["differences"]["count"]), (&json!(true), &json!(0)), "{report}");
    let orders = &report["books"]["orders"];
    assert_eq!(orders["confirmed"], dispatched.len(), "{report}");
    assert_eq!(orders["cancelled"], cancelled.len(), "{report}");
    assert_eq!(orders["rejected"], told.len() - confirmed.len(), "{report}");
    assert_eq!(orders["under_way"], 0, "{report}");
    let sum = |name: &str| report["books"][name].as_u64().unwrap();
    assert_eq!(sum("put_in"), sum("balances") + sum("charged"));
    let entities: u64 =
        report["kinds"].as_object().unwrap().values().map(|kind| kind["entities"].as_u64().unwrap()).sum();
    assert_eq!(report["hosts"], json!({ "agreed": entities, "not_compared": {} }));
    assert!(report["messages"]["arrived_as_sent"].as_u64().unwrap() > 5 * ORDERS as u64, "{report}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_messages_that_nobody_has_sent() {
    let shop = small_shop().await;
    shop.order("o-1", "alice", "apple", 2).await;
    tool(&shop, "audit").await.exits(0);
    let log = jetstream::new(nats(&shop).await);
    let stream = log.get_stream("SHOP_WALLET").await.unwrap();
    // The second record is the charge of o-1, from the only partition of the orders.
    let charge = stream.get_raw_message(2).await.unwrap().payload;
    let charge: Value = rmp_serde::from_slice(&charge[1..]).unwrap();
    let publish = async |change: &dyn Fn(&mut Value)| {
        let mut frame = charge.clone();
        change(&mut frame);
        let bytes = [&[1][..], &rmp_serde::to_vec_named(&frame).unwrap()].concat();
        log.publish("shop.log.wallet.0", bytes.into()).await.unwrap().await.unwrap();
    };

    // A refund from a partition of a log that there is not.
    publish(&|frame| {
        frame["source"]["epoch"] = json!(7);
        frame["messages"][0]["message"]["wallet"] = json!({ "refund": { "order": "o-1" } });
    })
    .await;
    eventually("the refund", || shop.balance("alice"), |balance| *balance == 1000).await;
    let named = tool(&shop, "audit").await.exits(1).says(&[
        "2 differences",
        "wallet/0 at sequence 3: message 1 to alice \"refund order=o-1\" is from order/0 of epoch 0000000000000007",
        "order o-1 is CONFIRMED, but wallet alice is not charged 200 for it",
    ]);
    assert!(!named.stdout.contains("host says"), "{}", named.stdout);

    // A charge with the next number of the real link.
    publish(&|frame| {
        frame["first"] = json!(2);
        frame["messages"][0]["message"]["wallet"] = json!({ "charge": { "order": "o-9", "amount": 1 } });
    })
    .await;
    let report = tool(&shop, "audit --json").await.exits(1).json().remove(0);
    assert_eq!((&report["clean"], &report["differences"]["count"]), (&json!(false), &json!(3)), "{report}");
    let unsent =
        "message 2 from order/0 to wallet/0, to alice \"charge order=o-9 amount=1\", is in the log at sequence 4";
    assert!(report["differences"]["named"].to_string().contains(&unsent.replace('"', "\\\"")), "{report}");
    // What has the same number in truth is not charged.
    shop.post("/orders", json!({ "id": "o-2", "user": "alice", "product": "pear", "quantity": 1 }))
        .prefer("respond-async")
        .await;
    let audit = || tool(&shop, "audit");
    let is_other = |said: &Said| said.stdout.contains("is not what the log has at sequence 4");
    eventually("the difference", audit, is_other).await.exits(1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_what_a_host_says_and_the_log_does_not() {
    let mut shop = small_shop().await;
    shop.shop.stop_kind(Kind::Wallet).await.unwrap();
    tool(&shop, "audit").await.exits(0).says(&["1 of wallet could not be compared: nobody serves", "no differences"]);

    // Somebody else answers for wallets.
    let client = nats(&shop).await;
    let mut questions = client.subscribe("shop.wallet.>").await.unwrap();
    client.flush().await.unwrap();
    let liar = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let answer = if question.subject.ends_with(".status") {
                json!({ "kind": "wallet", "status": "ready" })
            } else {
                json!({ "id": "alice", "balance": 1, "updated_at": "2026-11-22T15:15:12.167Z" })
            };
            client.publish(question.reply.unwrap(), answer.to_string().into()).await.unwrap();
        }
    });
    tool(&shop, "audit")
        .await
        .exits(1)
        .says(&["1 difference\n", "wallet alice is not what its host says: {\"id\":\"alice\",\"balance\":1"]);
    liar.abort();
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_shows_what_a_rejected_order_did_and_undid() {
    let shop = small_shop().await;
    rejected_order(&shop).await;
    let life = tool(&shop, "trace o-2 --json").await.exits(0).json();
    let names: Vec<String> = life
        .iter()
        .map(|moment| {
            let message = &moment["message"];
            let name = message.as_str().map(str::to_owned);
            let name = name.unwrap_or_else(|| message.as_object().unwrap().keys().next().unwrap().clone());
            format!("{} {} {name}", moment["log"].as_str().unwrap(), moment["entity"].as_str().unwrap())
        })
        .collect();
    let position =
        |name: &str| names.iter().position(|found| found == name).unwrap_or_else(|| panic!("no {name}: {names:#?}"));
    let saga = [
        "order o-2 place",
        "wallet alice charge",
        "order o-2 charged",
        "product pear take",
        "order o-2 take_refused",
        "wallet alice refund",
    ];
    assert!(saga.map(position).is_sorted(), "{names:#?}");
    assert!(position("product apple take") < position("order o-2 taken"), "{names:#?}");
    assert!(position("order o-2 taken") < position("product apple put_back"), "{names:#?}");
    assert!(!names.contains(&"product pear put_back".to_owned()), "{names:#?}");
    let refused = &life[position("product pear take")];
    assert_eq!(refused["refusal"]["facts"], json!({ "product": "pear", "stock": 1, "needed": 2 }));
    let taken = &life[position("order o-2 taken")];
    assert_eq!(
        (&taken["outcome"], &taken["refusal"]),
        (&json!("PENDING"), &Value::Null),
        "only the last answer decides"
    );
    let refund = &life[position("wallet alice refund")];
    assert_eq!((&refund["undo"], &refund["outcome"]), (&json!(true), &json!("220 given back, 980 there now")));

    tool(&shop, "trace o-2").await.exits(0).says(&[
        "charge order=o-2 amount=220  → 220 charged, 760 left",
        "undo: put_back order=o-2  → 2 put back, 5 there now",
        "✗ out_of_stock: the order wants 2 of pear, 1 are left",
    ]);
    let unknown = tool(&shop, "trace o-3").await.exits(1);
    assert!(unknown.stderr.contains("no log knows of an order o-3"), "{}", unknown.stderr);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_names_the_facts_and_who_was_faster() {
    let shop = small_shop().await;
    rejected_order(&shop).await;
    // The takes of the pear: o-1 at sequence 3, after both products were created.
    tool(&shop, "why o-2").await.exits(0).says(&[
        "Order o-2 of alice is REJECTED with out_of_stock: the order wants 2 of pear, 1 are left.",
        "The last to take pear before was order o-1, at sequence 3 of the product log",
        "What was done is undone: ",
        "wallet alice: 220 given back",
        "product apple: 2 put back",
    ]);
    let why = tool(&shop, "why o-2 --json").await.exits(0).json().remove(0);
    assert_eq!(why["refusal"]["won_by"]["order"], "o-1", "{why}");
    assert_eq!((&why["status"], &why["refusal"]["code"]), (&json!("REJECTED"), &json!("out_of_stock")), "{why}");

    tool(&shop, "why o-1").await.exits(0).says(&["Order o-1 of alice is CONFIRMED: 20 were paid"]);
    shop.post("/orders/o-1/cancel", json!({ "reason": "too many" })).await.is(200);
    tool(&shop, "why o-1").await.exits(0).says(&["is CANCELLED", "\"too many\"", "20 given back", "2 put back"]);

    shop.wallet("bob", 150).await;
    shop.order("o-4", "bob", "apple", 1).await;
    let order = json!({ "id": "o-5", "user": "bob", "product": "apple", "quantity": 1 });
    shop.post("/orders", order).await.refused(409, "insufficient_balance");
    tool(&shop, "why o-5").await.exits(0).says(&[
        "the order costs 100, the wallet holds 50",
        "The last to be paid from it before was order o-4",
        "Nothing had to be undone.",
    ]);
    // Refused by what the product was offered at: no money moves.
    let order = json!({ "id": "o-6", "user": "alice", "product": "apple", "quantity": 5 });
    shop.post("/orders", order).await.refused(409, "out_of_stock");
    tool(&shop, "why o-6").await.exits(0).says(&["4 are left", "The last to take apple before was order o-4"]);
    tool(&shop, "why o-7").await.exits(1);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_printed_with_what_came_twice_and_what_is_dead() {
    let shop = small_shop().await;
    shop.order("o-1", "alice", "apple", 2).await;
    let log = jetstream::new(nats(&shop).await);
    let charge = log.get_stream("SHOP_WALLET").await.unwrap().get_raw_message(2).await.unwrap().payload;
    for bytes in [charge, "hello".into()] {
        log.publish("shop.log.wallet.0", bytes).await.unwrap().await.unwrap();
    }
    let said = tool(&shop, "log wallet").await.exits(0).says(&[
        "open balance=1000",
        "order/0           1  alice  charge order=o-1 amount=200",
        "charge order=o-1 amount=200  [duplicate: skipped]",
        "[dead: 5 bytes, frame version 104 instead of 1]",
    ]);
    assert_eq!(said.stdout.lines().count(), 5, "{}", said.stdout);

    let lines = tool(&shop, "log wallet --from 2 --json").await.exits(0).json();
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("sequence"), [2, 3, 4]);
    assert_eq!(of("fate"), [json!("accepted"), json!("duplicate"), Value::Null]);
    assert_eq!(lines[0]["message"], json!({ "charge": { "order": "o-1", "amount": 200 } }));
    assert_eq!((&lines[0]["source"]["kind"], &lines[0]["number"]), (&json!("order"), &json!(1)));
    assert_eq!(lines[2]["dead"], json!({ "reason": "frame version 104 instead of 1", "bytes": 5 }));
    tool(&shop, "audit").await.exits(0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_followed_goes_on_with_what_comes() {
    let shop = small_shop().await;
    let folder = shop.shop.folder().to_owned();
    let url = shop.shop.nats_url();
    let options = ["log", "wallet", "--follow", "--nats-url", url.as_str()];
    let mut following = shop_tests::process::Process::spawn(Program::Actors, Path::new(&folder), "follow", options);
    following.says("what was there", |said| said.contains("open balance=1000").then_some(())).await;
    shop.post("/wallets/alice/top-up", json!({ "amount": 7 })).await.is(200);
    following.says("what comes", |said| said.contains("top_up amount=7").then_some(())).await;
    following.terminate().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_with_their_origin_and_shown_with_their_bytes() {
    let shop = small_shop().await;
    tool(&shop, "dead list").await.exits(0).says(&["no dead letters"]);
    let log = jetstream::new(nats(&shop).await);
    log.publish("shop.log.wallet.0", "hello".into()).await.unwrap().await.unwrap();
    let list = || tool(&shop, "dead list");
    let said = eventually("the dead letter", list, |said: &Said| !said.stdout.contains("no dead letters")).await;
    said.exits(0).says(&["from wallet/2", "5 bytes", "frame version 104 instead of 1"]);
    let letters = tool(&shop, "dead list --json").await.exits(0).json();
    assert_eq!((letters.len(), &letters[0]["origin"], &letters[0]["bytes"]), (1, &json!("wallet/2"), &json!(5)));
    tool(&shop, "dead show 1").await.exits(0).says(&["wallet/2", "68 65 6c 6c 6f", "hello"]);
    assert_eq!(tool(&shop, "dead show 1 --json").await.exits(0).json()[0]["hex"], "68656c6c6f");
    tool(&shop, "dead show 2").await.exits(1);

    // Whoever puts something there by hand gives no reason.
    let headers = HeaderMap::new();
    log.publish_with_headers("shop.dead.wallet.0", headers, "".into()).await.unwrap().await.unwrap();
    tool(&shop, "dead show 2").await.exits(0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entity_is_shown_as_callers_saw_it_then() {
    let shop = small_shop().await;
    let opened = shop.get("/wallets/alice").await.is(200);
    shop.order("o-1", "alice", "apple", 2).await;
    let charged = shop.get("/wallets/alice").await.is(200);
    let page = shop.get("/mypages/alice").await.is(200);
    let at = async |line: &str| tool(&shop, line).await.exits(0).json().remove(0);
    assert_eq!(at("at wallet alice --seq 1 --json").await, opened.body);
    assert_eq!(at("at wallet alice --seq 2 --json").await, charged.body);
    let then = |answer: &crate::shop::Answer| format!("at wallet alice --json --time {}", answer.text("/updated_at"));
    assert_eq!(at(&then(&charged)).await, charged.body);
    if opened.text("/updated_at") != charged.text("/updated_at") {
        assert_eq!(at(&then(&opened)).await, opened.body);
    }
    assert_eq!(at("at mypage alice --json --time 2999-01-01T00:00:00Z").await["items"], *page.value("/items"));
    let early = tool(&shop, "at wallet alice --time 1999-01-01T00:00:00Z").await.exits(1);
    assert!(early.stderr.contains("there was no wallet alice then"), "{}", early.stderr);
    tool(&shop, "at wallet alice --seq 3").await.exits(1);
    tool(&shop, "at wallet alice").await.exits(2);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_cannot_find_out_says_why_and_ends_with_two() {
    let said = tool_at("nats://127.0.0.1:1", "audit").await.exits(2);
    assert!(said.stderr.contains("cannot reach a nats-server"), "{}", said.stderr);
    let mut cluster = Cluster::without_processes(1).await;
    let url = cluster.nats().url();
    for line in ["audit", "log wallet", "trace o-1", "why o-1", "at wallet alice --seq 1", "dead list"] {
        let said = tool_at(&url, line).await.exits(2);
        assert!(said.stderr.contains("cannot"), "{line}: {}", said.stderr);
    }
    cluster.nats().stop().await;
}
