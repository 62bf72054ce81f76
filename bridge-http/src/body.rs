//! Request bodies: read with limits, passed on byte for byte.
//!
//! Owns what may come in. Must not know what it means; only the door looks inside.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use shop_domain::{
    problem::{Code, Problem},
    text::{QUOTED_LENGTH_MAX, quoted},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use warp::http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE, ORIGIN},
};

use crate::{head::Head, limits::Limits};

/// Largest body, in bytes: an order of 50 lines has about 8 KiB.
const BODY_BYTES_MAX: usize = 65_536;
/// How much of a body that nobody wants is read and thrown away, in bytes. A client that is cut off
/// while it sends may see a reset connection instead of the answer; beyond this it has to live with that.
const DISCARDED_BYTES_MAX: usize = 1_048_576;
/// What counts as the beginning of a body, in bytes: all of an order of 20 lines.
const BEGINNING_BYTES: usize = 4_096;
/// How long the answer waits for a body that nobody wants.
const DISCARD_TIME_MAX: Duration = Duration::from_secs(1);
/// How long such a body may outlast the answer.
const OUTLAST_TIME_MAX: Duration = Duration::from_secs(2);

/// The room for bodies that are arriving.
#[derive(Debug)]
pub(crate) struct Bodies {
    limits: Arc<Limits>,
    /// As many at a time as there may be connections: over HTTP/2 one connection has several.
    arriving: Semaphore,
    beginnings: Semaphore,
    rests: Semaphore,
}

/// What one body takes of that room.
#[derive(Debug)]
struct Taken<'a> {
    _place: SemaphorePermit<'a>,
    beginning: Option<SemaphorePermit<'a>>,
    rest: Option<SemaphorePermit<'a>>,
}

/// A body on its way in.
pub(crate) struct Arriving<S> {
    stream: S,
    declared: Option<usize>,
    received: usize,
    /// Whether all of it was read.
    is_over: bool,
    /// Whether no more of it is waited for.
    is_given_up: bool,
}

impl<S, B, E> Arriving<S>
where
    S: Stream<Item = Result<B, E>> + Unpin,
    B: Buf,
{
    /// What comes behind this head. Behind one that HTTP forbids nobody knows where it ends; and a client
    /// that waits for a word sends nothing when it gets the answer.
    pub(crate) fn new(stream: S, head: &Head) -> Self {
        let is_given_up = head.refusal.is_some() || head.awaits_word;
        Self { stream, declared: head.declared, received: 0, is_over: !head.has_body, is_given_up }
    }

    /// Whether all of it was read, so that the connection is where the next request begins.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Reads what is left of it, in vain, unless that is much or may never come.
    pub(crate) async fn discard(&mut self) {
        if self.is_over || self.is_given_up || self.declared.is_some_and(|length| length > DISCARDED_BYTES_MAX) {
            return;
        }
        self.drain(DISCARD_TIME_MAX).await;
    }

    /// Lets a client go on sending in vain for a while after the answer: over HTTP/2 a body that is dropped resets the
    /// stream, and with that some clients lose the answer (curl 7.88 is one).
    pub(crate) async fn outlast(mut self) {
        self.drain(OUTLAST_TIME_MAX).await;
    }

    async fn drain(&mut self, time_max: Duration) {
        let rest = async { while self.received <= DISCARDED_BYTES_MAX && matches!(self.next().await, Ok(Some(_))) {} };
        // Whoever is slow is cut off.
        let _ = timeout(time_max, rest).await;
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Box<Problem>> {
        match self.stream.next().await {
            Some(Ok(mut chunk)) => {
                let chunk = chunk.copy_to_bytes(chunk.remaining());
                self.received += chunk.len();
                Ok(Some(chunk))
            }
            Some(Err(_)) => {
                self.is_given_up = true;
                Err(problem(Code::MALFORMED, "the body broke off".to_owned()))
            }
            None => {
                self.is_over = true;
                Ok(None)
            }
        }
    }
}

/// Refuses what the head alone says of a body, before a client is told to go on with it.
pub(crate) fn check(headers: &HeaderMap, head: &Head) -> Result<(), Box<Problem>> {
    check_coding(headers)?;
    if head.declared.is_some_and(|length| length > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    // A page of another site can make a browser send a form, or nothing; for JSON its browser asks first.
    let is_typed = head.has_body || headers.contains_key(ORIGIN);
    if is_typed { check_content_type(headers) } else { Ok(()) }
}

impl Bodies {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        let half = limits.bodies_bytes_max as usize / 2;
        Self {
            arriving: Semaphore::new(limits.connections_max as usize),
            beginnings: Semaphore::new(half),
            rests: Semaphore::new(half),
            limits,
        }
    }

    /// How many bytes of bodies are arriving.
    pub(crate) fn bytes(&self) -> usize {
        let half = self.limits.bodies_bytes_max as usize / 2;
        2 * half - self.beginnings.available_permits() - self.rests.available_permits()
    }

    /// Reads the body of a request whose door takes JSON arguments. No body is no arguments.
    pub(crate) async fn read<S, B, E>(&self, arriving: &mut Arriving<S>) -> Result<Bytes, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        let mut body = Bytes::new();
        if !arriving.is_over {
            let (begin, mut taken) = (Instant::now(), self.begin()?);
            while let Some(chunk) = self.next(arriving, begin).await? {
                if arriving.received > BODY_BYTES_MAX {
                    return Err(too_large());
                }
                self.grow(&mut taken, body.len(), arriving.received)?;
                body = join(body, chunk);
            }
        }
        if !body.is_empty() {
            check_beginning(&body)?;
        }
        Ok(body)
    }

    async fn next<S, B, E>(&self, arriving: &mut Arriving<S>, begin: Instant) -> Result<Option<Bytes>, Box<Problem>>
    where
        S: Stream<Item = Result<B, E>> + Unpin,
        B: Buf,
    {
        match timeout_at(begin + self.limits.body_time(arriving.received), arriving.next()).await {
            Ok(chunk) => chunk,
            Err(_) => {
                arriving.is_given_up = true;
                let Limits { body_ms, body_rate_min, .. } = &*self.limits;
                let detail = format!(
                    "the body came too slowly: after {body_ms} ms, {body_rate_min} bytes have to come each second"
                );
                Err(problem(Code::REQUEST_TIMEOUT, detail))
            }
        }
    }

    fn begin(&self) -> Result<Taken<'_>, Box<Problem>> {
        let _place = self.arriving.try_acquire().map_err(|_| no_room())?;
        Ok(Taken { _place, beginning: None, rest: None })
    }

    /// Takes the room for what has come of a body, of which `before` bytes had come already.
    fn grow<'a>(&'a self, taken: &mut Taken<'a>, before: usize, now: usize) -> Result<(), Box<Problem>> {
        let beginning = now.min(BEGINNING_BYTES) - before.min(BEGINNING_BYTES);
        take(&self.beginnings, &mut taken.beginning, beginning)?;
        take(&self.rests, &mut taken.rest, now - before - beginning)
    }
}

fn take<'a>(room: &'a Semaphore, taken: &mut Option<SemaphorePermit<'a>>, bytes: usize) -> Result<(), Box<Problem>> {
    let bytes = u32::try_from(bytes).expect("a body that is larger was refused");
    let more = room.try_acquire_many(bytes).map_err(|_| no_room())?;
    match taken {
        Some(taken) => taken.merge(more),
        None => *taken = Some(more),
    }
    Ok(())
}

fn no_room() -> Box<Problem> {
    problem(Code::OVERLOADED, "as much is arriving as one bridge holds; nothing was done, try again".to_owned())
}

fn too_large() -> Box<Problem> {
    problem(Code::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY_BYTES_MAX} bytes, the largest allowed"))
}

/// A body nearly always comes in one piece, which is then not copied.
fn join(body: Bytes, chunk: Bytes) -> Bytes {
    if body.is_empty() {
        return chunk;
    }
    let mut joined = BytesMut::from(body);
    joined.extend_from_slice(&chunk);
    joined.freeze()
}

/// A body is read as it comes, so that one in another coding would be read as what it is not.
fn check_coding(headers: &HeaderMap) -> Result<(), Box<Problem>> {
    let lines = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = lines.flat_map(|line| line.to_str().unwrap_or("unreadable").split(',').map(str::trim));
    let other = codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    let Some(other) = other.map(|coding| coding.chars().take(QUOTED_LENGTH_MAX).collect::<String>()) else {
        return Ok(());
    };
    let detail = format!("the body must come as it is, not in the coding {}", quoted(&other));
    let refused = Problem::new(Code::UNSUPPORTED_MEDIA_TYPE, detail).fact("content_encoding", other);
    Err(Box::new(refused))
}

/// `application/json` or another JSON type (`application/…+json`), with any parameters but another charset than UTF-8.
/// There has to be one: a browser sends a form for a page, or a text, without asking first.
fn check_content_type(headers: &HeaderMap) -> Result<(), Box<Problem>> {
    let Some(given) = headers.get(CONTENT_TYPE) else {
        let detail = "the body must be application/json, and the header Content-Type has to say so";
        return Err(problem(Code::UNSUPPORTED_MEDIA_TYPE, detail.to_owned()));
    };
    let given = given.to_str().unwrap_or("unreadable").to_ascii_lowercase();
    let (media_type, parameters) = given.split_once(';').unwrap_or((&given, ""));
    let media_type = media_type.trim();
    let refuse = |what: &str| {
        let detail = format!("the body must be application/json in UTF-8, not {}", quoted(what));
        Err(problem(Code::UNSUPPORTED_MEDIA_TYPE, detail))
    };
    let is_json =
        media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    if !is_json {
        return refuse(media_type);
    }
    let mut charsets = parameters.split(';').filter_map(|parameter| parameter.trim().strip_prefix("charset="));
    match charsets.find(|charset| !["utf-8", "utf8", "us-ascii"].contains(&charset.trim_matches('"'))) {
        Some(charset) => refuse(charset),
        None => Ok(()),
    }
}

/// A door takes what begins like a map in MessagePack for MessagePack. Over HTTP everything is JSON,
/// questions and answers, so that this must not pass; what else is wrong with a body the door says.
fn check_beginning(body: &[u8]) -> Result<(), Box<Problem>> {
    match body.first() {
        Some(byte @ (0x80..=0x8f | 0xde | 0xdf)) => {
            let detail = format!(
                "the body is not JSON: it begins with the byte 0x{byte:02X}; send neither MessagePack nor anything compressed"
            );
            Err(Box::new(Problem::new(Code::MALFORMED, detail).fact("line", 1).fact("column", 1)))
        }
        Some(_) | None => Ok(()),
    }
}

fn problem(code: Code, detail: String) -> Box<Problem> {
    Box::new(Problem::new(code, detail))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, iter};

    use futures::stream;
    use warp::http::Request;

    use super::*;

    fn request(headers: &[(&str, &str)], has_body: bool) -> (HeaderMap, Head) {
        let mut request = Request::builder().header("host", "shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        (request.headers().clone(), Head::of(&request, has_body, None))
    }

    /// JSON, unless it is said what it is.
    async fn read_chunks(headers: &[(&str, &str)], chunks: Vec<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let is_typed = headers.iter().any(|(name, _)| *name == "content-type");
        let json = [("content-type", "application/json")];
        let headers = [headers, if is_typed { &[] } else { &json }].concat();
        let (headers, head) = request(&headers, !chunks.is_empty());
        let stream = stream::iter(chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk))));
        let mut arriving = Arriving::new(stream, &head);
        let read = async {
            check(&headers, &head)?;
            Bodies::new(Arc::default()).read(&mut arriving).await
        };
        read.await.map(|body| body.to_vec()).map_err(|problem| problem.code.name)
    }

    /// Whether a connection could go on behind a body that was refused.
    async fn is_over_after(headers: &[(&str, &str)], chunks: usize) -> bool {
        let (_, head) = request(headers, true);
        let chunk = Ok::<_, Infallible>(Bytes::from(vec![b' '; 65_536]));
        let mut arriving = Arriving::new(stream::iter(iter::repeat_n(chunk, chunks)), &head);
        arriving.discard().await;
        arriving.is_over()
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_read_in_vain_unless_it_is_long_or_waits() {
        assert!(is_over_after(&[], 16).await);
        assert!(!is_over_after(&[], 17).await);
        assert!(!is_over_after(&[("content-length", "1048577")], 1).await);
        assert!(!is_over_after(&[("expect", "100-Continue")], 1).await);
        assert!(!is_over_after(&[("transfer-encoding", "gzip, chunked")], 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_twice() {
        let (_, head) = request(&[("content-length", "2")], true);
        let begin = stream::iter([Ok::<_, Infallible>(Bytes::from("{"))]).chain(stream::pending());
        let mut arriving = Arriving::new(begin, &head);
        let (start, bodies) = (Instant::now(), Bodies::new(Arc::default()));
        assert_eq!(bodies.read(&mut arriving).await.unwrap_err().code, Code::REQUEST_TIMEOUT);
        arriving.discard().await;
        assert_eq!((start.elapsed().as_secs(), arriving.is_over()), (3, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_in_is_not_waited_for_and_one_that_keeps_the_rate_is() {
        let bodies = Bodies::new(Arc::default());
        for (bytes, expected) in [(1, Some(Code::REQUEST_TIMEOUT)), (900, Some(Code::REQUEST_TIMEOUT)), (1_024, None)] {
            let (_, head) = request(&[], true);
            // Eight times a second, after all the time that a body has beside.
            let pieces = stream::iter(0..64).then(move |number| async move {
                let pause = if number == 0 { 2_900 } else { 125 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
                Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))
            });
            let mut arriving = Arriving::new(Box::pin(pieces), &head);
            let read = bodies.read(&mut arriving).await;
            assert_eq!(read.err().map(|problem| problem.code), expected, "{bytes}");
            assert_eq!(bodies.bytes(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_that_take_all_room_do_not_keep_small_ones_out() {
        let limits = Limits { bodies_bytes_max: 131_072, ..Limits::default() };
        let bodies = Arc::new(Bodies::new(Arc::new(limits)));
        let (_, head) = request(&[], true);
        let arriving = |chunks: Vec<usize>, is_complete: bool| {
            let chunks = chunks.into_iter().map(|bytes| Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes])));
            let rest = if is_complete { stream::empty().left_stream() } else { stream::pending().right_stream() };
            Arriving::new(stream::iter(chunks).chain(rest), &head)
        };
        let slow = Arc::clone(&bodies);
        let mut never = arriving(vec![65_536], false);
        let slow = tokio::spawn(async move { slow.read(&mut never).await.map_err(|problem| problem.code) });
        tokio::task::yield_now().await;
        assert_eq!(bodies.bytes(), 65_536);
        // Something more than a beginning, for which something is left, and then nothing.
        assert!(bodies.read(&mut arriving(vec![4_000, 4_000], true)).await.is_ok());
        let refused = bodies.read(&mut arriving(vec![8_192, 1], true)).await.unwrap_err();
        assert_eq!(refused.code, Code::OVERLOADED);
        assert!(bodies.read(&mut arriving(vec![BEGINNING_BYTES], true)).await.is_ok());
        assert_eq!(slow.await.unwrap(), Err(Code::REQUEST_TIMEOUT));
        assert_eq!(bodies.bytes(), 0);
        assert!(bodies.read(&mut arriving(vec![65_536], true)).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_comes_as_it_is_and_not_in_a_coding() {
        let body = || vec![b"{}".to_vec()];
        for identity in ["identity", "Identity", "", "identity, identity"] {
            assert!(read_chunks(&[("content-encoding", identity)], body()).await.is_ok(), "{identity}");
        }
        for other in ["gzip", "br", "nonsense", "identity, gzip", "gzip, identity", "deflate"] {
            let read = read_chunks(&[("content-encoding", other)], body()).await;
            assert_eq!(read, Err("unsupported_media_type"), "{other}");
        }
        let lines = [("content-encoding", "identity"), ("content-encoding", "gzip")];
        assert_eq!(read_chunks(&lines, body()).await, Err("unsupported_media_type"));
        let (headers, head) = request(&[("content-encoding", &"x".repeat(1_000))], false);
        let refused = check(&headers, &head).unwrap_err();
        assert_eq!(refused.facts["content_encoding"], "x".repeat(QUOTED_LENGTH_MAX));
    }

    #[tokio::test]
    async fn a_body_passes_byte_for_byte_however_it_is_cut() {
        let chunks = [" {\"a\"", ":1, ", "\"b\" : 2}\n"].map(|chunk| chunk.as_bytes().to_vec()).to_vec();
        assert_eq!(read_chunks(&[], chunks).await.unwrap(), b" {\"a\":1, \"b\" : 2}\n");
        assert_eq!(read_chunks(&[("content-type", "text/plain")], vec![]).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn sixty_four_kibibytes_pass_and_one_byte_more_does_not() {
        let object = |length: usize| [b"{".to_vec(), iter::repeat_n(b' ', length - 1).collect()].to_vec();
        assert_eq!(read_chunks(&[], object(65_536)).await.unwrap().len(), 65_536);
        assert_eq!(read_chunks(&[], object(65_537)).await, Err("payload_too_large"));
        assert_eq!(read_chunks(&[], object(5_000_000)).await, Err("payload_too_large"));
        assert_eq!(read_chunks(&[("content-length", "5000000")], vec![]).await, Err("payload_too_large"));
    }

    #[tokio::test]
    async fn only_json_types_are_taken() {
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/merge-patch+json",
        ] {
            assert!(read_chunks(&[("content-type", json)], vec![b"{}".to_vec()]).await.is_ok(), "{json}");
        }
        for other in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/msgpack",
            "text/x+json",
            "",
            "application/json, text/plain",
            "application/json; charset=utf-16",
            "application/json; a=b; charset=iso-8859-1",
        ] {
            let read = read_chunks(&[("content-type", other)], vec![b"{}".to_vec()]).await;
            assert_eq!(read, Err("unsupported_media_type"), "{other}");
        }
    }

    #[test]
    fn a_body_says_what_it_is_and_so_does_a_page_that_sends_none() {
        let checked = |headers: &[(&str, &str)], has_body| {
            let (headers, head) = request(headers, has_body);
            check(&headers, &head).err().map(|problem| problem.code.name)
        };
        let (origin, json) = (("origin", "http://shop"), ("content-type", "application/json"));
        for (headers, has_body) in
            [(&[][..], false), (&[json], true), (&[origin, json], false), (&[origin, json], true)]
        {
            assert_eq!(checked(headers, has_body), None, "{headers:?}");
        }
        let text = ("content-type", "text/plain");
        for (headers, has_body) in [(&[][..], true), (&[origin], false), (&[origin], true), (&[origin, text], false)] {
            assert_eq!(checked(headers, has_body), Some("unsupported_media_type"), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn what_a_door_would_take_for_message_pack_does_not_pass() {
        for (body, answer) in [
            (&b"[1]"[..], None),
            (b" \"{}\"", None),
            (b"quantity=10", None),
            (b"\xef\xbb\xbf{}", None),
            (b"\x81\xa6amount\x01", Some("malformed")),
            (b"\x80", Some("malformed")),
            (b"\xdf\0\0\0\0", Some("malformed")),
            // This is how brotli may begin.
            (b"\x8b\x02\x80{}\x03", Some("malformed")),
        ] {
            assert_eq!(read_chunks(&[], vec![body.to_vec()]).await.err(), answer, "{body:?}");
        }
    }
}
