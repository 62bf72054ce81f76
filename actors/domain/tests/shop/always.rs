//! What must hold at every moment, and what is said when it does not: one thing at a time is
//! wrong in a shop of one order, and exactly that is found.

mod cut;
mod step;

use std::collections::BTreeMap;

use serde::Serialize;
use shop_domain::{
    delivery::{self, Delivery},
    entity::{Asker, State},
    id::Id,
    invariant::always::{self, Cut, Seen},
    kind::Kind,
    money::Money,
    mypage::{Item, Mypage},
    order::{CancelRefused, Line, Order, Phase, Placed},
    product::{OnSale, Product, Take},
    refusal::Refusal,
    rows::RowKey,
    timestamp::Timestamp,
    version::Version,
    wallet::{self, Charge, Entry, EntryKind, Open, Wallet},
};

use crate::world::{id, money, quantity};

/// The one order: alice's two apples for 20. All five entities, and all their rows.
struct Shop {
    wallet: Open,
    product: OnSale,
    order: Placed,
    delivery: Option<delivery::Status>,
    rows: BTreeMap<(Kind, RowKey), Vec<u8>>,
}

/// A shop as it was handed over for a check.
struct Books(BTreeMap<Kind, (Id, State, Rows)>);

type Rows = BTreeMap<RowKey, Vec<u8>>;

impl Cut for Books {
    fn seen<'a>(&'a self, kind: Kind, id: &'a Id) -> Option<Seen<'a>> {
        self.0.get(&kind).filter(|(is, ..)| is == id).map(|(id, state, rows)| Seen { id, state, rows })
    }
}

const AT: Timestamp = Timestamp::from_unix_ms(5);

impl Shop {
    /// Confirmed, with all that belongs to it.
    fn sound() -> Self {
        let mut shop = Self {
            wallet: Open { balance: money(80), charged: money(20), entries: 2, updated_at: AT, version: Version::ZERO },
            product: OnSale {
                name: "thing".into(),
                price: money(10),
                stock: quantity(8),
                taken: quantity(2),
                updated_at: AT,
                version: Version::ZERO,
            },
            order: placed(Phase::Confirmed, true, false),
            delivery: Some(delivery::Status::Scheduled),
            rows: BTreeMap::new(),
        };
        shop.entry(0, EntryKind::TopUp, 100, 100);
        shop.entry(1, EntryKind::Charge, 20, 80);
        shop.charge(Some(Charge::Charged(money(20))));
        shop.take(Some(Take::Taken(quantity(2))));
        shop.page(AT, true, Some(delivery::Status::Scheduled));
        shop
    }

    /// One that is at `phase`, with all that belongs to it.
    fn at(phase: Phase) -> Self {
        let mut shop = Self::sound();
        let (goes_on, shipped) = match phase {
            Phase::Paying => (false, false),
            Phase::Taking { .. } => (true, false),
            Phase::Confirmed | Phase::Stopping => (true, true),
            Phase::Rejected(_) | Phase::Cancelled => (false, false),
        };
        if !goes_on {
            (shop.wallet.balance, shop.wallet.charged, shop.wallet.entries) = (money(100), Money::ZERO, 1);
            shop.rows.remove(&(Kind::Wallet, wallet::entry_row(1)));
            shop.charge(None);
            (shop.product.stock, shop.product.taken) = (quantity(10), quantity(0));
            shop.take(None);
        }
        if !shipped {
            shop.delivery = None;
            shop.page(AT, false, None);
        }
        let cancelling = matches!(phase, Phase::Stopping | Phase::Cancelled);
        shop.order = placed(phase, shipped, cancelling);
        shop
    }

    fn put<T: Serialize>(&mut self, kind: Kind, key: RowKey, value: Option<&T>) {
        match value {
            Some(value) => drop(self.rows.insert((kind, key), rmp_serde::to_vec_named(value).unwrap())),
            None => drop(self.rows.remove(&(kind, key))),
        }
    }

    fn add_line_of_pears(&mut self) {
        let pears = Line { product: "pear".parse().unwrap(), ..self.order.lines[0].clone() };
        self.order.lines.push(pears);
    }

    fn entry(&mut self, number: u64, kind: EntryKind, amount: u64, balance: u64) {
        let (amount, balance) = (money(amount), money(balance));
        let entry = Entry { at: AT, kind, amount, balance, order: None, key: None };
        self.put(Kind::Wallet, wallet::entry_row(number), Some(&entry));
    }

    fn charge(&mut self, charge: Option<Charge>) {
        self.put(Kind::Wallet, "charge/o-1".into(), charge.as_ref());
    }

    fn take(&mut self, take: Option<Take>) {
        self.put(Kind::Product, "take/o-1".into(), take.as_ref());
    }

    /// What the page shows: the order as it was at a time, with or without a delivery.
    fn page(&mut self, updated_at: Timestamp, delivery: bool, delivery_status: Option<delivery::Status>) {
        let mut order = Order::Placed(Box::new(placed(Phase::Confirmed, delivery, false))).view(&id("o-1")).unwrap();
        order.updated_at = updated_at;
        let row = "order/0000000000000003-o-1".into();
        self.put(Kind::Mypage, row, Some(&Item { order: Some(order), delivery_status }));
    }

    /// What is found wrong, in the order of the kinds, and of the order last.
    fn found(self) -> Vec<String> {
        let states = [
            (Kind::Wallet, "alice", State::Wallet(Wallet::Open(self.wallet))),
            (Kind::Product, "apple", State::Product(Product::OnSale(self.product))),
            (Kind::Order, "o-1", State::Order(Order::Placed(Box::new(self.order)))),
            (Kind::Delivery, "o-1", State::Delivery(self.delivery.map_or(Delivery::Absent, made))),
            (Kind::Mypage, "alice", State::Mypage(Mypage::default())),
        ];
        let rows = |kind| self.rows.iter().filter(move |((of, _), _)| *of == kind);
        let rows = |kind| rows(kind).map(|((_, row), bytes)| (row.clone(), bytes.clone())).collect();
        found(&Books(states.into_iter().map(|(kind, of, state)| (kind, (id(of), state, rows(kind)))).collect()))
    }
}

fn found(books: &Books) -> Vec<String> {
    let entities = books.0.values().flat_map(|(id, state, rows)| always::check_entity(Seen { id, state, rows }));
    let order = always::check_order(&"o-1".parse().unwrap(), books);
    entities.chain(order).map(|violation| violation.to_string()).collect()
}

fn placed(phase: Phase, shipped: bool, cancelling: bool) -> Placed {
    let line = Line { product: "apple".parse().unwrap(), quantity: quantity(2), unit_price: Some(money(10)) };
    Placed {
        user: "alice".parse().unwrap(),
        lines: vec![line],
        amount: money(20),
        phase,
        shipped,
        cancelling,
        cancel_reason: None,
        cancel_refused: None,
        quoted: Default::default(),
        placed_at: Timestamp::from_unix_ms(3),
        updated_at: AT,
        version: Version::ZERO,
        placers: vec![],
        cancellers: vec![],
    }
}

fn made(status: delivery::Status) -> Delivery {
    let user = "alice".parse().unwrap();
    Delivery::Made(delivery::Made {
        user,
        lines: vec![],
        placed_at: AT,
        status,
        updated_at: AT,
        version: Version::ZERO,
    })
}

fn taking(answers: &[(&str, Option<Refusal>)]) -> Phase {
    let answers = answers.iter().map(|(product, refusal)| (product.parse().unwrap(), refusal.clone()));
    Phase::Taking { answers: answers.collect() }
}

fn broke() -> Refusal {
    Refusal::InsufficientBalance { balance: money(1), needed: money(20) }
}

fn refused() -> Refusal {
    Refusal::OutOfStock { product: "apple".parse().unwrap(), stock: quantity(0), needed: quantity(2) }
}

/// Every phase, of an order of one line.
fn phases() -> [Phase; 6] {
    let rejected = Phase::Rejected(refused());
    [Phase::Paying, taking(&[]), Phase::Confirmed, Phase::Stopping, rejected, Phase::Cancelled]
}

fn too_late(delivery_status: delivery::Status) -> Option<CancelRefused> {
    Some(CancelRefused { reason: None, delivery_status, at: AT })
}

fn caller() -> Asker {
    Asker { reply: None, answer_row: None, key: None, fingerprint: 0, trace: None }
}

/// Breaks a sound shop, and says what must be found.
type Case = (fn(&mut Shop), &'static [&'static str]);

fn check(phase: &Phase, cases: &[Case]) {
    assert_eq!(Shop::at(phase.clone()).found(), [""; 0], "{phase:?}");
    for (number, (break_it, expected)) in cases.iter().enumerate() {
        let mut shop = Shop::at(phase.clone());
        break_it(&mut shop);
        assert_eq!(shop.found(), *expected, "case {number} at {phase:?}");
    }
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for phase in phases() {
        check(&phase, &[]);
    }
    check(&Phase::Rejected(broke()), &[]);
}

#[test]
fn a_wallet_whose_statement_or_charges_do_not_add_up_is_found() {
    let cases: [Case; 6] = [
        (
            |shop| shop.wallet.balance = money(81),
            &[
                "alice: the balance is not the statement's last",
                "alice: balance and open charges are not what was put in",
            ],
        ),
        (
            |shop| shop.wallet.charged = money(21),
            &["alice: balance and open charges are not what was put in", "alice: the open charges do not add up"],
        ),
        (|shop| shop.wallet.entries = 3, &["alice: the statement lacks an entry"]),
        (|shop| shop.entry(0, EntryKind::TopUp, 100, 99), &["alice: the statement says 99 where it is 100"]),
        (
            |shop| shop.entry(0, EntryKind::Refund, 100, 100),
            &["alice: balance and open charges are not what was put in"],
        ),
        (
            |shop| shop.charge(Some(Charge::Void)),
            &["alice: a refund came before its charge", "alice: the open charges do not add up", "o-1: goes on unpaid"],
        ),
    ];
    check(&Phase::Confirmed, &cases);
}

#[test]
fn a_product_whose_takes_do_not_add_up_is_found() {
    let cases: [Case; 2] = [
        (|shop| shop.product.taken = quantity(3), &["apple: the open takes do not add up"]),
        (
            |shop| shop.take(Some(Take::Void)),
            &[
                "apple: pieces came back before they were taken",
                "apple: the open takes do not add up",
                "o-1: counts on pieces that it did not take",
            ],
        ),
    ];
    check(&Phase::Confirmed, &cases);
}

#[test]
fn an_undo_that_has_overtaken_what_it_undoes_is_found() {
    let found = |state: &State, rows: &[&str]| {
        let rows = rows.iter().map(|row| (RowKey::from(*row), vec![])).collect();
        let found = always::check_entity(Seen { id: &id("x"), state, rows: &rows });
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (kind, undone) in [(Kind::Wallet, "charge/o-1"), (Kind::Product, "take/o-1")] {
        let absent = State::absent(kind);
        assert_eq!(found(&absent, &[]), [""; 0]);
        assert_eq!(found(&absent, &["answer/k-1", "ticket/007"]), [""; 0]);
        assert_eq!(found(&absent, &[undone]), ["x: is absent, but was undone"]);
    }
    let void = State::Delivery(Delivery::Void);
    assert_eq!(found(&void, &[]), ["x: was cancelled before it was made"]);
}

#[test]
fn an_order_whose_marks_or_callers_are_not_those_of_its_phase_is_found() {
    let (ship, stop) =
        ("o-1: is shipped or not, against its phase", "o-1: is being cancelled or not, against its phase");
    for phase in phases() {
        let marks = |shipped, cancelling| {
            let mut shop = Shop::at(phase.clone());
            (shop.order.shipped, shop.order.cancelling) = (shipped, cancelling);
            shop.found().into_iter().filter(|found| found == ship || found == stop).collect::<Vec<_>>()
        };
        let found = [marks(false, false), marks(false, true), marks(true, false), marks(true, true)];
        let expected: [&[&str]; 4] = match phase {
            Phase::Paying | Phase::Taking { .. } => [&[], &[], &[ship], &[ship]],
            Phase::Confirmed => [&[ship], &[ship, stop], &[], &[stop]],
            Phase::Stopping => [&[ship, stop], &[ship], &[stop], &[]],
            Phase::Rejected(_) => [&[], &[stop], &[ship], &[ship, stop]],
            Phase::Cancelled => [&[stop], &[], &[stop], &[]],
        };
        assert_eq!(found, expected, "{phase:?}");

        let mut waits = Shop::at(phase.clone());
        waits.order.placers.push(caller());
        let decided = !matches!(phase, Phase::Paying | Phase::Taking { .. });
        let expected: &[&str] = if decided { &["o-1: is decided, and a caller still waits"] } else { &[] };
        assert_eq!(waits.found(), expected, "{phase:?}");

        let mut waits = Shop::at(phase.clone());
        waits.order.cancellers.push(caller());
        let expected: &[&str] =
            if phase == Phase::Stopping { &[] } else { &["o-1: is not being cancelled, and a caller waits for it"] };
        assert_eq!(waits.found(), expected, "{phase:?}");
    }
}

#[test]
fn an_order_with_answers_that_nobody_owes_it_is_found() {
    let said = "o-1: has answers that it does not wait for";
    let (one_of_one, stranger) = (taking(&[("apple", None)]), taking(&[("plum", Some(refused()))]));
    assert_eq!(Shop::at(one_of_one.clone()).found(), [said]);
    assert_eq!(Shop::at(stranger.clone()).found(), [said]);
    for (phase, expected) in [(one_of_one, &[][..]), (stranger, &[said])] {
        let mut two_lines = Shop::at(phase);
        two_lines.add_line_of_pears();
        assert_eq!(two_lines.found(), expected);
    }
}

#[test]
fn a_refused_cancel_of_what_was_not_dispatched_is_found() {
    for phase in phases() {
        let mut shop = Shop::at(phase.clone());
        shop.order.cancel_refused = too_late(delivery::Status::Dispatched);
        shop.delivery = shop.delivery.map(|_| delivery::Status::Dispatched);
        let is_sent = matches!(phase, Phase::Confirmed | Phase::Stopping);
        let said = shop.found().iter().any(|found| found.ends_with("is not confirmed any more"));
        assert_eq!(said, !is_sent, "{phase:?}");
    }
    let case: Case = (
        |shop| shop.order.cancel_refused = too_late(delivery::Status::Delivered),
        &["o-1: was told more than its delivery says"],
    );
    check(&Phase::Confirmed, &[case]);
}
