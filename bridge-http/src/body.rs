//! Request bodies: read with limits, passed on byte for byte.
//!
//! Owns what may come in. Must not know what it means; only the door looks inside.

use std::{pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use shop_domain::{
    problem::{Code, Problem},
    text::quoted,
};
use warp::http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

/// Largest body, in bytes: an order of 50 lines has about 8 KiB.
const BODY_BYTES_MAX: usize = 65_536;
/// How much of a body that is too large is read and thrown away, in bytes. A client that is cut off
/// while it sends sees a reset connection instead of the answer; beyond this it has to live with that.
const DISCARDED_BYTES_MAX: usize = 1_048_576;
/// How long a body may take to arrive: 64 KiB need less on any line that a shop is used over.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(10);

/// Reads the body of a request whose door takes JSON arguments. No body is no arguments.
pub(crate) async fn read<S, B, E>(headers: &HeaderMap, stream: S) -> Result<Bytes, Box<Problem>>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let body = tokio::time::timeout(ARRIVAL_TIME_MAX, collect(headers, stream)).await.unwrap_or_else(|_| {
        Err(problem(Code::MALFORMED, format!("the body did not arrive within {} s", ARRIVAL_TIME_MAX.as_secs())))
    })?;
    if !body.is_empty() {
        check_content_type(headers)?;
        check_beginning(&body)?;
    }
    Ok(body)
}

async fn collect<S, B, E>(headers: &HeaderMap, stream: S) -> Result<Bytes, Box<Problem>>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let too_large = || {
        problem(Code::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY_BYTES_MAX} bytes, the largest allowed"))
    };
    if declared_length(headers) > DISCARDED_BYTES_MAX {
        return Err(too_large());
    }
    let mut stream = pin!(stream);
    let mut received = 0;
    let mut body = Bytes::new();
    while let Some(chunk) = stream.next().await {
        let mut chunk = chunk.map_err(|_| problem(Code::MALFORMED, "the body broke off".to_owned()))?;
        let chunk = chunk.copy_to_bytes(chunk.remaining());
        received += chunk.len();
        if received > DISCARDED_BYTES_MAX {
            break;
        }
        if received <= BODY_BYTES_MAX {
            body = join(body, chunk);
        }
    }
    if received > BODY_BYTES_MAX { Err(too_large()) } else { Ok(body) }
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

fn declared_length(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// `application/json` or another JSON type (`application/…+json`), with any parameters. None at
/// all is taken for JSON.
fn check_content_type(headers: &HeaderMap) -> Result<(), Box<Problem>> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or("unreadable");
    let media_type = given.split(';').next().unwrap_or(given).trim().to_ascii_lowercase();
    let is_json =
        media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let detail = format!("the body must be application/json, not {}", quoted(&media_type));
    Err(problem(Code::UNSUPPORTED_MEDIA_TYPE, detail))
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

    use super::*;

    async fn read_chunks(headers: &[(&str, &str)], chunks: Vec<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let stream = stream::iter(chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk))));
        read(&headers, stream).await.map(|body| body.to_vec()).map_err(|problem| problem.code.name)
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
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(read_chunks(&[("content-type", json)], vec![b"{}".to_vec()]).await.is_ok(), "{json}");
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/msgpack", "text/x+json", ""] {
            let read = read_chunks(&[("content-type", other)], vec![b"{}".to_vec()]).await;
            assert_eq!(read, Err("unsupported_media_type"), "{other}");
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
