//! What the shop says once it is open: where everything is, and what to try.

use std::path::Path;

use shop_nats::server::permissions::Role;

use crate::{Shop, keys::Keys};

/// Where everything is.
#[derive(Debug)]
pub struct Banner<'a> {
    /// For example `http://127.0.0.1:8080`.
    pub http: String,
    /// For example `nats://127.0.0.1:4222`.
    pub nats: String,
    /// Version and process of the shop's own nats-server; nothing when it uses another one.
    pub nats_server: Option<(&'a str, u32)>,
    /// The keys that let into it, if not everybody is.
    pub keys: Option<&'a Keys>,
    /// Where it can be seen how bridge and hosts are, for example `http://127.0.0.1:9090`; nothing when nowhere.
    pub health: Option<String>,
    /// Where everything is kept.
    pub folder: &'a Path,
    /// The backup that was put back first, if one was, and when it was made.
    pub restored: Option<(&'a str, &'a str)>,
    /// What this program was called as.
    pub program: String,
}

impl<'a> Banner<'a> {
    /// The banner of a running shop.
    pub fn of(shop: &'a Shop) -> Self {
        Self {
            http: format!("http://{}", shop.http_address()),
            nats: shop.nats_url(),
            nats_server: shop.nats_server().and_then(|server| Some((server.version(), server.pid()?))),
            keys: shop.keys(),
            health: shop.observe_address().map(|address| format!("http://{address}")),
            folder: shop.folder(),
            restored: shop.restored(),
            program: std::env::args().next().unwrap_or_else(|| "shop".to_owned()),
        }
    }
}

impl std::fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { http, nats, program, .. } = self;
        let health = self.health.as_ref().map_or_else(String::new, |health| {
            format!("\n    health  {health:<28}  {health}/readyz, {health}/metrics")
        });
        let folder = self.folder.display();
        let server = match self.nats_server {
            Some((version, pid)) => format!("nats-server {version}, pid {pid}"),
            None => "a nats-server that was running already".to_owned(),
        };
        let restored = self
            .restored
            .map_or_else(String::new, |(backup, made)| format!("    backup  {backup} of {made} was put back\n"));
        let (keys, as_bridge) = match self.keys.map(|keys| (keys, keys.of(Role::Bridge))) {
            Some((keys, Ok(bridge))) => (
                format!("    keys    {}: one for each role, and nobody else is let in\n", keys.folder().display()),
                format!(" --nkey {} --inbox-prefix _INBOX.{}", keys.seed(bridge).display(), bridge.public),
            ),
            Some((_, Err(_))) | None => (String::new(), String::new()),
        };
        // The three commands are one story: something to buy, somebody to buy it, an order.
        write!(
            f,
            r#"
  The shop is open.

    HTTP    {http:<28}  everything it offers: {http}/docs, {http}/openapi.json
    NATS    {nats:<28}  {server}{health}
    data    {folder}
{keys}{restored}    stop    Ctrl-C

  Three things to try in another terminal:

    curl -s {http}/products -H 'Content-Type: application/json' -d '{{"id":"apple","name":"apple","price":1000,"stock":1000}}'
    curl -s {http}/wallets -H 'Content-Type: application/json' -d '{{"id":"alice","balance":999999}}'
    curl -s {http}/orders -H 'Content-Type: application/json' -d '{{"id":"o-1","user":"alice","product":"apple","quantity":10}}'

  With the nats CLI, where there is one:

    nats -s {nats}{as_bridge} req shop.order.o-2.place '{{"user":"alice","product":"apple","quantity":10}}'

  And `{program} seed` fills the shop with more, `{program} --help` says what else there is.
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_where_everything_is_and_what_to_try() {
        let banner = Banner {
            http: "http://127.0.0.1:8080".to_owned(),
            nats: "nats://127.0.0.1:4222".to_owned(),
            nats_server: Some(("2.15.1", 4711)),
            keys: None,
            health: Some("http://127.0.0.1:9090".to_owned()),
            folder: Path::new("/home/alice/shop/.shop"),
            restored: Some(("backups/monday", "2026-11-23T06:15:03.927Z")),
            program: "target/debug/shop".to_owned(),
        };
        let text = banner.to_string();
        for part in [
            "http://127.0.0.1:8080/openapi.json",
            "http://127.0.0.1:8080/docs",
            "    health  http://127.0.0.1:9090         http://127.0.0.1:9090/readyz, http://127.0.0.1:9090/metrics",
            "nats://127.0.0.1:4222         nats-server 2.15.1, pid 4711",
            "/home/alice/shop/.shop\n",
            r#"curl -s http://127.0.0.1:8080/wallets -H 'Content-Type: application/json' -d '{"id":"alice","balance":999999}'"#,
            "    backup  backups/monday of 2026-11-23T06:15:03.927Z was put back\n    stop ",
            "nats -s nats://127.0.0.1:4222 req shop.order.o-2.place",
            "`target/debug/shop seed`",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
}
