//! What happens in a run: customers do what customers do, while hosts crash and come back.

use shop_actors::store::memory::MemoryStore;
use shop_domain::{
    delivery,
    id::ProductId,
    kind::Kind,
    money::{Money, Quantity},
    order::{self, Place, Wanted},
    product, wallet,
};

use crate::sim::Sim;

/// What every wallet holds at first, and every product.
pub(crate) const MONEY: u64 = 200;
pub(crate) const PIECES: u64 = 12;
pub(crate) const USERS: [&str; 3] = ["alice", "bob", "carol"];
pub(crate) const PRODUCTS: [&str; 3] = ["apple", "pear", "plum"];
const PRICE: u64 = 10;

/// Everything that one run does.
pub(crate) async fn play(sim: &mut Sim) {
    for user in USERS {
        sim.ask(user, wallet::Message::Open { balance: money(MONEY) }).await;
    }
    for product in PRODUCTS {
        let create = product::Message::Create { name: product.into(), price: money(PRICE), stock: pieces(PIECES) };
        sim.ask(product, create).await;
    }
    sim.pause(50).await;
    let mut orders = 0;
    let mut old: Vec<(Kind, MemoryStore)> = vec![];
    for _ in 0..sim.chance.usize(20..80) {
        match sim.chance.u8(0..20) {
            0..=8 => {
                let place = order(sim);
                sim.ask(&format!("o-{orders}"), place).await;
                orders += 1;
            }
            9..=11 if orders > 0 => {
                let which = sim.chance.u32(0..orders);
                sim.ask(&format!("o-{which}"), order::Message::Cancel { reason: None }).await;
            }
            12 if orders > 0 => {
                let which = sim.chance.u32(0..orders);
                sim.ask(&format!("o-{which}"), delivery::Message::Dispatch).await;
            }
            13 => {
                let kind = any_kind(sim);
                old.push((kind, sim.checkpoints(kind)));
            }
            14 | 15 => {
                let kind = any_kind(sim);
                sim.crash(kind, |store| store);
            }
            16 => {
                let kind = any_kind(sim);
                sim.crash(kind, |_| MemoryStore::default());
            }
            17 => {
                if let Some((kind, store)) = old.pop() {
                    sim.crash(kind, |_| store);
                }
            }
            18 => {
                let kind = any_kind(sim);
                let store = if sim.chance.bool() { sim.checkpoints(kind) } else { MemoryStore::default() };
                sim.start_zombie(kind, store);
            }
            19 if sim.chance.bool() => sim.stop_zombie(),
            _ => sim.log.disrupt(),
        }
        let pause = if sim.chance.u8(0..4) == 0 { 1_500 } else { 4 };
        sim.pause(pause).await;
    }
}

fn order(sim: &mut Sim) -> order::Message {
    let mut products = PRODUCTS.to_vec();
    sim.chance.shuffle(&mut products);
    let lines = sim.chance.usize(1..=PRODUCTS.len());
    let wanted = |product: &str, chance: &mut fastrand::Rng| Wanted {
        product: product.parse::<ProductId>().expect("it is a proper id"),
        quantity: pieces(chance.u64(1..4)),
        unit_price: Some(money(if chance.u8(0..12) == 0 { PRICE + 1 } else { PRICE })),
        quote: None,
    };
    let lines = products[..lines].iter().map(|product| wanted(product, &mut sim.chance)).collect();
    let user = USERS[sim.chance.usize(0..USERS.len())].parse().expect("it is a proper id");
    order::Message::Place(Place { user, lines })
}

fn any_kind(sim: &mut Sim) -> Kind {
    Kind::ALL[sim.chance.usize(0..Kind::ALL.len())]
}

fn money(units: u64) -> Money {
    Money::new(units).expect("it is within the range")
}

fn pieces(count: u64) -> Quantity {
    Quantity::new(count).expect("it is within the range")
}
