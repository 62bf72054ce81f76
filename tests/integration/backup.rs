//! Backups, made beside an open shop, and restored into another JetStream.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_nats::jetstream;
use shop_actors::host::config::SnapshotOptions;
use shop_domain::{kind::Kind, timestamp::Timestamp};
use shop_local::{Options, Shop, nats_server::NatsServer};
use shop_nats::{
    connection::{Connection, access::Access},
    jetstream::{
        JetStreamLog,
        restore::{Original, Stored},
    },
    log::SharedLog,
    stream::topology::Topology,
};
use shop_tests::{client::Client, market::Market, rush::Rush, seed::rng, servers::Servers};
use tempfile::TempDir;

use crate::{
    operator::{Said, tool, tool_at},
    repartition::append_late,
    shop::{TestShop, eventually},
};

const ORDERS: usize = 60;
/// Streams as they are by default.
const AS_IT_COMES: Topology = Topology { partitions: None, replicas: None, log_max_bytes: None };

/// Nothing but nats-servers, and a place for snapshots.
pub(crate) struct Elsewhere {
    servers: Servers,
    folder: TempDir,
}

impl Elsewhere {
    /// With one nats-server.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = NatsServer::start(&folder.path().join("nats"), 0).await.unwrap();
        Self { servers: Servers::one(server), folder }
    }

    /// With three, which keep every log together.
    async fn of_three() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { servers: Servers::three(folder.path(), false, None).await.unwrap(), folder }
    }

    fn url(&self) -> String {
        self.servers.url()
    }

    fn snapshots(&self) -> String {
        self.folder.path().join("snapshots").to_string_lossy().into_owned()
    }

    pub(crate) async fn restore(&self, backup: &Path) -> Said {
        let line = format!("restore --from {} --snapshots {}", backup.display(), self.snapshots());
        tool_at(&self.url(), &line).await
    }

    async fn tool(&self, line: &str) -> Said {
        tool_at(&self.url(), &format!("{line} --snapshots {}", self.snapshots())).await
    }

    fn options(&self, options: Options) -> Options {
        let snapshots = SnapshotOptions { snapshots: Some(self.snapshots()), ..SnapshotOptions::default() };
        Options { nats_url: Some(self.url().into()), snapshots, ..options }
    }

    /// A shop without any checkpoint.
    pub(crate) async fn open(&self) -> TestShop {
        TestShop::open_as(|options| self.options(options)).await
    }
}

/// Makes a backup of a shop, with its snapshots.
async fn back_up(shop: &TestShop, to: &Path) -> Said {
    let snapshots = shop.shop.folder().join("snapshots");
    tool(shop, &format!("backup --to {} --snapshots {}", to.display(), snapshots.display())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_when_a_backup_was_made_comes_to_its_end_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let backups = ["a", "b", "c"].map(|name| folder.path().join(name));
    let shop = TestShop::open_with(3).await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(91), 20 * ORDERS).await;
    let mut orders = market.orders("first", ORDERS);
    let first = Rush::begin(&client, orders.clone()).finish().await;
    let are_made = Cell::new(false);
    let back_up_all = async {
        for backup in &backups {
            back_up(&shop, backup).await.exits(0).says(&["the backup is in"]);
        }
        are_made.set(true);
    };
    let go_on_ordering = async {
        while !are_made.get() {
            let crowd = market.orders(&format!("later-{}", orders.len()), 5 * ORDERS);
            orders.extend(crowd.clone());
            Rush::begin(&client, crowd).finish().await;
        }
    };
    tokio::join!(back_up_all, go_on_ordering);
    shop.close().await;

    let mut under_way = 0;
    for backup in backups {
        let elsewhere = Elsewhere::new().await;
        elsewhere.restore(&backup).await.exits(0).says(&["is restored"]);
        // Before there is a host: of no message the cause is missing.
        let report = elsewhere.tool("audit --json").await.exits(0).json().remove(0);
        assert_eq!(report["differences"]["count"], 0, "{report}");
        under_way += report["books"]["orders"]["under_way"].as_u64().unwrap();

        let restored = elsewhere.open().await;
        let client = Client::new(restored.shop.http_address());
        let again = Rush::begin(&client, orders.clone()).finish().await;
        for (id, (_, told)) in &first {
            assert_eq!(again[id].1.bytes, told.bytes, "{id}");
        }
        market.audit(&client, &again).await;
        elsewhere.tool("audit").await.exits(0).says(&["no differences"]);
        restored.close().await;
    }
    assert!(under_way > 0, "no backup was made while something was under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_whose_logs_were_cut_is_as_it_was_after_it_was_restored_twice() {
    let folder = tempfile::tempdir().unwrap();
    let shop = TestShop::open_with(3).await;
    let client = Client::new(shop.shop.http_address());
    let mut market = Market::open(&client, rng(92), ORDERS).await;
    let told = Rush::begin(&client, market.orders("first", ORDERS)).finish().await;
    jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap())
        .publish("shop.log.wallet.0", "hello".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let letters = || tool(&shop, "dead list");
    let letter = eventually("the dead letter", letters, |said: &Said| said.stdout.contains("wallet/")).await.stdout;
    let shop = shop.reopen(|_| {}).await;
    let client = Client::new(shop.shop.http_address());
    let snapshots = shop.shop.folder().join("snapshots");
    tool(&shop, &format!("trim --margin 5 --snapshots {}", snapshots.display())).await.exits(0).says(&["cut off"]);
    let mut picture = market.picture(&client, &told).await;
    let mut log = tool(&shop, &format!("log order --snapshots {}", snapshots.display())).await.exits(0).stdout;
    let mut backup = folder.path().join("once");
    back_up(&shop, &backup).await.exits(0).says(&["is with it"]);
    shop.close().await;
    for (name, elsewhere) in [("twice", Elsewhere::new().await), ("thrice", Elsewhere::of_three().await)] {
        elsewhere.restore(&backup).await.exits(0).says(&["is with it", "letters   1", "is restored"]);
        let restored = elsewhere.open().await;
        let client = Client::new(restored.shop.http_address());
        // Times included.
        assert_eq!(market.picture(&client, &told).await, picture);
        let found = elsewhere.tool("log order").await.exits(0).stdout;
        assert!(found.starts_with(&log), "{found}\n{log}");
        assert_eq!(elsewhere.tool("dead list").await.exits(0).stdout, letter);

        restored.product(name, 1, 5).await;
        restored.wallet(name, 10).await;
        restored.order(name, name, name, 1).await;
        elsewhere.tool("audit").await.exits(0).says(&["no differences"]);
        picture = market.picture(&client, &told).await;
        log = elsewhere.tool("log order").await.exits(0).stdout;
        backup = folder.path().join(name);
        elsewhere.tool(&format!("backup --to {}", backup.display())).await.exits(0);
        restored.close().await;
    }
}

async fn small_shop() -> TestShop {
    let shop = TestShop::open().await;
    shop.product("apple", 10, 1_000).await;
    shop.wallet("alice", 1_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    shop
}

/// Every file of a backup.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_damaged_or_not_all_there_is_refused_before_anything_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, other, bad] = ["whole", "other", "bad"].map(|name| folder.path().join(name));
    let shop = small_shop().await.reopen(|_| {}).await;
    back_up(&shop, &whole).await.exits(0);
    let taken = back_up(&shop, &whole).await.exits(2);
    assert!(taken.stderr.contains("there is something in"), "{}", taken.stderr);
    shop.order("o-2", "alice", "apple", 1).await;
    back_up(&shop, &other).await.exits(0);
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    let refused = async |why: &str| {
        let said = elsewhere.restore(&bad).await.exits(2);
        assert!(said.stderr.contains(why), "{why:?} is missing: {}", said.stderr);
        fs::remove_dir_all(&bad).unwrap();
    };
    let names: Vec<_> = files(&whole).iter().map(|file| file.strip_prefix(&whole).unwrap().to_owned()).collect();
    assert_eq!(names.len(), 12, "five logs, five snapshots, the letters and the manifest: {names:?}");
    for name in &names {
        let is_manifest = name == Path::new("manifest.json");
        copy(&whole, &bad);
        let mut bytes = fs::read(bad.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(bad.join(name), bytes).unwrap();
        refused(if is_manifest { "manifest.json" } else { "it is damaged" }).await;

        copy(&whole, &bad);
        fs::remove_file(bad.join(name)).unwrap();
        refused(if is_manifest { "there is no backup in" } else { "not found" }).await;
    }
    for (name, why) in [("log/order", "is not the one that belongs there"), ("manifest.json", "belongs there")] {
        copy(&whole, &bad);
        fs::copy(other.join(name), bad.join(name)).unwrap();
        refused(why).await;
    }
    fs::create_dir(&bad).unwrap();
    refused("there is no backup in").await;
    let missing = tool_at(&elsewhere.url(), "restore --from /nowhere").await.exits(2);
    assert!(missing.stderr.contains("/nowhere is no place"), "{}", missing.stderr);

    // None of all that has left anything.
    let line = format!("restore --dry-run --from {}", whole.display());
    elsewhere.tool(&line).await.exits(0).says(&["is whole"]);
    elsewhere.restore(&whole).await.exits(0);
    let restored = elsewhere.open().await;
    assert_eq!((restored.balance("alice").await, restored.order_status("o-1").await), (990, "CONFIRMED".to_owned()));
    restored.get("/orders/o-2").await.is(404);
    restored.close().await;
    let full = elsewhere.restore(&other).await.exits(2);
    assert!(full.stderr.contains("there is a shop on this nats-server already"), "{}", full.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_in_which_nothing_has_happened_is_restored_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = TestShop::open_with(2).await;
    back_up(&shop, &backup).await.exits(0).says(&["wallet    no records", "letters   0"]);
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    elsewhere.restore(&backup).await.exits(0).says(&["mypage    no records"]);
    let restored = elsewhere.open().await;
    restored.product("apple", 10, 1_000).await;
    restored.wallet("alice", 1_000).await;
    restored.order("o-1", "alice", "apple", 1).await;
    elsewhere.tool("audit").await.exits(0).says(&["no differences"]);
    restored.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_interrupted_is_no_shop_and_can_be_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = small_shop().await;
    back_up(&shop, &backup).await.exits(0);
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    let connection = Connection::connect(&Access::to(elsewhere.url()), "interrupted").await.unwrap();
    connection.begin_restore(AS_IT_COMES).await.unwrap().log(empty(Kind::Order)).await.unwrap();
    let log: SharedLog = Arc::new(JetStreamLog::open(&connection, &connection).await.unwrap());
    let options = elsewhere.options(Options::for_test(folder.path().join("shop")));
    let refused = Shop::start(options).await.unwrap_err().to_string();
    assert!(refused.contains("a backup is being restored into the stream SHOP_ORDER"), "{refused}");
    assert!(log.identity(Kind::Order).await.unwrap_err().to_string().contains("is being restored"));
    // A host that came too early has made the others.
    let full = elsewhere.restore(&backup).await.exits(2);
    assert!(full.stderr.contains("there is a shop on this nats-server already"), "{}", full.stderr);

    let context = jetstream::new(async_nats::connect(elsewhere.url()).await.unwrap());
    for kind in [Kind::Wallet, Kind::Product] {
        context.delete_stream(format!("SHOP_{}", kind.as_str().to_uppercase())).await.unwrap();
    }
    elsewhere.restore(&backup).await.exits(0);
    let restored = elsewhere.open().await;
    assert_eq!(restored.balance("alice").await, 990);
    restored.close().await;
}

/// An empty log of one kind, as a backup may have it.
const fn empty(kind: Kind) -> Original {
    Original { kind, link_epoch: 1, partitions: 1, logic: 1, first_sequence: 1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_interrupted_while_it_opened_the_streams_can_be_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = small_shop().await;
    back_up(&shop, &backup).await.exits(0);
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    let connection = Connection::connect(&Access::to(elsewhere.url()), "interrupted").await.unwrap();
    let restore = connection.begin_restore(AS_IT_COMES).await.unwrap();
    let mut streams = vec![restore.dead_letters(1).await.unwrap()];
    for kind in Kind::ALL {
        streams.push(restore.log(empty(kind)).await.unwrap());
    }
    for stream in streams.drain(..2) {
        stream.open().await.unwrap();
    }
    drop(streams);
    elsewhere.restore(&backup).await.exits(0);
    let restored = elsewhere.open().await;
    assert_eq!(restored.balance("alice").await, 990);
    restored.close().await;
    // What was restored to its end is a shop.
    let full = elsewhere.restore(&backup).await.exits(2);
    assert!(full.stderr.contains("there is a shop on this nats-server already"), "{}", full.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_appends_is_not_taken_for_what_was_restored() {
    let elsewhere = Elsewhere::new().await;
    let connection = Connection::connect(&Access::to(elsewhere.url()), "restore").await.unwrap();
    let context = jetstream::new(async_nats::connect(elsewhere.url()).await.unwrap());
    let somebody_appends = async |kind: Kind| {
        context.publish(format!("shop.log.{kind}.0"), "hello".into()).await.unwrap().await.unwrap();
    };
    let restore = connection.begin_restore(AS_IT_COMES).await.unwrap();
    let refuses = |refused: &str, stream: &str| {
        assert!(
            refused.contains(&format!("somebody else appends to the stream {stream}: stop all hosts")),
            "{refused}"
        );
    };
    let message = |kind: Kind| Stored {
        sequence: 1,
        subject: format!("shop.log.{kind}.0"),
        time: Timestamp::from_unix_ms(1),
        headers: vec![],
        payload: "record".into(),
    };
    let mut at_its_place = restore.log(empty(Kind::Order)).await.unwrap();
    somebody_appends(Kind::Order).await;
    at_its_place.put(message(Kind::Order)).await.unwrap();
    refuses(&at_its_place.settle().await.unwrap_err().to_string(), "SHOP_ORDER");

    let mut behind_it = restore.log(empty(Kind::Wallet)).await.unwrap();
    behind_it.put(message(Kind::Wallet)).await.unwrap();
    behind_it.settle().await.unwrap();
    somebody_appends(Kind::Wallet).await;
    refuses(&behind_it.settle().await.unwrap_err().to_string(), "SHOP_WALLET");
    refuses(&behind_it.open().await.unwrap_err().to_string(), "SHOP_WALLET");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_restored_where_a_host_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = small_shop().await;
    back_up(&shop, &backup).await.exits(0);
    let context = jetstream::new(async_nats::connect(shop.shop.nats_url()).await.unwrap());
    for stream in ["WALLET", "PRODUCT", "ORDER", "DELIVERY", "MYPAGE", "DEAD"] {
        context.delete_stream(format!("SHOP_{stream}")).await.unwrap();
    }
    let refused = tool(&shop, &format!("restore --from {}", backup.display())).await.exits(1);
    assert!(refused.stderr.contains("a host of wallet (version "), "{}", refused.stderr);
    assert!(refused.stderr.contains("is still running: stop all hosts first"), "{}", refused.stderr);
    assert!(context.get_stream("SHOP_WALLET").await.is_err(), "something was restored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_of_the_original_are_not_taken_for_those_of_what_was_restored() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = small_shop().await;
    back_up(&shop, &backup).await.exits(0);
    // The original goes on, and is further than its backup.
    shop.order("o-2", "alice", "apple", 1).await;
    let checkpoints = folder.path().join("shop");
    let shop = shop.reopen(|folder| copy(&folder.join("hosts"), &checkpoints.join("hosts"))).await;
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    elsewhere.restore(&backup).await.exits(0);
    let refused = Shop::start(elsewhere.options(Options::for_test(&checkpoints))).await.unwrap_err().to_string();
    assert!(refused.contains("does not belong to this log: the log has the epoch "), "{refused}");
    fs::remove_dir_all(checkpoints.join("hosts")).unwrap();
    let shop = Shop::start(elsewhere.options(Options::for_test(&checkpoints))).await.unwrap();
    shop.stop().await.unwrap();

    // The same stream made once more has all that it had, but for what was in it.
    let context = jetstream::new(async_nats::connect(elsewhere.url()).await.unwrap());
    let config = context.get_stream("SHOP_WALLET").await.unwrap().cached_info().config.clone();
    context.delete_stream("SHOP_WALLET").await.unwrap();
    context.create_stream(config).await.unwrap();
    let refused = Shop::start(elsewhere.options(Options::for_test(&checkpoints))).await.unwrap_err().to_string();
    assert!(refused.contains("does not belong to this log: the stream was made at "), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_was_cut_anew_is_restored_as_it_was_and_can_be_cut_anew_again() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    let shop = small_shop().await;
    let snapshots = shop.shop.folder().join("snapshots");
    tool(&shop, &format!("repartition --to 3 --snapshots {}", snapshots.display())).await.exits(0);
    append_late(&shop, 1).await;
    shop.order("o-2", "alice", "apple", 2).await;
    back_up(&shop, &backup).await.exits(0).says(&["is with it"]);
    let paths = ["/wallets/alice/statement", "/products/apple", "/orders/o-1", "/deliveries/o-2", "/mypages/alice"];
    let picture = shop.look(&paths).await;
    shop.close().await;

    let elsewhere = Elsewhere::new().await;
    elsewhere.restore(&backup).await.exits(0);
    let restored = elsewhere.open().await;
    assert_eq!(restored.look(&paths).await, picture);
    elsewhere.tool("repartition --to 2").await.exits(0).says(&["  3 ->   2 partitions"]);
    restored.order("o-3", "alice", "apple", 3).await;
    assert_eq!((restored.balance("alice").await, restored.stock("apple").await), (940, 994));
    elsewhere.tool("audit").await.exits(0).says(&["no differences"]);
    restored.close().await;
}
