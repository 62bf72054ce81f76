//! What a process says when it cannot start: it ends at once, and names the thing and the way out.

use std::{fs, io, net::SocketAddr, path::Path, process::Stdio};

use serde_json::{Value, json};
use shop_tests::{
    cluster::{ALL_KINDS, Cluster, delete},
    folder::Folder,
    process::Process,
    wait::until,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

const HOST: &str = "host";

#[tokio::test]
async fn a_data_folder_of_another_format_is_refused() {
    let mut cluster = shop_with_an_order().await;
    cluster.take_host(HOST).terminate().await;
    let folder = cluster.data_dir(HOST).join("order");
    let format = fs::read_to_string(folder.join("FORMAT")).unwrap();
    fs::write(folder.join("FORMAT"), "shop-actors store 99\n").unwrap();
    let words = cluster.spawn_host("refused", ALL_KINDS, &cluster.data_dir(HOST), 1).refuses().await;
    for part in [folder.to_str().unwrap(), "shop-actors store 99", format.trim(), "delete the folder"] {
        assert!(words.contains(part), "{part:?} is missing: {words}");
    }
}

#[tokio::test]
async fn a_data_folder_has_one_process_per_kind() {
    let mut cluster = Cluster::start(1, &[(HOST, "wallet,order")]).await;
    let words = cluster.spawn_host("refused", "order", &cluster.data_dir(HOST), 1).refuses().await;
    assert!(words.contains("is used by another process"), "{words}");
    assert!(words.contains(cluster.data_dir(HOST).join("order").to_str().unwrap()), "{words}");
    // Another kind may share it.
    let mut other = cluster.spawn_host("other", "mypage", &cluster.data_dir(HOST), 1);
    other.says("that my pages are served", |log| log.contains("mypage is served").then_some(())).await;
    cluster.host(HOST).assert_running();
}

#[tokio::test]
async fn another_number_of_partitions_than_the_log_has_is_refused() {
    let mut cluster = Cluster::start(3, &[(HOST, "wallet")]).await;
    cluster.take_host(HOST).terminate().await;
    let words = cluster.spawn_host("refused", "wallet", &cluster.data_dir(HOST), 5).refuses().await;
    for part in ["has 3 partitions, but 5 are configured", "--partitions 3"] {
        assert!(words.contains(part), "{part:?} is missing: {words}");
    }
}

#[tokio::test]
async fn checkpoints_of_a_log_that_is_gone_are_refused() {
    let mut cluster = shop_with_an_order().await;
    cluster.take_host(HOST).terminate().await;
    cluster.nats().stop().await;
    delete(&cluster.folder().join("nats/jetstream"));
    cluster.nats().start_again().await.unwrap();
    let words = cluster.spawn_host("refused", ALL_KINDS, &cluster.data_dir(HOST), 1).refuses().await;
    for part in ["does not belong to this log", "epoch", "delete the host's data folder"] {
        assert!(words.contains(part), "{part:?} is missing: {words}");
    }
    // What it says is the way out.
    delete(&cluster.data_dir(HOST));
    cluster.start_host(HOST);
    cluster.wait_until_ready().await;
    assert_eq!(cluster.client().get("/wallets/alice").await.status, 404);
}

#[tokio::test]
async fn a_nats_server_that_is_too_old_is_refused() {
    let (address, _server) = old_nats_server().await;
    let url = format!("nats://{address}");
    for words in last_words_with(&url).await {
        for part in [&format!("the nats-server at {url} is version 2.11.0"), "2.12"] {
            assert!(words.contains(part), "{part:?} is missing: {words}");
        }
    }
}

#[tokio::test]
async fn more_copies_than_one_server_can_keep_are_refused() {
    let mut cluster = Cluster::without_processes(1).await;
    let options = ["serve", "--nats-url", &cluster.nats().url(), "--replicas", "3"].map(str::to_owned);
    let words = Process::spawn(cluster.folder(), "refused", options).refuses().await;
    assert!(words.contains("this nats-server is not part of a cluster: it can keep 1"), "{words}");
}

#[tokio::test]
async fn a_nats_server_without_jetstream_is_named_with_the_way_out() {
    let folder = Folder::new();
    let (url, mut server) = nats_server_without_jetstream(folder.path()).await;
    let options = ["serve", "--nats-url", &url];
    let words = Process::spawn(folder.path(), "refused", options).refuses().await;
    for part in ["does not offer JetStream", "nats-server --jetstream", "nats/server/local.conf"] {
        assert!(words.contains(part), "{part:?} is missing: {words}");
    }
    server.kill().await.unwrap();
}

/// A real server, and where it is.
async fn nats_server_without_jetstream(folder: &Path) -> (String, Child) {
    let found = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/install.sh")).output().await.unwrap();
    let program = String::from_utf8(found.stdout).unwrap();
    let mut command = Command::new(program.trim());
    command.args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"]).arg(folder);
    let server = command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let ports = folder.join(format!("nats-server_{}.ports", server.id().unwrap()));
    let url = until("the server tells its port", async || {
        let ports: Value = serde_json::from_slice(&fs::read(&ports).ok()?).ok()?;
        ports["nats"][0].as_str().map(str::to_owned)
    });
    (url.await, server)
}

/// What host, bridge and the whole shop say when they are to use this nats-server.
async fn last_words_with(nats_url: &str) -> [String; 3] {
    let folder = Folder::new();
    let data_dir = folder.path().join("data");
    let nats = ["--nats-url", nats_url];
    let data = ["--data-dir", data_dir.to_str().unwrap()];
    let http = ["--http-addr", "127.0.0.1:0"];
    let host = Process::spawn(folder.path(), "host", [&["serve"], &nats[..], &data].concat());
    let bridge = Process::spawn(folder.path(), "bridge", [&["bridge"], &nats[..], &http].concat());
    let local = Process::spawn(folder.path(), "local", [nats, data, http].concat());
    [host.refuses().await, bridge.refuses().await, local.refuses().await]
}

/// A server that is as NATS 2.11 as a client can see before it asks for anything.
async fn old_nats_server() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut clients = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            clients.spawn(greet(socket, address));
        }
    });
    (address, server)
}

async fn greet(socket: TcpStream, address: SocketAddr) -> io::Result<()> {
    let info: Value = json!({
        "server_id": "OLD", "server_name": "old", "version": "2.11.0", "proto": 1, "go": "go1.24", "jetstream": true,
        "host": "127.0.0.1", "port": address.port(), "headers": true, "max_payload": 1_048_576, "client_id": 1,
    });
    let mut socket = BufReader::new(socket);
    socket.write_all(format!("INFO {info}\r\n").as_bytes()).await?;
    let mut line = String::new();
    while socket.read_line(&mut line).await? > 0 {
        if line.starts_with("PING") {
            socket.write_all(b"PONG\r\n").await?;
        }
        line.clear();
    }
    Ok(())
}

async fn shop_with_an_order() -> Cluster {
    let cluster = Cluster::start(1, &[(HOST, ALL_KINDS)]).await;
    let client = cluster.client();
    client.post("/products", &json!({ "id": "apple", "name": "apple", "price": 10, "stock": 10 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 100 })).await.json(201);
    client.post("/orders", &json!({ "user": "alice", "product": "apple", "quantity": 10 })).await.json(201);
    cluster
}
