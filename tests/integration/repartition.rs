//! Kinds that are cut into another number of partitions while the shop is open.

mod woken;

use std::{collections::BTreeMap, fs, path::Path};

use async_nats::jetstream;
use serde_json::json;
use shop_actors::{
    repartition::{Options, Repartition, Settled},
    snapshot::Snapshots,
};
use shop_domain::{
    kind::Kind,
    message::{Envelope, Message},
    money::Money,
    wallet,
};
use shop_nats::{
    connection::{Connection, access::Access},
    hosts::pause::PauseGuard,
    jetstream::JetStreamLog,
    log::{
        Log,
        frame::{EncodedMessage, Origin, Source, frames},
    },
    stream::topology::Topology,
    subject::partition_of,
};
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster},
    market::Market,
    process::Signal,
    rush::{Rush, Told},
    seed::rng,
};
use tempfile::TempDir;

use crate::{
    operator::{Said, tool, tool_at},
    shop::{TestShop, eventually},
};

const ORDERS: usize = 80;

fn snapshots(shop: &TestShop) -> String {
    shop.shop.folder().join("snapshots").to_string_lossy().into_owned()
}

/// Runs a tool that may look into the snapshots.
async fn with_snapshots(shop: &TestShop, line: &str) -> Said {
    tool(shop, &format!("{line} --snapshots {}", snapshots(shop))).await
}

async fn connect(shop: &TestShop) -> Connection {
    Connection::connect(&Access::to(shop.shop.nats_url()), "test").await.unwrap()
}

/// Into how many partitions each kind is cut.
async fn partitions(shop: &TestShop) -> BTreeMap<Kind, u16> {
    let connection = connect(shop).await;
    let log = JetStreamLog::open(&connection, &connection).await.unwrap();
    let mut partitions = BTreeMap::new();
    for kind in Kind::ALL {
        partitions.insert(kind, log.identity(kind).await.unwrap().partitions);
    }
    partitions
}

fn all(partitions: u16) -> BTreeMap<Kind, u16> {
    Kind::ALL.map(|kind| (kind, partitions)).into()
}

fn lose_the_checkpoints(folder: &Path) {
    fs::remove_dir_all(folder.join("hosts")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_is_cut_anew_in_the_rush_again_and_again_and_every_answer_stays_as_it_was() {
    let mut shop = TestShop::open().await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(101), 6 * ORDERS).await;
    let mut told = Told::new();
    let mut some_more = all(3);
    some_more.extend([(Kind::Wallet, 5), (Kind::Order, 5)]);
    for (line, expected) in [
        ("repartition --to 3", all(3)),
        ("repartition --to 5 --kind wallet,order", some_more),
        ("repartition --to 2", all(2)),
    ] {
        let mut rush = Rush::begin(&client, market.orders(&format!("to-{}-and", told.len()), ORDERS));
        rush.has_answered(ORDERS / 4).await;
        with_snapshots(&shop, line).await.exits(0).says(&["partitions:", "the doors held for"]);
        let (answers, errors) = rush.finish_with_errors().await;
        assert_eq!(errors, [""; 0], "somebody was turned away");
        told.extend(answers);
        assert_eq!(partitions(&shop).await, expected);
    }
    market.audit(&client, &told).await;
    let audit = with_snapshots(&shop, "audit").await.exits(0);
    let report = audit.says(&["no differences"]).stdout;
    assert!(!report.contains("snapshots stand"), "all of it is in the logs: {report}");
    let picture = market.picture(&client, &told).await;
    for meanwhile in [|_: &Path| {}, lose_the_checkpoints] {
        shop = shop.reopen(meanwhile).await;
        let client = Client::new(shop.shop.http_address());
        assert_eq!(market.picture(&client, &told).await, picture);
    }
    // So many snapshots are kept, of which the oldest says how much of a log can go.
    for round in 0..3 {
        let client = Client::new(shop.shop.http_address());
        told.extend(Rush::begin(&client, market.orders(&format!("at-last-{round}"), ORDERS)).finish().await);
        shop = shop.reopen(|_| {}).await;
    }
    with_snapshots(&shop, "trim --margin 1").await.exits(0).says(&["cut off"]);
    market.audit(&Client::new(shop.shop.http_address()), &told).await;
    let audit = with_snapshots(&shop, "audit").await.exits(0);
    audit.says(&["snapshots stand for what came before: logs were cut", "no differences"]);
    shop.close().await;
}

/// A tool does not say that it could not tell all. It may warn: of a record that a host has appended while the shop was
/// cut anew, or of a server that it had to ask again.
#[track_caller]
fn nothing_is_kept_back(said: &Said) {
    assert!(!said.stderr.contains("is not told"), "{}", said.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_something_is_trimmed_the_tools_tell_of_all_that_was_before_a_repartitioning() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 10, 5).await;
    shop.wallet("alice", 1_000).await;
    shop.wallet("bob", 5).await;
    shop.order("o-1", "alice", "apple", 2).await;
    let too_many = json!({ "id": "o-2", "user": "alice", "product": "apple", "quantity": 4 });
    shop.post("/orders", too_many).await.refused(409, "out_of_stock");
    shop.post("/orders/o-1/cancel", json!({})).await.is(200);
    shop.order("o-3", "alice", "apple", 5).await;
    let lines = ["trace o-1", "trace o-2 --json", "why o-1", "why o-2 --json", "why o-3", "at wallet alice --seq 3"];
    let mut told = vec![];
    for line in lines {
        told.push(tool(&shop, line).await.exits(0).stdout);
    }
    let log = tool(&shop, "log wallet").await.exits(0).stdout;
    for (count, order) in [(3, "in-3"), (1, "in-1")] {
        tool(&shop, &format!("repartition --to {count}")).await.exits(0);
        shop.product(order, 1, 1).await;
        shop.order(order, "alice", order, 1).await;
        for (line, told) in lines.iter().zip(&told) {
            let now = tool(&shop, line).await.exits(0);
            assert_eq!(&now.stdout, told, "{line} behind {count} partitions");
            nothing_is_kept_back(&now);
        }
        tool(&shop, &format!("trace {order}")).await.exits(0).says(&["1 charged", "CONFIRMED"]);
    }
    let now = tool(&shop, "log wallet").await.exits(0);
    assert!(now.stdout.starts_with(&log), "{}", now.stdout);
    let now = now.says(&["[repartition: 3 partition(s) from here on", "charge order=in-3 amount=1  → 1 charged"]);
    nothing_is_kept_back(&now.says(&["[repartition: 1 partition(s) from here on"]));
    let cuts = tool(&shop, "log order --json").await.exits(0).json();
    let cuts: Vec<_> = cuts.iter().filter_map(|line| line["repartition"]["partitions"].as_u64()).collect();
    assert_eq!(cuts, [3, 1]);
    let audit = tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    assert!(!audit.stdout.contains("snapshots stand"), "{}", audit.stdout);

    // From here on only the snapshots know of it.
    tool(&shop, "trim").await.exits(0).says(&["records cut off"]);
    let gone = tool(&shop, "why o-1 --json").await.exits(0);
    assert!(gone.stderr.contains("what came before is not told: logs were cut"), "{}", gone.stderr);
    let gone = gone.json().remove(0);
    assert_eq!((&gone["status"], &gone["undone"]), (&json!("CANCELLED"), &json!(null)), "{gone}");
    let what = "asked for, at what time is not known. What had been done is undone; where and when is not known.";
    assert!(gone["why"].as_str().unwrap().contains(what), "{gone}");
    let refused = tool(&shop, "why o-2").await.exits(0);
    refused.says(&["4 of \"apple\", 3 are left. Where it was refused is not known. Nothing had to be undone."]);
    tool(&shop, "why o-3")
        .await
        .exits(0)
        .says(&["taken, at what time is not known", "SCHEDULED, since when is not known"]);
    let gone = tool(&shop, "trace in-3").await.exits(1);
    assert!(gone.stderr.contains("no log knows of an order in-3 any more: logs were cut"), "{}", gone.stderr);
    tool(&shop, "trace in-1").await.exits(0).says(&["1 charged", "CONFIRMED"]);
    let one_more = json!({ "id": "o-4", "user": "bob", "product": "apple", "quantity": 1 });
    shop.post("/orders", one_more).await.refused(409, "out_of_stock");
    tool(&shop, "why o-4").await.exits(0).says(&["Which order was the last to take apple before is not known."]);
    let audit = tool(&shop, "audit").await.exits(0);
    audit.says(&["snapshots stand for what came before: logs were cut", "no differences"]);
    shop.close().await;
}

#[tokio::test]
async fn a_host_that_was_frozen_when_the_shop_was_cut_anew_does_no_harm_when_it_goes_on() {
    let mut cluster = Cluster::without_processes(2).await.that_keeps_snapshots();
    cluster = cluster.with(&[("first", ALL_KINDS), ("second", ALL_KINDS)]).await;
    for host in ["first", "second"] {
        cluster.wait_for_host(host).await;
    }
    let (client, url) = (cluster.client(), cluster.nats().url());
    let mut market = Market::open(&client, rng(102), 2 * ORDERS).await;
    let mut rush = Rush::begin(&client, market.orders("before", ORDERS));
    rush.has_answered(ORDERS / 4).await;
    cluster.host("first").signal(Signal::STOP);
    let mut told = rush.finish().await;
    let line = format!("repartition --to 5 --snapshots {}", cluster.snapshots().display());
    tool_at(&url, &line).await.exits(0).says(&["  2 ->   5 partitions"]);
    let mut rush = Rush::begin(&client, market.orders("after", ORDERS));
    rush.has_answered(ORDERS / 4).await;
    cluster.host("first").signal(Signal::CONT);
    let begins_anew = |log: &str| log.contains("the shop was repartitioned; beginning anew").then_some(());
    cluster.host("first").says("that it begins anew", begins_anew).await;
    told.extend(rush.finish().await);
    market.audit(&client, &told).await;
    let line = format!("audit --snapshots {}", cluster.snapshots().display());
    tool_at(&url, &line).await.exits(0).says(&["no differences"]);
    cluster.stop().await;
}

/// Whoever cuts a shop anew, up to where he is stopped.
struct Cutting {
    connection: Connection,
    repartition: Repartition,
    holding: Option<PauseGuard>,
    _folder: TempDir,
}

impl Cutting {
    async fn begin(shop: &TestShop, partitions: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            nats: Access::to(shop.shop.nats_url()),
            snapshots: Snapshots::find(&snapshots(shop)).unwrap(),
            folder: folder.path().to_owned(),
            partitions: all(partitions),
        };
        let connection = connect(shop).await;
        let repartition = Repartition::begin(&connection, options).await.unwrap();
        Self { connection, repartition, holding: None, _folder: folder }
    }

    async fn settle(mut self) -> (Settled, Option<PauseGuard>, TempDir) {
        self.repartition.catch_up().await.unwrap();
        self.holding = Some(self.connection.hold_doors());
        (self.repartition.settle().await.unwrap(), self.holding, self._folder)
    }
}

/// Orders until it is carried out: doors that hold open by themselves.
async fn is_open_again(shop: &TestShop, order: &str) {
    let order = json!({ "id": order, "user": "alice", "product": "apple", "quantity": 1 });
    let place = || async { shop.post("/orders", order.clone()).prefer("wait=10").await };
    eventually("the order is carried out", place, |answer| answer.status == 201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_cuts_a_shop_anew_may_be_gone_at_any_moment() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "apple", 1).await;

    drop(Cutting::begin(&shop, 3).await.settle().await);
    is_open_again(&shop, "settled").await;

    let (settled, holding, folder) = Cutting::begin(&shop, 3).await.settle().await;
    let ready = settled.rewrite().await.unwrap();
    drop((holding, folder));
    is_open_again(&shop, "written").await;
    let refused = ready.commit().await.unwrap_err().to_string();
    assert!(refused.contains("has gone on beyond what was rewritten"), "{refused}");
    is_open_again(&shop, "too-late").await;

    let (settled, holding, folder) = Cutting::begin(&shop, 3).await.settle().await;
    let ready = settled.rewrite().await.unwrap();
    ready.fence().await.unwrap();
    drop((holding, folder));
    is_open_again(&shop, "fenced").await;
    let refused = ready.decide().await.unwrap_err().to_string();
    assert!(refused.contains("has decided meanwhile how the logs are cut"), "{refused}");
    assert_eq!(partitions(&shop).await, all(1));

    let (settled, holding, folder) = Cutting::begin(&shop, 3).await.settle().await;
    let ready = settled.rewrite().await.unwrap();
    ready.fence().await.unwrap();
    ready.decide().await.unwrap();
    drop((holding, folder, ready));
    is_open_again(&shop, "decided").await;
    assert_eq!(partitions(&shop).await, all(3));

    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (940, 994));
    with_snapshots(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

async fn streams(shop: &TestShop) -> jetstream::Context {
    jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap())
}

/// The subjects that each kind's log has.
async fn subjects(streams: &jetstream::Context) -> Vec<Vec<String>> {
    let mut subjects = vec![];
    for kind in Kind::ALL {
        let stream = format!("SHOP_{}", kind.as_str().to_uppercase());
        subjects.push(streams.get_stream(stream).await.unwrap().cached_info().config.subjects.clone());
    }
    subjects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_missed_that_the_shop_was_cut_anew_does_not_take_that_back() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    let (settled, holding, _folder) = Cutting::begin(&shop, 2).await.settle().await;
    let frozen = settled.rewrite().await.unwrap();
    drop(holding);
    with_snapshots(&shop, "repartition --to 3").await.exits(0);
    let streams = streams(&shop).await;
    let now = subjects(&streams).await;
    let refused = frozen.fence().await.unwrap_err().to_string();
    assert!(refused.contains("has decided meanwhile how the logs are cut"), "{refused}");
    assert_eq!(subjects(&streams).await, now);
    is_open_again(&shop, "o-1").await;
    shop.close().await;
}

/// Appends to the log of wallets what a host would that was frozen when these were not yet cut as they are now, and
/// that somebody lets in who was frozen as well.
pub(crate) async fn append_late(shop: &TestShop, partitions: u16) {
    let streams = streams(shop).await;
    let wallet = "alice".parse().unwrap();
    let place = format!("shop.log.wallet.{}", partition_of(&wallet, partitions));
    let message = Message::Wallet(wallet::Message::TopUp { amount: Money::new(7).unwrap() });
    let top_up = EncodedMessage::new(&Envelope { to: wallet, message, request: None, trace: None });
    let (frame, _) = frames(Source { origin: Origin::Door, epoch: 61 }, 1, &[top_up]).remove(0);
    let append = || async {
        let mut config = streams.get_stream("SHOP_WALLET").await.unwrap().cached_info().config.clone();
        if !config.subjects.contains(&place) {
            config.subjects.push(place.clone());
            streams.update_stream(config).await.unwrap();
        }
        // A host may just see to it that the stream is as it should be.
        streams.publish(place.clone(), frame.clone()).await.unwrap().await
    };
    eventually("something is appended", append, Result::is_ok).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_under_an_older_layout_is_skipped_by_everybody() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    with_snapshots(&shop, "repartition --to 3").await.exits(0);
    append_late(&shop, 2).await;
    assert_eq!(shop.balance("alice").await, 1_000);
    shop.order("o-1", "alice", "apple", 1).await;
    with_snapshots(&shop, "audit").await.exits(0).says(&["no differences"]);
    append_late(&shop, 2).await;
    let shop = shop.reopen(lose_the_checkpoints).await;
    assert_eq!(shop.balance("alice").await, 990);
    // From its checkpoint, whose last record that one is.
    let shop = shop.reopen(|_| {}).await;
    shop.order("o-2", "alice", "apple", 1).await;
    with_snapshots(&shop, "repartition --to 1").await.exits(0);
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (980, 998));
    with_snapshots(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_begins_afresh_is_not_taken_for_the_one_that_was_cut_anew() {
    let shop = TestShop::open().await;
    let streams = streams(&shop).await;
    let mut another = streams.get_stream("SHOP_WALLET").await.unwrap().cached_info().config.clone();
    another.metadata.insert("shop.epoch".into(), "00000000000000aa".into());
    with_snapshots(&shop, "repartition --to 2").await.exits(0);
    for kind in Kind::ALL {
        streams.delete_stream(format!("SHOP_{}", kind.as_str().to_uppercase())).await.unwrap();
    }
    let connection = connect(&shop).await;
    let topology = Topology { partitions: None, replicas: None, log_max_bytes: None };
    let refused = connection.ensure_log(Kind::Wallet, topology).await.unwrap_err().to_string();
    assert!(refused.contains("there is no stream SHOP_WALLET, but SHOP_LAYOUT says how it is cut"), "{refused}");
    assert!(refused.contains("nats stream rm"), "{refused}");

    // By a host of an older version.
    streams.create_stream(another.clone()).await.unwrap();
    let refused = connection.conform().await.unwrap_err().to_string();
    assert!(refused.contains("the stream SHOP_WALLET is not the one that SHOP_LAYOUT speaks of"), "{refused}");
    let found = streams.get_stream("SHOP_WALLET").await.unwrap().cached_info().config.clone();
    assert_eq!((found.subjects, &found.metadata["shop.epoch"]), (another.subjects, &another.metadata["shop.epoch"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_nobody_can_append_to_are_mended_by_the_next_host_that_starts() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    let (settled, holding, folder) = Cutting::begin(&shop, 4).await.settle().await;
    let ready = settled.rewrite().await.unwrap();
    ready.fence().await.unwrap();
    // Everybody is gone before anything is decided.
    drop((holding, folder, ready));
    let shop = shop.reopen(|_| {}).await;
    shop.order("o-1", "alice", "apple", 1).await;
    assert_eq!(partitions(&shop).await, all(1));
    with_snapshots(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_doors_hold_is_kept_or_waits_and_is_done_once() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    let connection = connect(&shop).await;
    let holding = connection.hold_doors();
    let change = || async { shop.patch("/products/apple", json!({ "price": 10 })).prefer("wait=0").await };
    eventually("the doors hold", change, |answer| answer.body["held"] == true).await;
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1 });
    let promised = shop.post("/orders", order).prefer("wait=1").await.is(202);
    assert_eq!(promised.header("location"), Some("/orders/o-1"));
    assert_eq!(promised.header("preference-applied"), Some("wait=1"));
    let answer = shop.get("/wallets/alice").await.is(200);
    let refused = shop.post("/wallets/alice/top-up", json!({ "amount": 5 })).prefer("wait=1").await.is(503);
    assert_eq!((refused.value("/code"), refused.value("/held")), (&json!("unavailable"), &json!(true)));
    let waiting = tokio::spawn({
        let top_up = shop.post("/wallets/alice/top-up", json!({ "amount": 7 })).prefer("wait=30");
        async move { top_up.await }
    });
    assert_eq!(shop.get("/wallets/alice").await.to_string(), answer.to_string(), "nothing was done");
    connection.open_doors(holding).await;
    waiting.await.unwrap().is(200);
    let look = || async { shop.get("/orders/o-1").await };
    eventually("the order that was kept", look, |order| order.status == 200 && order.text("/status") == "CONFIRMED")
        .await;
    assert_eq!(shop.balance("alice").await, 997);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_before_a_repartition_can_be_cut_off_at_once() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    with_snapshots(&shop, "repartition --to 3").await.exits(0);
    with_snapshots(&shop, "trim --older-than 30").await.exits(0).says(&["wallet    1..", "records cut off"]);
    let connection = connect(&shop).await;
    let log = JetStreamLog::open(&connection, &connection).await.unwrap();
    for kind in Kind::ALL {
        let identity = log.identity(kind).await.unwrap();
        assert!(identity.oldest_sequence > 1, "{kind}");
        assert_eq!(identity.oldest_sequence, identity.first_sequence, "{kind}");
    }
    with_snapshots(&shop, "trim").await.exits(0).says(&["nothing to cut"]);
    let shop = shop.reopen(lose_the_checkpoints).await;
    shop.order("o-2", "alice", "apple", 1).await;
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (980, 998));
    with_snapshots(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_cut_anew_is_refused_and_stays_as_it_is() {
    let shop = TestShop::open_with(2).await;
    shop.product("apple", 10, 1_000).await;
    // The hosts say where their snapshots are.
    let same = tool(&shop, "repartition --to 2").await.exits(1);
    assert!(same.stderr.contains("there are 2 partitions already"), "{}", same.stderr);
    let same = with_snapshots(&shop, "repartition --to 2").await.exits(1);
    assert!(same.stderr.contains("there are 2 partitions already"), "{}", same.stderr);
    for line in ["repartition --to 0", "repartition --to 257", "repartition --to 3 --kind shoe", "repartition"] {
        with_snapshots(&shop, line).await.exits(2);
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = tool(&shop, &format!("repartition --to 3 --snapshots {}", elsewhere.path().display())).await.exits(1);
    assert!(refused.stderr.contains("it keeps its snapshots in "), "{}", refused.stderr);
    assert_eq!(partitions(&shop).await, all(2));
    shop.product("pear", 10, 1_000).await;
    shop.close().await;

    let mut forgetful = Cluster::start(2, &[("all", ALL_KINDS)]).await;
    let line = format!("repartition --to 3 --snapshots {}", elsewhere.path().display());
    let refused = tool_at(&forgetful.nats().url(), &line).await.exits(1);
    assert!(refused.stderr.contains("it keeps no snapshots"), "{}", refused.stderr);
    forgetful.take_host("all").terminate().await;
    let refused = tool_at(&forgetful.nats().url(), &line).await.exits(1);
    assert!(refused.stderr.contains("no host of wallet says"), "{}", refused.stderr);
    let refused = tool_at(&forgetful.nats().url(), "repartition --to 3 --without-hosts").await.exits(1);
    assert!(refused.stderr.contains("say where the hosts keep theirs with --snapshots"), "{}", refused.stderr);
    forgetful.stop().await;
}
