//! Each row of the table, against a nats-server.

use std::collections::BTreeSet;

use shop_local::{
    NatsServer,
    keys::{KeyName, Keys},
    nats_server::Setup,
};
use shop_nats::server::permissions::{Role, Way, rows};
use shop_tests::folder::Folder;

use super::Raw;

/// What a thief would try first, wherever it is in the table or not.
const TEMPTATIONS: [&str; 39] = [
    ">",
    "*.>",
    "_INBOX.>",
    "_INBOX.*.>",
    "_R_.>",
    "shop.>",
    "shop.log.>",
    "shop.log.wallet.0",
    "shop.log.wallet.1.0",
    "shop.dead.wallet.00.1",
    "shop.layout",
    "shop.hold",
    "shop.hosts.order",
    "shop.hosts.order.ghost",
    "shop.holders.order.0",
    "shop.order.>",
    "shop.order.o-1.get",
    "shop.order.o-1.place",
    "shop.order.bundle",
    "shop.by.>",
    "shop.by.alice.order.o-1.place",
    "shop.by.bob.order.bundle",
    "shop.staff.alice.order.o-1.cancel",
    "shop.callers.order.bundle",
    "shop.servers.status",
    "shop.event.order.0",
    "$SRV.PING",
    "$SRV.>",
    "$JS.API.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.DELETE.SHOP_WALLET",
    "$JS.API.STREAM.PURGE.SHOP_WALLET",
    "$JS.API.STREAM.UPDATE.SHOP_WALLET",
    "$JS.API.STREAM.SNAPSHOT.SHOP_WALLET",
    "$JS.API.STREAM.LEADER.STEPDOWN.SHOP_WALLET",
    "$JS.API.CONSUMER.CREATE.SHOP_WALLET.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.SHOP_WALLET.x",
    "$JS.API.DIRECT.GET.SHOP_WALLET.shop.log.wallet.0",
    "$SYS.REQ.SERVER.PING",
];

#[tokio::test]
async fn a_nats_server_allows_each_role_every_row_of_the_table_and_nothing_else() {
    let folder = Folder::new();
    let named = ["customer-alice", "staff-mary"].map(|name| name.parse().unwrap());
    let names: Vec<KeyName> = KeyName::of_all_roles().into_iter().chain(named).collect();
    let keys = Keys::make(&folder.path().join("keys"), &names).unwrap();
    let setup = Setup::alone(0).with_keys(&keys).unwrap();
    let mut server = NatsServer::start_as(setup, &folder.path().join("nats")).await.unwrap();
    let rows = rows();
    // Every subject of any role is tried by all of them, and every inbox.
    let inboxes = |subject: &str| keys.known().iter().map(|key| key.subject(subject)).collect::<Vec<_>>();
    let patterns: BTreeSet<String> = rows.iter().flat_map(|row| inboxes(&row.subject)).collect();
    let examples = patterns.iter().map(|pattern| pattern.replace('*', "x").replace('>', "x.y"));
    let subjects: BTreeSet<String> =
        patterns.iter().cloned().chain(examples).chain(TEMPTATIONS.map(str::to_owned)).collect();

    let (mut allowed, mut denied) = (0, 0);
    for role in Role::ALL {
        let key = keys.of(role).unwrap();
        let mut client = Raw::come(&server.address().to_string(), &keys.seed(key)).await;
        let is_in_table = |subject: &str, ways: &[Way]| {
            let own = rows.iter().filter(|row| row.role == role && ways.contains(&row.way));
            own.map(|row| key.subject(&row.subject)).any(|pattern| covers(&pattern, subject))
        };
        for subject in &subjects {
            let listens = is_in_table(subject, &[Way::Subscribe, Way::Hear]);
            assert_eq!(client.may_subscribe(subject).await, listens, "{role} subscribes to {subject}");
            let publishes = is_in_table(subject, &[Way::Publish, Way::Ask, Way::AskMany]);
            if !subject.contains(['*', '>']) {
                assert_eq!(client.may_publish(subject).await, publishes, "{role} publishes to {subject}");
            }
            for is_allowed in [listens, publishes] {
                *if is_allowed { &mut allowed } else { &mut denied } += 1;
            }
        }
    }
    assert!(allowed > 300 && denied > 900, "{allowed} allowed, {denied} denied");
    server.stop().await;
}

/// Whether all that a subject stands for, which may have wildcards itself, falls under a pattern.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}
