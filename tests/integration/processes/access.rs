//! Three nats-servers that encrypt all that they say and let nobody in whom they do not know: all that is switched off
//! in `nats/server/cluster.conf` is switched on.

use std::fs;

use async_nats::Event;
use serde_json::json;
use shop_local::keys::Keys;
use shop_tests::{
    client::Client, cluster::ALL_KINDS, folder::Folder, login::Login, process::Process, servers::Servers, wait::until,
};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_cluster_that_encrypts_and_lets_in_only_whom_it_knows_is_used_with_a_key_for_each_role() {
    let cluster = Cluster::start().await;
    let snapshots = cluster.path("snapshots");
    fs::create_dir(&snapshots).unwrap();
    let mut hosts = ["first", "second"].map(|name| {
        let data_dir = cluster.path(name);
        cluster.spawn(name, "host", &format!("serve --kinds {ALL_KINDS} --data-dir {data_dir} --snapshots {snapshots}"))
    });
    let bridge = "bridge --http-addr 127.0.0.1:0 --leave-ms 0";
    let mut bridge = cluster.spawn("bridge", "bridge", bridge);
    let http = bridge.says("where it listens", |log| log.split("http://").nth(1)?.lines().next()?.parse().ok()).await;
    let client = Client::new(http);
    // A host that begins sees to it that a repartitioning which is under way comes too late.
    for host in &mut hosts {
        host.says("that it serves all", |log| (log.matches(" is served").count() == 5).then_some(())).await;
    }
    until("all is served", async || (client.read("/readyz").await.json(200)["status"] == "ready").then_some(())).await;
    client.post("/products", &json!({ "id": "pear", "name": "Pear", "price": 100, "stock": 10 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 1_000 })).await.json(201);
    let order = json!({ "id": "o-1", "user": "alice", "lines": [{ "product": "pear", "quantity": 2 }] });
    client.post("/orders", &order).await.json(201);
    assert_eq!(client.read("/mypages/alice").await.json(200)["items"][0]["delivery_status"], "SCHEDULED");

    // What a bridge asks, which may not ask JetStream, to notice that its server is cut off from the others.
    let options = cluster.login.connect_options("bridge");
    let nats = options.connect(cluster.url.split(',').collect::<Vec<_>>()).await.unwrap();
    assert_eq!(&*nats.request("shop.servers.status", "".into()).await.unwrap().payload, b"{}");

    for line in ["audit", "log order", "trace o-1", "why o-1", "dead list"] {
        cluster.spawn("tool", "reader", line).explains().await;
    }
    for line in ["upgrade", "backup --to copies", "repartition --kind wallet --to 5 --snapshots snapshots"] {
        cluster.spawn("tool", "operator", line).explains().await;
    }
    // The hosts begin anew: as long as it is told that nothing was done, it may be sent again.
    let top_up = async || {
        let answer = client.post("/wallets/alice/top-up", &json!({ "amount": 1 })).await;
        // It has no key: it is called retryable only where nothing was done.
        let may_be_sent_again = answer.status == 503 && answer.json(503)["retryable"] == true;
        (!may_be_sent_again).then_some(answer)
    };
    until("a top-up is done", top_up).await.json(200);
    cluster.spawn("tool", "reader", "audit --snapshots snapshots").explains().await;
    for process in hosts.into_iter().chain([bridge]) {
        process.terminate().await;
    }
    for name in ["first", "second", "bridge", "tool"] {
        let said = fs::read_to_string(cluster.path(&format!("{name}.stderr"))).unwrap();
        assert!(!said.to_lowercase().contains("violation"), "{name} may not do all that it does: {said}");
    }
}

#[tokio::test]
async fn whoever_is_not_known_is_told_what_is_missing_and_a_bridge_cannot_write_to_the_log() {
    let cluster = Cluster::start().await;
    let stranger = cluster.folder.path().join("stranger");
    Keys::make(&stranger, &["bridge".parse().unwrap()]).unwrap();
    let stranger = stranger.join("bridge.nk").display().to_string();
    let (url, ca, nkey) = (&cluster.url, cluster.login.ca(), cluster.login.seed_file("bridge"));
    let (ca, nkey) = (ca.display(), nkey.display());
    for (options, missing) in [
        (format!("bridge --nats-url {url} --nats-ca {ca}"), "--nats-nkey"),
        (format!("bridge --nats-url {url} --nats-nkey {nkey}"), "--nats-ca"),
        (format!("bridge --nats-url {url} --nats-ca {ca} --nats-nkey {stranger}"), "--nats-nkey"),
    ] {
        let bridge = Process::spawn(cluster.folder.path(), "stranger", options.split(' '));
        let words = bridge.refuses().await;
        assert!(words.contains("do not trust each other") && words.contains(missing), "{words}");
    }
    let (events, mut heard) = mpsc::unbounded_channel();
    let options = cluster.login.connect_options("bridge").event_callback(move |event| {
        let _test_has_ended = events.send(event);
        async {}
    });
    let servers: Vec<_> = url.split(',').collect();
    let bridge = options.connect(servers).await.unwrap();
    for subject in ["shop.log.wallet.0", "shop.dead.wallet.0", "shop.hosts.wallet", "$JS.API.STREAM.DELETE.SHOP_WALLET"]
    {
        bridge.publish(subject, "".into()).await.unwrap();
        let refused = async || match heard.recv().await {
            Some(Event::ServerError(error)) => error.to_string().contains(subject).then_some(()),
            Some(_) => None,
            None => panic!("the connection is lost"),
        };
        until(&format!("{subject} is refused"), refused).await;
    }
}

/// Three nats-servers, and what lets programs in.
struct Cluster {
    url: String,
    _servers: Servers,
    login: Login,
    folder: Folder,
}

impl Cluster {
    async fn start() -> Self {
        let (folder, login) = (Folder::new(), Login::new([]));
        let servers = Servers::three(folder.path(), false, Some(&login)).await.unwrap();
        Self { url: servers.url().replace("nats://", "tls://"), _servers: servers, login, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts a program that comes in this role.
    fn spawn(&self, name: &str, role: &str, line: &str) -> Process {
        let words = line.split(' ').map(str::to_owned).chain(["--nats-url".to_owned(), self.url.clone()]);
        Process::spawn(self.folder.path(), name, words.chain(self.login.options(role)))
    }
}
