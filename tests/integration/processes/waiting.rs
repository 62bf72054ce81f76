//! Programs whose nats-server is not there when they start, or does not answer: they wait, say so, and end when told to.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::{Connection, access::Access},
    rpc::request::{Request, RequestError},
    subject,
};
use shop_tests::{
    cluster::{ALL_KINDS, Cluster},
    folder::Folder,
    process::{Process, Signal},
    servers::{address_of, reserve},
};

/// The only server.
const SERVER: usize = 0;
/// More than the minute for which they wait.
const END_LIMIT: Duration = Duration::from_secs(100);
/// More requests than a client holds for a server that takes nothing, and so large that neither do the sockets.
const REQUESTS: usize = 3_000;
const REQUEST_BYTES: usize = 256 * 1024;

fn host(folder: &Path, url: &str) -> Process {
    let data = folder.join("host").to_string_lossy().into_owned();
    Process::spawn(folder, "host", ["serve", "--nats-url", url, "--data-dir", &data])
}

fn bridge(folder: &Path, url: &str) -> Process {
    let options = ["bridge", "--nats-url", url, "--http-addr", "127.0.0.1:0", "--leave-ms", "0"];
    Process::spawn(folder, "bridge", options)
}

fn local(folder: &Path, url: &str) -> Process {
    let data = folder.join("local").to_string_lossy().into_owned();
    let options = ["--nats-url", url, "--data-dir", &data, "--http-addr", "127.0.0.1:0"];
    Process::spawn(folder, "local", options)
}

fn waits(log: &str) -> Option<()> {
    log.contains("; trying again for").then_some(())
}

#[tokio::test]
async fn host_and_bridge_may_be_started_before_their_nats_server_or_while_it_is_frozen() {
    let mut cluster = Cluster::without_processes(1).await;
    let (url, folder) = (cluster.nats().url(), cluster.folder().to_owned());
    for is_frozen in [false, true] {
        if is_frozen {
            cluster.servers().signal(SERVER, Signal::STOP);
        } else {
            cluster.nats().stop().await;
        }
        let (mut host, mut bridge) = (host(&folder, &url), bridge(&folder, &url));
        host.says("that it waits", waits).await;
        bridge.says("that it waits", waits).await;
        if is_frozen {
            cluster.servers().signal(SERVER, Signal::CONT);
        } else {
            cluster.nats().start_again().await.unwrap();
        }
        host.says("that all is served", |log| (log.matches(" is served").count() == 5).then_some(())).await;
        bridge.says("that it listens", |log| log.contains("listening on http://").then_some(())).await;
        bridge.terminate().await;
        host.terminate().await;
    }
    cluster.nats().stop().await;
}

#[tokio::test]
async fn who_waits_for_a_nats_server_says_so_every_five_seconds_and_gives_up_after_a_minute() {
    let folder = Folder::new();
    // Bound, so that nobody else can take the port, but nobody listens.
    let socket = reserve();
    let url = format!("nats://{}", address_of(&socket));
    let mut programs = [host, bridge, local].map(|spawn| spawn(folder.path(), &url));
    for program in &mut programs {
        assert_eq!(program.ends_within(END_LIMIT).await.code(), Some(1), "{}", program.stderr());
        let words = program.stderr();
        let lines = words.matches("; trying again for").count();
        assert!((10..=13).contains(&lines), "{lines} lines in a minute: {words}");
        let last = words.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains(&format!("cannot reach a nats-server at {url}")), "{words}");
        assert!(!last.contains("trying again"), "{words}");
    }
}

#[tokio::test]
async fn who_waits_for_a_nats_server_ends_at_once_when_it_is_told_to() {
    let folder = Folder::new();
    let socket = reserve();
    let url = format!("nats://{}", address_of(&socket));
    for spawn in [host, bridge] {
        let mut program = spawn(folder.path(), &url);
        program.says("that it waits", waits).await;
        program.terminate().await;
    }
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_while_its_nats_server_is_gone_tells_nothing_untrue() {
    let mut cluster = Cluster::without_processes(1).await;
    let (url, folder) = (cluster.nats().url(), cluster.folder().to_owned());
    let mut host = host(&folder, &url);
    host.says("that all is served", |log| (log.matches(" is served").count() == 5).then_some(())).await;
    cluster.nats().kill().await;
    host.signal(Signal::TERM);
    host.ends_within(END_LIMIT).await;
    let words = host.stderr();
    for untrue in ["what came in", "did not take in time", "cannot reach", "panicked"] {
        assert!(!words.contains(untrue), "nothing came in: {words}");
    }
    assert_eq!(
        ALL_KINDS.split(',').filter(|kind| words.contains(&format!("{kind} has stopped"))).count(),
        5,
        "{words}"
    );
}

#[tokio::test]
async fn a_request_is_given_up_in_its_time_though_the_nats_server_takes_nothing_in() {
    let mut cluster = Cluster::without_processes(1).await;
    let connection = Connection::connect(&Access::to(cluster.nats().url()), "test").await.unwrap();
    cluster.servers().signal(SERVER, Signal::STOP);
    let (body, wait) = (Bytes::from(vec![0; REQUEST_BYTES]), Duration::from_millis(500));
    let start = Instant::now();
    let answers = join_all((0..REQUESTS).map(|_| {
        let request = Request::new(subject::door_of_kind(Kind::Wallet, "status"), body.clone());
        connection.request(request, wait)
    }))
    .await;
    let took = start.elapsed();
    // The server may have answered some before it stood still: that there are no hosts.
    let is_late = |answer: &Result<_, RequestError>| matches!(answer, Err(RequestError::TimedOut { .. }));
    assert!(answers.iter().all(|answer| is_late(answer) || matches!(answer, Err(RequestError::NoResponders { .. }))));
    assert!(answers.iter().any(is_late));
    assert!(took < 3 * wait, "{took:?}");
    cluster.servers().signal(SERVER, Signal::CONT);
    cluster.nats().stop().await;
}
