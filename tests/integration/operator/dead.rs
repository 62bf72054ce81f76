//! Dead letters: kept once, listed, shown, put back.

use async_nats::{HeaderMap, jetstream};
use serde_json::json;
use shop_domain::{
    message::{Envelope, Message},
    money::Money,
    wallet,
};
use shop_nats::{
    log::frame::{EncodedMessage, Origin, Source, frames},
    subject::partition_of,
};

use super::{Said, nats, small_shop, tool};
use crate::shop::{TestShop, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_with_their_origin_and_shown_with_their_bytes() {
    let shop = small_shop().await;
    tool(&shop, "dead list").await.exits(0).says(&["no dead letters"]);
    let log = jetstream::new(nats(&shop).await);
    log.publish("shop.log.wallet.0", "hello".into()).await.unwrap().await.unwrap();
    let list = || tool(&shop, "dead list");
    let said = eventually("the dead letter", list, |said: &Said| !said.stdout.contains("no dead letters")).await;
    said.exits(0).says(&["from wallet/2", "5 bytes", "frame version 104 instead of 1"]);
    let letters = tool(&shop, "dead list --json").await.exits(0).json();
    assert_eq!((letters.len(), &letters[0]["origin"], &letters[0]["bytes"]), (1, &json!("wallet/2"), &json!(5)));
    tool(&shop, "dead show 1").await.exits(0).says(&["wallet/2", "68 65 6c 6c 6f", "hello"]);
    assert_eq!(tool(&shop, "dead show 1 --json").await.exits(0).json()[0]["hex"], "68656c6c6f");
    tool(&shop, "dead show 2").await.exits(1);

    // Whoever puts something there by hand gives no reason.
    let headers = HeaderMap::new();
    log.publish_with_headers("shop.dead.wallet.0", headers, "".into()).await.unwrap().await.unwrap();
    tool(&shop, "dead show 2").await.exits(0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_put_back_where_it_belongs_if_it_makes_a_difference() {
    let shop = TestShop::open_with(3).await;
    shop.wallet("alice", 1000).await;
    let log = jetstream::new(nats(&shop).await);
    let alice = partition_of(&"alice".parse().unwrap(), 3);
    let elsewhere = (alice + 1) % 3;
    let top_up = |number: u64, wallets: &[&str]| {
        let envelopes = wallets.iter().map(|wallet| Envelope {
            to: wallet.parse().unwrap(),
            message: Message::Wallet(wallet::Message::TopUp { amount: Money::new(7).unwrap() }),
            request: None,
            trace: None,
        });
        let messages: Vec<_> = envelopes.map(|envelope| EncodedMessage::new(&envelope)).collect();
        frames(Source { origin: Origin::Door, epoch: 61 }, number, &messages).remove(0).0
    };
    let elsewhere_too = ["bob", "carol", "dave", "erin", "frank"];
    let stranger = elsewhere_too.iter().find(|id| partition_of(&id.parse().unwrap(), 3) != alice).unwrap();
    let [right, beyond, several] = [top_up(1, &["alice"]), top_up(3, &["alice"]), top_up(1, &["alice", stranger])];
    for bytes in [right, beyond, several, "hello".into()] {
        log.publish(format!("shop.log.wallet.{elsewhere}"), bytes).await.unwrap().await.unwrap();
    }
    let list = || tool(&shop, "dead list");
    eventually("the dead letters", list, |said: &Said| said.stdout.lines().count() == 4).await.exits(0);
    assert_eq!(shop.balance("alice").await, 1000);

    tool(&shop, "dead requeue 1").await.exits(0).says(&["door", "alice  top_up amount=7  → 1007 there now\n"]);
    eventually("the money", || shop.balance("alice"), |balance| *balance == 1007).await;
    tool(&shop, "dead list").await.exits(0).says(&["from wallet/2", "[put back: wallet/6]"]);
    tool(&shop, "dead show 1").await.exits(0).says(&["put back    wallet/6"]);
    assert_eq!(tool(&shop, "dead list --json").await.exits(0).json()[0]["put_back"], "wallet/6");
    for (letter, why) in [
        (1, "all of its messages have come since"),
        (2, "its first message has the number 3 on its link, and number 2 has not come yet"),
        (3, "its messages are for the partitions ["),
        (4, "this program cannot read it as a frame for the log of wallet (frame version 104"),
        (5, "there is no dead letter 5"),
        (6, "there is no dead letter 6"),
    ] {
        let said = tool(&shop, &format!("dead requeue {letter}")).await.exits(1);
        assert!(said.stderr.contains(why), "{letter}: {}", said.stderr);
    }
    assert_eq!((shop.balance("alice").await, last_sequence(&log).await), (1007, 6));

    // What was put by hand among the dead letters is from nowhere.
    log.publish("shop.dead.wallet.0", "".into()).await.unwrap().await.unwrap();
    let said = tool(&shop, "dead requeue 6").await.exits(1);
    assert!(said.stderr.contains("it does not say from which log it is"), "{}", said.stderr);
    tool(&shop, "audit").await.exits(0);
    shop.close().await;
}

async fn last_sequence(log: &jetstream::Context) -> u64 {
    log.get_stream("SHOP_WALLET").await.unwrap().cached_info().state.last_sequence
}
