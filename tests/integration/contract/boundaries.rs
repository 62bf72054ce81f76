//! Every limit that the document names, asked of the server: what the one takes the other takes, and what
//! HTTP takes NATS takes, in JSON and in MessagePack.
//!
//! The values come from the document: its limits and what is next to them, and for every place what is
//! wrong somewhere else. Must not know any route or member by name.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use shop_bridge_http::routes::{About, Input, ROUTES, Route};

use super::{
    DOCUMENT,
    lint::{examples, operations, parameters, walk},
    list, resolve,
    schema::conforms,
};
use crate::shop::TestShop;

/// Requests under way at a time: enough to keep two cores busy.
const AT_A_TIME: usize = 16;
/// Stands where a value goes that is written as it is.
const HERE: &str = "@@";
/// Values that are wrong, or at least unusual, wherever they stand. As they are written.
const UNUSUAL: [&str; 57] = [
    "null",
    "true",
    "false",
    "[]",
    "[null]",
    "[1]",
    "{}",
    "-1",
    "-0",
    "1.5",
    "1.0",
    "1e1",
    "1e300",
    "1e400",
    "18446744073709551615",
    "18446744073709551616",
    "\"\"",
    "\" \"",
    "\"a\"",
    "\"A-z_09\"",
    "\"a.b\"",
    "\"a b\"",
    "\"a/b\"",
    "\"é\"",
    "\"🍎\"",
    "\"-\"",
    "\"+1\"",
    "\"-1\"",
    "\"1.0\"",
    "\"1e1\"",
    "\"0x1\"",
    "\" 1\"",
    "\"0010\"",
    "\"0009007199254740991\"",
    "\"00000000000000000007\"",
    "\"0001769860800000-o-1\"",
    "\"0001769860800000-\"",
    "\"١\"",
    "\"a\\u0000b\"",
    "\"a\\nb\"",
    "\"a\\u007fb\"",
    "\"a\\u2028b\"",
    "\"a\\u202eb\"",
    "\"a\\ufffeb\"",
    "\"\\u200b\"",
    "\"\\ufeff\"",
    "\"\\u3000\"",
    "\"\\u00a0\"",
    "\"\\u3164\\u2800\"",
    "\"a\\u200db\"",
    "\"\\u2068a\\u2069\"",
    "\"9223372036854775808\"",
    r#""*""#,
    r#""\"7\"""#,
    r#""W/\"7\"""#,
    r#"",\"a,b\",,\"\",""#,
    r#""*,\"7\"""#,
];

/// A request with a body: who takes it, what it says of the body, and the smallest body there is.
struct WithBody {
    route: &'static Route,
    method: Method,
    path: String,
    schema: &'static Value,
    is_required: bool,
    smallest: Vec<Value>,
}

fn requests_with_bodies() -> Vec<WithBody> {
    let read = |(path, method, operation): (&'static str, &str, &'static Value)| {
        let body = operation.get("requestBody")?;
        let content = &body["content"]["application/json"];
        let method: Method = method.to_uppercase().parse().unwrap();
        let route = ROUTES.iter().find(|route| route.path == path && route.method == method).unwrap();
        let smallest = examples(content).map(smallest).collect();
        let (schema, is_required) = (&content["schema"], body["required"] == true);
        Some(WithBody { route, method, path: filled(path, operation), schema, is_required, smallest })
    };
    operations().filter_map(read).collect()
}

/// The path with the examples of its parameters.
fn filled(path: &str, operation: &'static Value) -> String {
    let of_path = parameters(path, operation).filter(|parameter| parameter["in"] == "path");
    of_path.fold(path.to_owned(), |path, parameter| {
        let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap());
        path.replace(&format!("{{{name}}}"), example)
    })
}

/// An example with every number 1 and one item in every list: so small that no sum in it is too large,
/// whatever one of its numbers becomes.
fn smallest(example: &Value) -> Value {
    match example {
        Value::Number(_) => json!(1),
        Value::Array(items) => items.iter().take(1).map(smallest).collect(),
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), smallest(member))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => example.clone(),
    }
}

/// All limits that schemas of the document name, and their neighbours.
fn limits() -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    walk(&DOCUMENT, &mut |node| {
        for keyword in ["minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"] {
            found.extend(node.get(keyword).and_then(Value::as_u64));
        }
        // The last count of a pattern is how long it may be.
        let pattern = node.get("pattern").and_then(Value::as_str).unwrap_or_default();
        found.extend(
            pattern
                .trim_end_matches('$')
                .strip_suffix('}')
                .and_then(|rest| rest.rsplit(['{', ',']).next()?.parse::<u64>().ok()),
        );
    });
    found.iter().flat_map(|limit| [limit.saturating_sub(1), *limit, limit + 1]).collect()
}

/// What stands in one place, in turn, as it is written.
fn values() -> Vec<String> {
    let numbers = limits();
    let lengths = numbers.iter().filter(|length| **length <= 1_100).map(|length| usize::try_from(*length).unwrap());
    let texts = lengths.flat_map(|length| ["x", "ü", "7"].map(|letter| format!("\"{}\"", letter.repeat(length))));
    let digits = numbers.iter().flat_map(|number| [number.to_string(), format!("\"{number}\"")]);
    UNUSUAL.map(str::to_owned).into_iter().chain(texts).chain(digits).collect()
}

/// The bodies that come of one when one place in it is something else.
fn variants(schema: &'static Value, body: &Value, values: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::from(["", "colour", "a/b~c"]);
    members(schema, &mut names);
    for name in names {
        let with = |value: Value| {
            let mut body = body.clone();
            body[name] = value;
            body.to_string()
        };
        found.extend(values.iter().map(|value| with(json!(HERE)).replace(&format!("\"{HERE}\""), value)));
        let mut without: Map<_, _> = body.as_object().unwrap().clone();
        without.remove(name);
        found.push(Value::Object(without).to_string());
        let Some([item]) = body[name].as_array().map(Vec::as_slice) else { continue };
        for count in limits().into_iter().filter(|count| *count <= 100) {
            // Each with texts of its own.
            let numbered = |number| item.to_string().replace("\",", &format!("-{number}\","));
            let items = (0..count).map(|number| serde_json::from_str::<Value>(&numbered(number)).unwrap());
            found.push(with(items.collect()));
        }
        for varied in variants(items_of(schema, name).unwrap(), item, values) {
            found.push(with(json!([HERE])).replace(&format!("\"{HERE}\""), &varied));
        }
    }
    found
}

/// The names of all members that a schema knows.
fn members(schema: &'static Value, names: &mut BTreeSet<&'static str>) {
    let schema = resolve(schema);
    names.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()));
    list(&schema["oneOf"]).iter().for_each(|part| members(part, names));
}

/// What a schema says of the items of a member.
fn items_of(schema: &'static Value, name: &str) -> Option<&'static Value> {
    let schema = resolve(schema);
    let here = schema["properties"].get(name).and_then(|member| member.get("items"));
    here.or_else(|| list(&schema["oneOf"]).iter().find_map(|part| items_of(part, name)))
}

/// Whether an answer says that the request keeps the rules, whatever the shop made of it.
fn keeps_the_rules(status: u16, problem: &Value) -> bool {
    match status {
        200 | 201 | 202 | 304 | 409 | 412 => true,
        404 => problem.get("kind").is_some(),
        400 | 413 | 415 | 422 => false,
        _ => panic!("{status}: {problem}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_exactly_the_bodies_that_the_document_describes_on_every_face() {
    let shop = TestShop::open().await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    shop.product("apple", 1, 1).await;
    let values = values();
    for request in requests_with_bodies() {
        let WithBody { route, method, path, schema, is_required, smallest } = &request;
        let mut bodies = vec!["[]".to_owned(), "1".to_owned(), "null".to_owned(), "\"a\"".to_owned(), "{}".to_owned()];
        bodies.extend(smallest.iter().flat_map(|body| variants(schema, body, &values)));
        bodies.extend(["", " \n"].map(str::to_owned));
        assert!(smallest.iter().all(|body| conforms(schema, body, "").is_ok()), "{method} {path}: the smallest");
        let (shop, nats) = (&shop, &nats);
        let judging = stream::iter(&bodies).map(|body| async move {
            let is_empty = body.trim().is_empty();
            let read: Option<Value> = serde_json::from_str(body).ok();
            let wrong = match &read {
                _ if is_empty => is_required.then(|| "it is required".to_owned()),
                Some(value) => conforms(schema, value, "").err(),
                None => Some("not read".to_owned()),
            };
            let ask = shop.ask(method.clone(), path.as_str()).body(body.clone());
            let answer = ask.header("content-type", "application/json").await;
            let mut told = vec![("HTTP", keeps_the_rules(answer.status, &answer.body), answer.status)];

            // Over NATS the id of what is new stands in the subject.
            let given = read.as_ref().and_then(|value| value.get("id")?.as_str());
            let id = match route.about {
                About::Existing => path.split('/').nth(2).unwrap(),
                About::New | About::Whole => given.filter(|id| is_id(id)).unwrap_or("new"),
            };
            let subject = format!("shop.{}.{id}.{}", route.kind, route.verb);
            let mut faces = vec![("NATS", body.clone().into_bytes())];
            if let Some(value @ Value::Object(_)) = &read {
                faces.push(("MessagePack", rmp_serde::to_vec_named(value).unwrap()));
            }
            for (face, bytes) in faces {
                let message = nats.request(subject.clone(), bytes.into()).await.unwrap();
                let status = message.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
                let status = status.map_or(200, |status| status.as_str().parse().unwrap());
                let problem = match message.payload.first() {
                    Some(b'{') => serde_json::from_slice(&message.payload).unwrap(),
                    _ => rmp_serde::from_slice(&message.payload).unwrap(),
                };
                told.push((face, keeps_the_rules(status, &problem), status));
            }
            let is_refused = told.iter().find(|(_, is_taken, _)| !is_taken).map(|(_, _, status)| *status);
            let agree = told.iter().all(|(_, is_taken, status)| {
                *is_taken == wrong.is_none() && (*is_taken || Some(*status) == is_refused)
            });
            let shown: String = body.chars().take(200).collect();
            let told = format!("{method} {path} {shown}: the document says {wrong:?}, the server {told:?}");
            (is_refused.is_some(), Some(told).filter(|_| !agree))
        });
        let judged: Vec<_> = judging.buffer_unordered(AT_A_TIME).collect().await;
        let refused = judged.iter().filter(|(is_refused, _)| *is_refused).count();
        assert!(0 < refused && refused < judged.len(), "{method} {path}: {refused} of {} are refused", judged.len());
        let differences: Vec<_> = judged.into_iter().filter_map(|(_, difference)| difference).collect();
        assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), bodies.len(), differences.join("\n"));
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_takes_exactly_the_parameters_and_headers_that_the_document_describes() {
    let shop = TestShop::open().await;
    let nats = async_nats::connect(shop.shop.nats_url()).await.unwrap();
    let texts: Vec<String> = values().iter().filter_map(|value| text_of(value)).collect();
    for route in &ROUTES {
        let operation = &DOCUMENT["paths"][route.path][route.method.as_str().to_lowercase()];
        let content = &operation["requestBody"]["content"]["application/json"];
        let body = examples(content).map(smallest).next().unwrap_or_default();
        let path = filled(route.path, operation);
        for parameter in parameters(route.path, operation) {
            let (schema, name) = (&parameter["schema"], parameter["name"].as_str().unwrap());
            let place = parameter["in"].as_str().unwrap();
            let (shop, nats, body, path) = (&shop, &nats, &body, &path);
            let differences = stream::iter(&texts).map(|text| async move {
                let wrong = conforms(schema, &as_in_a_query(schema, text), "").err();
                let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                let mut ask = match place {
                    // Without it, it is another path.
                    "path" if text.is_empty() => return None,
                    "path" => shop.ask(route.method.clone(), route.path.replace(&format!("{{{name}}}"), &encoded)),
                    "query" => shop.ask(route.method.clone(), format!("{path}?{name}={encoded}")),
                    // What HTTP does not carry, or trims, is no value.
                    "header" if !text.bytes().all(|byte| byte.is_ascii_graphic()) => return None,
                    "header" => shop.ask(route.method.clone(), path.as_str()).header(name, text.as_str()),
                    other => panic!("a parameter in {other}"),
                };
                if body.is_object() {
                    ask = ask.json(body);
                }
                let answer = ask.await;
                let mut told = vec![("HTTP", keeps_the_rules(answer.status, &answer.body), answer.status)];
                if place == "query" {
                    let arguments = json!({ name: text }).to_string();
                    let subject = match route.about {
                        About::Whole => format!("shop.{}.{}", route.kind, route.verb),
                        About::New | About::Existing => {
                            format!("shop.{}.{}.{}", route.kind, path.split('/').nth(2).unwrap(), route.verb)
                        }
                    };
                    let message = nats.request(subject, arguments.into()).await.unwrap();
                    let status = message.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error-Code"));
                    let status = status.map_or(200, |status| status.as_str().parse().unwrap());
                    let problem = serde_json::from_slice(&message.payload).unwrap();
                    told.push(("NATS", keeps_the_rules(status, &problem), status));
                }
                let agree = told
                    .iter()
                    .all(|(_, is_taken, status)| *is_taken == wrong.is_none() && (*is_taken || *status == told[0].2));
                let of = format!("{} {} {name}={text:?}", route.method, route.path);
                (!agree).then(|| format!("{of}: the document says {wrong:?}, the server {told:?}"))
            });
            let differences: Vec<_> =
                differences.buffer_unordered(AT_A_TIME).filter_map(async |one| one).collect().await;
            assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
        }
        // Lists know no other parameters, and take each once; what is no list does not look.
        let is_list = matches!(route.input, Input::Query(_));
        for query in ["colour=red", "limit=1&limit=1"] {
            let answer = shop.ask(Method::GET, format!("{path}?{query}"));
            if is_list {
                answer.await.refused(400, "malformed");
            } else if route.method == Method::GET {
                assert!(keeps_the_rules(answer.clone().await.status, &answer.await.body), "{path}?{query}");
            }
        }
    }
    shop.close().await;
}

/// The text of a value, for where everything is text.
fn text_of(value: &str) -> Option<String> {
    match serde_json::from_str(value) {
        Ok(Value::String(text)) => Some(text),
        Ok(_) | Err(_) => Some(value.to_owned()).filter(|value| !value.contains(['[', '{'])),
    }
}

/// A parameter is text; where a number is wanted, its digits are one.
fn as_in_a_query(schema: &'static Value, text: &str) -> Value {
    let is_number = resolve(schema)["type"] == "integer" && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse::<u64>().ok() } else { None };
    number.map_or_else(|| text.into(), Value::from)
}

fn is_id(text: &str) -> bool {
    conforms(&DOCUMENT["components"]["schemas"]["Id"], &text.into(), "").is_ok()
}
