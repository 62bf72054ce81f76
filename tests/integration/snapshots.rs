//! Snapshots, and logs that are cut behind them.

use std::{cell::Cell, fs, path::Path};

use async_nats::jetstream;
use serde_json::{Value, json};
use shop_actors::host::config::SnapshotOptions;
use shop_domain::kind::Kind;
use shop_local::Options;
use shop_tests::{client::Client, market::Market, rush::Rush, seed::rng};

use crate::{
    operator::{Said, tool},
    shop::{TestShop, eventually},
};

const ORDERS: usize = 60;

fn snapshots(shop: &TestShop) -> String {
    shop.shop.folder().join("snapshots").to_string_lossy().into_owned()
}

/// Runs a tool that may look into the snapshots.
async fn with_snapshots(shop: &TestShop, line: &str) -> Said {
    tool(shop, &format!("{line} --snapshots {}", snapshots(shop))).await
}

fn lose_the_checkpoints(folder: &Path) {
    fs::remove_dir_all(folder.join("hosts")).unwrap();
}

/// From where to where the log of a kind goes.
async fn extent(shop: &TestShop, kind: Kind) -> (u64, u64) {
    let client = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let name = format!("SHOP_{}", kind.as_str().to_uppercase());
    let stream = jetstream::new(client).get_stream(name).await.unwrap();
    let state = &stream.cached_info().state;
    (state.first_sequence, state.last_sequence)
}

/// All snapshots of a partition, newest first.
fn files(shop: &TestShop, place: &str) -> Vec<std::path::PathBuf> {
    let epochs = fs::read_dir(Path::new(&snapshots(shop)).join(place)).unwrap();
    let files = epochs.flat_map(|epoch| fs::read_dir(epoch.unwrap().path()).unwrap());
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort_by(|one, other| other.cmp(one));
    files
}

/// The orders of customers who come all at once, and what they were told.
async fn rush(shop: &TestShop, market: &mut Market, name: &str) -> Vec<(String, Value)> {
    let client = Client::new(shop.shop.http_address());
    let told = Rush::begin(&client, market.orders(name, ORDERS)).finish().await;
    told.into_iter().map(|(id, (_, answer))| (id, json!({ "status": answer.status }))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_whose_logs_were_cut_and_whose_checkpoints_are_lost_is_as_it_was() {
    let shop = TestShop::open_with(3).await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(71), 3 * ORDERS).await;
    let first = rush(&shop, &mut market, "first").await;
    // The last snapshots are written when a host stops.
    let shop = shop.reopen(|_| {}).await;
    let second = rush(&shop, &mut market, "second").await;

    let before = extent(&shop, Kind::Order).await;
    with_snapshots(&shop, "trim --dry-run --margin 5").await.exits(0).says(&["records would go", "stands for it"]);
    assert_eq!(extent(&shop, Kind::Order).await.0, before.0, "nothing went");
    with_snapshots(&shop, "trim --margin 5").await.exits(0).says(&["records cut off"]);
    for kind in Kind::ALL {
        assert!(extent(&shop, kind).await.0 > 1, "the log of {kind} begins later now");
    }
    with_snapshots(&shop, "audit").await.exits(0).says(&["snapshots stand for what came before", "no differences"]);

    let shop = shop.reopen(lose_the_checkpoints).await;
    let third = rush(&shop, &mut market, "third").await;
    for (id, told) in first.iter().chain(&second).chain(&third) {
        let order = shop.get(format!("/orders/{id}")).await.is(200);
        let is_confirmed = told["status"] == 201;
        assert_eq!(order.text("/status") == "CONFIRMED", is_confirmed, "{id} was told {told}");
    }
    let report = with_snapshots(&shop, "audit --json").await.exits(0).json().remove(0);
    assert_eq!(report["differences"]["count"], 0, "{report}");
    let orders = &report["books"]["orders"];
    let all = orders["confirmed"].as_u64().unwrap() + orders["rejected"].as_u64().unwrap();
    assert_eq!(all, 3 * ORDERS as u64, "the books hold what was before the cut as well: {report}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_cut_by_themselves_behind_snapshots_and_nothing_is_lost_by_it() {
    let cutting = |options| Options {
        snapshots: SnapshotOptions {
            snapshot_every: 10,
            snapshots_kept: 2,
            trim_after_days: Some(0),
            trim_margin: 3,
            ..SnapshotOptions::default()
        },
        ..options
    };
    let shop = TestShop::open_as(cutting).await;
    shop.product("apple", 10, 100_000).await;
    shop.wallet("alice", 1_000_000).await;
    let orders = Cell::new(0);
    for kind in Kind::ALL {
        let first = async || {
            orders.set(orders.get() + 1);
            shop.order(&format!("o-{}", orders.get()), "alice", "apple", 1).await;
            extent(&shop, kind).await.0
        };
        eventually("the log is cut", first, |first| *first > 10).await;
    }
    let orders = orders.get();
    with_snapshots(&shop, "audit").await.exits(0).says(&["snapshots stand for what came before", "no differences"]);
    let shop = shop.reopen(lose_the_checkpoints).await;
    assert_eq!(shop.balance("alice").await, 1_000_000 - 10 * orders);
    assert_eq!(shop.stock("apple").await, 100_000 - orders);
    assert_eq!(shop.order_status("o-1").await, "CONFIRMED");
    shop.close().await;
}

/// Fills the logs until the door says that there is no room, and answers what it has told by then.
async fn fill(shop: &TestShop) -> Vec<(String, u16)> {
    let mut told = Vec::new();
    for number in 0..100_000 {
        let id = format!("o-{number}");
        let order =
            json!({ "id": id, "user": "alice", "lines": [{ "product": "apple", "quantity": 1, "unit_price": 1 }] });
        let answer = shop.post("/orders", order).prefer("wait=1").await;
        told.push((id, answer.status));
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some());
            answer.has("/code", "overloaded");
            return told;
        }
    }
    panic!("the logs are not full after {} orders", told.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let small = |options| Options {
        log_max_bytes: Some(60_000),
        snapshots: SnapshotOptions { snapshot_every: 10, ..SnapshotOptions::default() },
        ..options
    };
    let shop = TestShop::open_as(small).await;
    shop.product("apple", 1, 1_000_000).await;
    shop.wallet("alice", 1_000_000).await;
    let told = fill(&shop).await;
    let (refused, taken): (Vec<_>, Vec<_>) = told.into_iter().partition(|(_, status)| *status == 503);
    assert!(taken.len() > 50, "{taken:?}");
    assert!(taken.iter().all(|(_, status)| [201, 202].contains(status)), "{taken:?}");
    // Room is made for one log after the other: what waited for it goes on, and so do the snapshots of the next.
    let settled = async || {
        with_snapshots(&shop, "trim --margin 1").await;
        let mut open = 0;
        for (id, _) in &taken {
            open += usize::from(shop.order_status(id).await == "PENDING");
        }
        open
    };
    eventually("every order that was taken is settled", settled, |open| *open == 0).await;
    for (id, _) in &taken {
        assert_eq!(shop.order_status(id).await, "CONFIRMED");
    }
    for (id, _) in &refused {
        shop.get(format!("/orders/{id}")).await.is(404);
    }
    let audit = || with_snapshots(&shop, "audit");
    eventually("the audit", audit, |said| said.stdout.contains("no differences")).await;
    assert_eq!(shop.stock("apple").await, 1_000_000 - taken.len() as u64);
    // What settled last filled the logs again.
    let after = async || {
        with_snapshots(&shop, "trim --margin 1").await;
        shop.post("/orders", json!({ "id": "after", "user": "alice", "product": "apple", "quantity": 1 })).await.status
    };
    eventually("one more order is taken", after, |status| *status == 201).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_damaged_counts_as_not_there() {
    let mut shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    for number in 1..=3 {
        shop.order(&format!("o-{number}"), "alice", "apple", 1).await;
        // One more record that leaves nothing to write, so that a snapshot of the wallets is worth it each time.
        let dear = json!({ "id": format!("dear-{number}"), "user": "alice", "product": "apple", "quantity": 500 });
        shop.post("/orders", dear).await.is(409);
        shop = shop.reopen(|_| {}).await;
    }
    assert_eq!(files(&shop, "wallet/0").len(), 3);
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    // The newest one of all kinds; the logs are whole, but only behind the second one.
    with_snapshots(&shop, "trim --margin 1").await.exits(0);
    let shop = shop.reopen(lose_the_checkpoints).await;
    assert_eq!(shop.balance("alice").await, 970);
    let newest: Vec<_> = Kind::ALL.iter().map(|kind| files(&shop, &format!("{kind}/0")).remove(0)).collect();
    newest.iter().for_each(|path| damage(path));
    let shop = shop.reopen(lose_the_checkpoints).await;
    assert_eq!((shop.balance("alice").await, shop.stock("apple").await), (970, 997));

    // When all of one kind are damaged, nothing stands for its log.
    files(&shop, "wallet/0").iter().for_each(|path| damage(path));
    newest.iter().filter(|path| path.to_string_lossy().contains("wallet")).for_each(|path| damage(path));
    let refused = with_snapshots(&shop, "trim --margin 1").await.exits(1);
    assert!(refused.stderr.contains("of wallet/0 is of no use: it is damaged"), "{}", refused.stderr);
    assert!(refused.stderr.contains("the log of wallet stays as it is: no snapshot in "), "{}", refused.stderr);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tools_say_what_cannot_be_told_of_a_log_that_was_cut() {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    let early = shop.order("early", "alice", "apple", 1).await.text("/updated_at");
    shop.order("between", "alice", "apple", 1).await;
    let refused = tool(&shop, "trim").await.exits(1);
    assert!(refused.stderr.contains("stands for"), "{}", refused.stderr);
    let shop = shop.reopen(|_| {}).await;
    with_snapshots(&shop, "trim --margin 1").await.exits(0);
    shop.order("late", "alice", "apple", 2).await;

    let told = with_snapshots(&shop, "trace late").await.exits(0).says(&["place", "20 charged, 960 left"]);
    assert!(told.stderr.contains("what came before is not told: logs were cut"), "{}", told.stderr);
    with_snapshots(&shop, "why late").await.exits(0).says(&["late"]);
    let gone = with_snapshots(&shop, "trace early").await.exits(1);
    assert!(gone.stderr.contains("no log knows of an order early any more: logs were cut"), "{}", gone.stderr);
    with_snapshots(&shop, "why early").await.exits(0).says(&["early"]);
    for moment in ["--seq 2".to_owned(), format!("--time {early}")] {
        let gone = with_snapshots(&shop, &format!("at wallet alice {moment}")).await.exits(1);
        let why = "what was before sequence 3 of wallet cannot be told any more";
        assert!(gone.stderr.contains(why), "{}", gone.stderr);
    }
    with_snapshots(&shop, "at wallet alice --seq 3").await.exits(0).says(&["\"balance\": 980"]);
    with_snapshots(&shop, "log wallet").await.exits(0).says(&["charge order=late amount=20"]);
    eventually("the audit", || with_snapshots(&shop, "audit"), |said| said.stdout.contains("no differences")).await;
    // The hosts say where the snapshots are, as long as there are hosts.
    let lines = ["audit", "trace late", "why late", "log wallet", "at wallet alice --seq 3"];
    for line in lines {
        tool(&shop, line).await.exits(0);
    }
    let mut shop = shop;
    for kind in Kind::ALL {
        shop.shop.stop_kind(kind).await.unwrap();
    }
    for line in lines {
        let refused = tool(&shop, line).await.exits(2).stderr;
        assert!(refused.contains("was cut, and begins at sequence"), "{line}: {refused}");
        assert!(
            refused.contains("no host that runs says where these are; say it with --snapshots"),
            "{line}: {refused}"
        );
        with_snapshots(&shop, line).await.exits(0);
    }
    shop.close().await;
}
