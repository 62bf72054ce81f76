//! An HTTP client that keeps every byte and header of an answer.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName},
};
use hyper_util::{
    client::legacy::{Client as Hyper, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::wait::until;

/// How long an answer may take: the longest wait that a caller can ask for is 30 seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// Seconds that a write waits for its outcome; what is lost with a killed process is asked for
/// again the sooner.
pub(crate) const WAIT: &str = "wait=1";
/// How long a request waits that does not say how long.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// A client of one shop. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    hyper: Hyper<HttpConnector, Full<Bytes>>,
    /// Who asks, unless a request says otherwise.
    caller: Option<Caller>,
}

/// Who asks, with the token that shows it.
#[derive(Clone)]
pub struct Caller {
    name: Arc<str>,
    token: Arc<str>,
}

impl Caller {
    /// The one of that name, which the token should say as well.
    pub fn new(name: &str, token: &str) -> Self {
        Self { name: name.into(), token: token.into() }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands in `Authorization`.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({})", self.name)
    }
}

/// A request that may be sent again and again.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The path, with its query.
    pub path: String,
    /// The body, in JSON.
    pub body: Option<Value>,
    /// The `Idempotency-Key`.
    pub key: Option<String>,
    /// What is preferred about waiting.
    pub prefer: &'static str,
    /// Headers beside these.
    pub headers: Vec<(&'static str, String)>,
    /// Who asks, if not whom the client asks for.
    pub caller: Option<Caller>,
}

impl Ask {
    /// A request that waits a second for its outcome.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, key: None, prefer: WAIT, headers: vec![], caller: None }
    }

    /// From this caller; without one from whom the client asks for.
    pub fn by(self, caller: Option<&Caller>) -> Self {
        Self { caller: caller.cloned(), ..self }
    }

    /// With this body.
    pub fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Under this key.
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// With one more header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// That waits for its outcome as long as one can.
    pub fn patiently(self) -> Self {
        Self { prefer: "wait=30", ..self }
    }

    /// The outcome is not waited for.
    pub fn without_waiting(self) -> Self {
        Self { prefer: "respond-async", ..self }
    }

    /// How long the shop may keep its caller.
    pub fn wait(&self) -> Duration {
        let seconds = self.prefer.split(", ").find_map(|preference| preference.strip_prefix("wait="));
        let seconds = seconds.filter(|_| self.says_how_long()).and_then(|seconds| seconds.parse().ok());
        seconds.map_or(WAIT_DEFAULT, Duration::from_secs)
    }

    /// Whether what is preferred is said: reads are sent as most clients send them.
    fn says_how_long(&self) -> bool {
        self.method != Method::GET
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, body, key, prefer, headers, caller } = self;
        write!(f, "{method} {path}")?;
        if let Some(body) = body {
            write!(f, " {body}")?;
        }
        if let Some(key) = key {
            write!(f, " under the key {key}")?;
        }
        for (name, value) in headers {
            write!(f, " {name}: {value}")?;
        }
        if let Some(caller) = caller {
            write!(f, " by {}", caller.name)?;
        }
        write!(f, " ({prefer})")
    }
}

/// What the shop answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub bytes: Bytes,
    /// From the request to the last byte of the answer.
    pub took: Duration,
}

impl Client {
    /// A client of the shop at this address; connects when it is first used.
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { address, hyper: Hyper::builder(TokioExecutor::new()).build(connector), caller: None }
    }

    /// The same for a caller, or for nobody.
    pub fn by(&self, caller: Option<Caller>) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Where the shop is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Any request; an error when there is no whole answer.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        self.exchange(&Ask { body: body.cloned(), ..Ask::new(method, path) }).await
    }

    /// `POST` of something whose outcome is not waited for; the shop must have taken it, and may say at once that it
    /// is refused.
    pub async fn post_async(&self, path: &str, body: &Value) -> Value {
        let answer = self.exchange(&Ask::new(Method::POST, path).body(body.clone()).without_waiting()).await;
        let answer = answer.unwrap_or_else(|error| panic!("POST {path}: {error}"));
        answer.json(if answer.status == 409 { 409 } else { 202 })
    }

    /// Any request; an error when there is no whole answer.
    pub async fn exchange(&self, ask: &Ask) -> Result<Answer, String> {
        let Ask { method, path, body, key, prefer, headers, caller } = ask;
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if ask.says_how_long() {
            request = request.header("prefer", *prefer);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(caller) = caller.as_ref().or(self.caller.as_ref()) {
            request = request.header(AUTHORIZATION, caller.authorization());
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(body)).expect("tests build valid requests");
        let start = Instant::now();
        let exchange = async {
            let response = self.hyper.request(request).await.map_err(|error| error.to_string())?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer { status, headers, bytes, took: start.elapsed() })
        };
        timeout(ANSWER_LIMIT, exchange).await.map_err(|_| format!("no answer within {ANSWER_LIMIT:?}"))?
    }

    /// `POST` with a JSON body; the shop must answer.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.send(Method::POST, path, Some(body)).await;
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// `GET`; the shop must answer.
    pub async fn get(&self, path: &str) -> Answer {
        let answer = self.send(Method::GET, path, None).await;
        answer.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// `GET`, again and again until it is not a 503.
    pub async fn read(&self, path: &str) -> Answer {
        until(&format!("GET {path} is answered"), async || {
            self.send(Method::GET, path, None).await.ok().filter(|answer| answer.status != 503)
        })
        .await
    }

    /// All items of a list, whatever the size of its pages. `cursor` is what `next` goes into.
    pub async fn items(&self, path: &str, cursor: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut from = String::new();
        loop {
            let mut page = self.read(&format!("{path}?limit=100{from}")).await.json(200);
            items.append(page["items"].as_array_mut().expect("a list has items"));
            match page["next"].as_str() {
                Some(next) => from = format!("&{cursor}={next}"),
                None => return items,
            }
        }
    }
}

impl Answer {
    /// The body as JSON; the status must be this one.
    pub fn json(&self, status: u16) -> Value {
        let text = String::from_utf8_lossy(&self.bytes);
        assert_eq!(self.status, status, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// A header.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok())
    }
}
