//! What a reader and a generator of clients expect of the document itself, after the recommended rules
//! of Spectral: nothing in it is without a name, a description and an example, nothing is there for nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{DOCUMENT, list, resolve, schema::conforms};

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Path, method, and what both share.
pub(super) fn operations() -> impl Iterator<Item = (&'static str, &'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        METHODS.iter().filter_map(move |method| Some((path.as_str(), *method, item.get(method)?)))
    })
}

#[track_caller]
fn has_text(node: &Value, member: &str, of: &str) {
    assert!(node[member].as_str().is_some_and(|text| !text.trim().is_empty()), "{of} has no {member}");
}

#[test]
fn the_document_says_whose_it_is_and_is_true_wherever_it_is_served() {
    let info = &DOCUMENT["info"];
    for member in ["title", "version", "description"] {
        has_text(info, member, "info");
    }
    has_text(&info["contact"], "name", "info.contact");
    has_text(&info["license"], "name", "info.license");
    for server in list(&DOCUMENT["servers"]) {
        assert!(server["url"].as_str().unwrap().starts_with('/'), "{server}");
    }
    let tags: Vec<_> = list(&DOCUMENT["tags"]).iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert_eq!(tags.iter().collect::<BTreeSet<_>>().len(), tags.len(), "{tags:?}");
    for tag in list(&DOCUMENT["tags"]) {
        has_text(tag, "description", &tag["name"].to_string());
    }
}

#[test]
fn every_operation_has_a_name_a_description_and_what_to_expect() {
    let tags: Vec<_> = list(&DOCUMENT["tags"]).iter().map(|tag| &tag["name"]).collect();
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations() {
        let of = format!("{method} {path}");
        for member in ["operationId", "summary", "description"] {
            has_text(operation, member, &of);
        }
        assert!(names.insert(operation["operationId"].as_str().unwrap()), "{of}: its operationId is used twice");
        assert!(!list(&operation["tags"]).is_empty(), "{of}: no tag");
        assert!(list(&operation["tags"]).iter().all(|tag| tags.contains(&tag)), "{of}: an undefined tag");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{of}: no success");
        assert!(responses.contains_key("405"), "{of}: 405 is not told");
        for (status, response) in responses {
            has_text(resolve(response), "description", &format!("{of} {status}"));
        }
        let named: BTreeSet<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let told = parameters(path, operation).filter(|parameter| parameter["in"] == "path");
        assert_eq!(told.map(|parameter| parameter["name"].as_str().unwrap()).collect::<BTreeSet<_>>(), named, "{of}");
    }
}

#[test]
fn every_operation_shows_a_request_and_a_success() {
    for (path, method, operation) in operations() {
        let of = format!("{method} {path}");
        for parameter in parameters(path, operation) {
            let shown = examples(parameter).chain(list(&parameter["schema"]["examples"]));
            assert!(shown.count() > 0, "{of}: {} without an example", parameter["name"]);
        }
        if let Some(body) = operation.get("requestBody") {
            assert!(examples(&body["content"]["application/json"]).count() > 0, "{of}: no example of a request");
        }
        let responses = operation["responses"].as_object().unwrap();
        for (status, response) in responses.iter().filter(|(status, _)| status.starts_with('2')) {
            let mut contents = resolve(response)["content"].as_object().unwrap().values();
            assert!(contents.all(|content| examples(content).count() > 0), "{of}: no example of {status}");
        }
    }
}

#[test]
fn every_example_is_one_of_what_it_shows() {
    let mut seen = 0;
    walk(&DOCUMENT, &mut |node| {
        let Some(schema) = node.get("schema") else { return };
        for example in examples(node) {
            conforms(schema, example, "").unwrap_or_else(|wrong| panic!("{wrong} in {example}"));
            seen += 1;
        }
    });
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        for example in list(&schema["examples"]) {
            conforms(schema, example, "").unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} examples");
}

#[test]
fn every_component_is_used_and_every_reference_leads_to_one() {
    let mut used = BTreeSet::new();
    walk(&DOCUMENT, &mut |node| {
        if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
            resolve(node);
            used.insert(reference.to_owned());
        }
        let security = node.get("security").map(list).unwrap_or_default();
        let schemes = security.iter().filter_map(Value::as_object).flat_map(|one| one.keys());
        used.extend(schemes.map(|scheme| format!("#/components/securitySchemes/{scheme}")));
    });
    for (sort, components) in DOCUMENT["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{sort}/{name}")), "{sort}/{name} is not used");
        }
    }
}

/// The parameters of an operation, and those of its path.
pub(super) fn parameters(path: &str, operation: &'static Value) -> impl Iterator<Item = &'static Value> {
    let of_path = list(&DOCUMENT["paths"][path]["parameters"]);
    of_path.iter().chain(list(&operation["parameters"])).map(resolve)
}

/// The examples at a parameter or a content.
pub(super) fn examples(node: &'static Value) -> impl Iterator<Item = &'static Value> {
    let named = node["examples"].as_object().into_iter().flat_map(|examples| examples.values());
    node.get("example").into_iter().chain(named.map(|example| &resolve(example)["value"]))
}

/// All objects in the document, in its order.
pub(super) fn walk(node: &'static Value, look: &mut impl FnMut(&'static Value)) {
    if let Some(members) = node.as_object() {
        look(node);
        members.values().for_each(|member| walk(member, look));
    }
    list(node).iter().for_each(|item| walk(item, look));
}
