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
    time::{Instant, Sleep, sleep, sleep_until},
};

use crate::limits::{Limit, Limits};

/// Most header lines of a request, which is what hyper takes without allocating.
pub(crate) const HEADERS_MAX: usize = 100;
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
    limits: Arc<Limits>,
    /// Hears of each limit that strikes, and of the code of each refusal that no request's answer is.
    told: F,
    timer: Pin<Box<Sleep>>,
    /// Until when the client has to take something of what is sent, while it takes nothing.
    unread: Option<Pin<Box<Sleep>>>,
    head: Head,
    last_read: Instant,
    /// How many heads had been complete then.
    begun: u64,
    /// How much of the beginning of HTTP/2 has come, as long as nothing else has.
    preface: Option<usize>,
    is_http2: bool,
    /// Whether the client speaks HTTP/2 where that is not switched on.
    is_foreign: bool,
    /// Whether nothing is waited for any more.
    is_over: bool,
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

impl<S, F: Fn(Option<Limit>, Option<Code>)> Wire<S, F> {
    /// Over this socket.
    pub(crate) fn new(socket: S, line: Arc<Line>, limits: Arc<Limits>, told: F) -> Self {
        let last_read = Instant::now();
        Self {
            socket,
            line,
            timer: Box::pin(sleep_until(last_read + limits.idle_time())),
            limits,
            told,
            unread: None,
            head: Head::default(),
            last_read,
            begun: 0,
            preface: Some(0),
            is_http2: false,
            is_foreign: false,
            is_over: false,
            refusal: Bytes::new(),
            linger: None,
        }
    }

    fn is_idle(&self) -> bool {
        self.line.under_way.load(Relaxed) == 0
    }

    fn has_read(&mut self, bytes: &mut [u8]) {
        let begun = self.line.begun.load(Relaxed);
        self.look_for_preface(bytes);
        // Over HTTP/2 something always comes and goes, if only to see whether the other end is there.
        if !self.is_http2 || self.is_in_use() {
            self.last_read = Instant::now();
        }
        if self.is_http2 || !self.is_idle() {
            return;
        }
        if self.head.since.is_none() || self.head.begun != begun {
            self.head = Head { since: Some(self.last_read), begun, ..Head::default() };
        }
        self.head.has_request_line |= bytes.contains(&b'\n');
    }

    /// Whether a request is under way, or was since this was asked last.
    fn is_in_use(&mut self) -> bool {
        let begun = self.line.begun.load(Relaxed);
        std::mem::replace(&mut self.begun, begun) != begun || !self.is_idle()
    }

    /// Where HTTP/2 is not switched on, hyper would end the connection without a word: it gets to read what it refuses.
    fn look_for_preface(&mut self, bytes: &mut [u8]) {
        let Some(seen) = self.preface else { return };
        let expected = &HTTP2_PREFACE[seen..];
        let length = expected.len().min(bytes.len());
        if bytes[..length] != expected[..length] {
            self.preface = None;
        } else if length < expected.len() {
            self.preface = Some(seen + length);
        } else {
            self.preface = None;
            self.is_http2 = self.limits.http2;
            self.is_foreign = !self.limits.http2;
            if let Some(first) = bytes.first_mut().filter(|_| self.is_foreign) {
                *first = SPOILER[0];
            }
        }
    }

    /// Until when something has to come.
    fn deadline(&self) -> Instant {
        let is_head_begun = self.head.begun == self.line.begun.load(Relaxed) && !self.is_http2;
        match self.head.since.filter(|_| is_head_begun && self.is_idle()) {
            Some(since) => since + self.limits.head_time(),
            None => self.last_read + self.limits.idle_time(),
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
            if self.is_in_use() {
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
        let Some(mut code) = refused_by_hyper(written) else { return false };
        let head_bytes_max = self.limits.head_bytes_max;
        let (mut limit, mut detail) = match code {
            Code::HEADERS_TOO_LARGE => (
                Some(Limit::HeadBytes),
                format!(
                    "the head of a request may have {HEADERS_MAX} header lines and {head_bytes_max} bytes, this one has more"
                ),
            ),
            Code::URI_TOO_LONG => (Some(Limit::HeadBytes), "the request line is too long".to_owned()),
            _ => (None, "the head of the request is not as HTTP wants it".to_owned()),
        };
        if self.head.is_late {
            limit = Some(Limit::HeadTime);
            let detail_of_time = format!("the head did not arrive within {} ms", self.limits.head_ms);
            (code, detail) = (Code::REQUEST_TIMEOUT, detail_of_time);
        } else if self.is_foreign {
            (limit, detail) = (Some(Limit::Http2), "HTTP/2 is not switched on here; come with HTTP/1.1".to_owned());
        } else if code == Code::HEADERS_TOO_LARGE && !self.head.has_request_line {
            (code, detail) = (Code::URI_TOO_LONG, "the request line is too long".to_owned());
        }
        (self.told)(limit, Some(code));
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

    /// Whether the client has taken nothing for so long that the connection ends.
    fn is_unread(&mut self, cx: &mut Context<'_>) -> bool {
        let idle_time = self.limits.idle_time();
        let timer = self.unread.get_or_insert_with(|| Box::pin(sleep(idle_time)));
        let is_over = timer.as_mut().poll(cx).is_ready();
        if is_over {
            (self.told)(Some(Limit::Unread), None);
        }
        is_over
    }

    /// What came of writing; of nothing at all, an error once that lasts too long.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return if self.is_unread(cx) { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending };
        }
        self.unread = None;
        written
    }
}

/// The code of a bare refusal. Answers of requests have a body, and theirs is JSON, in which no line
/// ends with a carriage return.
fn refused_by_hyper(written: &[u8]) -> Option<Code> {
    let head = written.strip_prefix(b"HTTP/1.1 4").filter(|rest| rest.ends_with(b"\r\n\r\n"))?;
    let head = str::from_utf8(head).ok()?;
    if !head.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    match head.get(..2)? {
        "00" => Some(Code::MALFORMED),
        "14" => Some(Code::URI_TOO_LONG),
        "31" => Some(Code::HEADERS_TOO_LARGE),
        _ => None,
    }
}

fn http_status(code: Code) -> warp::http::StatusCode {
    warp::http::StatusCode::from_u16(code.status).expect("the table of codes holds only HTTP statuses")
}

impl<S: AsyncRead + Unpin, F: Fn(Option<Limit>, Option<Code>) + Unpin> AsyncRead for Wire<S, F> {
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
            wire.has_read(&mut buffer.filled_mut()[before..]);
            return Poll::Ready(outcome);
        }
        ready!(wire.poll_patience(cx));
        // Nothing is an end; a head that has begun is refused.
        let is_head_begun = wire.head.since.is_some() && wire.head.begun == wire.line.begun.load(Relaxed);
        if is_head_begun && !wire.is_http2 && !wire.head.is_late {
            (wire.head.is_late, wire.head.spoiler) = (true, SPOILER);
            return Pin::new(wire).poll_read(cx, buffer);
        }
        if !std::mem::replace(&mut wire.is_over, true) {
            (wire.told)(Some(Limit::Idle), None);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: Fn(Option<Limit>, Option<Code>) + Unpin> AsyncWrite for Wire<S, F> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if wire.replace(bytes) {
            Poll::Ready(Ok(bytes.len()))
        } else {
            let written = Pin::new(&mut wire.socket).poll_write(cx, bytes);
            wire.written(cx, written)
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
            _ => {
                let written = Pin::new(&mut wire.socket).poll_write_vectored(cx, slices);
                wire.written(cx, written)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        while wire.refusal.has_remaining() {
            let written = Pin::new(&mut wire.socket).poll_write(cx, &wire.refusal);
            let written = ready!(wire.written(cx, written))?;
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
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use warp::http::Response;

    use super::*;

    const HEAD_BYTES_MAX: usize = 16_384;
    const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
    const IDLE_TIME_MAX: Duration = Duration::from_secs(75);

    type Told = Arc<Mutex<Vec<(Option<Limit>, Option<Code>)>>>;

    /// A server that answers every request with nothing, and what it told beside that.
    fn serve(limit: usize) -> (DuplexStream, Told) {
        serve_with(limit, "", Limits::default())
    }

    /// The same, which answers with this text.
    fn serve_with(limit: usize, text: &'static str, limits: Limits) -> (DuplexStream, Told) {
        let (client, socket) = duplex(limit);
        let (told, limits) = (Told::default(), Arc::new(limits));
        let (heard, line) = (Arc::clone(&told), Arc::<Line>::default());
        let tell = move |limit, code| heard.lock().unwrap().push((limit, code));
        let wire = Wire::new(socket, Arc::clone(&line), Arc::clone(&limits), tell);
        let answer = service_fn(move |_| {
            let exchange = line.begin();
            async move {
                drop(exchange);
                Ok::<_, std::convert::Infallible>(Response::new(warp::reply::Response::new(text.into()).into_body()))
            }
        });
        tokio::spawn(async move {
            let server = crate::server::connections(&limits);
            let _ended = server.serve_connection(TokioIo::new(wire), answer).await;
        });
        (client, told)
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
        let large = Some(Limit::HeadBytes);
        for (request, status, code, limit) in [
            ("nonsense\r\n\r\n", 400, Code::MALFORMED, None),
            ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n", 400, Code::MALFORMED, None),
            ("GET / HTTP/3.7\r\n\r\n", 400, Code::MALFORMED, None),
            ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, Code::MALFORMED, None),
            (&long_line, 414, Code::URI_TOO_LONG, large),
            (&long_head, 431, Code::HEADERS_TOO_LARGE, large),
            (&many, 431, Code::HEADERS_TOO_LARGE, large),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, Code::MALFORMED, Some(Limit::Http2)),
        ] {
            let (mut client, told) = serve(65_536);
            client.write_all(request.as_bytes()).await.unwrap();
            let answer = rest(&mut client).await;
            let first: String = request.chars().take(40).collect();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{first}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("content-type: application/problem+json"), "{first}: {answer}");
            assert!(head.contains(&format!("content-length: {}", body.len())), "{first}: {answer}");
            assert!(body.contains(&format!("\"code\":\"{}\"", code.name)), "{first}: {answer}");
            assert_eq!(*told.lock().unwrap(), [(limit, Some(code))], "{first}");
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
        let (mut silent, told) = serve(65_536);
        let begin = Instant::now();
        assert_eq!(rest(&mut silent).await, "");
        assert_eq!(begin.elapsed().as_secs(), IDLE_TIME_MAX.as_secs());
        assert_eq!(*told.lock().unwrap(), [(Some(Limit::Idle), None)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_still_sends_reads_why_it_is_not_listened_to() {
        let (mut client, _) = serve(1_024);
        let request = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(100_000));
        // Far more than what the server reads of it, or has room for.
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(rest(&mut client).await.contains("headers_too_large"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_that_comes_in_pieces_is_refused_all_the_same() {
        let (mut client, told) = serve(65_536);
        for piece in ["PRI * H", "TTP/", "2.0\r\n\r\nSM\r\n\r\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let answer = rest(&mut client).await;
        assert!(answer.contains("HTTP/2 is not switched on here"), "{answer}");
        assert_eq!(*told.lock().unwrap(), [(Some(Limit::Http2), Some(Code::MALFORMED))]);
    }

    #[tokio::test(start_paused = true)]
    async fn over_http2_a_connection_without_requests_is_idle_whatever_else_comes() {
        let (client, told) = serve_with(65_536, "", Limits { http2: true, idle_ms: 15_000, ..Limits::default() });
        let begin = Instant::now();
        // It says every second that it is still there, and never asks for anything.
        let (mut from, mut to) = tokio::io::split(client);
        to.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let pinging = tokio::spawn(async move {
            while to.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut rest = Vec::new();
        let _closed = from.read_to_end(&mut rest).await;
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        assert_eq!(*told.lock().unwrap(), [(Some(Limit::Idle), None)]);
        pinging.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_answer_is_not_waited_for_for_ever() {
        let (mut client, told) =
            serve_with(1_024, "a long answer that does not fit into the line; ", Limits::default());
        // None of the answers is read.
        let request = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        let begin = Instant::now();
        while client.write_all(request).await.is_ok() {}
        let took = begin.elapsed();
        assert!(took >= IDLE_TIME_MAX && took < IDLE_TIME_MAX + 2 * LINGER_TIME_MAX, "{took:?}");
        assert!(told.lock().unwrap().contains(&(Some(Limit::Unread), None)));
    }
}
