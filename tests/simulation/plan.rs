//! What happens in a run by chance: customers do what customers do, while hosts crash and come back.

use std::time::Duration;

use shop_actors::store::memory::MemoryStore;
use shop_domain::{
    delivery,
    id::ProductId,
    kind::Kind,
    logic::Logic,
    money::{Money, Quantity},
    order::{self, Place, Wanted},
    product, wallet,
};

use crate::{careful::CAREFUL, chaos::Keep, hearsay::Lies, reads::LookAt, sim::Sim, trace::Fault, vault::Spoil};

/// What every wallet holds at first, and every product.
const MONEY: u64 = 200;
const PIECES: u64 = 12;
const USERS: [&str; 3] = ["alice", "bob", "carol"];
const PRODUCTS: [&str; 3] = ["apple", "pear", "plum"];
/// Who has no wallet, and what nobody sells.
const NOBODY: &str = "nobody";
const NOTHING: &str = "nothing";
const PRICE: u64 = 10;
/// How long hosts disagree at most: longer than one that is silent counts as there.
const ESTRANGED_MS: u64 = 4_000;
/// For how long something is frozen at most: longer than it takes to cut the shop anew.
const FROZEN_MS: u64 = 15_000;

/// Everything that one run does.
pub(crate) async fn play(sim: &mut Sim) {
    let seed = sim.chance.u64(..);
    sim.seed(seed);
    for user in USERS {
        sim.ask(user, wallet::Message::Open { balance: money(MONEY) });
    }
    for product in PRODUCTS {
        sim.ask(product, create(PRICE, PIECES));
    }
    for user in CAREFUL {
        sim.ask(user, wallet::Message::Open { balance: money(0) });
    }
    sim.trusts_clocks = sim.chance.bool();
    pause(sim, 50).await;
    let (mut orders, mut old) = (0, vec![]);
    for _ in 0..sim.chance.usize(20..80) {
        match sim.chance.u8(0..31) {
            0..=8 => {
                let place = order(sim);
                sim.ask(&format!("o-{orders}"), place);
                orders += 1;
            }
            9..=11 => {
                let which = sim.chance.u32(0..=orders);
                sim.ask(&format!("o-{which}"), order::Message::Cancel { reason: None });
            }
            12..=13 => {
                let which = sim.chance.u32(0..=orders);
                let message = if sim.chance.bool() { delivery::Message::Dispatch } else { delivery::Message::Deliver };
                sim.ask(&format!("o-{which}"), message);
            }
            14..=16 => bring(sim),
            // Before the third version what is seen of a log whose clock goes back is not in order.
            17 if sim.shape.logic >= Logic::V3 && !sim.trusts_clocks => sim.put_back(),
            17 => {
                let kind = any_kind(sim);
                let partition = any_partition(sim, kind);
                sim.upgrade(kind, partition);
            }
            18 | 19 => again(sim),
            20..=23 if sim.shape.hosts > 1 => estrange(sim),
            24 | 25 if sim.shape.snapshots.is_some() => cut_or_spoil(sim),
            28 => freeze(sim),
            29 | 30 if sim.shape.snapshots.is_some() => cut_anew(sim),
            20.. => harm(sim, &mut old),
        }
        // Before the third version tickets are not heeded.
        if sim.shape.logic >= Logic::V3 && sim.chance.u8(0..3) == 0 {
            sim.pay_in();
        }
        // Before the fifth version callers are not heeded.
        if sim.shape.logic >= Logic::V5 && sim.asked.len().is_multiple_of(5) {
            trespass(sim, orders);
        }
        look(sim, orders);
        let pause_ms = if sim.chance.u8(0..4) == 0 || sim.is_being_cut() { 1_500 } else { 4 };
        pause(sim, pause_ms).await;
    }
}

/// A customer asks about what is another's or the shop's, under a key that others use as well.
fn trespass(sim: &mut Sim, orders: u32) {
    sim.count(Fault::Trespassed);
    let number = sim.asked.len();
    let (user, product) = (USERS[number % USERS.len()], PRODUCTS[number % PRODUCTS.len()]);
    let order = format!("o-{}", number as u32 % (orders + 1));
    let key = format!("k-{}", number / 2);
    match number % 4 {
        0 => sim.trespass(user, wallet::Message::TopUp { amount: money(9) }, &key),
        1 => sim.trespass(product, product::Message::Restock { quantity: pieces(9) }, &key),
        2 => sim.trespass(&order, delivery::Message::Dispatch, &key),
        _ => sim.trespass(&order, order::Message::Cancel { reason: None }, &key),
    }
}

/// Somebody looks at something, on one of the hosts.
fn look(sim: &mut Sim, orders: u32) {
    // My page has no state of its own to look at.
    let kind = [Kind::Wallet, Kind::Product, Kind::Order, Kind::Delivery][sim.chance.usize(0..4)];
    let order = format!("o-{}", sim.chance.u32(0..=orders));
    let name = match kind {
        Kind::Wallet => USERS[sim.chance.usize(0..USERS.len())],
        Kind::Product => PRODUCTS[sim.chance.usize(0..PRODUCTS.len())],
        Kind::Order | Kind::Delivery | Kind::Mypage => &order,
    };
    let id = LookAt::Entity(name.parse().expect("the plan names proper ids"));
    let products = || PRODUCTS.map(|product| product.parse().expect("the plan names proper ids")).to_vec();
    let at = match (kind, sim.chance.u8(0..4)) {
        (Kind::Product, 0) => LookAt::Products,
        (Kind::Product, 1) => LookAt::Quotes(products()),
        (Kind::Wallet | Kind::Product | Kind::Order | Kind::Delivery | Kind::Mypage, _) => id,
    };
    if let Some(slot) = sim.any_host(kind) {
        sim.look(slot, at);
    }
}

/// Money or pieces come in, or a price changes.
fn bring(sim: &mut Sim) {
    let (user, product) = (USERS[sim.chance.usize(0..USERS.len())], PRODUCTS[sim.chance.usize(0..PRODUCTS.len())]);
    let key = format!("k-{}", sim.asked.len());
    // Nothing at all is something, too: an older logic makes an entry of it.
    let amount = sim.chance.u64(0..2) * 7;
    match sim.chance.u8(0..8) {
        0..=2 => sim.ask_with_key(user, wallet::Message::TopUp { amount: money(amount) }, &key),
        3..=5 => sim.ask_with_key(product, product::Message::Restock { quantity: pieces(amount) }, &key),
        6 => sim.ask_with_key(NOTHING, product::Message::Restock { quantity: pieces(amount) }, &key),
        _ => {
            let price = money(PRICE + sim.chance.u64(0..2));
            sim.ask_with_key(product, product::Message::Change { name: None, price: Some(price) }, &key);
        }
    }
}

/// A client asks something once more, sometimes with another body under the same key.
fn again(sim: &mut Sim) {
    let request = sim.chance.usize(0..sim.asked.len());
    let asked = sim.asked[request].clone();
    let Some(key) = asked.key.filter(|_| sim.chance.u8(0..3) == 0) else {
        sim.count(Fault::AskedAgain);
        return sim.ask_again(request);
    };
    sim.count(Fault::AskedOtherwise);
    match asked.message.kind() {
        Kind::Wallet => sim.ask_with_key(asked.to.as_str(), wallet::Message::TopUp { amount: money(9) }, key.as_str()),
        Kind::Product | Kind::Order | Kind::Delivery | Kind::Mypage => {
            let restock = product::Message::Restock { quantity: pieces(9) };
            sim.ask_with_key(asked.to.as_str(), restock, key.as_str());
        }
    }
}

/// A host crashes, stops, or gets a double.
fn harm(sim: &mut Sim, old: &mut Vec<(Kind, MemoryStore)>) {
    let kind = any_kind(sim);
    let Some(slot) = sim.any_host(kind) else { return };
    match sim.chance.u8(0..9) {
        0 => old.push((kind, sim.checkpoints(slot))),
        1 | 2 => {
            sim.count(Fault::CrashAtAnyTime);
            sim.crash(slot, Keep::Latest);
        }
        3 => {
            sim.count(Fault::CrashAtAnyTime);
            sim.crash(slot, Keep::Nothing);
        }
        4 => {
            let Some((kind, store)) = old.pop() else { return };
            if let Some(slot) = sim.any_host(kind) {
                sim.crash_back_to(slot, store);
            }
        }
        5 => sim.stop(slot),
        6 => {
            let keep = if sim.chance.bool() { Keep::Latest } else { Keep::Nothing };
            sim.start_zombie(slot, keep);
        }
        7 => sim.stop_zombie(),
        _ => sim.disrupt(),
    }
}

/// The hosts of a kind come to believe different things of each other, or one of them leaves.
fn estrange(sim: &mut Sim) {
    let kind = any_kind(sim);
    let Some(slot) = sim.any_host(kind) else { return };
    let time = Duration::from_millis(sim.chance.u64(0..ESTRANGED_MS));
    match sim.chance.u8(0..6) {
        0 => sim.cut_off(slot, true, time),
        1 => sim.cut_off(slot, false, time),
        2 => sim.silence(slot, time),
        3 => {
            let partition = any_partition(sim, kind);
            let last = sim.last_of(kind);
            let lies = sim.chance.bool().then(|| Lies {
                settled: if sim.chance.bool() { u64::MAX } else { last + sim.chance.u64(0..100) },
                receipt: sim.chance.u64(0..last + 100),
            });
            sim.haunt(slot, partition, lies, time);
        }
        _ => sim.stop(slot),
    }
}

/// A log is cut behind its snapshots, or something happens to one of these.
fn cut_or_spoil(sim: &mut Sim) {
    let kind = any_kind(sim);
    if sim.chance.bool() {
        return sim.trim(kind);
    }
    let partition = any_partition(sim, kind);
    let how = [Spoil::Flip, Spoil::Truncate, Spoil::Lose][sim.chance.usize(0..3)];
    sim.spoil(kind, partition, how);
}

/// A host stands still for a while.
fn freeze(sim: &mut Sim) {
    let kind = any_kind(sim);
    let Some(slot) = sim.any_host(kind) else { return };
    let time = Duration::from_millis(sim.chance.u64(0..FROZEN_MS));
    sim.freeze(slot, time);
}

/// The shop is cut into other partitions, sometimes behind the back of a host that stands still; or whoever does that is
/// disturbed.
fn cut_anew(sim: &mut Sim) {
    let time = Duration::from_millis(sim.chance.u64(0..FROZEN_MS));
    sim.disturb_the_cut(time);
    if sim.chance.bool() {
        freeze(sim);
    }
    sim.repartition();
}

fn any_partition(sim: &mut Sim, kind: Kind) -> u16 {
    let partitions = sim.log.partitions(kind);
    sim.chance.u16(0..partitions)
}

fn any_kind(sim: &mut Sim) -> Kind {
    Kind::ALL[sim.chance.usize(0..Kind::ALL.len())]
}

/// Lets some time pass.
async fn pause(sim: &mut Sim, ms_max: u64) {
    let time = Duration::from_millis(sim.chance.u64(0..ms_max));
    sim.pass(time).await;
}

fn order(sim: &mut Sim) -> order::Message {
    let mut products = PRODUCTS.to_vec();
    sim.chance.shuffle(&mut products);
    if sim.chance.u8(0..16) == 0 {
        products[0] = NOTHING;
    }
    let count = sim.chance.usize(1..=PRODUCTS.len());
    let mut line = |product: &&'static str| {
        let price = if sim.chance.u8(0..12) == 0 { PRICE + 1 } else { PRICE };
        (*product, sim.chance.u64(1..4), price)
    };
    let lines: Vec<_> = products[..count].iter().map(&mut line).collect();
    let user = if sim.chance.u8(0..16) == 0 { NOBODY } else { USERS[sim.chance.usize(0..USERS.len())] };
    place(user, &lines)
}

/// An order at agreed prices: product, pieces and price of every line.
pub(crate) fn place(user: &str, lines: &[(&str, u64, u64)]) -> order::Message {
    let wanted = |(product, quantity, price): &(&str, u64, u64)| Wanted {
        product: product.parse::<ProductId>().expect("it is a proper id"),
        quantity: pieces(*quantity),
        unit_price: Some(money(*price)),
        quote: None,
    };
    order::Message::Place(Place {
        user: user.parse().expect("it is a proper id"),
        lines: lines.iter().map(wanted).collect(),
    })
}

/// A product at a price, with some stock.
pub(crate) fn create(price: u64, stock: u64) -> product::Message {
    product::Message::Create { name: "thing".into(), price: money(price), stock: pieces(stock) }
}

pub(crate) fn money(units: u64) -> Money {
    Money::new(units).expect("it is within the range")
}

fn pieces(count: u64) -> Quantity {
    Quantity::new(count).expect("it is within the range")
}
