//! Which entity a request is about: what the caller says, or an id that a retry arrives at again.

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use shop_domain::{
    caller::{Caller, Reach},
    id::{CallerKey, Id, InvalidId, InvalidKey},
    kind::Kind,
    problem::{Code, Problem},
    version::Precondition,
};
use shop_nats::rpc::request::Conditions;
use uuid::Uuid;
use warp::http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH},
};

/// Under this the ids that follow from idempotency keys are made. It must never change: a retry after
/// an update has to arrive at the same entity.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0b_6d3c_58a1_4e53_9d0b_27c1_94aa_e1f7);

/// The same for the keys that belong to a customer.
const NAMESPACE_BY_USER: Uuid = Uuid::from_u128(0x1d94_0c7e_e2b3_4f68_a5d1_8837_6fb0_29ce);

/// The same for the keys that belong to a caller who is not the customer.
const NAMESPACE_BY_CALLER: Uuid = Uuid::from_u128(0x8a52_f7c4_13d9_4b0e_b6e8_52f1_0d7a_934b);

/// The entity that the path names. It goes into a subject, so that it is checked here and not
/// only by the door.
pub(crate) fn existing(parameter: &str, encoded: &str) -> Result<Id, Box<Problem>> {
    let pointer = format!("/{parameter}");
    let id = percent_decode_str(encoded).decode_utf8().map_err(|_| invalid(&pointer, "must be UTF-8"))?;
    id.parse().map_err(|error: InvalidId| invalid(&pointer, &error.to_string()))
}

/// The entity that a request creates.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum New {
    /// This one.
    Named(Id),
    /// An order that follows from a key.
    OfKey(OfKey),
}

/// The order that follows from a customer's key, which depends on [whose keys are](shop_domain::logic::Logic::V3).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OfKey {
    /// Who gave the key.
    pub(crate) user: Id,
    /// If all customers share them.
    pub(crate) shared: Id,
    /// If each has their own.
    pub(crate) own: Id,
}

/// The entity that the request creates: the body's `id`; without one, a customer's wallet has the customer's name, and
/// anything else follows from the idempotency key, which is the caller's own; without that, a fresh one. A body that
/// cannot be read, or whose `id` is not even a text, goes to the door under such an id all the same: the door says what
/// is wrong with it.
pub(crate) fn new(
    kind: Kind,
    body: &[u8],
    key: Option<&CallerKey>,
    caller: Option<&Caller>,
) -> Result<New, Box<Problem>> {
    #[derive(Default, Deserialize)]
    struct Peek {
        #[serde(default)]
        id: Value,
        #[serde(default)]
        user: Value,
    }
    let Peek { id, user } = serde_json::from_slice(body).unwrap_or_default();
    if let Value::String(id) = id {
        return id.parse().map(New::Named).map_err(|error: InvalidId| invalid("/id", &error.to_string()));
    }
    if let (Kind::Wallet, Some(Caller { name, reach: Reach::Own })) = (kind, caller) {
        return Ok(New::Named(name.clone()));
    }
    let Some(key) = key.map(CallerKey::as_str) else { return Ok(New::Named(id_of(Uuid::now_v7()))) };
    if let Some(Caller { name, .. }) = caller.filter(|caller| user.as_str() != Some(caller.name.as_str())) {
        // For a customer, or for nobody: that is told apart by a part of its own, which may be empty.
        let user = user.as_str().unwrap_or_default();
        let own = Uuid::new_v5(&NAMESPACE_BY_CALLER, format!("{kind}/{name}/{user}/{key}").as_bytes());
        return Ok(New::Named(id_of(own)));
    }
    let shared = id_of(Uuid::new_v5(&NAMESPACE, format!("{kind}/{key}").as_bytes()));
    match user.as_str().and_then(|user| user.parse::<Id>().ok()) {
        Some(user) if kind == Kind::Order => {
            let own = id_of(Uuid::new_v5(&NAMESPACE_BY_USER, format!("{kind}/{user}/{key}").as_bytes()));
            Ok(New::OfKey(OfKey { user, shared, own }))
        }
        Some(_) | None => Ok(New::Named(shared)),
    }
}

fn id_of(uuid: Uuid) -> Id {
    uuid.to_string().parse().expect("a UUID consists of digits, letters and hyphens")
}

/// The caller's idempotency key.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<CallerKey>, Box<Problem>> {
    const HEADER: &str = "idempotency-key";
    const POINTER: &str = "/Idempotency-Key";
    let mut given = headers.get_all(HEADER).iter();
    let Some(key) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(invalid(POINTER, "must be given once"));
    }
    let key = key.to_str().map_err(|_| invalid(POINTER, "must be ASCII"))?;
    key.parse().map(Some).map_err(|error: InvalidKey| invalid(POINTER, &error.to_string()))
}

/// What the caller demands of the entity: all lines, of which the bridge judges only whether they can be read.
pub(crate) fn conditions(headers: &HeaderMap) -> Result<Conditions, Box<Problem>> {
    // What is no ASCII may stand in a tag of somebody else.
    let lines = |name: HeaderName| {
        let lines = headers.get_all(name).iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
    };
    let conditions = Conditions { if_match: lines(IF_MATCH), if_none_match: lines(IF_NONE_MATCH) };
    Precondition::read(&conditions.if_match, &conditions.if_none_match)?;
    Ok(conditions)
}

/// A key for a request whose caller gave none.
pub(crate) fn new_key() -> CallerKey {
    Uuid::new_v4().to_string().parse().expect("a UUID consists of digits, letters and hyphens")
}

fn invalid(pointer: &str, detail: &str) -> Box<Problem> {
    let name = pointer.trim_start_matches('/');
    let errors = json!([{ "pointer": pointer, "detail": detail }]);
    Box::new(Problem::new(Code::INVALID, format!("{name} {detail}")).fact("errors", errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> CallerKey {
        text.parse().unwrap()
    }

    fn named(kind: Kind, body: &[u8], key: Option<&CallerKey>) -> Id {
        match new(kind, body, key, None).unwrap() {
            New::Named(id) => id,
            of_key @ New::OfKey(_) => panic!("{of_key:?}"),
        }
    }

    fn pointer_of<T>(result: Result<T, Box<Problem>>) -> Value {
        let problem = result.err().expect("should be refused");
        assert_eq!(problem.code, Code::INVALID);
        problem.facts["errors"][0]["pointer"].clone()
    }

    #[test]
    fn the_path_names_an_entity_after_decoding() {
        assert_eq!(existing("id", "al%69ce").unwrap().as_str(), "alice");
        for bad in ["a.b", "a%20b", "%2A", "%3E", "%", "%ff", "a%2Fb", &"x".repeat(65)] {
            assert_eq!(pointer_of(existing("user", bad)), "/user", "{bad}");
        }
    }

    #[test]
    fn the_id_in_the_body_wins_over_the_key() {
        let body = br#"{"stock":1,"id":"apple"}"#;
        assert_eq!(named(Kind::Product, body, Some(&key("k"))).as_str(), "apple");
        for bad in [r#"{"id":"a.b"}"#, r#"{"id":""}"#, r#"{"id":"*"}"#] {
            assert_eq!(pointer_of(new(Kind::Product, bad.as_bytes(), None, None)), "/id");
        }
    }

    #[test]
    fn a_retry_with_the_same_key_arrives_at_the_same_entity_for_ever() {
        let id = named(Kind::Order, b"{}", Some(&key("k")));
        assert_eq!(id.as_str(), "af9a4b55-6563-5ceb-9b5e-572a34650c30");
        assert_eq!(id, named(Kind::Order, b"{}", Some(&key("\"k\""))));
        assert_ne!(id, named(Kind::Order, b"{}", Some(&key("K"))));
        assert_ne!(id, named(Kind::Product, b"{}", Some(&key("k"))));
        let order_of = |user: &str| {
            let body = json!({ "user": user }).to_string();
            match new(Kind::Order, body.as_bytes(), Some(&key("k")), None).unwrap() {
                New::OfKey(of_key) => of_key,
                named @ New::Named(_) => panic!("{named:?}"),
            }
        };
        let (alices, bobs) = (order_of("alice"), order_of("bob"));
        assert_eq!((&alices.shared, &bobs.shared), (&id, &id));
        assert_eq!(alices.own.as_str(), "74563a54-e024-5dd1-801c-a6891d565952");
        assert_ne!(alices.own, bobs.own);
    }

    #[test]
    fn a_key_of_staff_leads_elsewhere_than_the_same_key_of_the_customer_or_of_others() {
        let id_for = |kind: Kind, name: &str, reach: Reach, body: &str| {
            let caller = Caller { name: name.parse().unwrap(), reach };
            match new(kind, body.as_bytes(), Some(&key("k")), Some(&caller)).unwrap() {
                New::Named(id) | New::OfKey(OfKey { own: id, .. }) => id.to_string(),
            }
        };
        let order = r#"{"user":"alice"}"#;
        let by_alice = id_for(Kind::Order, "alice", Reach::Own, order);
        // A customer's own, also from before there were callers.
        assert_eq!(by_alice, "74563a54-e024-5dd1-801c-a6891d565952");
        assert_eq!(by_alice, id_for(Kind::Order, "alice", Reach::Any, order));
        let others = ["mary", "paul"].map(|name| id_for(Kind::Order, name, Reach::Any, order));
        assert!(others[0] != others[1] && !others.contains(&by_alice), "{others:?}");
        let products = ["mary", "paul"].map(|name| id_for(Kind::Product, name, Reach::Any, "{}"));
        assert_ne!(products[0], products[1]);
        assert_eq!(id_for(Kind::Wallet, "alice", Reach::Own, "{}"), "alice");
        assert_eq!(id_for(Kind::Wallet, "alice", Reach::Own, r#"{"id":"bob"}"#), "bob");
    }

    #[test]
    fn who_gives_neither_gets_a_fresh_id() {
        let fresh = || named(Kind::Order, br#"{"user":"alice"}"#, None);
        assert_ne!(fresh(), fresh());
    }

    #[test]
    fn a_body_that_cannot_be_read_is_left_to_the_door() {
        for body in ["", "{", r#"{"id":7}"#, r#"{"id":null}"#, r#"{"id":"a","id":"b"}"#] {
            assert!(new(Kind::Wallet, body.as_bytes(), None, None).is_ok(), "{body}");
        }
    }

    #[test]
    fn an_idempotency_key_is_given_once_and_keeps_the_rules_of_keys() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("Idempotency-Key", value.parse().unwrap());
            }
            idempotency_key(&headers)
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["k-1"]).unwrap(), Some(key("k-1")));
        assert_eq!(read(&["\"a,b\""]).unwrap(), Some(key("a,b")));
        for bad in [&["a", "a"][..], &["a b"], &[""], &["schlüssel"], &["\"a"]] {
            assert_eq!(pointer_of(read(bad)), "/Idempotency-Key", "{bad:?}");
        }
    }
}
