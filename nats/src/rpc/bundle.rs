//! Bundles: requests of many callers to the doors of one kind as one NATS message, and answers to many
//! callers of one bridge as another. At full load one message carries some fifty of them.
//!
//! A bundle is a MessagePack map with field names. Requests go to `shop.<kind>.bundle`, and are numbered
//! by who asks; the message's reply subject is `<inbox>.b<number of the bundle>`. The answer to a
//! request goes to `<inbox>.<number>` by itself, as any answer does, or with others to `<inbox>.answers`.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_domain::{
    caller::Reach,
    encode::{self, encode},
    version::Version,
};

use crate::{
    header::trace_context,
    rpc::{
        request::{Conditions, Reply, Request, code_of},
        service::{Incoming, Response},
    },
};

/// Where, behind an inbox, bundles of answers go.
pub(crate) const ANSWERS: &str = "answers";
/// What comes before the last part of inboxes whose owner takes bundles of answers.
const TAKES_BUNDLES: &str = "shop";
/// What a request or an answer has in a bundle beside its variable parts, in bytes, at most; a ticket has a hundred.
const OVERHEAD_BYTES: usize = 256;

/// Where answers to bundled requests come in, of a client whose inboxes begin so: unlike any other.
pub(crate) fn new_inbox(inboxes: &str) -> String {
    format!("{inboxes}.{TAKES_BUNDLES}.{}", uuid::Uuid::new_v4().simple())
}

/// The inbox and the number of the request, if the answer to it may be part of a bundle.
pub(crate) fn parts(reply_to: &str) -> Option<(&str, u64)> {
    let (inbox, number) = reply_to.rsplit_once('.')?;
    let takes_bundles = inbox.rsplit('.').nth(1) == Some(TAKES_BUNDLES);
    Some((inbox, number.parse().ok()?)).filter(|_| takes_bundles)
}

#[derive(Serialize, Deserialize)]
struct Requests<'a> {
    #[serde(borrow)]
    requests: Vec<Numbered<'a>>,
}

/// A request in a bundle; see [`Request`].
#[derive(Serialize, Deserialize)]
struct Numbered<'a> {
    number: u64,
    target: &'a str,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    /// The name of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<Reach>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(default)]
    respond_async: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    if_match: Vec<&'a str>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    if_none_match: Vec<&'a str>,
}

/// About how many bytes a request adds to a bundle.
pub(crate) fn request_bytes(request: &Request) -> usize {
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let headers = optional(&request.idempotency_key) + optional(&request.traceparent) + request.conditions.bytes();
    request.subject.len() + request.body.len() + headers + OVERHEAD_BYTES
}

/// A bundle of numbered requests, whose subjects all begin with `prefix` (`shop.<kind>.`).
pub(crate) fn encode_requests<'a>(prefix: &str, requests: impl Iterator<Item = (u64, &'a Request)>) -> Bytes {
    let numbered = |(number, request): (u64, &'a Request)| Numbered {
        number,
        target: request.subject.get(prefix.len()..).unwrap_or_default(),
        body: &request.body,
        caller: request.caller.as_ref().map(|caller| caller.name.as_str()),
        reach: request.caller.as_ref().map(|caller| caller.reach),
        idempotency_key: request.idempotency_key.as_deref(),
        traceparent: request.traceparent.as_deref(),
        respond_async: request.respond_async,
        ticket: request.ticket.as_ref().map(|ticket| ticket.to_string().into()),
        if_match: request.conditions.if_match.iter().map(String::as_str).collect(),
        if_none_match: request.conditions.if_none_match.iter().map(String::as_str).collect(),
    };
    encode(&Requests { requests: requests.map(numbered).collect() }).into()
}

/// The requests of a bundle, whose message wants its answer at `reply_to`; none when it is no bundle. Where the message
/// itself is of a caller, so is each of them, whatever it says: the server has let that caller speak, and no other.
pub(crate) fn decode_requests(
    payload: &Bytes,
    reply_to: Option<&str>,
    speaker: Option<&(String, Reach)>,
) -> Option<Vec<Incoming>> {
    let inbox = reply_to?.rsplit_once('.')?.0;
    let Requests { requests } = encode::decode(payload).ok()?;
    let incoming = |request: Numbered<'_>| Incoming {
        target: request.target.to_owned(),
        caller: speaker.cloned().or(request.caller.map(|name| (name.to_owned(), request.reach.unwrap_or_default()))),
        body: payload.slice_ref(request.body),
        inbox: Some(format!("{inbox}.{}", request.number)),
        idempotency_keys: request.idempotency_key.into_iter().map(str::to_owned).collect(),
        traceparent: request.traceparent.and_then(trace_context).map(str::to_owned),
        respond_async: request.respond_async,
        tickets: request.ticket.into_iter().map(Cow::into_owned).collect(),
        conditions: Conditions {
            if_match: request.if_match.into_iter().map(str::to_owned).collect(),
            if_none_match: request.if_none_match.into_iter().map(str::to_owned).collect(),
        },
    };
    Some(requests.into_iter().map(incoming).collect())
}

#[derive(Serialize, Deserialize)]
struct Answers<'a> {
    #[serde(borrow)]
    answers: Vec<Answer<'a>>,
}

/// An answer in a bundle; see [`Response`]. Entities give them to writes, so none of them is only an acceptance.
#[derive(Serialize, Deserialize)]
struct Answer<'a> {
    number: u64,
    #[serde(with = "serde_bytes")]
    body: &'a [u8],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(default)]
    replayed: bool,
    #[serde(default)]
    ticketed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
}

/// About how many bytes an answer adds to a bundle.
pub(crate) fn response_bytes(response: &Response) -> usize {
    response.body.len() + OVERHEAD_BYTES
}

/// A bundle of answers to numbered requests.
pub(crate) fn encode_answers(answers: &[(u64, Response)]) -> Bytes {
    let answers = answers.iter().map(|(number, response)| Answer {
        number: *number,
        body: &response.body,
        error: response.error.map(|code| code.name),
        replayed: response.replayed,
        ticketed: response.ticketed,
        version: response.version,
    });
    encode(&Answers { answers: answers.collect() }).into()
}

/// The answers of a bundle; none when it is no bundle.
pub(crate) fn decode_answers(payload: &Bytes) -> Option<Vec<(u64, Reply)>> {
    let Answers { answers } = encode::decode(payload).ok()?;
    let reply = |answer: Answer<'_>| Reply {
        body: payload.slice_ref(answer.body),
        error: answer.error.map(code_of),
        replayed: answer.replayed,
        ticketed: answer.ticketed,
        version: answer.version,
        ..Reply::default()
    };
    Some(answers.into_iter().map(|answer| (answer.number, reply(answer))).collect())
}

/// Puts together what goes to the same place, and cuts it into bundles.
pub(crate) fn by_place<T>(
    items: impl IntoIterator<Item = T>,
    place_of: impl Fn(&T) -> &str,
    bytes_of: impl Fn(&T) -> usize,
    bytes_max: usize,
) -> Vec<(String, Vec<T>)> {
    let mut by_place: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for item in items {
        match by_place.get_mut(place_of(&item)) {
            Some(items) => items.push(item),
            None => drop(by_place.insert(place_of(&item).to_owned(), vec![item])),
        }
    }
    let cut = |(place, items): (String, Vec<T>)| {
        cut(items, &bytes_of, bytes_max).into_iter().map(move |bundle| (place.clone(), bundle))
    };
    by_place.into_iter().flat_map(cut).collect()
}

/// Cuts what is to be sent into bundles: each within the limits, with one item at least.
fn cut<T>(items: Vec<T>, bytes_of: impl Fn(&T) -> usize, bytes_max: usize) -> Vec<Vec<T>> {
    let mut bundles: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += bytes_of(&item);
        match bundles.last_mut() {
            Some(bundle) if bytes <= bytes_max => bundle.push(item),
            Some(_) | None => {
                bytes = bytes_of(&item);
                bundles.push(vec![item]);
            }
        }
    }
    bundles
}

#[cfg(test)]
mod tests {
    use shop_domain::{caller::Caller, problem::Code};

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn request(subject: &str, body: &str) -> Request {
        Request::new(subject.to_owned(), body.to_owned())
    }

    #[test]
    fn requests_come_out_of_a_bundle_as_they_went_in() {
        let place = Request {
            idempotency_key: Some("k".to_owned()),
            traceparent: Some(TRACE.to_owned()),
            respond_async: true,
            ticket: "t.1.2".parse().ok(),
            conditions: Conditions {
                if_match: vec!["\"7\"".to_owned(), "*".to_owned()],
                if_none_match: vec!["W/\"8\"".to_owned()],
            },
            caller: Some(Caller { name: "alice".parse().unwrap(), reach: Reach::Any }),
            ..request("shop.order.o-1.place", r#"{"user":"alice"}"#)
        };
        let get = request("shop.order.o-2.get", "");
        let bundle = encode_requests("shop.order.", [(7, &place), (9, &get)].into_iter());
        let [first, second] = &decode_requests(&bundle, Some("_INBOX.shop.b.b3"), None).unwrap()[..] else {
            panic!("two")
        };
        assert_eq!((&*first.target, &first.body[..]), ("o-1.place", &place.body[..]));
        assert_eq!((&first.caller, &second.caller), (&Some(("alice".to_owned(), Reach::Any)), &None));
        assert_eq!(
            (first.inbox.as_deref(), &first.idempotency_keys[..]),
            (Some("_INBOX.shop.b.7"), &["k".to_owned()][..])
        );
        assert_eq!((first.traceparent.as_deref(), first.respond_async), (Some(TRACE), true));
        assert_eq!((&first.tickets[..], &second.tickets[..]), (&["t.1.2".to_owned()][..], &[][..]));
        assert_eq!((&first.conditions, second.conditions.is_empty()), (&place.conditions, true));
        assert_eq!((&*second.target, second.inbox.as_deref()), ("o-2.get", Some("_INBOX.shop.b.9")));
        assert!(second.body.is_empty() && second.idempotency_keys.is_empty() && !second.respond_async);
    }

    #[test]
    fn in_a_bundle_of_one_caller_no_request_is_anothers() {
        let caller = Some(Caller { name: "bob".parse().unwrap(), reach: Reach::Any });
        let of_bob = Request { caller, ..request("shop.order.o-1.get", "") };
        let bundle =
            encode_requests("shop.order.", [(7, &of_bob), (8, &request("shop.order.o-2.get", ""))].into_iter());
        let alice = ("alice".to_owned(), Reach::Own);
        let requests = decode_requests(&bundle, Some("_INBOX.a.b3"), Some(&alice)).unwrap();
        assert!(requests.iter().all(|request| request.caller.as_ref() == Some(&alice)), "{requests:?}");
    }

    #[test]
    fn what_is_no_trace_context_does_not_come_in() {
        for wrong in ["a\nb", "a\rb", "00-1", "\0"] {
            let traceparent = Some(wrong.to_owned());
            let get = Request { traceparent, ..request("shop.order.o-2.get", "") };
            let bundle = encode_requests("shop.order.", [(7, &get)].into_iter());
            let requests = decode_requests(&bundle, Some("_INBOX.shop.b.b3"), None).unwrap();
            assert_eq!((requests.len(), requests[0].traceparent.as_deref()), (1, None), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_none() {
        let bundle = encode_requests("shop.order.", [(7, &request("shop.order.o-1.get", ""))].into_iter());
        assert!(decode_requests(&bundle, None, None).is_none());
        assert!(decode_requests(&bundle, Some("inbox"), None).is_none());
        for payload in [&b""[..], b"{}", b"\xff\xff", &bundle[..bundle.len() - 1]] {
            assert!(decode_requests(&Bytes::copy_from_slice(payload), Some("_INBOX.shop.b.b3"), None).is_none());
            assert!(decode_answers(&Bytes::copy_from_slice(payload)).is_none());
        }
    }

    #[test]
    fn answers_come_out_of_a_bundle_as_they_went_in() {
        let answer = |body: &str, error: Option<Code>, replayed| {
            let body = body.to_owned().into();
            let version = error.is_none().then(|| Version::ZERO.next());
            let (accepted, not_modified, traceparent) = (false, false, None);
            Response { body, error, replayed, accepted, ticketed: !replayed, version, not_modified, traceparent }
        };
        let answers = [(3, answer("{}", None, true)), (1, answer("no", Some(Code::OUT_OF_STOCK), false))];
        let read = decode_answers(&encode_answers(&answers)).unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|(at, reply)| {
                let number = reply.version.map(Version::number);
                (*at, &reply.body[..], reply.error, reply.replayed, reply.ticketed, number)
            })
            .collect();
        let expected =
            [(3, &b"{}"[..], None, true, false, Some(1)), (1, &b"no"[..], Some(Code::OUT_OF_STOCK), false, true, None)];
        assert_eq!(read, expected);
    }

    #[test]
    fn bundles_are_cut_at_their_limit_and_hold_one_item_at_least() {
        let cut = |sizes: &[usize]| cut(sizes.to_vec(), |size| *size, 10);
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[4, 6, 1, 12, 3, 7]), [vec![4, 6], vec![1], vec![12], vec![3, 7]]);
    }

    #[test]
    fn only_inboxes_of_bundled_requests_have_parts() {
        for inboxes in ["_INBOX", "_INBOX.UKEY.0f"] {
            let inbox = new_inbox(inboxes);
            assert_eq!(parts(&format!("{inbox}.17")), Some((&*inbox, 17)));
        }
        for other in ["_INBOX.abc.17", "_INBOX.shop.abc.b17", "_INBOX.shop.abc", "", "_INBOX.shop."] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
