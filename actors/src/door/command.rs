//! Every verb of every kind: from a request to a message or a question, on one screen.

use std::collections::HashSet;

use shop_domain::{
    caller::{Caller, Reach},
    delivery,
    id::{Id, InvalidId, ProductId},
    kind::Kind,
    message::Message,
    money::{AMOUNT_MAX, Money, Quantity},
    order::{self, LINES_MAX, Place, Wanted},
    problem::{Code, Problem},
    product,
    text::quoted,
    ticket::{InvalidTicket, Ticket},
    version::Precondition,
    wallet,
};
use shop_nats::rpc::request::Conditions;

use super::body::{Fields, invalid, is_digits};
use crate::query::{About, PAGE_ITEMS, Page, Query};

/// Most characters of a product's name.
const NAME_LENGTH_MAX: usize = 200;
/// Most characters of the reason for a cancel.
const REASON_LENGTH_MAX: usize = 500;
/// Most products of one question for quotes: their ids stay within one body.
pub const QUOTES_MAX: usize = 500;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append this to the log.
    Write {
        /// To whom.
        to: Id,
        /// What.
        message: Message,
        /// Where the body says how much, as a JSON pointer: what a price that only the products know may
        /// make too much.
        how_much: &'static str,
    },
    /// Answer this.
    Read(Query),
}

/// Reads the request of `kind` with `target` (`<id>.<verb>`, or a verb for the whole kind).
pub fn read(kind: Kind, target: &str, body: &[u8]) -> Result<Command, Problem> {
    let fields = Fields::read(body)?;
    match target.rsplit_once('.') {
        Some((id, verb)) => {
            let id = id.parse().map_err(|error| invalid("/id", &format!("{error}")))?;
            about_one(kind, id, verb, fields)
        }
        None => about_all(kind, target, fields),
    }
}

/// Reads the ticket, if there is one: of a write that has no key, or of a void, which needs one.
pub fn ticket(tickets: &[String], command: &Command, has_key: bool) -> Result<Option<Ticket>, Problem> {
    let mistake = |detail: &str| invalid("/Shop-Ticket", detail);
    let ticket = match tickets {
        [] => None,
        [ticket] => Some(ticket.parse().map_err(|error: InvalidTicket| mistake(&error.to_string()))?),
        [_, _, ..] => return Err(mistake("must be given once")),
    };
    match (command, &ticket) {
        (Command::Write { message: Message::Void(_), .. }, None) => Err(mistake("is missing")),
        (Command::Write { .. }, Some(_)) if has_key => Err(mistake("stands in place of an Idempotency-Key")),
        (Command::Write { message: Message::Order(_), .. }, Some(_)) => {
            Err(mistake("is not needed: the id of an order is its key"))
        }
        (Command::Write { .. } | Command::Read(_), _) => Ok(ticket),
    }
}

/// Reads for whom a request is made, if that is said.
pub fn caller(caller: Option<(String, Reach)>) -> Result<Option<Caller>, Problem> {
    let read = |(name, reach): (String, Reach)| {
        let name = name.parse().map_err(|error: InvalidId| invalid("/caller", &error.to_string()))?;
        Ok(Caller { name, reach })
    };
    caller.map(read).transpose()
}

/// Reads what is demanded of the entity, if something is.
pub fn precondition(conditions: &Conditions, command: &Command) -> Result<Option<Precondition>, Problem> {
    let precondition = Precondition::read(&conditions.if_match, &conditions.if_none_match)?;
    match (command, &precondition) {
        (Command::Write { message: Message::Void(_), .. }, Some(_)) => Err(Problem::new(
            Code::MALFORMED,
            "a void demands nothing of its entity: send no If-Match or If-None-Match",
        )),
        (Command::Write { .. } | Command::Read(_), _) => Ok(precondition),
    }
}

fn about_one(kind: Kind, id: Id, verb: &str, mut fields: Fields) -> Result<Command, Problem> {
    let f = &mut fields;
    let how_much = if f.has("lines") { "/lines" } else { "/quantity" };
    let write = |message: Option<Message>| message.map(|message| Command::Write { to: id.clone(), message, how_much });
    let read = |query: Query| Some(Command::Read(query));
    let command = match (kind, verb) {
        (Kind::Wallet, "open") => write(open(&id, f)),
        (Kind::Wallet, "top-up") => write(top_up(f)),
        (Kind::Wallet, "statement") => {
            page(f, statement_place).and_then(|page| read(Query::Of(id.clone(), About::Statement(page))))
        }
        (Kind::Product, "create") => write(create(&id, f)),
        (Kind::Product, "restock") => write(restock(f)),
        (Kind::Product, "change") => write(change(f)),
        (Kind::Order, "place") => write(place(&id, f)),
        (Kind::Order, "cancel") => write(cancel(f)),
        (Kind::Order, "key-scope") => f.id("user").and_then(|user| read(Query::KeyScope(id.clone(), user))),
        (Kind::Delivery, "dispatch") => write(Some(delivery::Message::Dispatch.into())),
        (Kind::Delivery, "deliver") => write(Some(delivery::Message::Deliver.into())),
        (Kind::Wallet | Kind::Product | Kind::Delivery, "void") => write(Some(Message::Void(kind))),
        (Kind::Mypage, "get") => {
            page(f, orders_place).and_then(|page| read(Query::Of(id.clone(), About::Orders(page))))
        }
        (Kind::Wallet | Kind::Product | Kind::Order | Kind::Delivery, "get") => read(Query::Of(id, About::Itself)),
        (_, verb) => return Err(no_such_verb(kind, verb)),
    };
    fields.finish()?;
    Ok(command.expect("what is not a command left a mistake"))
}

fn about_all(kind: Kind, verb: &str, mut fields: Fields) -> Result<Command, Problem> {
    let f = &mut fields;
    let query = match (kind, verb) {
        (Kind::Product, "list") => products(f),
        (Kind::Product, "quote") => quotes(f),
        (_, "status") => Some(Query::Status),
        (_, verb) => return Err(no_such_verb(kind, verb)),
    };
    fields.finish()?;
    Ok(Command::Read(query.expect("what is not a query left a mistake")))
}

fn open(id: &Id, f: &mut Fields) -> Option<Message> {
    same_id(id, f);
    let balance = f.optional_integer("balance", 0, AMOUNT_MAX, Money::new).unwrap_or(Money::ZERO);
    Some(wallet::Message::Open { balance }.into())
}

fn top_up(f: &mut Fields) -> Option<Message> {
    let amount = f.integer("amount", 0, Money::new)?;
    Some(wallet::Message::TopUp { amount }.into())
}

fn create(id: &Id, f: &mut Fields) -> Option<Message> {
    same_id(id, f);
    let name = f.text("name", NAME_LENGTH_MAX);
    let price = f.integer("price", 0, Money::new);
    let stock = f.integer("stock", 0, Quantity::new);
    Some(product::Message::Create { name: name?, price: price?, stock: stock? }.into())
}

fn restock(f: &mut Fields) -> Option<Message> {
    let quantity = f.integer("quantity", 0, Quantity::new)?;
    Some(product::Message::Restock { quantity }.into())
}

fn change(f: &mut Fields) -> Option<Message> {
    let name = f.optional_text("name", NAME_LENGTH_MAX);
    let price = f.optional_integer("price", 0, AMOUNT_MAX, Money::new);
    Some(product::Message::Change { name, price }.into())
}

fn place(id: &Id, f: &mut Fields) -> Option<Message> {
    same_id(id, f);
    let user = f.id("user");
    let is_list = f.has("lines");
    let lines = if is_list {
        let singles: Vec<_> = ["product", "quantity", "unit_price"].into_iter().filter(|name| f.ignore(name)).collect();
        if !singles.is_empty() {
            f.note("lines", format!("stands in place of {}; give one or the other", singles.join(", ")));
        }
        f.optional_list("lines", LINES_MAX, wanted)
    } else {
        f.ignore("lines");
        wanted(f).map(|line| vec![line])
    };
    let lines = lines?;
    let mut seen = HashSet::new();
    for (index, line) in lines.iter().enumerate() {
        if !seen.insert(&line.product) {
            let product = quoted(line.product.as_str());
            f.note("lines", format!("name {product} more than once (again at index {index})"));
        }
    }
    let is_priced = seen.len() == lines.len() && lines.iter().all(|line| line.unit_price.is_some());
    if is_priced && order::price(&lines).is_err() {
        let place = if is_list { "lines" } else { "quantity" };
        f.note(place, "would make the order cost more than the shop can count".into());
    }
    Some(order::Message::Place(Place { user: user?, lines }).into())
}

fn wanted(f: &mut Fields) -> Option<Wanted> {
    let product = f.id("product");
    let quantity = f.integer("quantity", 1, Quantity::new);
    let unit_price = f.optional_integer("unit_price", 0, AMOUNT_MAX, Money::new);
    Some(Wanted { product: product?, quantity: quantity?, unit_price, quote: None })
}

fn cancel(f: &mut Fields) -> Option<Message> {
    let reason = f.optional_text("reason", REASON_LENGTH_MAX);
    Some(order::Message::Cancel { reason }.into())
}

fn products(f: &mut Fields) -> Option<Query> {
    let from: Option<ProductId> = f.optional_id("after");
    let limit = limit(f)?;
    Some(Query::Products(Page { limit, from: from.map(|id| id.to_string()) }))
}

fn quotes(f: &mut Fields) -> Option<Query> {
    f.list("products", QUOTES_MAX, |f| f.id("id")).map(Query::Quotes)
}

/// A page that begins where `before` says: where another page has ended.
fn page(f: &mut Fields, read_place: fn(&str) -> Option<String>) -> Option<Page> {
    let from = f.optional_place("before", read_place);
    Some(Page { limit: limit(f)?, from })
}

/// A place in a statement is an entry's number, as its row has it.
fn statement_place(text: &str) -> Option<String> {
    (text.len() == 20 && is_digits(text)).then(|| text.to_owned())
}

/// A place on a page is the time of placing, in digits, and the order's id.
fn orders_place(text: &str) -> Option<String> {
    let (time, order) = text.split_once('-')?;
    let is_row = time.len() == 16 && is_digits(time) && order.parse::<Id>().is_ok();
    is_row.then(|| text.to_owned())
}

fn limit(f: &mut Fields) -> Option<usize> {
    let (default, max) = PAGE_ITEMS;
    if !f.has("limit") {
        f.ignore("limit");
        return Some(default);
    }
    f.optional_integer("limit", 1, max as u64, |limit| usize::try_from(limit).ok())
}

/// An id in the body must be the one that the request is about.
fn same_id(id: &Id, f: &mut Fields) {
    if let Some(other) = f.optional_id::<Id>("id").filter(|other| other != id) {
        let (other, id) = (quoted(other.as_str()), quoted(id.as_str()));
        f.note("id", format!("is {other}, but the request is about {id}"));
    }
}

fn no_such_verb(kind: Kind, verb: &str) -> Problem {
    let detail = format!("there is no verb {} for the kind {kind}", quoted(verb));
    Problem::new(Code::NOT_FOUND, detail).fact("kind", kind.as_str())
}
