//! What a bridge promises while doors are held: no more than it can keep, and that it keeps.

use std::{future::pending, time::Duration};

use futures::future::join_all;
use serde_json::json;
use shop_bridge_http::{Config, limits::Limits};
use shop_nats::{
    connection::{Connection, access::Access},
    hosts::pause::PauseGuard,
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::shop::{Answer, Ask, Customer, TestShop, eventually};

/// A shop whose doors are held, and a bridge of its own.
struct Held {
    shop: TestShop,
    connection: Connection,
    holding: PauseGuard,
    bridge: Customer,
    _serving: AbortOnDropHandle<()>,
}

impl Held {
    async fn behind(config: Config) -> Self {
        let shop = TestShop::open().await;
        shop.product("apple", 10, 1_000).await;
        shop.wallet("alice", 1_000).await;
        let connect = async || Connection::connect(&Access::to(shop.shop.nats_url()), "test").await.unwrap();
        let (connection, listener) = (connect().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
        let bridge = Customer::of(&listener.local_addr().unwrap().to_string());
        let serving = shop_bridge_http::run(config, connect().await, listener, pending());
        let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let holding = connection.hold_doors();
        let change = || async { shop.patch("/products/apple", json!({ "price": 10 })).prefer("wait=0").await };
        eventually("the doors hold", change, |answer| answer.body["held"] == true).await;
        Self { shop, connection, holding, bridge, _serving }
    }

    fn order(&self, id: &str, preference: &str) -> Ask {
        let order = json!({ "id": id, "user": "alice", "product": "apple", "quantity": 1 });
        self.bridge.post("/orders", order).prefer(preference)
    }

    /// Opens the doors, and waits for what was promised; nothing else may be there then.
    async fn open(self, promised: &[&str], refused: &[&str]) {
        let Self { shop, connection, holding, _serving, .. } = self;
        connection.open_doors(holding).await;
        for id in promised {
            let look = || async { shop.get(format!("/orders/{id}")).await };
            let is_confirmed = |order: &Answer| order.status == 200 && order.text("/status") == "CONFIRMED";
            eventually("what was promised", look, is_confirmed).await;
        }
        for id in refused {
            shop.get(format!("/orders/{id}")).await.refused(404, "not_found");
        }
        assert_eq!(shop.balance("alice").await, 1_000 - 10 * promised.len() as u64);
        shop.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_orders_than_a_bridge_has_places_those_are_promised_that_it_can_keep() {
    const IN_FLIGHT: usize = 8;
    let held = Held::behind(Config {
        limits: Limits { in_flight_max: IN_FLIGHT as u32, ..Limits::default() },
        ..Config::default()
    })
    .await;
    let ids: Vec<_> = (0..IN_FLIGHT).map(|number| format!("o-{number}")).collect();
    let order = |(number, id): (usize, &String)| held.order(id, ["wait=1", "respond-async"][number % 2]).into_future();
    let answers = join_all(ids.iter().enumerate().map(order)).await;
    let (mut promised, mut refused) = (Vec::new(), Vec::new());
    for (id, answer) in ids.iter().zip(answers) {
        match answer.status {
            202 => promised.push(&**id),
            _ => {
                answer.refused(503, "unavailable").has("/held", true);
                refused.push(&**id);
            }
        }
    }
    assert_eq!(promised.len(), IN_FLIGHT / 2, "the other places are for those who need not wait");
    held.bridge.get("/wallets/alice").await.is(200);
    held.open(&promised, &refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_outlasts_doors_that_are_held_for_longer_than_a_bridge_insists() {
    let held = Held::behind(Config { insistence: Duration::from_secs(2), ..Config::default() }).await;
    held.order("o-1", "wait=0").await.is(202);
    // It is told so when it has waited for that long.
    held.order("o-2", "wait=4").await.is(202);
    held.open(&["o-1", "o-2"], &[]).await;
}
