//! The operator's tools as programs, beside a shop that is open.

mod audit;
mod dead;
mod host;
mod logs;
mod orders;

use std::{process::Stdio, time::Duration};

use async_nats::Client as Nats;
use serde_json::{Value, json};
use shop_tests::{
    cluster::Cluster,
    process::{Process, Signal},
    program,
};
use tokio::{net::TcpListener, process::Command, time::timeout};

use crate::shop::TestShop;

/// How long a tool may take on a busy machine. An audit that misses messages looks for 10 s.
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// What a tool said.
#[derive(Debug)]
pub(crate) struct Said {
    code: i32,
    pub(crate) stdout: String,
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
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Runs a tool, `log wallet --json`, on a server.
pub(crate) async fn tool_at(nats_url: &str, line: &str) -> Said {
    let mut command = Command::new(program::path());
    command.args(line.split(' ')).args(["--nats-url", nats_url]);
    command.env_remove("RUST_LOG").env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(TOOL_LIMIT, command.output()).await.unwrap_or_else(|_| panic!("{line}: no end"));
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("{line}: {}", output.status));
    Said { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub(crate) async fn tool(shop: &TestShop, line: &str) -> Said {
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

#[tokio::test]
async fn a_tool_that_is_interrupted_says_so_and_ends_with_two() {
    let folder = tempfile::tempdir().unwrap();
    // Takes the connection, and never says a word.
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", server.local_addr().unwrap());
    let mut audit = Process::spawn(folder.path(), "audit", ["audit", "--nats-url", &url]);
    let _connected = server.accept().await.unwrap();
    audit.signal(Signal::INT);
    assert_eq!(audit.ends_within(TOOL_LIMIT).await.code(), Some(2));
    let said = audit.stderr();
    assert!(said.contains("shop: interrupted"), "{said}");
}
