//! One connection, as bytes: what HTTP's own machinery lacks at its edge.
//!
//! Owns how long a head may take and a connection be idle, and what a client is told whose head cannot
//! even be read: hyper answers that by itself, with a bare status, which becomes a problem here. Must not
//! know what requests mean.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use shop_domain::problem::{Code, Problem};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Largest head of a request, in bytes: what common servers take.
pub(crate) const HEAD_BYTES_MAX: usize = 16_384;
/// Most header lines of a request, which is what hyper takes without allocating.
pub(crate) const HEADERS_MAX: usize = 100;
/// How long a head may take from its first byte on: it fits into a few packets.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a connection may do nothing: longer than balancers keep theirs.
const IDLE_TIME_MAX: Duration = Duration::from_secs(75);
/// How long to wait for a client to read the answer, once it is told that its request will not be read on.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// How much of such a request is thrown away meanwhile, in bytes.
const LINGER_BYTES_MAX: usize = 1_048_576;

/// How an HTTP/2 connection begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// What no head may have, and the end of one: with it hyper refuses what has come.
const SPOILER: &[u8] = b"\0\r\n\r\n";

/// What a connection and the requests on it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Line {
    begun: AtomicU64,
    under_way: AtomicUsize,
    is_cut: AtomicBool,
}

/// A request that is being answered; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Exchange(Arc<Line>);

impl Line {
    /// A head was read.
    pub(crate) fn begin(self: &Arc<Self>) -> Exchange {
        self.begun.fetch_add(1, Relaxed);
        self.under_way.fetch_add(1, Relaxed);
        Exchange(Arc::clone(self))
    }
}

impl Exchange {
    /// The connection ends with this answer though the client may still be sending.
    pub(crate) fn cut(&self) {
        self.0.is_cut.store(true, Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// A client's socket with limits, `S` most likely a TCP stream.
pub(crate) struct Wire<S, F> {
    socket: S,
    line: Arc<Line>,
    /// Hears of each refusal that no request's answer is.
    refused: F,
    timer: Pin<Box<Sleep>>,
    head: Head,
    last_read: Instant,
    is_http2: bool,
    /// What is sent instead of a bare status.
    refusal: Bytes,
    linger: Option<Linger>,
}

/// What has come of a head that is not complete.
#[derive(Debug, Default)]
struct Head {
    since: Option<Instant>,
    /// How many had been complete before.
    begun: u64,
    has_request_line: bool,
    is_late: bool,
    /// What is left of the spoiler that is read instead of what did not come.
    spoiler: &'static [u8],
}

#[derive(Debug)]
struct Linger {
    until: Instant,
    bytes: usize,
}

impl<S, F: Fn(Code)> Wire<S, F> {
    /// Over this socket.
    pub(crate) fn new(socket: S, line: Arc<Line>, refused: F) -> Self {
        let last_read = Instant::now();
        Self {
            socket,
            line,
            refused,
            timer: Box::pin(sleep_until(last_read + IDLE_TIME_MAX)),
            head: Head::default(),
            last_read,
            is_http2: false,
            refusal: Bytes::new(),
            linger: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.line.under_way.load(Relaxed) == 0
    }

    fn has_read(&mut self, bytes: &[u8]) {
        self.last_read = Instant::now();
        let begun = self.line.begun.load(Relaxed);
        self.is_http2 |= begun == 0 && bytes.starts_with(HTTP2_PREFACE);
        if self.is_http2 || !self.is_idle() {
            return;
        }
        if self.head.since.is_none() || self.head.begun != begun {
            self.head = Head { since: Some(self.last_read), begun, ..Head::default() };
        }
        self.head.has_request_line |= bytes.contains(&b'\n');
    }

    /// Until when something has to come.
    fn deadline(&self) -> Instant {
        let is_head_begun = self.head.begun == self.line.begun.load(Relaxed) && !self.is_http2;
        match self.head.since.filter(|_| is_head_begun && self.is_idle()) {
            Some(since) => since + HEAD_TIME_MAX,
            None => self.last_read + IDLE_TIME_MAX,
        }
    }

    /// Whether nothing has come for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.deadline();
            // It may ring too early, never too late: requests that follow each other need not set it anew.
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if !self.is_idle() {
                self.last_read = now;
            }
            if self.deadline() <= now {
                return Poll::Ready(());
            }
            let deadline = self.deadline();
            self.timer.as_mut().reset(deadline);
        }
    }

    /// If hyper writes a bare refusal, takes it, and has a problem sent instead.
    fn replace(&mut self, written: &[u8]) -> bool {
        let Some((mut code, mut detail)) = refused_by_hyper(written) else { return false };
        if self.head.is_late {
            (code, detail) =
                (Code::REQUEST_TIMEOUT, format!("the head did not arrive within {} s", HEAD_TIME_MAX.as_secs()));
        } else if code == Code::HEADERS_TOO_LARGE && !self.head.has_request_line {
            (code, detail) = (Code::URI_TOO_LONG, "the request line is too long".to_owned());
        }
        (self.refused)(code);
        let body = Problem::new(code, detail).to_json();
        let status = http_status(code);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n",
            body.len()
        );
        self.refusal = [head.as_bytes(), &body].concat().into();
        self.line.is_cut.store(true, Relaxed);
        true
    }
}

/// The code of a bare refusal, and what is wrong. Answers of requests have a body, and theirs is JSON, in which no line
/// ends with a carriage return.
fn refused_by_hyper(written: &[u8]) -> Option<(Code, String)> {
    let head = written.strip_prefix(b"HTTP/1.1 4").filter(|rest| rest.ends_with(b"\r\n\r\n"))?;
    let head = str::from_utf8(head).ok()?;
    if !head.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    match head.get(..2)? {
        "00" => Some((Code::MALFORMED, "the head of the request is not as HTTP wants it".to_owned())),
        "14" => Some((Code::URI_TOO_LONG, "the request line is too long".to_owned())),
        "31" => {
            let detail = format!(
                "the head of a request may have {HEADERS_MAX} header lines and {HEAD_BYTES_MAX} bytes, this one has more"
            );
            Some((Code::HEADERS_TOO_LARGE, detail))
        }
        _ => None,
    }
}

fn http_status(code: Code) -> warp::http::StatusCode {
    warp::http::StatusCode::from_u16(code.status).expect("the table of codes holds only HTTP statuses")
}

impl<S: AsyncRead + Unpin, F: Fn(Code) + Unpin> AsyncRead for Wire<S, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.head.spoiler.is_empty() {
            let (now, later) = wire.head.spoiler.split_at(buffer.remaining().min(wire.head.spoiler.len()));
            buffer.put_slice(now);
            wire.head.spoiler = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(outcome) = Pin::new(&mut wire.socket).poll_read(cx, buffer) {
            wire.has_read(&buffer.filled()[before..]);
            return Poll::Ready(outcome);
        }
        ready!(wire.poll_patience(cx));
        // Nothing is an end; a head that has begun is refused.
        let is_head_begun = wire.head.since.is_some() && wire.head.begun == wire.line.begun.load(Relaxed);
        if is_head_begun && !wire.is_http2 && !wire.head.is_late {
            (wire.head.is_late, wire.head.spoiler) = (true, SPOILER);
            return Pin::new(wire).poll_read(cx, buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: Fn(Code) + Unpin> AsyncWrite for Wire<S, F> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if wire.replace(bytes) {
            Poll::Ready(Ok(bytes.len()))
        } else {
            Pin::new(&mut wire.socket).poll_write(cx, bytes)
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        match slices {
            [bytes] if wire.replace(bytes) => Poll::Ready(Ok(bytes.len())),
            _ => Pin::new(&mut wire.socket).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        while wire.refusal.has_remaining() {
            let written = ready!(Pin::new(&mut wire.socket).poll_write(cx, &wire.refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            wire.refusal.advance(written);
        }
        Pin::new(&mut wire.socket).poll_flush(cx)
    }

    /// Ends the connection. A client that is still sending is waited for: a socket that is closed while there is
    /// something to read resets the connection, and the client would never see the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let wire = self.get_mut();
        if wire.linger.is_none() {
            ready!(Pin::new(&mut wire.socket).poll_shutdown(cx))?;
            if !wire.line.is_cut.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let until = Instant::now() + LINGER_TIME_MAX;
            wire.timer.as_mut().reset(until);
            wire.linger = Some(Linger { until, bytes: 0 });
        }
        let Some(linger) = &mut wire.linger else { return Poll::Ready(Ok(())) };
        let mut scratch = [0; 8_192];
        while linger.bytes < LINGER_BYTES_MAX && Instant::now() < linger.until {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut wire.socket).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => linger.bytes += buffer.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => ready!(wire.timer.as_mut().poll(cx)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use warp::http::Response;

    use super::*;

    /// A server that answers every request with nothing, and the codes of those that it could not read.
    fn serve(limit: usize) -> (DuplexStream, Arc<Mutex<Vec<Code>>>) {
        let (client, socket) = duplex(limit);
        let refused = Arc::<Mutex<Vec<Code>>>::default();
        let (heard, line) = (Arc::clone(&refused), Arc::<Line>::default());
        let wire = Wire::new(socket, Arc::clone(&line), move |code| heard.lock().unwrap().push(code));
        let answer = service_fn(move |_| {
            let exchange = line.begin();
            async move {
                drop(exchange);
                Ok::<_, std::convert::Infallible>(Response::new(warp::reply::Response::default().into_body()))
            }
        });
        tokio::spawn(async move {
            let server = crate::server::connections(TokioExecutor::new());
            let _ended = server.serve_connection(TokioIo::new(wire), answer).await;
        });
        (client, refused)
    }

    async fn rest(client: &mut DuplexStream) -> String {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_http_is_refused_with_a_problem() {
        let long_line = format!("GET /{} HTTP/1.1\r\nHost: shop\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let long_head = format!("GET / HTTP/1.1\r\nHost: shop\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        for (request, status, code) in [
            ("nonsense\r\n\r\n", 400, Code::MALFORMED),
            ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", 400, Code::MALFORMED),
            ("GET / HTTP/3.7\r\n\r\n", 400, Code::MALFORMED),
            ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, Code::MALFORMED),
            (&long_line, 414, Code::URI_TOO_LONG),
            (&long_head, 431, Code::HEADERS_TOO_LARGE),
            (&many, 431, Code::HEADERS_TOO_LARGE),
        ] {
            let (mut client, refused) = serve(65_536);
            client.write_all(request.as_bytes()).await.unwrap();
            let answer = rest(&mut client).await;
            let first: String = request.chars().take(40).collect();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("content-type: application/problem+json"), "{first}: {answer}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{first}: {answer}");
            assert!(body.contains(&format!("\"code\":\"{}\"", code.name)), "{first}: {answer}");
            assert_eq!(*refused.lock().unwrap(), [code], "{first}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_is_refused_in_time_and_silence_is_ended() {
        let parts = ["G", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\nHost: sh", "\r\n", "PRI * HTT"];
        // The first one on its connection, and one behind a request that was answered.
        for (part, is_first) in parts.into_iter().flat_map(|part| [(part, true), (part, false)]) {
            let (mut client, _) = serve(65_536);
            if !is_first {
                client.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await.unwrap();
                let mut answered = [0; 16];
                client.read_exact(&mut answered).await.unwrap();
            }
            let begin = Instant::now();
            for byte in part.as_bytes() {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let answer = rest(&mut client).await;
            assert!(answer.contains("HTTP/1.1 408 Request Timeout\r\n"), "{part:?}: {answer}");
            assert!(answer.contains("\"code\":\"request_timeout\""), "{part:?}: {answer}");
            let took = begin.elapsed();
            assert!(took >= HEAD_TIME_MAX && took < HEAD_TIME_MAX + 2 * LINGER_TIME_MAX, "{part:?}: {took:?}");
        }
        let (mut silent, refused) = serve(65_536);
        let begin = Instant::now();
        assert_eq!(rest(&mut silent).await, "");
        assert_eq!((begin.elapsed().as_secs(), refused.lock().unwrap().len()), (IDLE_TIME_MAX.as_secs(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_reads_why_it_is_not_listened_to() {
        let (mut client, _) = serve(1_024);
        let request = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(100_000));
        // Far more than what the server reads of it, or has room for.
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(rest(&mut client).await.contains("headers_too_large"));
    }
}
