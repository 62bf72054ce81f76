//! A shop of its own for every test, and a customer who looks at every answer closely.
//!
//! Owns starting, asking and comparing; holds every answer against the OpenAPI document. Must not
//! know what the right answer is: tests do.

use std::{
    future::IntoFuture,
    ops::Deref,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use shop_local::{Options, Shop};
use shop_tests::client::Client;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::contract;

/// The largest amount there is.
pub(crate) const MAX: u64 = 9_007_199_254_740_991;
/// How long anything may take that a test waits for: far more than it ever should.
const PATIENCE: Duration = Duration::from_secs(30);

/// A shop in a folder of its own, with a server and ports of its own. Asks itself over HTTP.
pub(crate) struct TestShop {
    pub(crate) shop: Shop,
    folder: TempDir,
    options: Options,
    customer: Customer,
}

impl TestShop {
    /// A new shop as it is by default.
    pub(crate) async fn open() -> Self {
        Self::open_as(|options| options).await
    }

    /// A new shop that is not quite as it is by default.
    pub(crate) async fn open_as(change: impl FnOnce(Options) -> Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = change(Options::for_test(folder.path()));
        Self::start(folder, options).await
    }

    /// A new shop in which every kind is cut into so many partitions.
    pub(crate) async fn open_with(partitions: u16) -> Self {
        Self::open_as(|options| Options { partitions: Some(partitions), ..options }).await
    }

    /// Stops everything, lets `meanwhile` do something to the folder, and starts again in it.
    pub(crate) async fn reopen(self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.shop.stop().await.unwrap();
        meanwhile(self.folder.path());
        let options = Options { partitions: None, ..self.options };
        Self::start(self.folder, options).await
    }

    /// Stops everything, and starts again with other options in the same folder.
    pub(crate) async fn reopen_as(self, change: impl FnOnce(Options) -> Options) -> Self {
        self.shop.stop().await.unwrap();
        let options = change(Options { partitions: None, ..self.options });
        Self::start(self.folder, options).await
    }

    /// A client of those who run it.
    pub(crate) fn inside(&self) -> Client {
        Client::new(self.shop.observe_address().expect("it can be looked at"))
    }

    /// How its bridge and its hosts are.
    pub(crate) async fn readiness(&self) -> Value {
        let answer = self.inside().get("/readyz").await;
        answer.json(answer.status)
    }

    /// The numbers of its bridge and its hosts.
    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(self.inside().get("/metrics").await.bytes.to_vec()).unwrap()
    }

    pub(crate) async fn close(self) {
        self.shop.stop().await.unwrap();
    }

    async fn start(folder: TempDir, options: Options) -> Self {
        let shop = Shop::start(options.clone()).await.unwrap();
        let customer = Customer::of(&shop.http_address().to_string());
        Self { shop, folder, options, customer }
    }
}

impl Deref for TestShop {
    type Target = Customer;

    fn deref(&self) -> &Customer {
        &self.customer
    }
}

/// Somebody who asks over HTTP. Clones share connections.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) address: String,
    client: Hyper<HttpConnector, Full<Bytes>>,
}

impl Customer {
    pub(crate) fn of(address: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { address: address.to_owned(), client: Hyper::builder(TokioExecutor::new()).build(connector) }
    }

    pub(crate) fn get(&self, path: impl Into<String>) -> Ask {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: impl Into<String>, body: Value) -> Ask {
        self.ask(Method::POST, path).json(&body)
    }

    pub(crate) fn patch(&self, path: impl Into<String>, body: Value) -> Ask {
        self.ask(Method::PATCH, path).json(&body)
    }

    /// Any request, without a body until it is given one.
    pub(crate) fn ask(&self, method: Method, path: impl Into<String>) -> Ask {
        Ask {
            customer: self.clone(),
            method,
            path: path.into(),
            headers: vec![],
            body: Bytes::new(),
            is_untyped: false,
        }
    }

    /// Puts a product on sale under its id as its name.
    pub(crate) async fn product(&self, id: &str, price: u64, stock: u64) -> Answer {
        self.post("/products", json!({ "id": id, "name": id, "price": price, "stock": stock })).await.is(201)
    }

    pub(crate) async fn wallet(&self, id: &str, balance: u64) -> Answer {
        self.post("/wallets", json!({ "id": id, "balance": balance })).await.is(201)
    }

    /// Orders one product, and expects to get it.
    pub(crate) async fn order(&self, id: &str, user: &str, product: &str, quantity: u64) -> Answer {
        let order = json!({ "id": id, "user": user, "product": product, "quantity": quantity });
        self.post("/orders", order).await.is(201).has("/status", "CONFIRMED")
    }

    pub(crate) async fn balance(&self, wallet: &str) -> u64 {
        self.get(format!("/wallets/{wallet}")).await.is(200).number("/balance")
    }

    pub(crate) async fn stock(&self, product: &str) -> u64 {
        self.get(format!("/products/{product}")).await.is(200).number("/stock")
    }

    pub(crate) async fn order_status(&self, order: &str) -> String {
        self.get(format!("/orders/{order}")).await.is(200).text("/status")
    }

    pub(crate) async fn delivery_status(&self, order: &str) -> String {
        self.get(format!("/deliveries/{order}")).await.is(200).text("/status")
    }

    /// An order as its user's page has it.
    pub(crate) async fn on_page(&self, user: &str, order: &str) -> Value {
        let page = self.get(format!("/mypages/{user}?limit=1000")).await.is(200);
        let item = page.items().iter().find(|item| item["id"] == order);
        item.unwrap_or_else(|| panic!("{order} is not on the page of {user}: {page}")).clone()
    }

    /// What these paths answer now, to be compared with what they answer later.
    pub(crate) async fn look(&self, paths: &[&str]) -> Vec<String> {
        let mut seen = Vec::new();
        for path in paths {
            seen.push(self.get(*path).await.to_string());
        }
        seen
    }

    /// All items of a list, page by page.
    pub(crate) async fn all(&self, path: &str, limit: usize, parameter: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.get(format!("{path}?limit={limit}{from}")).await.is(200);
            assert!(page.items().len() <= limit, "more than {limit}: {page}");
            items.extend_from_slice(page.items());
            match page.value("/next").as_str() {
                Some(next) => from = format!("&{parameter}={next}"),
                None => return items,
            }
            assert!(!page.items().is_empty(), "an empty page that is not the last: {page}");
        }
    }
}

/// A request; awaiting it sends it.
#[derive(Clone)]
pub(crate) struct Ask {
    customer: Customer,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    is_untyped: bool,
}

impl Ask {
    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// JSON, unless it is said what it is.
    pub(crate) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Without a word of what the body is.
    pub(crate) fn untyped(self) -> Self {
        Self { is_untyped: true, ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// The same request to another shop.
    pub(crate) fn at(self, customer: &Customer) -> Self {
        Self { customer: customer.clone(), ..self }
    }

    pub(crate) fn prefer(self, preference: &str) -> Self {
        self.header("prefer", preference)
    }

    async fn send(self) -> Answer {
        let asked = format!("{} {} {}", self.method, self.path, String::from_utf8_lossy(&self.body));
        let method = self.method.clone();
        let mut request =
            Request::builder().method(self.method).uri(format!("http://{}{}", self.customer.address, self.path));
        let is_typed = self.headers.iter().any(|(name, _)| *name == "content-type");
        if !self.body.is_empty() && !is_typed && !self.is_untyped {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in self.headers {
            let value = hyper::header::HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).unwrap();
        let start = Instant::now();
        let exchange = async {
            let response = self.customer.client.request(request).await.unwrap_or_else(|e| panic!("{asked}: {e:?}"));
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.unwrap_or_else(|error| panic!("{asked}: {error:?}")).to_bytes();
            (head, bytes)
        };
        let (head, bytes) =
            tokio::time::timeout(2 * PATIENCE, exchange).await.unwrap_or_else(|_| panic!("{asked}: no answer"));
        let answer = Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            bytes,
            took: start.elapsed(),
            asked,
        };
        let promised = contract::check(method.as_str(), &self.path, answer.status, &answer.headers, &answer.body);
        promised.unwrap_or_else(|difference| panic!("not as openapi.json has it: {difference}\n{answer}"));
        answer
    }
}

impl IntoFuture for Ask {
    type Output = Answer;
    type IntoFuture = BoxFuture<'static, Answer>;

    fn into_future(self) -> Self::IntoFuture {
        self.send().boxed()
    }
}

/// What came back. Checks return it, so that they can be lined up, and show all of it on failure.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) asked: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// A refusal as RFC 9457 wants it, with a stable code.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.is(status).has("/code", code).has("/status", status);
        answer.with("content-type", "application/problem+json").has("/type", format!("urn:shop:problem:{code}"))
    }

    /// A refusal because of a rule, with the places of all mistakes.
    #[track_caller]
    pub(crate) fn invalid(self, pointers: &[&str]) -> Self {
        let answer = self.refused(422, "invalid");
        let errors = answer.value("/errors").as_array().unwrap_or_else(|| panic!("no errors: {answer}"));
        let mut found: Vec<&str> = errors.iter().filter_map(|error| error["pointer"].as_str()).collect();
        let mut pointers = pointers.to_vec();
        found.sort_unstable();
        pointers.sort_unstable();
        assert_eq!(found, pointers, "{answer}");
        assert!(errors.iter().all(|error| error["detail"].is_string()), "{answer}");
        answer
    }

    #[track_caller]
    pub(crate) fn has(self, pointer: &str, value: impl Into<Value>) -> Self {
        assert_eq!(self.value(pointer), &value.into(), "{pointer} of {self}");
        self
    }

    #[track_caller]
    pub(crate) fn lacks(self, pointer: &str) -> Self {
        assert_eq!(self.body.pointer(pointer), None, "{pointer} of {self}");
        self
    }

    /// Exactly these members, in any order.
    #[track_caller]
    pub(crate) fn members(self, pointer: &str, names: &str) -> Self {
        let object = self.value(pointer).as_object().unwrap_or_else(|| panic!("no object at {pointer}: {self}"));
        let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
        let mut names: Vec<&str> = names.split(' ').collect();
        found.sort_unstable();
        names.sort_unstable();
        assert_eq!(found, names, "members at {pointer:?} of {self}");
        self
    }

    #[track_caller]
    pub(crate) fn with(self, header: &str, value: &str) -> Self {
        assert_eq!(self.header(header), Some(value), "{header} of {self}");
        self
    }

    #[track_caller]
    pub(crate) fn without(self, header: &str) -> Self {
        assert_eq!(self.header(header), None, "{header} of {self}");
        self
    }

    /// The first answer once more, byte for byte.
    #[track_caller]
    pub(crate) fn repeats(self, first: &Self) -> Self {
        assert_eq!((self.status, &self.bytes), (first.status, &first.bytes), "{self}\ninstead of {first}");
        for header in ["content-type", "etag", "location"] {
            assert_eq!(self.header(header), first.header(header), "{self}\ninstead of {first}");
        }
        self.with("idempotency-replayed", "true")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[track_caller]
    pub(crate) fn value(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}: {self}"))
    }

    #[track_caller]
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        self.value(pointer).as_u64().unwrap_or_else(|| panic!("no number at {pointer}: {self}"))
    }

    #[track_caller]
    pub(crate) fn text(&self, pointer: &str) -> String {
        self.value(pointer).as_str().unwrap_or_else(|| panic!("no text at {pointer}: {self}")).to_owned()
    }

    #[track_caller]
    pub(crate) fn items(&self) -> &[Value] {
        self.value("/items").as_array().unwrap_or_else(|| panic!("no items: {self}"))
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let asked: String = self.asked.chars().take(2_000).collect();
        write!(f, "{asked}\n  {}", self.status)?;
        for (name, value) in self.headers.iter().filter(|(name, _)| *name != "date") {
            write!(f, " {name}: {value:?}")?;
        }
        write!(f, "\n  {}", String::from_utf8_lossy(&self.bytes))
    }
}

/// Asks again and again until `is_so`, at most [`PATIENCE`].
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F, is_so: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if is_so(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}; at last: {answer:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends bytes as they are, and returns all that comes back until the server closes.
pub(crate) async fn raw(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the server should answer and close").unwrap();
    String::from_utf8(answer).unwrap()
}
