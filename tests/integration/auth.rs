//! Who may ask over HTTP, and how often: seen from outside, with an issuer, gateways and programs of every kind.

mod exposure;
mod gateways;
mod owasp;
mod owners;
mod place;
mod programs;
mod rates;
mod routes;
mod tls_place;
mod tokens;

use futures::stream;
use http_body_util::StreamBody;
use hyper::{
    Request,
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use shop_bridge_http::{
    auth::{Mode, Options as Auth},
    routes::{ROUTES, Route},
};
use shop_local::Options;
use shop_tests::{
    issuer::{self, Issuer},
    login::write_private,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::shop::{Answer, Ask, TestShop};

/// A shop that takes the tokens of an issuer, whose keys are in a file.
async fn shop_of(issuer: &Issuer, change: impl FnOnce(Auth) -> Auth) -> TestShop {
    let open = |options: Options| {
        let keys = options.data_dir.join("issuer.json");
        write_private(&keys, &issuer.jwks());
        let auth = Auth { auth: Mode::Jwt, jwks_file: Some(keys), ..demands() };
        Options { auth: change(auth), ..options }
    };
    TestShop::open_as(open).await
}

/// What a token must say.
fn demands() -> Auth {
    let jwt_audiences = vec![issuer::AUDIENCE.to_owned()];
    Auth { jwt_issuer: Some(issuer::ISSUER.to_owned()), jwt_audiences, ..Auth::default() }
}

/// With a token, or a key.
fn with(ask: Ask, secret: &str) -> Ask {
    ask.header("authorization", format!("Bearer {secret}"))
}

/// A request of that route, about something that is not there.
fn ask(shop: &TestShop, route: &Route) -> Ask {
    let path = route.path.replace("{id}", "nothing").replace("{user}", "nobody");
    let asked = shop.ask(route.method.clone(), path);
    if route.is_write() { asked.json(&json!({ "nothing": true })) } else { asked }
}

/// What a guarded route answers to who was let in: there is no such order.
fn let_in(answer: Answer) -> Answer {
    answer.refused(404, "not_found")
}

/// Sends lines from an address of this machine, and returns the status of what comes back, and all of it.
async fn sent_from(shop: &TestShop, from: [u8; 4], path: &str, lines: &[(&str, &str)]) -> (u16, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((std::net::IpAddr::from(from), 0).into()).unwrap();
    let mut stream = socket.connect(shop.address.parse().unwrap()).await.unwrap();
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}

/// Asks over HTTP/2, with these lines of `Authorization`.
async fn over_http2(address: &str, path: &str, lines: &[String]) -> u16 {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::builder().uri(format!("http://{address}{path}"));
    let request = lines.iter().fold(request, |request, line| request.header("authorization", line));
    let body = StreamBody::new(stream::empty::<Result<Frame<Bytes>, std::io::Error>>());
    let status = client.send_request(request.body(body).unwrap()).await.unwrap().status();
    drop(connection);
    status.as_u16()
}

/// A number of `/metrics`.
async fn number(shop: &TestShop, series: &str) -> f64 {
    let text = shop.metrics().await;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// Those that need a scope.
fn guarded() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.scope.is_some())
}
