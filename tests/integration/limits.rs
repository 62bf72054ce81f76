//! What a bridge and a host take at a time, and whom they keep waiting: however many clients want too much, an honest order
//! comes through, and each limit shows when it strikes.

use std::{
    future::IntoFuture,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{future::join_all, stream};
use http_body_util::StreamBody;
use hyper::{Request, body::Frame, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use shop_bridge_http::limits::Limits;
use shop_local::Options;
use shop_nats::{
    connection::{Connection, access::Access},
    rpc::request,
    subject,
};
use shop_tests::{
    client::Client,
    process::{Launcher, Process},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::shop::{Answer, Customer, TestShop, eventually, raw};

/// How long anything may take that does not depend on an attacker.
const AT_ONCE: Duration = Duration::from_secs(10);
const HEAD: &[u8] =
    b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n";

/// A shop with these limits, an apple for sale and a customer who can pay.
async fn shop_with(limits: Limits) -> TestShop {
    let shop = TestShop::open_as(|options| Options { limits, ..options }).await;
    shop.product("apple", 1, 1_000).await;
    shop.wallet("alice", 1_000).await;
    shop
}

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// From another address of this machine.
async fn connect_from(address: &str, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

/// All that comes until the other end closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(AT_ONCE, stream.read_to_end(&mut answer)).await.expect("the server should close").unwrap();
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn is_problem(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.to_ascii_lowercase().contains("\r\nconnection: close"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!(code), &json!(true)), "{answer}");
}

/// Where it is seen how a shop is.
fn pages(shop: &TestShop) -> Client {
    shop.inside()
}

/// A number of `/metrics`.
async fn number(pages: Client, series: &str) -> u64 {
    let answer = pages.get("/metrics").await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse::<f64>().unwrap() as u64
}

async fn struck(pages: Client, limit: &str) -> u64 {
    number(pages, &format!("shop_http_limit_reached_total{{limit=\"{limit}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_take_no_place_from_an_honest_order_and_are_told_that_they_are_too_slow() {
    const SLOW: usize = 60;
    let shop = shop_with(Limits { in_flight_max: 4, body_ms: 1_500, ..Limits::default() }).await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = connect(&shop.address).await;
        stream.write_all(&[HEAD, b"{"].concat()).await.unwrap();
        slow.push(stream);
    }
    let arriving = || number(pages(&shop), "shop_http_bodies_bytes");
    eventually("all have begun", arriving, |bytes| *bytes == SLOW as u64).await;
    assert_eq!(number(pages(&shop), "shop_http_requests_in_flight").await, 0);
    for id in ["o-1", "o-2", "o-3"] {
        shop.order(id, "alice", "apple", 1).await;
    }
    for stream in &mut slow {
        is_problem(&rest(stream).await, 408, "request_timeout");
    }
    assert_eq!((struck(pages(&shop), "body_time").await, arriving().await), (SLOW as u64, 0));
    assert_eq!(shop.balance("alice").await, 997);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_fill_the_budget_are_refused_and_small_orders_come_in() {
    // Room for the ends of one large body, and a minute for it.
    let shop = shop_with(Limits { bodies_bytes_max: 131_072, body_ms: 60_000, ..Limits::default() }).await;
    let head =
        "POST /products HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60001\r\n\r\n";
    let mut first = connect(&shop.address).await;
    first.write_all(&[head.as_bytes(), &[b' '; 60_000]].concat()).await.unwrap();
    eventually("it has come", || number(pages(&shop), "shop_http_bodies_bytes"), |bytes| *bytes == 60_000).await;
    let whole = head.replace("60001", "60000\r\nConnection: close");
    let refused = raw(&shop.address, &[whole.as_bytes(), &[b' '; 60_000]].concat()).await;
    is_problem(&refused, 503, "overloaded");
    assert!(refused.to_ascii_lowercase().contains("\r\nretry-after: "), "{refused}");
    shop.order("o-1", "alice", "apple", 1).await;
    assert_eq!(struck(pages(&shop), "body_bytes").await, 1);
    drop(first);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_heads_do_not_stop_an_honest_order_and_end() {
    const UNFINISHED: usize = 300;
    let shop = shop_with(Limits { in_flight_max: 4, head_ms: 1_500, ..Limits::default() }).await;
    let mut unfinished = Vec::new();
    for _ in 0..UNFINISHED {
        let mut stream = connect(&shop.address).await;
        stream.write_all(&HEAD[..HEAD.len() - 2]).await.unwrap();
        unfinished.push(stream);
    }
    shop.order("o-1", "alice", "apple", 1).await;
    for stream in &mut unfinished {
        is_problem(&rest(stream).await, 408, "request_timeout");
    }
    assert_eq!(struck(pages(&shop), "head_time").await, UNFINISHED as u64);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_in_all_and_from_one_address_and_one_more_is_told_so() {
    let limits = Limits { connections_max: 12, connections_per_address_max: 8, idle_ms: 3_000, ..Limits::default() };
    let shop = shop_with(limits).await;
    let mut open = Vec::new();
    // The shop itself and its customer have some.
    let refused = loop {
        let mut stream = connect(&shop.address).await;
        stream.write_all(b"GET /wallets/alice HTTP/1.1\r\n").await.unwrap();
        let mut byte = [0];
        match timeout(Duration::from_millis(200), stream.read(&mut byte)).await {
            Err(_) => open.push(stream),
            Ok(read) => {
                break format!("{}{}", char::from(byte[0]), {
                    read.unwrap();
                    rest(&mut stream).await
                });
            }
        }
        assert!(open.len() <= 8, "there is no limit");
    };
    is_problem(&refused, 503, "overloaded");
    assert!(refused.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{refused}");
    // Another address is served, until there are as many as there may be in all.
    let elsewhere = || connect_from(&shop.address, [127, 0, 0, 2]);
    let mut honest = elsewhere().await;
    let request = b"GET /wallets/alice HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    honest.write_all(request).await.unwrap();
    assert!(rest(&mut honest).await.starts_with("HTTP/1.1 200 "));
    let mut others = join_all((0..6).map(|_| elsewhere())).await;
    is_problem(&rest(&mut others[5]).await, 503, "overloaded");
    // Those that do nothing are closed, and then there is room for everyone.
    assert_eq!(rest(&mut others[0]).await, "");
    drop((open, others));
    let look = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let look = || async { timeout(AT_ONCE, raw(&shop.address, look)).await.unwrap() };
    eventually("there is room again", look, |answer: &String| answer.starts_with("HTTP/1.1 200 ")).await;
    for limit in ["address", "connections", "idle"] {
        assert!(struck(pages(&shop), limit).await >= 1, "{limit}");
    }
    shop.close().await;
}

/// A bridge in a process of its own, started with a shell's `limit`.
/// Where it is asked, and where it is seen how it is.
async fn bridge_under(
    limit: &str,
    shop: &TestShop,
    folder: &std::path::Path,
    options: &[&str],
) -> (Process, Customer, Client) {
    let command = ["sh", "-c", &format!("{limit}; exec \"$@\""), "sh"].map(Into::into).to_vec();
    let url = shop.shop.nats_url();
    let own = [
        "bridge",
        "--nats-url",
        &url,
        "--http-addr",
        "127.0.0.1:0",
        "--observe-addr",
        "127.0.0.1:0",
        "--leave-ms",
        "0",
    ];
    let launcher = Launcher { command, ..Launcher::default() };
    let mut bridge = Process::spawn_by(&launcher, folder, "bridge", own.iter().chain(options));
    let behind = |words: &'static str| {
        move |said: &str| {
            let (_, rest) = said.split_once(words)?;
            Some(rest.split(|end: char| end.is_whitespace() || end == '/').next()?.to_owned())
        }
    };
    let address = bridge.says("listening", behind("listening on http://")).await;
    let pages = bridge.says("observing", behind("can be seen on http://")).await;
    (bridge, Customer::of(&address), Client::new(pages.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_without_file_handles_says_so_and_serves_again_as_soon_as_there_are_some() {
    let (shop, folder) = (shop_with(Limits::default()).await, tempfile::tempdir().unwrap());
    // So few that the process has none left before there are as many connections as it would take.
    let (bridge, customer, pages) = bridge_under("ulimit -n 24", &shop, folder.path(), &["--idle-ms", "60000"]).await;
    let flood: Vec<_> = join_all((0..100).map(|_| connect(&customer.address))).await;
    // Those for which there is no handle are not left waiting: they hear why, or see that it is over.
    let begin = Instant::now();
    let mut told = 0;
    for mut stream in flood {
        let mut answer = Vec::new();
        if let Ok(read) = timeout(Duration::from_millis(50), stream.read_to_end(&mut answer)).await {
            told += usize::from(read.is_ok() && answer.starts_with(b"HTTP/1.1 503 "));
        }
    }
    assert!(told > 50, "{told} were told after {:?}", begin.elapsed());
    let order = json!({ "id": "o-1", "user": "alice", "product": "apple", "quantity": 1 });
    let place = || async {
        let body = order.to_string();
        let head = format!(
            "POST /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // As long as there are no handles, a connection may be closed without a word.
        let mut answer = Vec::new();
        let mut stream = connect(&customer.address).await;
        let asked = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
        let _read = timeout(AT_ONCE, stream.read_to_end(&mut answer)).await.expect("there should be an end");
        asked.map(|()| String::from_utf8_lossy(&answer).into_owned()).unwrap_or_default()
    };
    let placed = eventually("it is served", place, |answer: &String| answer.starts_with("HTTP/1.1 201 ")).await;
    assert!(placed.contains("CONFIRMED"), "{placed}");
    let said = bridge.stderr();
    let lines = said.lines().filter(|line| line.contains("cannot accept") || line.contains("turned away")).count();
    let seconds = begin.elapsed().as_secs() as usize + 2;
    assert!((1..=3 * seconds).contains(&lines), "{lines} lines in {seconds} s:\n{said}");
    assert!(said.contains("cannot accept") && said.contains("open files"), "{said}");
    assert!(struck(pages.clone(), "files").await > 0);
    bridge.terminate().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_unfinished_heads_is_bounded_however_much_is_sent() {
    const UNFINISHED: usize = 300;
    let (shop, folder) = (shop_with(Limits::default()).await, tempfile::tempdir().unwrap());
    let (bridge, customer, pages) = bridge_under("true", &shop, folder.path(), &[]).await;
    let before = number(pages.clone(), "process_resident_memory_bytes").await;
    // Each sends 400 KB if it is let, and never ends its head.
    let fill = async || {
        let mut stream = connect(&customer.address).await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ").await.unwrap();
        let piece = [b'x'; 16_000];
        let _refused =
            timeout(Duration::from_millis(200), async { while stream.write_all(&piece).await.is_ok() {} }).await;
        stream
    };
    let unfinished = join_all((0..UNFINISHED).map(|_| fill())).await;
    let now = number(pages.clone(), "process_resident_memory_bytes").await;
    let each = now.saturating_sub(before) / UNFINISHED as u64;
    assert!(each < 65_536, "{each} bytes for each unfinished head");
    assert_eq!(struck(pages.clone(), "head_bytes").await, UNFINISHED as u64);
    drop(unfinished);
    bridge.terminate().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lists_at_once_do_not_stand_in_front_of_an_order() {
    const LISTS: usize = 400;
    let shop = shop_with(Limits { in_flight_max: 8, lists_max: 2, ..Limits::default() }).await;
    for number in 0..20 {
        shop.product(&format!("p-{number}"), 1, 1).await;
    }
    let lists = ["/products?limit=1000", "/wallets/alice/statement", "/mypages/alice"];
    let reads = join_all((0..LISTS).map(|number| shop.get(lists[number % lists.len()]).into_future()));
    let orders = async {
        for number in 0..20 {
            let answer = shop.order(&format!("o-{number}"), "alice", "apple", 1).await;
            assert!(answer.took < Duration::from_secs(2), "{answer} after {:?}", answer.took);
        }
    };
    let (answers, ()) = tokio::join!(reads, orders);
    let mut overloaded = 0;
    for answer in answers {
        if answer.status != 200 {
            let refused: Answer = answer.refused(503, "overloaded").has("/retryable", true);
            assert!(refused.header("retry-after").is_some(), "{refused}");
            overloaded += 1;
        }
    }
    assert!(overloaded > 0, "all {LISTS} lists were read");
    assert_eq!(struck(pages(&shop), "lists").await, overloaded);
    assert_eq!(struck(pages(&shop), "in_flight").await, 0);

    // Over NATS the door itself has such a budget.
    let connection = Connection::connect(&Access::to(shop.shop.nats_url()), "test").await.unwrap();
    let ask = |_| {
        let request =
            request::Request::new(subject::door_of_kind(shop_domain::kind::Kind::Product, "list"), Bytes::new());
        connection.request(request, AT_ONCE)
    };
    let (replies, order) = tokio::join!(join_all((0..2_000).map(ask)), shop.order("o-nats", "alice", "apple", 1));
    assert!(order.took < Duration::from_secs(2), "{:?}", order.took);
    let codes: Vec<_> = replies.into_iter().filter_map(|reply| reply.unwrap().error).map(|code| code.name).collect();
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == "overloaded"), "{codes:?}");
    shop.close().await;
}

/// `/readyz` of a bridge or a host.
async fn ready(pages: &Client) -> String {
    raw(&pages.address().to_string(), b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_whose_owner_gets_no_further_ends_by_itself_and_shows_while_it_lasts() {
    let shop = shop_with(Limits::default()).await;
    let pages = pages(&shop);
    let connection = Connection::connect(&Access::to(shop.shop.nats_url()), "test").await.unwrap();
    // Said on and on, as by a tool that waits for something that never comes.
    let holding = connection.hold_doors_for(Duration::from_secs(3));
    let shows =
        |answer: &String| answer.starts_with("HTTP/1.1 200 ") && answer.matches("\"held_seconds\":").count() == 2;
    eventually("it shows, of hosts and bridge", || ready(&pages), shows).await;
    for series in ["shop_http_doors_held_seconds", "shop_host_doors_held_seconds"] {
        eventually("it shows in the metrics", || number(pages.clone(), series), |seconds| *seconds >= 1).await;
    }
    let top_up = shop.post("/wallets/alice/top-up", json!({ "amount": 1 }));
    let top_up = || top_up.clone().prefer("wait=1").into_future();
    eventually("doors open", top_up, |answer| answer.status == 200).await;
    eventually("it is over", || ready(&pages), |answer| !answer.contains("held_seconds")).await;
    // It is counted when it is said once more.
    for series in ["shop_http_limit_reached_total{limit=\"pause\"}", "shop_host_pauses_run_out_total"] {
        eventually("it is counted", || number(pages.clone(), series), |times| *times == 1).await;
    }
    // A pause that is renewed goes on.
    let renewed = connection.hold_doors_for(Duration::from_secs(3));
    let owner = renewed.owner();
    eventually("doors hold", &top_up, |answer| answer.body["held"] == true).await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        owner.renew();
        assert_eq!(top_up().await.body["held"], true, "after {:?}", begin.elapsed());
    }
    connection.open_doors(renewed).await;
    eventually("doors open", top_up, |answer| answer.status == 200).await;
    drop(holding);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_spoken_only_where_it_is_switched_on_and_its_streams_take_no_places() {
    const STREAMS: u32 = 8;
    let limits = Limits { in_flight_max: 4, body_ms: 60_000, ..Limits::default() };
    let shop = shop_with(limits.clone()).await;
    is_problem_of_http_2(&raw(&shop.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await);
    assert_eq!(struck(pages(&shop), "http2").await, 1);
    let shop = shop
        .reopen_as(|options| Options {
            limits: Limits { http2: true, http2_streams_max: STREAMS, ..limits },
            ..options
        })
        .await;
    let mut connections = Vec::new();
    for _ in 0..25 {
        let socket = connect(&shop.address).await;
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        connections.push(tokio::spawn(connection));
        for _ in 0..2 * STREAMS {
            let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
            let request = Request::builder().method("POST").uri("http://localhost/orders").body(body).unwrap();
            client.ready().await.unwrap();
            connections.push(tokio::spawn({
                let answer = client.send_request(request);
                async move { answer.await.map(|_| ()) }
            }));
        }
    }
    shop.order("o-1", "alice", "apple", 1).await;
    connections.into_iter().for_each(|connection| connection.abort());
    shop.close().await;
}

#[track_caller]
fn is_problem_of_http_2(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("HTTP/2 is not switched on here; come with HTTP/1.1"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_only_hold_connections_do_not_keep_others_from_looking_at_a_host() {
    let shop = shop_with(Limits::default()).await;
    let address = shop.shop.observe_address().unwrap().to_string();
    let silent = join_all((0..60).map(|_| connect(&address))).await;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut another = connect_from(&address, [127, 0, 0, 2]).await;
    another.write_all(request).await.unwrap();
    let seen = rest(&mut another).await;
    assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    let turned_away =
        seen.lines().find_map(|line| line.strip_prefix("shop_observe_limit_reached_total{limit=\"address\"} "));
    assert!(turned_away.is_some_and(|times| times.parse::<u64>().unwrap() >= 12), "{seen}");
    drop(silent);
    let large = [b"GET /healthz HTTP/1.1\r\nA: ".as_slice(), &[b'x'; 20_000]].concat();
    let look = || async { raw(&address, &large).await };
    let refused = eventually("there is room again", look, |answer| !answer.starts_with("HTTP/1.1 503 ")).await;
    assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");
    shop.close().await;
}
