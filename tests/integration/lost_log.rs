//! A log that is lost, of a shop that is there still: no caller is told that there was never anything.

use async_nats::jetstream;
use serde_json::{Value, json};
use shop_actors::host::config::SnapshotOptions;
use shop_local::{Options, Shop, nats_server::NatsServer};

use crate::shop::{TestShop, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_lost_does_not_begin_afresh_in_silence() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(&folder.path().join("nats"), 0).await.unwrap();
    let shop = TestShop::open_as(|options| Options { nats_url: Some(server.url().into()), ..options }).await;
    shop.wallet("alice", 1_000).await;
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    context.delete_stream("SHOP_WALLET").await.unwrap();
    shop.get("/wallets/alice").await.refused(503, "unavailable");
    // A product's log is whole, and still there is no word of the wallets.
    shop.product("pear", 100, 10).await;
    let is_alarmed = |said: &Value| said["bridge"]["kinds"]["wallet"] == "catching_up";
    eventually("the alarm", || shop.readiness(), is_alarmed).await;
    shop.get("/wallets/alice").await.refused(503, "unavailable");
    // It may take its time to stop without a log.
    drop(shop);

    let refusal = async |data: &str, snapshots: Option<String>| {
        let options = Options {
            nats_url: Some(server.url().into()),
            snapshots: SnapshotOptions { snapshots, ..SnapshotOptions::default() },
            ..Options::for_test(folder.path().join(data))
        };
        Shop::start(options).await.unwrap_err().to_string()
    };
    let refused = refusal("without-checkpoints", None).await;
    for word in ["there is no stream SHOP_WALLET, though SHOP_DEAD is there", "shop restore", "nats stream rm"] {
        assert!(refused.contains(word), "{refused}");
    }
    context.delete_stream("SHOP_DEAD").await.unwrap();
    let refused = refusal("without-dead-letters", None).await;
    assert!(refused.contains("there is no stream SHOP_WALLET, though something is in SHOP_PRODUCT"), "{refused}");
    assert!(context.get_stream("SHOP_WALLET").await.is_err(), "a log was made");

    // Nothing is left but snapshots.
    for stream in ["PRODUCT", "ORDER", "DELIVERY", "MYPAGE"] {
        context.delete_stream(format!("SHOP_{stream}")).await.unwrap();
    }
    let place = folder.path().join("snapshots");
    let of_wallets = place.join("wallet/0/00000000000000aa");
    std::fs::create_dir_all(&of_wallets).unwrap();
    std::fs::write(of_wallets.join("00000000000000000007-00000000000000000007.snapshot"), "").unwrap();
    let place = place.to_string_lossy().into_owned();
    let refused = refusal("without-logs", Some(place.clone())).await;
    assert!(refused.contains("there is no log of wallet, but there are snapshots of one in"), "{refused}");
    assert!(context.get_stream("SHOP_WALLET").await.is_err(), "a log was made");

    std::fs::remove_dir_all(&place).unwrap();
    let afresh = TestShop::open_as(|options| Options { nats_url: Some(server.url().into()), ..options }).await;
    afresh.post("/wallets", json!({ "id": "alice", "balance": 1 })).await.is(201);
    afresh.close().await;
}
