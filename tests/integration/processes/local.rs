//! `shop`, what a newcomer starts: its help, its banner, its demo, and that nothing is
//! left behind however it ends.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use shop_local::folder::FolderLock;
use shop_tests::{
    client::Client,
    folder::Folder,
    market::Market,
    process::{Process, Signal},
    rush::Rush,
    seed::rng,
    wait::until,
};
use tokio::{net::TcpStream, process::Command};

const ANY_PORT: &str = "127.0.0.1:0";
/// How long a nats-server may outlive the shop: it has 5 seconds for a good end.
const NATS_LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_help_names_every_option_with_its_default_and_its_variable() {
    let local = help_of(&[]).await;
    for [option, variable, default] in [
        ["--http-addr <HOST:PORT>", "[env: SHOP_HTTP_ADDR=]", "[default: 127.0.0.1:8080]"],
        ["--nats-port <PORT>", "[env: SHOP_NATS_PORT=]", "[default: 4222]"],
        ["--allow-host <HOST>", "[env: SHOP_ALLOW_HOST=]", "beside localhost"],
        ["--observe-addr <HOST:PORT>", "[env: SHOP_OBSERVE_ADDR=]", "[default: 127.0.0.1:0]"],
        ["--nats-url <URL>", "[env: SHOP_NATS_URL=]", "instead of an own one"],
        ["--secure", "[env: SHOP_SECURE=]", "only who has a key"],
        ["--data-dir <FOLDER>", "[env: SHOP_DATA_DIR=]", "[default: .shop]"],
        ["--partitions <COUNT>", "[env: SHOP_PARTITIONS=]", "[default: as they are; 1, on a cluster 12]"],
        ["--demo", "[env: SHOP_DEMO=]", "stays open"],
        ["-v, --verbose", "[env: SHOP_VERBOSE=]", "every number that is checked"],
        ["--ports-file <FILE>", "[env: SHOP_PORTS_FILE=]", "[default: none]"],
        ["--restore-from <BACKUP>", "[env: SHOP_RESTORE_FROM=]", "[default: none]"],
        ["--nats-nkey <FILE>", "[env: SHOP_NATS_NKEY=]", "[default: none]"],
        ["--nats-ca <FILE>", "[env: SHOP_NATS_CA=]", "[default: those of the system"],
        ["--snapshots <URL>", "[env: SHOP_SNAPSHOTS=]", "[default: in the data folder"],
    ] {
        is_explained(&local, option, &[variable, default]);
    }
    let host = help_of(&["serve"]).await;
    for [option, variable, default] in [
        ["--kinds <KINDS>", "[env: SHOP_KINDS=]", "[default: wallet,product,order,delivery,mypage]"],
        ["--nats-url <URL>", "[env: SHOP_NATS_URL=]", "[default: nats://127.0.0.1:4222]"],
        ["--nats-nkey <FILE>", "[env: SHOP_NATS_NKEY=]", "[default: none]"],
        ["--nats-ca <FILE>", "[env: SHOP_NATS_CA=]", "[default: those of the system"],
        ["--data-dir <FOLDER>", "[env: SHOP_DATA_DIR=]", "[default: .shop/actors]"],
        ["--partitions <COUNT>", "[env: SHOP_PARTITIONS=]", "[default: as they are;"],
        ["--replicas <COUNT>", "[env: SHOP_REPLICAS=]", "3 on a cluster]"],
    ] {
        is_explained(&host, option, &[variable, default]);
    }
    let bridge = help_of(&["bridge"]).await;
    for [option, variable, default] in [
        ["--nats-url <URL>", "[env: SHOP_NATS_URL=]", "[default: nats://127.0.0.1:4222]"],
        ["--nats-nkey <FILE>", "[env: SHOP_NATS_NKEY=]", "[default: none]"],
        ["--nats-ca <FILE>", "[env: SHOP_NATS_CA=]", "[default: those of the system"],
        ["--http-addr <HOST:PORT>", "[env: SHOP_HTTP_ADDR=]", "[default: 127.0.0.1:8080]"],
    ] {
        is_explained(&bridge, option, &[variable, default]);
    }
}

#[tokio::test]
async fn ctrl_c_in_the_rush_finishes_what_has_begun_and_leaves_no_nats_server() {
    let folder = Folder::new();
    let Open { shop, http, nats } = open(&folder, ANY_PORT).await;
    let client = Client::new(http);
    let mut market = Market::open(&client, rng(21), 200).await;
    let mut rush = Rush::begin(&client, market.orders("order", 200));
    rush.has_answered(80).await;

    let (status, words) = shop.end_by(Signal::INT).await;
    assert!(status.success(), "{status}");
    assert!(words.contains("interrupted: finishing what has begun"), "{words}");
    assert!(words.contains("stopped; everything is kept"), "{words}");
    assert!(TcpStream::connect(nats).await.is_err(), "the nats-server is still there");

    let Open { shop, .. } = open(&folder, &http.to_string()).await;
    market.audit(&client, &rush.finish().await).await;
    shop.terminate().await;
}

#[tokio::test]
async fn a_shop_that_is_killed_leaves_no_nats_server_and_can_be_opened_again() {
    let folder = Folder::new();
    let Open { shop, http, nats } = open(&folder, ANY_PORT).await;
    Client::new(http).post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    shop.kill().await;
    until("the nats-server is gone", async || TcpStream::connect(nats).await.err()).await;
    // Its lock is held until the server is gone, and by nobody else.
    drop(FolderLock::take_within(&data_dir(&folder).join("nats"), NATS_LIMIT).await.unwrap());

    let Open { shop, http, .. } = open(&folder, ANY_PORT).await;
    assert_eq!(Client::new(http).get("/wallets/alice").await.json(200)["balance"], 100);
    shop.terminate().await;
}

#[tokio::test]
async fn what_the_banner_says_to_try_works_as_it_is_written() {
    let folder = Folder::new();
    let Open { shop, http, .. } = open(&folder, ANY_PORT).await;
    let words = shop.stdout();
    let commands: Vec<_> = words.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(commands.len(), 3, "{words}");
    for command in commands {
        // It needs nothing that a machine does not have which has fetched this.
        let output = Command::new("sh").args(["-c", command]).output().await.unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let order = Client::new(http).get("/orders/o-1").await.json(200);
    assert_eq!((&order["status"], &order["amount"]), (&json!("CONFIRMED"), &json!(10_000)));

    let fill = words.split('`').find(|words| words.ends_with(" seed")).unwrap_or_else(|| panic!("{words}"));
    let output = Command::new("sh").args(["-c", fill]).env("SHOP_HTTP_ADDR", http.to_string()).output().await.unwrap();
    assert!(output.status.success(), "{fill}: {}", String::from_utf8_lossy(&output.stderr));
    shop.terminate().await;
}

#[tokio::test]
async fn the_file_of_ports_says_where_the_shop_is_and_goes_with_it() {
    let folder = Folder::new();
    let file = folder.path().join("ports.json");
    fs::write(&file, "of a shop that was killed").unwrap();
    let shop = spawn(&folder, ANY_PORT, &["--ports-file", file.to_str().unwrap()]);
    let ports: Value = until("the file", async || serde_json::from_slice(&fs::read(&file).ok()?).ok()).await;
    let address = |part: &str| -> SocketAddr {
        let (host, port) = (ports[part]["host"].as_str().unwrap(), ports[part]["port"].as_u64().unwrap());
        assert!(ports[part]["url"].as_str().unwrap().ends_with(&format!("://{host}:{port}")), "{ports}");
        format!("{host}:{port}").parse().unwrap()
    };
    assert_eq!(Client::new(address("http")).get("/readyz").await.json(200)["status"], "ready");
    TcpStream::connect(address("nats")).await.unwrap();
    assert_eq!(Client::new(address("observe")).get("/readyz").await.json(200)["bridge"]["status"], "ready");
    assert_eq!(ports["pid"], shop.pid());
    assert!(ports["nats"]["pid"].is_u64() && ports["nats"]["version"].is_string(), "{ports}");
    assert_eq!(ports["data_dir"], data_dir(&folder).canonicalize().unwrap().to_str().unwrap());
    shop.terminate().await;
    assert!(!file.exists(), "nobody is there any more");
}

#[tokio::test]
async fn the_demo_is_told_in_some_twenty_lines() {
    let folder = Folder::new();
    let mut shop = spawn(&folder, ANY_PORT, &["--demo"]);
    let stays_open = |words: &str| words.contains("The shop stays open at").then(|| words.to_owned());
    let words = shop.says("that the demo is over", stays_open).await;
    let story = words.split("── 1.").nth(1).unwrap_or_else(|| panic!("{words}"));
    let lines = story.lines().filter(|line| !line.trim().is_empty()).count();
    assert!((12..=20).contains(&lines), "{lines}: {story}");
    for part in ["CONFIRMED", "CANCELLED", "503 unavailable after", "409 price_changed", "404 not_found", "checks of"] {
        assert!(story.contains(part), "{part:?} is missing: {story}");
    }
    shop.terminate().await;
}

#[tokio::test]
async fn the_demo_plays_the_story_with_every_number_checked() {
    let folder = Folder::new();
    let mut shop = spawn(&folder, ANY_PORT, &["--demo", "-v"]);
    let stays_open = |words: &str| words.contains("The shop stays open at").then(|| words.to_owned());
    let words = shop.says("that the demo is over", stays_open).await;
    for line in [
        "ok: status is \"CONFIRMED\"",
        "ok: balance is 989999",
        "ok: stock is 990",
        "ok: status is \"CANCELLED\"",
        "ok: balance is 999999",
        "ok: stock is 1000",
        "ok: code is \"unavailable\"",
        "ok: time until that answer is less than 6 seconds",
        "ok: balance is 995999",
        "ok: needed is 996000",
    ] {
        assert!(words.contains(line), "{line:?} is missing: {words}");
    }
    shop.terminate().await;
}

/// A shop that is open, and where.
struct Open {
    shop: Process,
    http: SocketAddr,
    nats: SocketAddr,
}

async fn open(folder: &Folder, http: &str) -> Open {
    let mut shop = spawn(folder, http, &[]);
    let is_open = |words: &str| words.contains("The shop is open").then_some(());
    shop.says("that it is open", is_open).await;
    let address = |words: &str, scheme: &str| words.split(scheme).nth(1)?.split_whitespace().next()?.parse().ok();
    let http = shop.says("where HTTP is", |words| address(words, "http://")).await;
    let nats = shop.says("where NATS is", |words| address(words, "nats://")).await;
    shop.says("where its data are", |words| words.contains(data_dir(folder).to_str()?).then_some(())).await;
    Open { shop, http, nats }
}

fn spawn(folder: &Folder, http: &str, more: &[&str]) -> Process {
    let data_dir = data_dir(folder);
    let own = ["--http-addr", http, "--nats-port", "0", "--data-dir", data_dir.to_str().unwrap()];
    Process::spawn(folder.path(), "shop", own.iter().chain(more))
}

fn data_dir(folder: &Folder) -> PathBuf {
    folder.path().join("data")
}

async fn help_of(command: &[&str]) -> String {
    let folder = Folder::new();
    let process = Process::spawn(folder.path(), "help", command.iter().chain(&["--help"]));
    process.explains().await
}

/// The option's own paragraph must have all of `parts`.
fn is_explained(help: &str, option: &str, parts: &[&str]) {
    let after = help.split(option).nth(1).unwrap_or_else(|| panic!("{option} is missing: {help}"));
    let paragraph = after.split("\n  -").next().unwrap_or_default();
    let paragraph = paragraph.split("\n      --").next().unwrap_or_default();
    for part in parts {
        assert!(paragraph.contains(part), "{part:?} is missing at {option}: {help}");
    }
}
