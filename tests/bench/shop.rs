//! The shop that is measured, as its users have it: `shop` as a process of its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_nats::jetstream;
use futures::{StreamExt, stream};
use hyper::Method;
use serde_json::Value;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    jetstream::JetStreamLog,
    log::{Log, frame::Payload},
    subject,
};
use shop_tests::{
    bench::report::Sync,
    client::Client,
    fill,
    folder::Folder,
    process::{Launcher, Process, Signal},
    wait::until,
};
use tokio::time::sleep;

use crate::{
    load::PRICE,
    nats::Nats,
    options::{AuthName, Options},
    tokens::{CUSTOMERS_MAX, Tokens},
};

/// How often one looks whether a shop that starts is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// How long a shop may take to start. It gives up itself after two minutes.
const START_LIMIT: Duration = Duration::from_secs(130);

/// A shop that is open.
#[derive(Debug)]
pub(crate) struct OpenShop {
    process: Process,
    nats: Server,
    /// Where the bridge listens; stays the same over restarts.
    pub(crate) http: SocketAddr,
    /// Where it can be seen how it is; stays the same as well.
    inside: SocketAddr,
    /// Wallets `u1`, `u2`, …
    pub(crate) wallets: u64,
    /// Products `p1`, `p2`, …
    pub(crate) products: u64,
    runs: u32,
    partitions: Option<u16>,
    /// Of the customers, where the bridge asks who they are.
    tokens: Option<Tokens>,
    launcher: Launcher,
    folder: Folder,
}

/// The nats-server of the shop.
#[derive(Debug)]
enum Server {
    /// Its own one.
    Own { url: String, pid: u32 },
    /// One with JetStream's default sync.
    Relaxed(Nats),
}

/// For every kind, up to which sequence its log was read, and how many messages that were.
#[derive(Debug, Default)]
pub(crate) struct Counted([(u64, u64); Kind::ALL.len()]);

/// How long a start took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// From the start of the process until the bridge answered.
    pub(crate) answering: Duration,
    /// From the start of the process until every kind was ready.
    pub(crate) ready: Duration,
}

impl OpenShop {
    /// Starts a new, empty one.
    pub(crate) async fn start(options: &Options, sync: Sync) -> Self {
        fs::create_dir_all(&options.folder).unwrap_or_else(|error| panic!("cannot make {:?}: {error}", options.folder));
        let folder = Folder::within(&options.folder);
        let relaxed = match sync {
            Sync::Always => None,
            Sync::Default => Some(Nats::start(&folder.path().join("relaxed"), sync).await),
        };
        let url = relaxed.as_ref().map(|nats| nats.url().to_owned());
        let launcher = Launcher { program: options.program.clone(), ..Launcher::default() };
        let tokens = (options.auth == AuthName::Jwt).then(|| Tokens::new(folder.path()));
        let auth = tokens.as_ref().map_or_else(Vec::new, Tokens::options);
        let mut process = spawn(&launcher, &folder, ["127.0.0.1:0"; 2], options.partitions, url.as_deref(), auth);
        let ([http, inside], own) = opened(&mut process).await;
        let nats = relaxed.map_or_else(|| own.expect("the shop names its own nats-server"), Server::Relaxed);
        let partitions = options.partitions;
        Self { process, nats, http, inside, wallets: 0, products: 0, runs: 0, partitions, tokens, launcher, folder }
    }

    /// Starts one with so many wallets and products.
    pub(crate) async fn start_with(options: &Options, sync: Sync, wallets: u64, products: u64) -> Self {
        let mut shop = Self::start(options, sync).await;
        shop.fill(wallets, products).await;
        shop
    }

    /// Adds wallets and products up to so many, all of them with plenty.
    async fn fill(&mut self, wallets: u64, products: u64) {
        let nats = self.connect().await;
        fill::wallets(&nats, self.wallets + 1..=wallets).await;
        fill::products(&nats, self.products + 1..=products, PRICE).await;
        (self.wallets, self.products) = (self.wallets.max(wallets), self.products.max(products));
        if let Some(tokens) = &mut self.tokens {
            tokens.make(self.wallets);
            tokens.show(self.http).await;
        }
    }

    /// How many customers order: `u1`, `u2`, …
    pub(crate) fn customers(&self) -> u64 {
        if self.tokens.is_some() { self.wallets.min(CUSTOMERS_MAX) } else { self.wallets }
    }

    /// Their tokens, where the bridge asks who they are.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// The beginning of order ids that nobody has used yet.
    pub(crate) fn next_prefix(&mut self) -> String {
        self.runs += 1;
        format!("o{}", self.runs)
    }

    /// The process of host and bridge.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process of the nats-server.
    pub(crate) fn nats_pid(&self) -> u32 {
        match &self.nats {
            Server::Own { pid, .. } => *pid,
            Server::Relaxed(nats) => nats.pid(),
        }
    }

    fn nats_url(&self) -> &str {
        match &self.nats {
            Server::Own { url, .. } => url,
            Server::Relaxed(nats) => nats.url(),
        }
    }

    async fn connect(&self) -> async_nats::Client {
        let url = self.nats_url();
        async_nats::connect(url).await.unwrap_or_else(|error| panic!("cannot connect to {url}: {error}"))
    }

    /// JetStream messages and bytes in all logs, once nothing is added to them any more.
    pub(crate) async fn at_rest(&self) -> (u64, u64) {
        let context = &jetstream::new(self.connect().await);
        let totals = async || {
            let states = stream::iter(Kind::ALL).then(async |kind| {
                let stream = context.get_stream(subject::stream(kind)).await;
                stream.unwrap_or_else(|error| panic!("there is no log of {kind}: {error}")).cached_info().state.clone()
            });
            states.fold((0, 0), async |(messages, bytes), state| (messages + state.messages, bytes + state.bytes)).await
        };
        let mut before = totals().await;
        until("nothing is added to the logs any more", async || {
            sleep(Duration::from_millis(100)).await;
            let now = totals().await;
            let is_at_rest = now == before;
            before = now;
            is_at_rest.then_some(now)
        })
        .await
    }

    /// The shop's own messages in all logs: a frame, which is one JetStream message, holds many.
    /// Counts on from where it was counted before.
    pub(crate) async fn count_messages(&self, counted: &mut Counted) -> u64 {
        let connection =
            Connection::connect(&Access::to(self.nats_url()), "shop-bench").await.expect("the nats-server is there");
        let log = JetStreamLog::open(&connection, &connection).await.unwrap();
        for (kind, (after, messages)) in Kind::ALL.iter().zip(&mut counted.0) {
            let identity = log.identity(*kind).await.unwrap_or_else(|error| panic!("{error}"));
            let mut records = log.read(*kind, identity.epoch, *after);
            while *after < identity.last_sequence {
                let record = records.recv().await.expect("a reader goes on").unwrap_or_else(|error| panic!("{error}"));
                *after = record.sequence;
                *messages += match record.read(*kind) {
                    Ok(Payload::Frame(frame)) => frame.messages.len() as u64,
                    Ok(Payload::Upgrade(_) | Payload::Repair(_)) => 1,
                    Err(error) => panic!("the log of {kind} holds something else: {error}"),
                };
            }
        }
        counted.0.iter().map(|(_, messages)| messages).sum()
    }

    /// What the checkpoints take on disk, in MB.
    pub(crate) fn checkpoints_mb(&self) -> f64 {
        bytes_in(&self.checkpoints()) as f64 / (1_024.0 * 1_024.0)
    }

    /// Where the checkpoints are.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.folder.path().join("data/hosts")
    }

    /// Sends its process a signal that ends it, and lets `between` happen before it is started again.
    pub(crate) async fn restart(&mut self, signal: Signal, between: impl FnOnce(&Self)) -> Start {
        assert!(matches!(self.nats, Server::Own { .. }), "only a shop with a nats-server of its own is started again");
        self.process.signal(signal);
        self.process.ends_within(START_LIMIT).await;
        // Its nats-server ends by itself; the folder is free once it has.
        let lock =
            shop_local::folder::FolderLock::take_within(&self.folder.path().join("data/nats"), START_LIMIT).await;
        drop(lock.unwrap_or_else(|error| panic!("{error}")));
        between(self);
        let began = Instant::now();
        let addresses = [self.http, self.inside].map(|address| address.to_string());
        let addresses = addresses.each_ref().map(String::as_str);
        let auth = self.tokens.as_ref().map_or_else(Vec::new, Tokens::options);
        self.process = spawn(&self.launcher, &self.folder, addresses, self.partitions, None, auth);
        let start = self.wait_until_ready(began).await;
        self.nats = opened(&mut self.process).await.1.expect("the shop names its own nats-server");
        start
    }

    async fn wait_until_ready(&mut self, began: Instant) -> Start {
        let client = Client::new(self.inside);
        let mut answering = None;
        while began.elapsed() < START_LIMIT {
            self.process.assert_running();
            if let Ok(answer) = client.send(Method::GET, "/readyz", None).await {
                let readyz: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                if readyz["bridge"]["status"] == "starting" {
                    continue;
                }
                let answering = *answering.get_or_insert_with(|| began.elapsed());
                if Kind::ALL.iter().all(|kind| readyz["bridge"]["kinds"][kind.as_str()] == "ready") {
                    return Start { answering, ready: began.elapsed() };
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
        panic!("the shop was not ready within {START_LIMIT:?}");
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.process.terminate().await;
    }
}

fn spawn(
    launcher: &Launcher,
    folder: &Folder,
    [http, inside]: [&str; 2],
    partitions: Option<u16>,
    nats_url: Option<&str>,
    auth: Vec<String>,
) -> Process {
    let data_dir = folder.path().join("data").display().to_string();
    let options = ["--http-addr", http, "--observe-addr", inside, "--data-dir", &data_dir];
    let mut options = options.map(str::to_owned).to_vec();
    options.extend(partitions.map(|partitions| format!("--partitions={partitions}")));
    options.push(nats_url.map_or("--nats-port=0".to_owned(), |url| format!("--nats-url={url}")));
    options.extend(auth);
    Process::spawn_by(launcher, folder.path(), "shop", options)
}

/// Waits until the shop says that it is open, and where HTTP is, how it is, and its own nats-server.
async fn opened(process: &mut Process) -> ([SocketAddr; 2], Option<Server>) {
    let word_after = |words: &str, mark: &str| words.split(mark).nth(1)?.split_whitespace().next().map(str::to_owned);
    process.says("that it is open", |words| words.contains("Ctrl-C").then_some(())).await;
    let http = process.says("where HTTP is", |words| word_after(words, "HTTP    http://")?.parse().ok()).await;
    let inside = process.says("how it is", |words| word_after(words, "health  http://")?.parse().ok()).await;
    let url = process.says("where NATS is", |words| word_after(words, "NATS ")).await;
    let words = process.stdout();
    let pid = word_after(&words, ", pid ").and_then(|pid| pid.parse().ok());
    ([http, inside], pid.map(|pid| Server::Own { url, pid }))
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_in(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
