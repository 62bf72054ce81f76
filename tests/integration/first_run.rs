//! What a newcomer meets: two commands that build everything once, and a shop that is easily filled, or put back.

use std::{collections::BTreeSet, process::Command};

use shop_local::{Options, Shop, seed};
use shop_tests::{folder::Folder, process::Process};

use crate::{operator::tool, shop::TestShop};

#[test]
fn cargo_test_builds_nothing_again_that_cargo_run_has_built() {
    let of_run = packages("normal,build");
    let of_test = packages("normal,build,dev");
    let again: Vec<_> = of_run.difference(&of_test).collect();
    assert!(
        again.is_empty(),
        "dependencies of tests turn features on, so that these packages and all that use them are built twice; turn \
         the features on in the dependencies of shop-tests: {again:#?}"
    );
}

/// Every package that is built, with its features: those of `cargo run` are without what only tests depend on.
fn packages(edges: &str) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--offline", "--workspace", "--prefix", "none", "--format", "{p} {f}", "--edges", edges]);
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| line.trim_end_matches("(*)").trim_end().to_owned()).collect()
}

#[tokio::test]
async fn the_version_names_the_commit_and_the_logic() {
    let folder = Folder::new();
    let said = Process::spawn(folder.path(), "version", ["--version"]).explains().await;
    let is_commit = |word: &str| word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let commit = said.split("of commit ").nth(1).and_then(|rest| rest.split(',').next());
    assert!(said.contains("of an unknown commit") || commit.is_some_and(is_commit), "{said}");
    assert!(said.starts_with("shop ") && said.contains(", logic versions 1 to "), "{said}");
}

#[tokio::test]
async fn a_shell_learns_the_commands() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = Process::spawn(folder.path(), shell, ["completions", shell]).explains().await;
        assert!(said.contains("repartition") && said.contains("nats-port"), "{shell}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_that_is_filled_twice_has_everything_once() {
    let shop = TestShop::open_with(3).await;
    let first = seed::fill(shop.shop.http()).await.unwrap();
    let paths =
        ["/products?limit=1000", "/mypages/ada", "/wallets/ada/statement", "/orders/seed-5", "/deliveries/seed-1"];
    let before = shop.look(&paths).await;
    assert_eq!(shop.all("/products", 7, "after").await.len(), 20);
    let statuses = [("CANCELLED", 1), ("CONFIRMED", 7), ("REJECTED", 2)].map(|(status, n)| (status.to_owned(), n));
    assert_eq!(first, statuses.into());

    // From the command line, as a customer does who does not know that it was done.
    let folder = Folder::new();
    let options = ["seed", "--http-addr", &shop.address];
    let said = Process::spawn(folder.path(), "seed", options).explains().await;
    assert!(said.contains("20 products, 5 customers and 10 orders are there"), "{said}");
    assert!(said.contains("1 CANCELLED, 7 CONFIRMED, 2 REJECTED"), "{said}");
    assert_eq!(shop.look(&paths).await, before);
    shop.close().await;
}

#[tokio::test]
async fn a_shop_that_is_not_open_cannot_be_filled_and_that_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let folder = Folder::new();
    let words = Process::spawn(folder.path(), "seed", ["seed", "--http-addr", &address]).refuses().await;
    assert!(words.contains("is a shop open there?"), "{words}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_an_open_shop_in_one_step_and_only_where_there_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup").display().to_string();
    let shop = TestShop::open_with(2).await;
    seed::fill(shop.shop.http()).await.unwrap();
    // With snapshots in it, and without the beginnings of the logs.
    let shop = shop.reopen(|_| {}).await;
    let snapshots = shop.shop.folder().join("snapshots").display().to_string();
    tool(&shop, &format!("trim --margin 1 --snapshots {snapshots}")).await.exits(0).says(&["cut off"]);
    tool(&shop, &format!("backup --to {backup} --snapshots {snapshots}")).await.exits(0);
    let paths =
        ["/products?limit=1000", "/mypages/cleo", "/wallets/ben/statement", "/orders/seed-1", "/deliveries/seed-2"];
    let before = shop.look(&paths).await;
    shop.close().await;

    let options = Options { restore_from: Some(backup.clone()), ..Options::for_test(folder.path().join("shop")) };
    let there = TestShop::open_as(|options| Options { restore_from: Some(backup.clone()), ..options }).await;
    let (from, made) = there.shop.restored().unwrap();
    assert!(from == backup && made.ends_with('Z'), "{from} of {made}");
    assert_eq!(there.look(&paths).await, before);
    there.order("new", "eva", "tea", 1).await;
    there.close().await;

    let open = Shop::start(options.clone()).await.unwrap();
    open.stop().await.unwrap();
    let again = Shop::start(options.clone()).await.unwrap_err().to_string();
    assert!(again.contains("there are checkpoints of another shop") && again.contains("--restore-from"), "{again}");
    std::fs::remove_dir_all(folder.path().join("shop/hosts")).unwrap();
    let again = Shop::start(options).await.unwrap_err().to_string();
    assert!(again.contains("there is a shop on this nats-server already"), "{again}");

    let nowhere =
        Options { restore_from: Some("/nowhere".to_owned()), ..Options::for_test(folder.path().join("other")) };
    let refused = Shop::start(nowhere).await.unwrap_err().to_string();
    assert!(refused.contains("cannot put the backup back: /nowhere"), "{refused}");
}
