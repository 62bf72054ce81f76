//! The whole API on one screen: one row per route, and how a request finds its row.
//!
//! Owns paths, methods and which door they lead to. Must not know what happens behind a door.

use shop_domain::kind::Kind::{self, Delivery, Mypage, Order, Product, Wallet};
use warp::http::Method;

use crate::scope::Scope::{self, CatalogWrite, DeliveriesWrite, OrdersRead, OrdersWrite, WalletsFund, WalletsRead};
use About::{Existing, New, Whole};
use Input::{Body, Nothing, Query};
use Repeat::{Always, WithKey};

/// Every route that leads to a door. `openapi.json` describes the same ones; a test compares.
pub static ROUTES: [Route; 17] = [
    route(POST, "/products", Some(CatalogWrite), Product, "create", New, Body, WithKey, 201),
    route(GET, "/products", None, Product, "list", Whole, Query(&["limit", "after"]), Always, 200),
    route(GET, "/products/{id}", None, Product, "get", Existing, Nothing, Always, 200),
    route(PATCH, "/products/{id}", Some(CatalogWrite), Product, "change", Existing, Body, WithKey, 200),
    route(POST, "/products/{id}/restock", Some(CatalogWrite), Product, "restock", Existing, Body, WithKey, 200),
    route(POST, "/wallets", Some(WalletsFund), Wallet, "open", New, Body, WithKey, 201),
    route(GET, "/wallets/{id}", Some(WalletsRead), Wallet, "get", Existing, Nothing, Always, 200),
    route(POST, "/wallets/{id}/top-up", Some(WalletsFund), Wallet, "top-up", Existing, Body, WithKey, 200),
    route(GET, "/wallets/{id}/statement", Some(WalletsRead), Wallet, "statement", Existing, NEWEST_FIRST, Always, 200),
    route(POST, "/orders", Some(OrdersWrite), Order, "place", New, Body, Always, 201),
    route(GET, "/orders/{id}", Some(OrdersRead), Order, "get", Existing, Nothing, Always, 200),
    route(POST, "/orders/{id}/cancel", Some(OrdersWrite), Order, "cancel", Existing, Body, Always, 200),
    route(DELETE, "/orders/{id}", Some(OrdersWrite), Order, "cancel", Existing, Body, Always, 200),
    route(GET, "/deliveries/{id}", Some(OrdersRead), Delivery, "get", Existing, Nothing, Always, 200),
    route(POST, "/deliveries/{id}/dispatch", Some(DeliveriesWrite), Delivery, "dispatch", Existing, Body, WithKey, 200),
    route(POST, "/deliveries/{id}/deliver", Some(DeliveriesWrite), Delivery, "deliver", Existing, Body, WithKey, 200),
    route(GET, "/mypages/{user}", Some(OrdersRead), Mypage, "get", Existing, NEWEST_FIRST, Always, 200),
];

/// What the bridge answers by itself, all with GET; see `observe.rs` and `docs.rs`.
pub static PAGES: [(&str, Page); 5] = [
    ("/", Page::Docs),
    ("/docs", Page::Docs),
    ("/healthz", Page::Health),
    ("/readyz", Page::Ready),
    ("/openapi.json", Page::Description),
];

/// One row of the API.
#[derive(Debug)]
pub struct Route {
    /// GET also answers HEAD.
    pub method: Method,
    /// The path; it has at most one parameter, the id of the entity.
    pub path: &'static str,
    /// What its caller must have been given, where callers are asked who they are. `None`: it is for everybody.
    pub scope: Option<Scope>,
    /// Whose door it leads to.
    pub kind: Kind,
    /// What the door is asked for.
    pub verb: &'static str,
    /// What the request is about, which decides the subject.
    pub about: About,
    /// Where the door's arguments come from.
    pub input: Input,
    /// When a request whose fate is unknown may be sent once more.
    pub repeat: Repeat,
    /// The status of a settled answer that is not an error.
    pub success: u16,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The entity that the path names.
    Existing,
    /// An entity that comes into being, named by the body or by the bridge.
    New,
    /// The kind as a whole.
    Whole,
}

/// Where the door's arguments come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// There are none; a body or query is ignored.
    Nothing,
    /// The body, byte for byte.
    Body,
    /// The query string, which may have these parameters and no others.
    Query(&'static [&'static str]),
}

/// When a request whose fate is unknown may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Doing it twice is doing it once: a read, or an order, whose id is its key.
    Always,
    /// Only when the caller gave an idempotency key.
    WithKey,
}

/// A page that the bridge answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Whether the process is alive.
    Health,
    /// Whether it can serve.
    Ready,
    /// The OpenAPI document.
    Description,
    /// The same for people.
    Docs,
}

impl Page {
    /// Whether balancers and supervisors ask for it, under whatever name or address they have for a bridge.
    pub(crate) fn is_for_probes(self) -> bool {
        match self {
            Self::Health | Self::Ready => true,
            Self::Description | Self::Docs => false,
        }
    }
}

/// What a method and path lead to. Numbers are places in [`ROUTES`] and [`PAGES`].
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// A door. `id` is the path's parameter as it was sent, empty if the path has none.
    Route {
        /// Place in [`ROUTES`].
        number: usize,
        /// Still percent-encoded.
        id: &'p str,
    },
    /// A page.
    Page {
        /// Place in [`PAGES`].
        number: usize,
    },
    /// The path exists, but not with this method.
    OtherMethods {
        /// The path as the tables have it.
        path: &'static str,
        /// Those that there are, a value for `Allow`.
        allow: String,
    },
    /// No such path.
    Nothing,
}

/// Finds the row for a request.
pub fn find<'p>(method: &Method, path: &'p str) -> Found<'p> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    for (number, route) in ROUTES.iter().enumerate() {
        if route.method == *method
            && let Some(id) = parameter(route.path, path)
        {
            return Found::Route { number, id };
        }
    }
    match PAGES.iter().position(|(page, _)| *page == path) {
        Some(number) if *method == Method::GET => Found::Page { number },
        Some(number) => Found::OtherMethods { path: PAGES[number].0, allow: format!("GET, HEAD, {OPTIONS}") },
        None => other_methods(path),
    }
}

impl Route {
    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    /// Whether it reads many things at once, page by page.
    pub fn is_list(&self) -> bool {
        matches!(self.input, Query(_))
    }

    /// Whether it is the one that orders come in by.
    pub fn places_order(&self) -> bool {
        self.kind == Order && self.about == New
    }

    /// The first part of the path, `orders`: what people call the kind's entities.
    pub fn collection(&self) -> &'static str {
        self.path[1..].split('/').next().unwrap_or_default()
    }

    /// The name of the path's parameter.
    pub fn parameter_name(&self) -> &'static str {
        self.path.split(['{', '}']).nth(1).unwrap_or("id")
    }
}

const NEWEST_FIRST: Input = Query(&["limit", "before"]);

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;
/// Every path has it.
const OPTIONS: Method = Method::OPTIONS;
/// What asks for the methods of all paths together, RFC 9110, section 9.3.7.
const ALL_PATHS: &str = "*";

#[expect(clippy::too_many_arguments, reason = "the columns of the table: named fields would take ten lines a row")]
const fn route(
    method: Method,
    path: &'static str,
    scope: Option<Scope>,
    kind: Kind,
    verb: &'static str,
    about: About,
    input: Input,
    repeat: Repeat,
    success: u16,
) -> Route {
    Route { method, path, scope, kind, verb, about, input, repeat, success }
}

/// What stands in `path` where `template` has its parameter: one part of a path, never empty.
/// Only the parameter may be percent-encoded; nobody encodes the letters of `orders`.
fn parameter<'p>(template: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, rest)) = template.split_once('{') else {
        return (template == path).then_some("");
    };
    let (_, after) = rest.split_once('}')?;
    let parameter = path.strip_prefix(before)?.strip_suffix(after)?;
    (!parameter.is_empty() && !parameter.contains('/')).then_some(parameter)
}

fn other_methods(path: &str) -> Found<'_> {
    let mut methods: Vec<&str> = Vec::new();
    let is_asked = |route: &&Route| path == ALL_PATHS || parameter(route.path, path).is_some();
    let mut template = ALL_PATHS;
    for route in ROUTES.iter().filter(is_asked) {
        if path != ALL_PATHS {
            template = route.path;
        }
        let with_head = if route.method == GET { ["GET", "HEAD"].as_slice() } else { &[route.method.as_str()] };
        methods.extend(with_head.iter().filter(|method| !methods.contains(method)).copied().collect::<Vec<_>>());
    }
    if methods.is_empty() {
        return Found::Nothing;
    }
    Found::OtherMethods { path: template, allow: format!("{}, {OPTIONS}", methods.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use shop_domain::problem::Code;

    use super::*;
    use crate::docs::DESCRIPTION;

    fn verb_and_id(method: Method, path: &str) -> Option<(&'static str, &str)> {
        match find(&method, path) {
            Found::Route { number, id } => Some((ROUTES[number].verb, id)),
            Found::Page { .. } | Found::OtherMethods { .. } | Found::Nothing => None,
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_path() {
        for (number, route) in ROUTES.iter().enumerate() {
            let path = route.path.replace("{id}", "x-1").replace("{user}", "x-1");
            let id = if route.path.contains('{') { "x-1" } else { "" };
            assert_eq!(find(&route.method, &path), Found::Route { number, id }, "{path}");
        }
    }

    #[test]
    fn a_parameter_is_exactly_one_part_of_the_path() {
        assert_eq!(verb_and_id(Method::GET, "/wallets/a%2Fb"), Some(("get", "a%2Fb")));
        assert_eq!(verb_and_id(Method::GET, "/wallets/statement"), Some(("get", "statement")));
        for path in
            ["", "//", "/wallets/", "/wallets/a/", "/wallets/a/b", "/wallets//statement", "/products/", "/Products"]
        {
            assert_eq!(find(&Method::GET, path), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn head_is_answered_like_get() {
        assert_eq!(verb_and_id(Method::HEAD, "/orders/o-1"), Some(("get", "o-1")));
        let health = PAGES.iter().position(|(path, _)| *path == "/healthz").unwrap();
        assert_eq!(find(&Method::HEAD, "/healthz"), Found::Page { number: health });
    }

    #[test]
    fn another_method_is_told_which_ones_there_are() {
        let methods = |path| match find(&Method::PUT, path) {
            Found::OtherMethods { path, allow } => (path, allow),
            found @ (Found::Route { .. } | Found::Page { .. } | Found::Nothing) => panic!("{found:?}"),
        };
        for (path, template, allow) in [
            ("/products", "/products", "POST, GET, HEAD, OPTIONS"),
            ("/orders/o-1", "/orders/{id}", "GET, HEAD, DELETE, OPTIONS"),
            ("/readyz", "/readyz", "GET, HEAD, OPTIONS"),
            ("*", "*", "POST, GET, HEAD, PATCH, DELETE, OPTIONS"),
        ] {
            assert_eq!(methods(path), (template, allow.to_owned()));
        }
    }

    #[test]
    fn the_openapi_document_lists_exactly_these_routes() {
        let document: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|member| *member != "parameters") {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let routes = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path));
        let pages = PAGES.iter().map(|(path, _)| format!("GET {path}"));
        assert_eq!(described, routes.chain(pages).collect());
    }

    #[test]
    fn the_openapi_document_promises_the_status_and_the_parameters_of_the_table() {
        let document: Value = serde_json::from_str(DESCRIPTION).unwrap();
        for route in &ROUTES {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert!(operation["responses"][route.success.to_string()].is_object(), "{} {}", route.method, route.path);
            let Query(names) = route.input else { continue };
            let parameters = operation["parameters"].as_array().unwrap();
            let parameters = parameters.iter().map(|parameter| {
                let reference = parameter["$ref"].as_str().unwrap().trim_start_matches('#');
                document.pointer(reference).unwrap()
            });
            let told = parameters.filter(|parameter| parameter["in"] == "query");
            assert_eq!(told.map(|parameter| &parameter["name"]).collect::<Vec<_>>(), names, "{}", route.path);
        }
    }

    #[test]
    fn the_openapi_document_explains_every_code() {
        let document: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
        let codes: Vec<&str> = codes.iter().map(|code| code.as_str().unwrap()).collect();
        assert_eq!(codes, Code::ALL.iter().map(|code| code.name).collect::<Vec<_>>());
        for code in Code::ALL {
            let example = &document["components"]["examples"][code.name]["value"];
            assert_eq!(example["status"], code.status, "{}", code.name);
            assert_eq!(example["title"], code.title, "{}", code.name);
        }
    }
}
