//! A whole shop in memory: entities, rows, and links that keep their order but nothing else does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde::{Serialize, de::DeserializeOwned};
use shop_domain::{
    caller::{Caller, Reach},
    delivery,
    entity::{self, Answer, Effect, State},
    id::{Id, Key},
    invariant::{
        self, Totals,
        always::{self, Cut, Seen},
        versions::{self, Sight},
    },
    kind::Kind,
    logic::Logic,
    message::{Envelope, Format, Message, ReplyTo, Request},
    money::{Money, Quantity},
    mypage,
    order::{self, Place, Wanted},
    product,
    rows::{RowKey, Rows, decode_row},
    ticket::Ticket,
    timestamp::Timestamp,
    version::{Precondition, Version},
    wallet,
};

/// Messages on their way from one entity to another kind. The real links join partitions; these
/// promise even less, so what holds here holds there.
type Link = (Id, Kind);

/// A shop in memory.
#[derive(Clone)]
pub(crate) struct World {
    states: BTreeMap<(Kind, Id), State>,
    rows: BTreeMap<(Kind, Id, RowKey), Vec<u8>>,
    /// None is empty.
    links: BTreeMap<Link, VecDeque<Envelope>>,
    answers: Vec<(String, Answer, bool)>,
    /// Inboxes with an answer that is final by its ticket.
    pub(crate) ticketed: BTreeSet<String>,
    pub(crate) now: u64,
    /// How entities behave.
    pub(crate) logic: Logic,
    /// Delivers every message between entities twice.
    pub(crate) stutters: bool,
    /// Lets no time pass, so that what happened in another order can come to the same.
    pub(crate) stands_still: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            states: BTreeMap::new(),
            rows: BTreeMap::new(),
            links: BTreeMap::new(),
            answers: vec![],
            ticketed: BTreeSet::new(),
            now: 0,
            logic: Logic::NEWEST,
            stutters: false,
            stands_still: false,
        }
    }
}

impl World {
    /// A product `id` at a price with some stock, and a wallet `user` with a balance.
    pub(crate) fn with(products: &[(&str, u64, u64)], wallets: &[(&str, u64)]) -> Self {
        let mut world = Self::default();
        for (product, price, stock) in products {
            world.tell(product, create(*price, *stock));
        }
        for (user, balance) in wallets {
            world.tell(user, wallet::Message::Open { balance: money(*balance) });
        }
        world.answers.clear();
        world
    }

    /// A command that nobody waits for.
    pub(crate) fn tell(&mut self, to: &str, message: impl Into<Message>) {
        self.command(to, message, "", None);
    }

    /// A command whose caller waits at `inbox`.
    pub(crate) fn ask(&mut self, to: &str, message: impl Into<Message>, inbox: &str) {
        self.command(to, message, inbox, None);
    }

    /// A command under an idempotency key.
    pub(crate) fn ask_with_key(&mut self, to: &str, message: impl Into<Message>, inbox: &str, key: &str) {
        self.command(to, message, inbox, Some(key.parse().unwrap()));
    }

    /// A command with a ticket.
    pub(crate) fn ask_with_ticket(&mut self, to: &str, message: impl Into<Message>, inbox: &str, ticket: &Ticket) {
        let mut envelope = command(to, message.into(), inbox, None);
        envelope.request.iter_mut().for_each(|request| request.ticket = Some(ticket.clone()));
        self.handle(envelope);
    }

    /// A command for a caller, under an idempotency key if it is not empty.
    pub(crate) fn ask_as(
        &mut self,
        (name, reach): (&str, Reach),
        to: &str,
        message: impl Into<Message>,
        inbox: &str,
        key: &str,
    ) {
        let key = Some(key).filter(|key| !key.is_empty()).map(|key| key.parse().unwrap());
        let mut envelope = command(to, message.into(), inbox, key);
        let caller = Caller { name: id(name), reach };
        envelope.request.iter_mut().for_each(|request| request.caller = Some(caller.clone()));
        self.handle(envelope);
    }

    /// A command with these values of `If-Match` and `If-None-Match`, where they are not empty.
    pub(crate) fn ask_if(
        &mut self,
        to: &str,
        message: impl Into<Message>,
        inbox: &str,
        (if_match, if_none_match): (&str, &str),
        key: Option<&str>,
    ) {
        let lines = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty()).into_iter().collect();
        let (if_match, if_none_match): (Vec<_>, Vec<_>) = (lines(if_match), lines(if_none_match));
        let mut envelope = command(to, message.into(), inbox, key.map(|key| key.parse().unwrap()));
        let precondition = Precondition::read(&if_match, &if_none_match).unwrap();
        envelope.request.iter_mut().for_each(|request| request.precondition = precondition.clone());
        self.handle(envelope);
    }

    /// The same under a key that the log keeps under another name.
    pub(crate) fn ask_with_key_as_given(
        &mut self,
        to: &str,
        message: impl Into<Message>,
        inbox: &str,
        key: &str,
        given: &str,
    ) {
        let mut envelope = command(to, message.into(), inbox, Some(key.parse().unwrap()));
        envelope.request.iter_mut().for_each(|request| request.key_as_given = Some(given.into()));
        self.handle(envelope);
    }

    /// A command that its caller, who waits at `inbox`, has sent, and that comes some time.
    pub(crate) fn ask_some_time(&mut self, to: &str, message: impl Into<Message>, inbox: &str) {
        let envelope = command(to, message.into(), inbox, None);
        let link = (id(inbox), envelope.message.kind());
        self.links.entry(link).or_default().push_back(envelope);
    }

    /// A message that some entity sent, straight away.
    pub(crate) fn deliver(&mut self, to: &str, message: impl Into<Message>) {
        self.handle(Envelope { to: id(to), message: message.into(), request: None, trace: None });
    }

    fn command(&mut self, to: &str, message: impl Into<Message>, inbox: &str, key: Option<Key>) {
        self.handle(command(to, message.into(), inbox, key));
    }

    /// On how many links something is on its way.
    pub(crate) fn open_links(&self) -> usize {
        self.links.len()
    }

    /// Delivers one message of the link that `choose` picks among so many; false if none is on its way.
    pub(crate) fn step(&mut self, choose: impl FnOnce(usize) -> usize) -> bool {
        if self.links.is_empty() {
            return false;
        }
        let link = self.links.keys().nth(choose(self.links.len())).unwrap().clone();
        let queue = self.links.get_mut(&link).unwrap();
        let envelope = queue.pop_front().unwrap();
        if queue.is_empty() {
            self.links.remove(&link);
        }
        if self.stutters {
            self.handle(envelope.clone());
        }
        self.handle(envelope);
        true
    }

    /// Delivers until `reached`.
    #[track_caller]
    pub(crate) fn step_until(&mut self, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            assert!(self.step(|_| 0), "everything has arrived, and that was not reached");
        }
    }

    /// What is on its way between entities.
    pub(crate) fn under_way(&self) -> Vec<&Message> {
        self.links.values().flatten().map(|envelope| &envelope.message).collect()
    }

    /// Lets a year go by in which nothing happens.
    pub(crate) fn pass_a_year(&mut self) {
        self.now += 365 * 24 * 60 * 60 * 1000;
    }

    /// Delivers until nothing is on its way.
    pub(crate) fn settle(&mut self) {
        while self.step(|_| 0) {}
    }

    fn handle(&mut self, envelope: Envelope) {
        self.now += u64::from(!self.stands_still);
        let (kind, to) = (envelope.message.kind(), envelope.to.clone());
        let is_void = matches!(envelope.message, Message::Void(_));
        let mut rows = Rows::default();
        for row in entity::rows(&envelope) {
            let bytes = self.rows.get(&(kind, to.clone(), row.clone())).cloned();
            rows.load(row, bytes);
        }
        let before = self.states.entry((kind, to.clone())).or_insert_with(|| State::absent(kind));
        let row = versions::row_of_page(&envelope.message).map(|row| (kind, to.clone(), row));
        let row_of = |rows: &BTreeMap<_, Vec<u8>>| rows.get(row.as_ref()?).cloned();
        let was = Sight::of(&to, before, row_of(&self.rows).as_deref());
        // Through bytes and back, as a checkpoint does it.
        let mut state = State::decode(kind, &before.encode()).unwrap();
        let effects = state.handle(envelope, Timestamp::from_unix_ms(self.now), self.logic, &mut rows);
        *before = state;
        for (row, bytes) in rows.into_changed() {
            self.rows.insert((kind, to.clone(), row), bytes);
        }
        let is = Sight::of(&to, before, row_of(&self.rows).as_deref());
        let violations = versions::check_version(&to, self.logic, &was, &is);
        assert!(violations.is_empty(), "{violations:#?}");
        for effect in effects {
            match effect {
                Effect::Send(envelope) => {
                    let link = (to.clone(), envelope.message.kind());
                    self.links.entry(link).or_default().push_back(envelope);
                }
                Effect::Reply(reply) => {
                    if reply.answer.error.is_none() && !reply.replayed && !is_void {
                        let shown = str::from_utf8(&reply.answer.body).ok();
                        let version = is.version().filter(|_| self.logic >= Logic::V4);
                        assert_eq!((shown, reply.answer.version), (is.json(), version), "{to} is shown otherwise");
                    }
                    if reply.ticketed {
                        self.ticketed.insert(reply.to.inbox.clone().into());
                    }
                    self.answers.push((reply.to.inbox.into(), reply.answer, reply.replayed));
                }
            }
        }
    }

    /// The answers given at an inbox, as JSON, and whether each was a replay.
    pub(crate) fn answers(&self, inbox: &str) -> Vec<(serde_json::Value, bool)> {
        let answers = self.answers.iter().filter(|(to, _, _)| to == inbox);
        answers.map(|(_, answer, replayed)| (serde_json::from_slice(&answer.body).unwrap(), *replayed)).collect()
    }

    /// The one answer given at an inbox.
    #[track_caller]
    pub(crate) fn answer(&self, inbox: &str) -> serde_json::Value {
        let mut answers = self.answers(inbox);
        assert_eq!(answers.len(), 1, "answers at {inbox}: {answers:?}");
        answers.remove(0).0
    }

    /// Goes on as if nobody had been answered yet.
    pub(crate) fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// The bytes of all answers given at an inbox.
    pub(crate) fn answer_bytes(&self, inbox: &str) -> Vec<&[u8]> {
        self.answers.iter().filter(|(to, _, _)| to == inbox).map(|(_, answer, _)| &answer.body[..]).collect()
    }

    /// Rows of an entity under a prefix, in order.
    pub(crate) fn rows<T: DeserializeOwned>(&self, kind: Kind, of: &str, prefix: &str) -> Vec<T> {
        let rows =
            self.rows.iter().filter(|((k, id, row), _)| *k == kind && id.as_str() == of && row.starts_with(prefix));
        rows.map(|(_, bytes)| decode_row(bytes)).collect()
    }

    fn state(&self, kind: Kind, of: &str) -> State {
        self.states.get(&(kind, id(of))).cloned().unwrap_or_else(|| State::absent(kind))
    }

    /// How often callers have seen an entity change.
    pub(crate) fn version(&self, kind: Kind, of: &str) -> Option<u64> {
        self.state(kind, of).version().map(Version::number)
    }

    /// The version in the answers given at an inbox.
    pub(crate) fn versions_told(&self, inbox: &str) -> Vec<Option<u64>> {
        let answers = self.answers.iter().filter(|(to, _, _)| to == inbox);
        answers.map(|(_, answer, _)| answer.version.map(Version::number)).collect()
    }

    /// What a wallet holds.
    pub(crate) fn balance(&self, user: &str) -> u64 {
        let State::Wallet(wallet::Wallet::Open(wallet)) = self.state(Kind::Wallet, user) else {
            panic!("{user} has no wallet");
        };
        wallet.balance.get()
    }

    /// What a product has on hand.
    pub(crate) fn stock(&self, product: &str) -> u64 {
        let State::Product(product::Product::OnSale(on_sale)) = self.state(Kind::Product, product) else {
            panic!("{product} is not on sale");
        };
        on_sale.stock.get()
    }

    /// An order as callers see it.
    pub(crate) fn order(&self, order: &str) -> order::View {
        let State::Order(state) = self.state(Kind::Order, order) else { panic!("{order} is no order") };
        state.view(&id(order)).expect("the order was placed")
    }

    /// How far a delivery is, if there is one.
    pub(crate) fn delivery(&self, order: &str) -> Option<delivery::Status> {
        let State::Delivery(delivery) = self.state(Kind::Delivery, order) else { panic!("{order} is no delivery") };
        if let delivery::Delivery::Made(made) = delivery { Some(made.status) } else { None }
    }

    /// Every order that was placed.
    pub(crate) fn orders(&self) -> Vec<order::View> {
        let orders = self.states.iter().filter(|((kind, _), _)| *kind == Kind::Order);
        orders
            .filter_map(|((_, id), state)| if let State::Order(order) = state { order.view(id) } else { None })
            .collect()
    }

    /// What tells this shop from another one: what it holds, what is on its way, who was answered.
    pub(crate) fn digest(&self) -> u128 {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            self.states.iter().for_each(|(key, state)| (key, state.encode()).hash(&mut hasher));
            self.rows.hash(&mut hasher);
            for (link, queue) in &self.links {
                (link, rmp_serde::to_vec(queue).unwrap()).hash(&mut hasher);
            }
            let mut answered: Vec<_> = self.answers.iter().map(|(inbox, answer, _)| (inbox, &answer.body)).collect();
            answered.sort();
            answered.hash(&mut hasher);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }

    /// Checks what must hold at every moment.
    #[track_caller]
    pub(crate) fn check_always(&self) {
        let mut rows: BTreeMap<(Kind, &Id), BTreeMap<RowKey, Vec<u8>>> = BTreeMap::new();
        for ((kind, id, row), bytes) in &self.rows {
            rows.entry((*kind, id)).or_default().insert(row.clone(), bytes.clone());
        }
        let cut = Now { states: &self.states, rows, none: BTreeMap::new() };
        let entities = self.states.keys().filter_map(|(kind, id)| cut.seen(*kind, id));
        let mut violations: Vec<_> = entities.flat_map(always::check_entity).collect();
        for (_, order) in self.states.keys().filter(|(kind, _)| *kind == Kind::Order) {
            violations.extend(always::check_order(&order.clone().into(), &cut));
        }
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// Checks that all adds up; returns what the shop holds.
    #[track_caller]
    pub(crate) fn check(&self) -> Totals {
        let (totals, violations) = self.audit();
        assert!(violations.is_empty(), "{violations:#?}");
        totals
    }

    /// What the shop holds, and what does not add up.
    pub(crate) fn audit(&self) -> (Totals, Vec<String>) {
        let (totals, violations) = invariant::check_at_rest(self.states.iter().map(|((_, id), state)| (id, state)));
        (totals, violations.iter().map(ToString::to_string).collect())
    }

    /// An entity as callers see it, in the bytes that they get; none when there is no such thing.
    pub(crate) fn view(&self, kind: Kind, of: &str) -> Option<String> {
        let id = id(of);
        match self.state(kind, of) {
            State::Wallet(wallet) => wallet.view(&id).map(|view| json(&view)),
            State::Product(product) => product.view(&id).map(|view| json(&view)),
            State::Order(order) => order.view(&id).map(|view| json(&view)),
            State::Delivery(delivery) => delivery.view(&id).map(|view| json(&view)),
            State::Mypage(_) => {
                let items = self.rows::<mypage::Item>(kind, of, mypage::ORDER_ROWS);
                Some(json(&items.into_iter().filter_map(mypage::Item::summary).collect::<Vec<_>>()))
            }
        }
    }
}

fn json(view: &impl Serialize) -> String {
    serde_json::to_string(view).unwrap()
}

/// This moment of a shop.
struct Now<'a> {
    states: &'a BTreeMap<(Kind, Id), State>,
    rows: BTreeMap<(Kind, &'a Id), BTreeMap<RowKey, Vec<u8>>>,
    none: BTreeMap<RowKey, Vec<u8>>,
}

impl Cut for Now<'_> {
    fn seen<'a>(&'a self, kind: Kind, id: &'a Id) -> Option<Seen<'a>> {
        let state = self.states.get(&(kind, id.clone()))?;
        Some(Seen { id, state, rows: self.rows.get(&(kind, id)).unwrap_or(&self.none) })
    }
}

fn command(to: &str, message: Message, inbox: &str, key: Option<Key>) -> Envelope {
    let fingerprint = message.fingerprint();
    let reply = (!inbox.is_empty()).then(|| ReplyTo { inbox: inbox.into(), format: Format::Json });
    let (ticket, precondition, caller) = (None, None, None);
    let request = Some(Request { key, key_as_given: None, fingerprint, reply, ticket, precondition, caller });
    Envelope { to: id(to), message, request, trace: None }
}

pub(crate) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

pub(crate) fn money(units: u64) -> Money {
    Money::new(units).unwrap()
}

pub(crate) fn quantity(pieces: u64) -> Quantity {
    Quantity::new(pieces).unwrap()
}

pub(crate) fn create(price: u64, stock: u64) -> product::Message {
    product::Message::Create { name: "thing".into(), price: money(price), stock: quantity(stock) }
}

/// An order at agreed prices: `(product, quantity, unit_price)` for every line.
pub(crate) fn place(user: &str, lines: &[(&str, u64, u64)]) -> order::Message {
    let lines = lines.iter().map(|(product, pieces, price)| Wanted {
        product: product.parse().unwrap(),
        quantity: quantity(*pieces),
        unit_price: Some(money(*price)),
        quote: None,
    });
    order::Message::Place(Place { user: user.parse().unwrap(), lines: lines.collect() })
}

pub(crate) fn cancel() -> order::Message {
    order::Message::Cancel { reason: None }
}

/// Xorshift (Marsaglia 2003): enough chance for a test, and the same on every machine.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
