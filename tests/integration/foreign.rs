//! Records in a log's stream that are none of the log's: a consumer of another stream, whose target is a subject of the
//! log, makes nats-server store them there under the subject that they had.

use std::future::IntoFuture;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, push},
    stream::Config,
};
use shop_nats::log::frame::Upgrade;

use crate::{
    backup::Elsewhere,
    operator::{Said, tool},
    shop::{Answer, TestShop, eventually},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_none_of_a_log_are_dead_letters_and_stop_no_host() {
    let shop = TestShop::open_with(2).await;
    shop.product("pear", 100, 1_000).await;
    shop.wallet("alice", 1_000_000).await;
    shop.order("o-1", "alice", "pear", 1).await;
    let log = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    for (stream, target) in
        [("SHOP_DEAD", "shop.log.product.0"), ("SHOP_ORDER", "shop.log.product.0"), ("SHOP_WALLET", "shop.log.order.1")]
    {
        send_on(&log, stream, target).await;
    }
    // Some look as if they were of another partition, or of another layout; some would be more than bytes.
    let subjects = ["shop.log.product.7", "shop.log.product.00", "shop.log.product.9.0", "elsewhere"];
    let elsewhere =
        Config { name: "ELSEWHERE".to_owned(), subjects: subjects.map(str::to_owned).to_vec(), ..Config::default() };
    log.create_stream(elsewhere).await.unwrap();
    for subject in subjects {
        for bytes in [Upgrade { logic: 9_999 }.encode(), "hello".into()] {
            log.publish(subject, bytes).await.unwrap().await.unwrap();
        }
    }
    send_on(&log, "ELSEWHERE", "shop.log.product.1").await;
    // The dead letter of this one comes back as well, and then not again.
    log.publish("shop.log.wallet.0", "hello".into()).await.unwrap().await.unwrap();

    shop.order("o-2", "alice", "pear", 2).await;
    let letters = || tool(&shop, "dead list");
    let is_there = |said: &Said| {
        subjects[1..]
            .iter()
            .chain(&["shop.log.order.", "shop.dead.wallet.", "a partition that there is not"])
            .all(|subject| said.stdout.contains(subject))
    };
    eventually("dead letters", letters, is_there)
        .await
        .exits(0)
        .says(&["frame version 104", "which is none of this log's"]);
    shop.order("o-3", "alice", "pear", 3).await;
    eventually("readiness", || shop.get("/readyz").into_future(), |ready: &Answer| ready.status == 200).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    tool(&shop, "log product").await.exits(0).says(&["which is none of this log's"]);
    tool(&shop, "trace o-3").await.exits(0);
    tool(&shop, "at product pear --time 2999-01-01T00:00:00Z").await.exits(0);

    let before = shop.look(&["/products/pear", "/wallets/alice", "/orders/o-3", "/mypages/alice"]).await;
    let shop = shop.reopen(|folder| std::fs::remove_dir_all(folder.join("hosts")).unwrap()).await;
    assert_eq!(shop.look(&["/products/pear", "/wallets/alice", "/orders/o-3", "/mypages/alice"]).await, before);
    shop.order("o-4", "alice", "pear", 4).await;

    // A backup keeps what it was, and the log that is restored says of it what the first one did.
    let place = tempfile::tempdir().unwrap();
    let dead = |said: &Said| said.stdout.lines().filter(|line| line.contains("none of this log's")).count();
    let count = dead(&tool(&shop, "dead list").await);
    tool(&shop, &format!("backup --to {}", place.path().display())).await.exits(0);
    let there = Elsewhere::new().await;
    there.restore(place.path()).await.exits(0);
    let restored = there.open().await;
    restored.order("o-5", "alice", "pear", 5).await;
    tool(&restored, "audit").await.exits(0).says(&["no differences"]);
    assert_eq!(dead(&tool(&restored, "dead list").await), count);
    restored.close().await;

    tool(&shop, "repartition --to 3").await.exits(0);
    shop.order("o-6", "alice", "pear", 6).await;
    tool(&shop, "audit").await.exits(0).says(&["no differences"]);
    shop.close().await;
}

/// Makes the server send what a stream has, and will have, to a subject of another one.
async fn send_on(log: &jetstream::Context, stream: &str, target: &str) {
    let config = push::Config {
        name: Some(format!("{stream}-{}", target.replace('.', "-"))),
        deliver_subject: target.to_owned(),
        ack_policy: AckPolicy::None,
        ..push::Config::default()
    };
    log.get_stream(stream).await.unwrap().create_consumer(config).await.unwrap();
}
