//! Where a shop without a login listens, and what one with a login says of tokens and keys.

use std::{ffi::OsString, fs};

use serde_json::Value;
use shop_bridge_http::auth::Options as Auth;
use shop_local::{Options, Shop};
use shop_tests::{
    folder::Folder,
    process::{Launcher, Process},
};

use super::{issuer::Issuer, over_http2, shop_of, with, write_private};
use crate::shop::Customer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_other_machines_can_come_in_nothing_is_served_without_a_login_unless_it_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let open = |auth| {
        let options = Options::for_test(folder.path().join("data"));
        Shop::start(Options { http_addr: "0.0.0.0:0".to_owned(), auth, ..options })
    };
    let error = open(Auth::default()).await.unwrap_err().to_string();
    for word in ["there is no login", "127.0.0.1", "--auth", "--api-keys", "--allow-anonymous"] {
        assert!(error.contains(word), "{error}");
    }
    open(Auth { allow_anonymous: true, ..Auth::default() }).await.unwrap().stop().await.unwrap();

    let bridge = ["bridge", "--nats-url", "nats://127.0.0.1:1", "--http-addr", "0.0.0.0:0"];
    let words = Process::spawn(folder.path(), "bridge", bridge).refuses().await;
    assert!(words.contains("--allow-anonymous"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_with_a_login_listens_wherever_it_is_told_to() {
    let shop = shop_of(&Issuer::new("a"), |auth| auth).await;
    let shop = shop.reopen_as(|options| Options { http_addr: "0.0.0.0:0".to_owned(), ..options }).await;
    shop.get("/wallets/nobody").await.refused(401, "unauthorized");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_much_is_logged_no_token_and_no_key_is() {
    let (folder, issuer) = (Folder::new(), Issuer::new("a"));
    let [data, jwks, keys, ports] = ["data", "jwks", "api-keys", "ports"].map(|name| folder.path().join(name));
    let new = ["keys", "new", "--name", "reports", "--scopes", "orders:read:any", "--owner", "tests"];
    let said = Process::spawn(folder.path(), "new", new).explains().await;
    let (key, line) = said.trim().split_once('\n').unwrap();
    write_private(&keys, line);
    let [data, keys, file] = [&data, &keys, &ports].map(|path| path.display().to_string());
    let options =
        ["--http-addr", "127.0.0.1:0", "--nats-port", "0", "--data-dir", &data, "--ports-file", &file, "--http2"];
    let options = options.map(str::to_owned).into_iter();
    let auth = issuer.options(&jwks).into_iter().chain(["--api-keys".to_owned(), keys]);
    let command = ["env", "RUST_LOG=trace"].map(OsString::from).to_vec();
    let launcher = Launcher { command, ..Launcher::default() };
    let mut shop = Process::spawn_by(&launcher, folder.path(), "shop", options.chain(auth));
    shop.says("that it is open", |words| words.contains("The shop is open").then_some(())).await;
    let told: Value = serde_json::from_slice(&fs::read(&ports).unwrap()).unwrap();
    let address = told["http"]["url"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let good = issuer.token("alice", "orders:read:any");
    let bad =
        [Issuer::new("b").token("mallory", "orders:read"), format!("{good}x"), format!("{key}0"), "secret".repeat(9)];
    let customer = Customer::of(&address);
    for (secret, status) in [(&good, 404), (&key.to_owned(), 404)].into_iter().chain(bad.iter().map(|bad| (bad, 401))) {
        with(customer.get("/orders/nothing"), secret).await.is(status);
        assert_eq!(over_http2(&address, "/orders/nothing", &[format!("Bearer {secret}")]).await, status);
    }
    shop.terminate().await;
    let said = ["shop.stdout", "shop.stderr"].map(|name| fs::read_to_string(folder.path().join(name)).unwrap());
    let said = said.concat();
    assert!(
        said.contains("TRACE") && said.contains("keys of the issuer are taken"),
        "it does not say all that it could"
    );
    for secret in bad.iter().map(String::as_str).chain([&*good, key]) {
        let at = said.find(secret);
        assert!(at.is_none(), "a secret is said: {:?}", at.map(|at| &said[at.saturating_sub(200)..at]));
    }
}
