//! What one message of a client that is let in can do: nothing to the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    time::Duration,
};

use async_nats::{Client, jetstream};
use futures::StreamExt;
use serde::Serialize;
use serde_json::{Value, json};
use shop_actors::{
    host::placement::Placement,
    partition::role::{Role, RoleWatch},
};
use shop_domain::{
    kind::Kind,
    logic::Logic,
    message::{Envelope, Message, ReplyTo, Request},
    money::Money,
    wallet,
};
use shop_nats::{
    connection::{Connection, access::Access},
    hosts::membership::{Announcement, HostState},
    jetstream::JetStreamLog,
    log::{
        Log, LogError,
        frame::{EncodedMessage, Origin, Source, Upgrade, frames},
    },
    stream::{
        layout::{KindLayout, Layout},
        topology::Topology,
    },
};
use shop_tests::cluster::Cluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    operator::tool,
    shop::{Answer, TestShop, eventually},
};

/// How long a reader may take that loses its connection to a record.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// No header can have it.
const LINE_BREAK: &str = "a\nb";

#[derive(Serialize)]
struct Bundle<'a> {
    requests: Vec<Bundled<'a>>,
}

#[derive(Serialize)]
struct Bundled<'a> {
    number: u64,
    target: &'a str,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    traceparent: &'a str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_context_that_no_header_can_have_comes_in_nowhere_and_stops_no_host() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let mut answers = nats.subscribe("_INBOX.shop.stranger.*").await.unwrap();
    for context in [LINE_BREAK, "a\rb", "\0", "00-1"] {
        // One that is refused at the door, one that a door answers, and one that goes through the log.
        for (target, body) in [("alice.top-up", "no JSON"), ("alice.get", ""), ("alice.top-up", r#"{"amount":1}"#)] {
            let request = Bundled { number: 7, target, body: body.as_bytes(), traceparent: context };
            let bundle = rmp_serde::to_vec_named(&Bundle { requests: vec![request] }).unwrap();
            let (subject, inbox) = ("shop.wallet.bundle", "_INBOX.shop.stranger.b1");
            nats.publish_with_reply(subject, inbox, bundle.into()).await.unwrap();
            let answer = answers.next().await.unwrap();
            let headers = answer.headers.unwrap_or_default();
            assert!(headers.get("traceparent").is_none(), "{context:?}: {headers:?}");
        }
    }
    assert_eq!(shop.balance("alice").await, 4);

    // As older programs have let it into the log, with a caller that waits.
    append_with_trace(&nats, LINE_BREAK).await;
    let answer = answers.next().await.unwrap();
    assert!(answer.headers.unwrap_or_default().get("traceparent").is_none());
    assert_eq!(shop.balance("alice").await, 5);
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.balance("alice").await, 5);
    shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).await.is(200).has("/balance", 6);
    tool(&shop, "audit").await.exits(0);
    shop.close().await;
}

/// A host that believes that another one owns its partitions keeps what it would send, until the log tells that it is
/// sent: what is said by the way may be a lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_that_are_forged_hang_no_order() {
    let shop = TestShop::open_with(1).await;
    shop.wallet("alice", 1_000).await;
    shop.product("apple", 10, 100).await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let mut announced = nats.subscribe("shop.hosts.*").await.unwrap();
    // Whoever is subscribed to does not count as gone for a while.
    let _ghosts = nats.subscribe("shop.hosts.*.*").await.unwrap();
    let mut lies = BTreeMap::new();
    while lies.len() < Kind::ALL.len() {
        let message = announced.next().await.unwrap();
        let kind = Kind::ALL.into_iter().find(|kind| message.subject.ends_with(kind.as_str())).unwrap();
        let there = serde_json::from_slice(&message.payload).unwrap();
        lies.insert(message.subject, serde_json::to_vec(&owner_beside(kind, &there)).unwrap());
    }
    let liar = nats.clone();
    let lying = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut beat = interval(Duration::from_millis(100));
        loop {
            beat.tick().await;
            for (subject, lie) in &lies {
                liar.publish(subject.clone(), lie.clone().into()).await.unwrap();
            }
        }
    }));
    let stats = || async { String::from_utf8(service_stats(&nats).await).unwrap() };
    eventually("the lie", stats, |stats| !stats.contains(r#""role":"owner""#)).await;
    let orders: Vec<_> = (0..5).map(|number| format!("o-{number}")).collect();
    for order in &orders {
        let order = json!({ "id": order, "user": "alice", "product": "apple", "quantity": 1 });
        let body = order.to_string();
        nats.publish(format!("shop.order.{}.place", order["id"].as_str().unwrap()), body.into()).await.unwrap();
    }
    for order in &orders {
        let is_confirmed = |answer: &Answer| answer.status == 200 && answer.body["status"] == "CONFIRMED";
        eventually("the order", || shop.get(format!("/orders/{order}")).into_future(), is_confirmed).await;
    }
    drop(lying);
    assert_eq!(shop.balance("alice").await, 1_000 - 5 * 10);
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

/// A host that is not there, owns the first partition if there is another one of that name, and lies about how far it is.
fn owner_beside(kind: Kind, there: &Announcement) -> Announcement {
    let owner = |number: u64| {
        let mut ghost = Placement::new(kind, format!("ghost{number}"), there.epoch, 0);
        let (decision, role) = RoleWatch::new();
        ghost.me.state = HostState::Ready;
        ghost.hear(&Announcement { state: HostState::Ready, ..there.clone() }, std::slice::from_ref(&decision));
        ghost.decide(std::slice::from_ref(&decision), &watch::channel(BTreeSet::new()).0);
        (role.now() == Role::Owner).then_some(ghost.me)
    };
    let ghost = (0..).filter_map(owner).next().expect("some name comes first");
    Announcement { settled: [(0, 1 << 63)].into(), receipts: [(0, 1)].into(), ..ghost }
}

/// What the host of orders tells of its partitions.
async fn service_stats(nats: &Client) -> Vec<u8> {
    nats.request("$SRV.STATS.shop-order", "".into()).await.unwrap().payload.into()
}

/// Tops a wallet up past the door.
async fn append_with_trace(nats: &Client, trace: &str) {
    let message: Message = wallet::Message::TopUp { amount: Money::new(1).unwrap() }.into();
    let reply = ReplyTo { inbox: "_INBOX.shop.stranger.9".into(), format: Default::default() };
    let fingerprint = message.fingerprint();
    let reply = Some(reply);
    let request =
        Request { key: None, key_as_given: None, fingerprint, reply, ticket: None, precondition: None, caller: None };
    let envelope =
        Envelope { to: "alice".parse().unwrap(), message, request: Some(request), trace: Some(trace.into()) };
    let source = Source { origin: Origin::Door, epoch: 71 };
    let frame = frames(source, 1, &[EncodedMessage::new(&envelope)]).remove(0).0;
    let log = jetstream::new(nats.clone());
    log.publish("shop.log.wallet.0", frame).await.unwrap().await.unwrap();
}

/// The NATS client of the shop panics over the first two (async-nats 0.51), and reconnects over the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_a_client_cannot_read_end_no_shop() {
    let shop = TestShop::open().await;
    shop.wallet("alice", 0).await;
    let headers = ["X: a\rb", "traceparent: a\r b", "no colon", "\u{e9}: x", "X y: z"];
    for (number, header) in headers.into_iter().enumerate() {
        // The last one stays, and is read again at each start.
        for subject in ["shop.wallet.alice.get", "shop.hosts.wallet", "shop.hold", "shop.log.wallet.0"] {
            publish_raw(&shop.shop.nats_url(), subject, header).await;
        }
        let top_up =
            || shop.post("/wallets/alice/top-up", json!({ "amount": 1 })).key(&format!("k-{number}")).into_future();
        eventually("a top-up", top_up, |answer| answer.status == 200).await;
    }
    assert_eq!(shop.balance("alice").await, headers.len() as u64);
    let is_ready = |said: &Value| said["status"] == "ready" && said["bridge"]["status"] == "ready";
    eventually("readiness", || shop.readiness(), is_ready).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    let letters = tool(&shop, "dead list").await.exits(0).stdout;
    assert_eq!(letters.lines().count(), headers.len(), "{letters}");
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.balance("alice").await, headers.len() as u64);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_stops_at_a_later_layout_also_where_its_first_record_cannot_be_read() {
    let mut cluster = Cluster::without_processes(1).await;
    let url = cluster.nats().url();
    let connection = Connection::connect(&Access::to(&*url), "test").await.unwrap();
    let reading = Connection::connect(&Access::to(&*url), "test reader").await.unwrap();
    let log = JetStreamLog::of_generation(0, &reading, &connection);
    let mut kinds = BTreeMap::new();
    for kind in Kind::ALL {
        let topology = Topology { partitions: Some(1), replicas: None, log_max_bytes: None };
        connection.ensure_log(kind, topology).await.unwrap();
        let identity = log.identity(kind).await.unwrap();
        kinds.insert(kind, KindLayout::behind(&identity, None, 1, 77, identity.last_sequence, identity.logic));
    }
    connection.ensure_layout_stream().await.unwrap();
    let (layouts, next) = (connection.layouts(), Layout { generation: 1, kinds });
    layouts.fence(&next, 0).await.unwrap();
    let seal = Upgrade { logic: Logic::NEWEST.number() }.encode();
    publish_raw_with(&url, "shop.log.wallet.1.0", "X: a\rb", &seal).await;
    layouts.decide(Some(&next), 0).await.unwrap();

    let epoch = log.identity(Kind::Wallet).await.unwrap().epoch;
    let first = timeout(READ_LIMIT, log.read(Kind::Wallet, epoch, 0).recv()).await.unwrap();
    assert!(matches!(first, Some(Err(LogError::OtherLog { .. }))), "{first:?}");
    cluster.nats().stop().await;
}

/// Publishes as no client does.
async fn publish_raw(url: &str, subject: &str, header: &str) {
    publish_raw_with(url, subject, header, b"").await;
}

async fn publish_raw_with(url: &str, subject: &str, header: &str, body: &[u8]) {
    let mut server = TcpStream::connect(url.trim_start_matches("nats://")).await.unwrap();
    let headers = format!("NATS/1.0\r\n{header}\r\n\r\n");
    let connect = "CONNECT {\"verbose\":false,\"headers\":true}\r\n";
    let publish = format!("HPUB {subject} {} {}\r\n{headers}", headers.len(), headers.len() + body.len());
    let all = [connect.as_bytes(), publish.as_bytes(), body, b"\r\nPING\r\n"].concat();
    server.write_all(&all).await.unwrap();
    let mut said = String::new();
    while !said.contains("PONG") {
        let mut bytes = [0; 4096];
        let count = server.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the server has closed: {said}");
        said += &String::from_utf8_lossy(&bytes[..count]);
    }
    assert!(!said.contains("-ERR"), "{said}");
}
