//! The OpenAPI document, held against every answer that any test gets.
//!
//! Must not know any route by name.

mod boundaries;
mod lint;
mod schema;

use std::sync::LazyLock;

use serde_json::Value;

use schema::conforms;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../bridge-http/openapi.json")).unwrap());

/// Says how an answer differs from what the document promises.
pub(crate) fn check(
    method: &str,
    path: &str,
    status: u16,
    headers: &hyper::HeaderMap,
    body: &Value,
) -> Result<(), String> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
    let path = path.split('?').next().unwrap_or(path);
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let found = paths.iter().find(|(template, item)| fits(template, path) && item[&method].is_object());
    let response = match (found, status) {
        (Some((_, item)), _) => resolve(&item[&method]["responses"][status.to_string()]),
        // Wherever there is no such path or method, the document says so in general.
        (None, 404 | 405) => return Ok(()),
        (None, _) => return Err("there is no such operation".to_owned()),
    };
    if !response.is_object() {
        return Err(format!("the status {status} is not described"));
    }
    for required in ["ETag", "Location", "Preference-Applied", "Retry-After"] {
        let header = &response["headers"][required];
        let (described, optional) = (header.is_object(), header["required"] == false);
        if described != headers.contains_key(required) && !optional {
            return Err(format!("the header {required} is {}described", if described { "" } else { "not " }));
        }
    }
    let media_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(content) = response["content"].as_object() else { return Ok(()) };
    let bare = media_type.split(';').next().unwrap_or_default();
    let content = content.get(bare).or_else(|| content.get(media_type));
    let content = content.ok_or_else(|| format!("the content type {media_type:?} is not described"))?;
    let is_json = bare.ends_with("json") && !body.is_null();
    if is_json { conforms(&content["schema"], body, "") } else { Ok(()) }
}

/// What the document says of a method of a path.
pub(crate) fn operation(method: &str, path: &str) -> &'static Value {
    &DOCUMENT["paths"][path][method.to_lowercase()]
}

fn fits(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(expected), Some(part)) if expected.starts_with('{') && !part.is_empty() => {}
            (Some(expected), Some(part)) if expected == part => {}
            (_, _) => return false,
        }
    }
}

fn resolve(node: &'static Value) -> &'static Value {
    match node["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    }
}

fn list(node: &'static Value) -> &'static [Value] {
    node.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn what_differs_from_the_document_is_noticed() {
    let wallet = |id: &str, balance: Value, at: &str| {
        let body = serde_json::json!({ "id": id, "balance": balance, "updated_at": at });
        let headers = [("content-type", "application/json"), ("etag", "\"1\"")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        check("GET", "/wallets/alice?x=1", 200, &headers.into_iter().collect(), &body)
    };
    let at = "2026-01-31T12:00:00.000Z";
    assert_eq!(wallet("alice", 1.into(), at), Ok(()));
    assert!(wallet("a.b", 1.into(), at).is_err());
    assert!(wallet("alice", (-1).into(), at).is_err());
    assert!(wallet("alice", 9_007_199_254_740_992_u64.into(), at).is_err());
    assert!(wallet("alice", "1".into(), at).is_err());
    assert!(wallet("alice", 1.into(), "2026-01-31T12:00:00Z").is_err());
    assert!(check("GET", "/wallets/alice", 409, &hyper::HeaderMap::new(), &Value::Null).is_err());
    assert!(check("GET", "/wallets/alice", 503, &hyper::HeaderMap::new(), &Value::Null).is_err());
}
