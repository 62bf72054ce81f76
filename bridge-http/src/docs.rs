//! The OpenAPI document as a page for people, with nothing on it that comes from elsewhere.
//!
//! Owns how the document reads; `docs.html` has what it looks like. Must not say anything of its own.

use std::{fmt::Write, sync::LazyLock};

use bytes::Bytes;
use serde_json::{Map, Value};
use shop_domain::problem::Code;

/// The OpenAPI document: the API with every shape, limit and error.
pub(crate) const DESCRIPTION: &str = include_str!("../openapi.json");
const TEMPLATE: &str = include_str!("../docs.html");
/// In the order in which a path lists them.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The page.
pub(crate) fn page() -> Bytes {
    static PAGE: LazyLock<Bytes> = LazyLock::new(|| {
        let document = serde_json::from_str(DESCRIPTION).expect("the document is JSON, which a test reads");
        Document(document).page().into()
    });
    PAGE.clone()
}

struct Document(Value);

/// One method of one path.
struct Operation<'d> {
    method: &'static str,
    path: &'d str,
    /// The path's own parameters are among them.
    parameters: Vec<&'d Value>,
    about: &'d Value,
}

impl Document {
    fn page(&self) -> String {
        let info = &self.0["info"];
        let mut page = TEMPLATE.to_owned();
        for (place, text) in [
            ("{title}", escape(words(&info["title"]))),
            ("{about}", prose(words(&info["description"]))),
            ("{contents}", self.contents()),
            ("{operations}", self.all_operations()),
            ("{shapes}", self.shapes()),
            ("{errors}", errors()),
        ] {
            page = page.replace(place, &text);
        }
        page
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.0["tags"].as_array().into_iter().flatten().map(|tag| words(&tag["name"]))
    }

    fn operations<'d>(&'d self, tag: &'d str) -> impl Iterator<Item = Operation<'d>> {
        let paths = self.0["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(move |(path, item)| {
            METHODS.into_iter().filter_map(move |method| {
                let about = item.get(method)?;
                let parameters = [&item["parameters"], &about["parameters"]].into_iter();
                let parameters =
                    parameters.filter_map(Value::as_array).flatten().map(|one| self.resolve(one)).collect();
                Some(Operation { method, path, parameters, about })
            })
        });
        operations.filter(move |operation| operation.about["tags"][0] == tag)
    }

    fn contents(&self) -> String {
        let mut text = String::new();
        for tag in self.tags() {
            write(&mut text, format_args!("<h4>{}</h4><ul>", escape(tag)));
            for one in self.operations(tag) {
                let (id, method, path) = (one.id(), one.method, escape(one.path));
                let shown = method.to_uppercase();
                let link =
                    format_args!("<li><a href=\"#{id}\"><span class=\"method {method}\">{shown}</span>{path}</a>");
                write(&mut text, link);
            }
            text.push_str("</ul>");
        }
        text.push_str("<ul><li><a href=\"#shapes\">Shapes</a><li><a href=\"#errors\">Errors</a></ul>");
        text
    }

    fn all_operations(&self) -> String {
        let mut text = String::new();
        for tag in self.tags() {
            write(&mut text, format_args!("<h2>{}</h2>\n", escape(tag)));
            self.operations(tag).for_each(|operation| self.operation(&operation, &mut text));
        }
        text
    }

    fn operation(&self, operation: &Operation<'_>, text: &mut String) {
        let Operation { method, path, parameters, about } = operation;
        let (id, shown, summary) = (operation.id(), method.to_uppercase(), inline(words(&about["summary"])));
        write(text, format_args!("<article id=\"{id}\"><h3><span class=\"method {method}\">{shown}</span>"));
        let path = escape(path);
        write(
            text,
            format_args!("<a class=\"path\" href=\"#{id}\">{path}</a><span class=\"summary\">{summary}</span></h3>"),
        );
        text.push_str(&prose(words(&about["description"])));
        rows(
            text,
            "Parameters",
            parameters.iter().map(|parameter| {
                let (name, place) = (escape(words(&parameter["name"])), words(&parameter["in"]));
                let meaning = inline(words(&parameter["description"]));
                let shape = self.shape(&parameter["schema"]);
                [
                    format!("<code>{name}</code>"),
                    format!("<span class=\"faint\">{place}</span>"),
                    format!("{shape} {meaning}"),
                ]
            }),
        );
        let body = &about["requestBody"]["content"]["application/json"];
        if body.is_object() {
            let need = if about["requestBody"]["required"] == true { "" } else { ", may be left out" };
            write(text, format_args!("<h4>Body</h4><p>{}{need}</p>", self.shape(&body["schema"])));
            text.push_str(&self.examples(body));
        }
        let answers = about["responses"].as_object().into_iter().flatten();
        rows(
            text,
            "Answers",
            answers.map(|(status, answer)| {
                let answer = self.resolve(answer);
                let content = answer["content"].as_object().into_iter().flatten().next();
                let shape = content.map_or_else(String::new, |(_, content)| self.shape(&content["schema"]));
                let headers = answer["headers"].as_object().into_iter().flatten();
                let headers =
                    headers.fold(String::new(), |all, (name, _)| format!("{all} <code>{}</code>", escape(name)));
                [
                    format!("<code>{}</code>", escape(status)),
                    inline(words(&answer["description"])),
                    format!("{shape}{headers}"),
                ]
            }),
        );
        let created = ["200", "201"].map(|status| self.resolve(&about["responses"][status]));
        for content in created.into_iter().filter_map(|answer| answer["content"].get("application/json")) {
            text.push_str(&self.examples(content));
        }
        text.push_str("</article>\n");
    }

    fn shapes(&self) -> String {
        let mut text = String::new();
        for (name, schema) in self.0["components"]["schemas"].as_object().into_iter().flatten() {
            let name = escape(name);
            write(
                &mut text,
                format_args!("<article id=\"{name}\"><h3><a class=\"path\" href=\"#{name}\">{name}</a></h3>"),
            );
            let whole = self.shape_of(schema.as_object());
            write(&mut text, format_args!("<p>{whole}</p>{}", prose(words(&schema["description"]))));
            self.members(schema, &mut text);
            text.push_str("</article>\n");
        }
        text
    }

    /// A table of what an object has, for each of the forms that it may have.
    fn members(&self, schema: &Value, text: &mut String) {
        let forms = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten();
        for form in forms.filter(|form| form["properties"].is_object()) {
            self.members(form, text);
        }
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows(
            text,
            "Members",
            schema["properties"].as_object().into_iter().flatten().map(|(name, member)| {
                let need = if required.iter().any(|one| one == name) { "required" } else { "" };
                let meaning = inline(words(&member["description"]));
                let shape = self.shape(member);
                let need = format!("<span class=\"faint\">{need}</span>");
                [format!("<code>{}</code>", escape(name)), need, format!("{shape} {meaning}")]
            }),
        );
    }

    /// What a value is, in a few words; a shape with a name is a link to it.
    fn shape(&self, schema: &Value) -> String {
        match schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
            Some(name) => format!("<a href=\"#{0}\">{0}</a>", escape(name)),
            None => self.shape_of(schema.as_object()),
        }
    }

    fn shape_of(&self, schema: Option<&Map<String, Value>>) -> String {
        let Some(schema) = schema else { return String::new() };
        let mut parts = Vec::new();
        for (word, value) in schema {
            parts.push(match (word.as_str(), value) {
                ("type", Value::Array(types)) => types.iter().map(words).collect::<Vec<_>>().join(" or "),
                ("type", value) => escape(words(value)),
                ("enum", Value::Array(values)) => values.iter().map(code).collect::<Vec<_>>().join(", "),
                ("const", value) => code(value),
                ("items", items) => format!("of {}", self.shape(items)),
                ("oneOf" | "anyOf", Value::Array(forms)) => {
                    let forms: Vec<_> = forms.iter().map(|form| self.shape(form)).collect();
                    forms.join(" or ")
                }
                ("allOf", Value::Array(parts)) => {
                    parts.iter().map(|part| self.shape(part)).collect::<Vec<_>>().join(" and ")
                }
                ("minimum", value) => format!("from {value}"),
                ("maximum", value) => format!("to {value}"),
                ("minLength" | "minItems", value) => format!("at least {value}"),
                ("maxLength" | "maxItems", value) => format!("at most {value}"),
                ("pattern" | "format", value) => code(value),
                ("default", value) => format!("default {}", code(value)),
                (_, _) => continue,
            });
        }
        parts.join(" ")
    }

    fn examples(&self, content: &Value) -> String {
        let named = content["examples"].as_object().into_iter().flatten();
        let named = named.map(|(_, example)| &self.resolve(example)["value"]);
        let mut text = String::new();
        for example in content.get("example").into_iter().chain(named) {
            let example = serde_json::to_string_pretty(example).expect("a JSON value is JSON");
            write(&mut text, format_args!("<pre><code>{}</code></pre>", escape(&example)));
        }
        text
    }

    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        reference.and_then(|pointer| self.0.pointer(pointer)).unwrap_or(value)
    }
}

impl Operation<'_> {
    fn id(&self) -> String {
        escape(words(&self.about["operationId"]))
    }
}

fn errors() -> String {
    let mut text = String::new();
    rows(
        &mut text,
        "",
        Code::ALL
            .iter()
            .map(|Code { name, status, title }| [format!("<code>{name}</code>"), status.to_string(), escape(title)]),
    );
    text
}

fn rows(text: &mut String, title: &str, rows: impl Iterator<Item = [String; 3]>) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    if !title.is_empty() {
        write(text, format_args!("<h4>{title}</h4>"));
    }
    text.push_str("<table>");
    for [first, second, third] in rows {
        write(text, format_args!("<tr><td>{first}<td>{second}<td>{third}\n"));
    }
    text.push_str("</table>");
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn code(value: &Value) -> String {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("<code>{}</code>", escape(&shown))
}

/// Paragraphs, of the document's Markdown as much as it uses.
fn prose(text: &str) -> String {
    text.split("\n\n")
        .filter(|part| !part.is_empty())
        .fold(String::new(), |all, part| format!("{all}<p>{}</p>", inline(part)))
}

/// What stands between backticks is code.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.fold(String::new(), |all, (place, part)| match place % 2 {
        0 => all + &escape(part),
        _ => format!("{all}<code>{}</code>", escape(part)),
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::routes::{PAGES, ROUTES};

    fn text() -> String {
        String::from_utf8(page().to_vec()).unwrap()
    }

    #[test]
    fn the_page_shows_every_path_every_shape_and_every_code() {
        let text = text();
        let routes = ROUTES.iter().map(|route| (route.method.as_str().to_lowercase(), route.path));
        for (method, path) in routes.chain(PAGES.iter().map(|(path, _)| ("get".to_owned(), *path))) {
            let shown = method.to_uppercase();
            let title = format!("<span class=\"method {method}\">{shown}</span><a class=\"path\"");
            let found =
                text.split(&title).skip(1).any(|rest| rest.split('<').next().unwrap().ends_with(&format!(">{path}")));
            assert!(found, "{shown} {path} is not on the page");
        }
        for code in Code::ALL {
            assert!(text.contains(&format!("<code>{}</code><td>{}<td>", code.name, code.status)), "{}", code.name);
        }
        assert!(!text.contains("{title}") && !text.contains("{shapes}"), "a place was not filled");
    }

    #[test]
    fn every_link_leads_somewhere_in_the_shop_and_nothing_is_fetched_from_elsewhere() {
        let text = text();
        let after = |start: &str| -> BTreeSet<String> {
            text.split(start).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let ids: BTreeSet<_> = after(" id=\"").into_iter().map(|id| format!("#{id}")).collect();
        let paths: BTreeSet<_> =
            ROUTES.iter().map(|route| route.path).chain(PAGES.iter().map(|(path, _)| *path)).collect();
        for link in after("href=\"") {
            assert!(ids.contains(&link) || paths.contains(link.as_str()), "{link} leads nowhere");
        }
        for word in ["<script", "<link", "src=", "url(", "@import"] {
            assert!(!text.contains(word), "{word} is on the page");
        }
        assert!(text.len() < 150_000, "{} bytes", text.len());
    }

    #[test]
    fn what_the_document_says_is_text_and_never_markup() {
        let document = json!({
            "info": { "title": "<b>", "description": "a & `<i>`\n\n\"b\"" },
            "tags": [{ "name": "<t>" }],
            "paths": { "/<p>": { "get": { "operationId": "o", "tags": ["<t>"], "summary": "<s>", "responses": {
                "200": { "description": "<d>", "content": { "application/json": {
                    "schema": { "type": "string", "enum": ["<e>"] }, "example": "</pre><x>" } } } } } } },
            "components": { "schemas": { "S": { "properties": { "<m>": { "type": "string" } } } } },
        });
        let page = Document(document).page();
        for tag in ["<b>", "<i>", "<t>", "<s>", "<d>", "<e>", "<x>", "<m>", "<p>\""] {
            assert!(!page.contains(tag), "{tag}");
        }
        assert!(page.contains("<p>a &amp; <code>&lt;i&gt;</code></p><p>&quot;b&quot;</p>"), "{page}");
    }
}
