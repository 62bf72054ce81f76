//! A nats-server that knows its clients by keys: what each of them may do, and that nobody gets further by a detour.

mod attacks;
mod shop;
mod table;

use std::path::Path;

use async_nats::{Client, ConnectOptions};
use nkeys::KeyPair;
use serde_json::{Value, json};
use shop_local::keys::Keys;
use shop_nats::server::permissions::Role;
use shop_tests::issuer::base64;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::shop::TestShop;

/// A client that speaks the protocol itself, and so knows what the server refuses before it goes on.
struct Raw {
    socket: BufReader<TcpStream>,
}

impl Raw {
    async fn come(address: &str, seed: &Path) -> Self {
        let mut socket = BufReader::new(TcpStream::connect(address).await.unwrap());
        let mut line = String::new();
        socket.read_line(&mut line).await.unwrap();
        let info: Value = serde_json::from_str(line.trim_start_matches("INFO ")).unwrap();
        let key = KeyPair::from_seed(std::fs::read_to_string(seed).unwrap().trim()).unwrap();
        let signature = base64(&key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap());
        let connect = json!({ "nkey": key.public_key(), "sig": signature, "verbose": false, "headers": true });
        socket.write_all(format!("CONNECT {connect}\r\n").as_bytes()).await.unwrap();
        let mut raw = Self { socket };
        assert_eq!(raw.refused("").await, None, "it is let in");
        raw
    }

    /// Sends this, and returns with what it was refused, if it was.
    async fn refused(&mut self, lines: &str) -> Option<String> {
        self.socket.write_all(format!("{lines}PING\r\n").as_bytes()).await.unwrap();
        let (mut line, mut refusal) = (String::new(), None);
        loop {
            line.clear();
            assert!(self.socket.read_line(&mut line).await.unwrap() > 0, "the connection was closed: {refusal:?}");
            match line.trim_end() {
                "PONG" => return refusal,
                "PING" => self.socket.write_all(b"PONG\r\n").await.unwrap(),
                other if other.starts_with("-ERR") => refusal = Some(other.to_owned()),
                _ => {}
            }
        }
    }

    async fn may_publish(&mut self, subject: &str) -> bool {
        self.refused(&format!("PUB {subject} 0\r\n\r\n")).await.is_none()
    }

    async fn may_subscribe(&mut self, subject: &str) -> bool {
        self.refused(&format!("SUB {subject} 7\r\nUNSUB 7\r\n")).await.is_none()
    }
}

/// A shop whose nats-server lets in who has a key; `more` keys are there besides one for each role.
pub(crate) async fn shop_with_keys(more: &[&str]) -> TestShop {
    TestShop::open_as(|options| {
        let names: Vec<_> = more.iter().map(|name| name.parse().unwrap()).collect();
        Keys::make(&options.data_dir.join("keys"), &names).unwrap();
        shop_local::Options { secure: true, ..options }
    })
    .await
}

fn keys(shop: &TestShop) -> &Keys {
    shop.shop.keys().expect("the shop has keys")
}

fn key_named<'a>(keys: &'a Keys, name: &str) -> &'a shop_nats::server::Key {
    keys.known().iter().find(|key| key.name == name).unwrap()
}

/// A client with the key of that name.
pub(crate) async fn client(shop: &TestShop, name: &str) -> Client {
    let keys = keys(shop);
    let key = key_named(keys, name);
    let seed = std::fs::read_to_string(keys.seed(key)).unwrap().trim().to_owned();
    let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix(format!("_INBOX.{}.test", key.public));
    options.connect(shop.shop.nats_url()).await.unwrap()
}

/// The tool's line, with what lets it in.
fn as_role(shop: &TestShop, role: Role, line: &str) -> String {
    let keys = keys(shop);
    format!("{line} --nats-nkey {}", keys.seed(keys.of(role).unwrap()).display())
}
