//! What a host shows that wakes up when the shop was repartitioned meanwhile: what is so, or nothing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Client as Nats;
use serde_json::{Value, json};
use shop_domain::kind::Kind;
use shop_tests::{
    client::Client,
    cluster::{ALL_KINDS, Cluster},
    process::Signal,
    wait::until,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::operator::tool_at;

const HOSTS: [&str; 2] = ["first", "second"];
/// Who looks at a time.
const READERS: usize = 4;
/// How long is waited for an answer: one that a frozen host has taken comes when it wakes up.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Answers that are to come after each waking.
const ANSWERS_AFTER: u64 = 200;

/// All that is looked at: where to ask, and what the answer must hold.
fn things() -> Vec<(String, Value)> {
    let mut things = vec![];
    for number in 0..6 {
        things.push((format!("shop.wallet.w-{number}.get"), json!({ "id": format!("w-{number}"), "balance": 990 })));
        things.push((format!("shop.product.p-{number}.get"), json!({ "id": format!("p-{number}"), "stock": 9 })));
        let order = json!({ "id": format!("o-{number}"), "status": "CONFIRMED" });
        things.push((format!("shop.order.o-{number}.get"), order.clone()));
        things.push((format!("shop.delivery.o-{number}.get"), json!({ "status": "SCHEDULED" })));
        things.push((format!("shop.mypage.w-{number}.get"), json!({ "items": [order] })));
        things.push((format!("shop.wallet.w-{number}.statement"), json!({ "items": [{}, {}] })));
    }
    things
}

/// Whether an answer holds all that it must.
fn holds(answer: &Value, expected: &Value) -> bool {
    match (answer, expected) {
        (Value::Object(answer), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| answer.get(name).is_some_and(|found| holds(found, value)))
        }
        (Value::Array(answer), Value::Array(expected)) => {
            answer.len() == expected.len() && answer.iter().zip(expected).all(|(one, other)| holds(one, other))
        }
        (answer, expected) => answer == expected,
    }
}

/// What came of all looking.
#[derive(Debug, Default)]
struct Seen {
    answers: AtomicU64,
    untrue: Mutex<Vec<String>>,
}

/// Looks at everything again and again, over NATS: either host may get the question.
async fn look(nats: Nats, seen: Arc<Seen>, first: usize, stop: CancellationToken) {
    let things = things();
    for (subject, expected) in things.iter().cycle().skip(first) {
        if stop.is_cancelled() {
            return;
        }
        let request = async_nats::Request::new().timeout(Some(ANSWER_WAIT));
        let Ok(message) = nats.send_request(subject.clone(), request).await else { continue };
        let code = message.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
        let is_true = match code.map(|code| code.as_str()) {
            None => serde_json::from_slice(&message.payload).is_ok_and(|answer| holds(&answer, expected)),
            Some(code) => code == "503",
        };
        if !is_true {
            let answer = String::from_utf8_lossy(&message.payload);
            seen.untrue.lock().unwrap().push(format!("{subject}: {answer}"));
        }
        if code.is_none() {
            seen.answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn fill(client: &Client) {
    for number in 0..6 {
        let (wallet, product) = (format!("w-{number}"), format!("p-{number}"));
        client.post("/wallets", &json!({ "id": wallet, "balance": 1_000 })).await.json(201);
        let body = json!({ "id": product, "name": "thing", "price": 10, "stock": 10 });
        client.post("/products", &body).await.json(201);
        let order = json!({ "id": format!("o-{number}"), "user": wallet, "product": product, "quantity": 1 });
        client.post("/orders", &order).await.json(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_wakes_after_a_repartition_hides_nothing_that_is_there() {
    let mut cluster = Cluster::without_processes(2).await.that_keeps_snapshots();
    cluster = cluster.with(&HOSTS.map(|host| (host, ALL_KINDS))).await;
    for host in HOSTS {
        cluster.wait_for_host(host).await;
    }
    fill(&cluster.client()).await;
    let url = cluster.nats().url();
    let nats = async_nats::connect(&url).await.unwrap();
    let (seen, stop, mut readers) = (Arc::new(Seen::default()), CancellationToken::new(), JoinSet::new());
    for reader in 0..READERS {
        readers.spawn(look(nats.clone(), Arc::clone(&seen), reader * 7, stop.clone()));
    }
    for (round, (frozen, partitions)) in [("first", 3), ("second", 5), ("first", 2)].into_iter().enumerate() {
        cluster.host(frozen).signal(Signal::STOP);
        let line = format!("repartition --to {partitions} --snapshots {}", cluster.snapshots().display());
        tool_at(&url, &line).await.exits(0);
        cluster.host(frozen).signal(Signal::CONT);
        let wanted = seen.answers.load(Ordering::Relaxed) + ANSWERS_AFTER;
        until("many answers", async || (seen.answers.load(Ordering::Relaxed) >= wanted).then_some(())).await;
        // Each host says that it serves a kind when it starts, and once more each time that it begins anew.
        let served = |log: &str| (log.matches("is served").count() >= (round + 2) * Kind::ALL.len()).then_some(());
        for host in HOSTS {
            cluster.host(host).says("that it serves again", served).await;
        }
    }
    stop.cancel();
    readers.join_all().await;
    assert_eq!(*seen.untrue.lock().unwrap(), Vec::<String>::new());
    cluster.stop().await;
}
