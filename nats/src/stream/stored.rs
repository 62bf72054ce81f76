//! What a stream stores, as the server that leads it says.
//!
//! The client reads the headers of what it gets, and gives up the message where it cannot (async-nats 0.51); of one that
//! comes over a subscription it gives up the connection. Every client that may publish may have stored such headers. So what is
//! asked for by its place is read here: headers that cannot be read are none.

use async_nats::jetstream::{Context, ErrorCode, message::StreamMessage, response::Response, stream::RawMessage};
use serde::Deserialize;
use serde_json::{Value, json};

/// The message at a sequence, from a server that takes itself for the stream's leader; none if it does not hold it.
pub(crate) async fn message_at(
    context: &Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<StreamMessage>, String> {
    ask(context, stream, &json!({ "seq": sequence })).await
}

/// The last message with that subject, from such a server; none if there is none, or no such stream.
pub(crate) async fn last_of(context: &Context, stream: &str, subject: &str) -> Result<Option<StreamMessage>, String> {
    ask(context, stream, &json!({ "last_by_subj": subject })).await
}

async fn ask(context: &Context, stream: &str, which: &Value) -> Result<Option<StreamMessage>, String> {
    #[derive(Deserialize)]
    struct Found {
        message: RawMessage,
    }
    let found: Result<Response<Found>, _> = context.request(format!("STREAM.MSG.GET.{stream}"), which).await;
    match found.map_err(|error| error.to_string())? {
        Response::Ok(Found { message }) => read(message).map(Some),
        Response::Err { error } if is_nothing(error.error_code()) => Ok(None),
        Response::Err { error } => Err(error.to_string()),
    }
}

fn is_nothing(error: ErrorCode) -> bool {
    [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_NOT_FOUND].contains(&error)
}

fn read(message: RawMessage) -> Result<StreamMessage, String> {
    let sequence = message.sequence;
    message.clone().try_into().or_else(|error| {
        tracing::warn!(
            "the headers of what is stored at sequence {sequence} cannot be read, and count as none: {error}"
        );
        RawMessage { headers: None, ..message }.try_into().map_err(|error: async_nats::Error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_cannot_be_read_are_none() {
        // In base64: "NATS/1.0\r\n<header>\r\n\r\n", and "hello".
        for (headers, count) in [
            ("TkFUUy8xLjANClg6IGENCg0K", 1),
            ("TkFUUy8xLjANClg6IGENYg0KDQo=", 0),
            ("TkFUUy8xLjANCm5vIGNvbG9uDQoNCg==", 0),
            ("/////w==", 0),
            ("no base64", 0),
        ] {
            let stored = json!({
                "subject": "shop.log.order.0", "seq": 7, "data": "aGVsbG8=", "hdrs": headers,
                "time": "2026-11-22T15:15:12.150Z",
            });
            let message = read(serde_json::from_value(stored).unwrap()).unwrap();
            assert_eq!((message.sequence, &message.payload[..], message.headers.len()), (7, &b"hello"[..], count));
        }
    }
}
