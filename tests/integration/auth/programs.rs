//! Programs and their keys, in a file that changes while the shop is open.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use shop_bridge_http::auth::Options as Auth;
use shop_local::{Options, Shop};
use shop_tests::process::Process;

use super::{let_in, number, with, write_private};
use crate::shop::{TestShop, eventually};

const ORDER: &str = "/orders/nothing";
/// How long a program may take that has nothing to do.
const AT_ONCE: Duration = Duration::from_secs(30);
/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

fn line(name: &str, key: &str, scopes: &[&str]) -> Value {
    let sha256: String = digest(&SHA256, key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "name": name, "sha256": sha256, "scopes": scopes, "owner": "tests", "expires": "2999-01-01T00:00:00Z" })
}

fn auth_of(file: &Path) -> Auth {
    Auth { api_keys: Some(file.to_owned()), rate_per_caller: Some(0), ..Auth::default() }
}

async fn shop_with(lines: &[Value]) -> (TestShop, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    write_private(&file, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    let auth = auth_of(&file);
    (TestShop::open_as(|options| Options { auth, ..options }).await, folder, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_let_in_by_its_key_as_far_as_its_line_says() {
    let mut expired = line("old", "shop_old", &["orders:read:any"]);
    expired["expires"] = "2020-01-01T00:00:00+09:00".into();
    let lines = [
        line("reports", "shop_reports", &["orders:read:any"]),
        line("warehouse", "shop_w", &["deliveries:write"]),
        expired,
    ];
    let (shop, _folder, _) = shop_with(&lines).await;
    let_in(with(shop.get(ORDER), "shop_reports").await);
    with(shop.get(ORDER), "shop_w").await.refused(403, "forbidden").has("/scope", "orders:read");
    let_in(with(shop.post("/deliveries/nothing/dispatch", json!({})), "shop_w").await);
    let old = with(shop.get(ORDER), "shop_old").await.refused(401, "unauthorized");
    assert!(old.text("/detail").contains("expired"), "{old}");
    for wrong in ["shop_", "shop_reports0", "shop_report", "SHOP_REPORTS", "reports", &"shop_".repeat(2_000)] {
        with(shop.get(ORDER), wrong).await.refused(401, "unauthorized");
    }
    // Nothing else says who asks; what everybody may see stays so.
    shop.get(ORDER).await.refused(401, "unauthorized");
    shop.get("/products").await.is(200);
    shop.get(ORDER).header("x-shop-user", "alice").await.refused(401, "unauthorized");
    assert_eq!(number(&shop, "shop_http_api_keys").await, 3.0);
    assert_eq!(number(&shop, "shop_http_auth_total{outcome=\"by_api_key\"}").await, 2.0);
    assert_eq!(number(&shop, "shop_http_auth_total{outcome=\"api_key_expired\"}").await, 1.0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_is_taken_and_one_that_is_broken_changes_nothing_and_shows() {
    let (shop, _folder, file) = shop_with(&[line("a", "shop_a", &["orders:read:any"])]).await;
    let_in(with(shop.get(ORDER), "shop_a").await);
    let status = |key: &'static str| {
        let asked = with(shop.get(ORDER), key);
        async move { asked.await.status }
    };
    write_private(&file, &line("b", "shop_b", &["orders:read:any"]).to_string());
    eventually("the new key", || status("shop_b"), |status| *status == 404).await;
    assert_eq!(status("shop_a").await, 401);
    // It is looked at when keys come.
    let good = || async {
        status("shop_b").await;
        number(&shop, "shop_http_api_keys_file_good").await
    };
    for broken in ["nonsense\n", "{\"name\":\"a\"}\n"] {
        write_private(&file, broken);
        eventually("the broken file", good, |good| *good == 0.0).await;
        assert_eq!(status("shop_b").await, 404);
        write_private(&file, &line("b", "shop_b", &["orders:read:any"]).to_string());
        eventually("the good file", good, |good| *good == 1.0).await;
    }
    // Who can write there lets in whom it likes.
    fs::remove_file(&file).unwrap();
    eventually("the missing file", good, |good| *good == 0.0).await;
    fs::write(&file, line("evil", "shop_evil", &["orders:read:any"]).to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let looked_at = Instant::now() + LOOK_INTERVAL * 2;
    while Instant::now() < looked_at {
        assert_eq!(status("shop_evil").await, 401);
        assert_eq!(status("shop_b").await, 404);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_does_not_open_with_a_file_that_is_wrong_and_says_in_which_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let twice = format!("{0}\n{0}\n", line("a", "shop_a", &[]));
    for (text, says) in [
        ("nonsense", "line 1: "),
        (&*twice, "line 2: the same sha256"),
        (&line("a", "shop_a", &["orders:everything"]).to_string(), "no scope \"orders:everything\""),
    ] {
        write_private(&file, text);
        let options = Options { auth: auth_of(&file), ..Options::for_test(folder.path().join("data")) };
        let error = Shop::start(options).await.unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("--api-keys"), "{error}");
    }
    write_private(&file, "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
    let options = Options { auth: auth_of(&file), ..Options::for_test(folder.path().join("data")) };
    let error = Shop::start(options).await.unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_program_makes_is_let_in_by_the_line_that_comes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let new =
        ["keys", "new", "--name", "warehouse", "--scopes", "orders:read:any,deliveries:write", "--owner", "tests"];
    let said = Process::spawn(folder.path(), "keys", new).explains().await;
    let (key, line) = said.trim().split_once('\n').unwrap();
    assert!(key.starts_with("shop_") && key.len() == 5 + 64 && !line.contains(key), "{said}");
    let file = folder.path().join("keys");
    write_private(&file, line);
    let auth = auth_of(&file);
    let shop = TestShop::open_as(|options| Options { auth, ..options }).await;
    let_in(with(shop.get(ORDER), key).await);
    shop.close().await;
    let wrong = ["keys", "new", "--name", "a", "--scopes", "orders:everything", "--owner", "tests"];
    let mut wrong = Process::spawn(folder.path(), "wrong", wrong);
    assert!(!wrong.ends_within(AT_ONCE).await.success());
    let words = wrong.stderr();
    assert!(words.contains("a scope is one of orders:read, "), "{words}");
}
