//! The examples in bridge-http/examples, each in the language of a customer's own program: they order from a shop that
//! takes no orders at first, and ask until it does.

use std::{fs, io::Write, path::Path};

use shop_domain::kind::Kind;
use shop_tests::{folder::Folder, process::Process, program};
use tokio::process::Command;

use crate::shop::TestShop;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bridge-http/examples");
/// So that an example is read at a glance; blank lines do not count.
const LINES_MAX: usize = 40;
/// What there is of the product, and in the wallet, that all of them share. Each orders three, at a price of one.
const PLENTY: u64 = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_orders_once_from_a_shop_that_takes_no_orders_at_first() {
    let folder = Folder::new();
    let mut commands = vec![("order.rs", vec![program::example("order").display().to_string()])];
    for name in ["order.sh", "order.py", "order.go", "order.ts"] {
        match command(name, folder.path()).await {
            Ok(command) => commands.push((name, command)),
            // Not through `eprintln!`, which is kept from sight when a test passes.
            Err(missing) => drop(writeln!(std::io::stderr(), "SKIPPED: {name} is not tried, there is no {missing}")),
        }
    }
    let mut shop = TestShop::open().await;
    shop.shop.stop_kind(Kind::Order).await.unwrap();
    let variables = [format!("SHOP_URL=http://{}", shop.address), format!("NATS_URL={}", shop.shop.nats_url())];
    let spawn = |(name, command): &(&'static str, Vec<String>)| {
        let words = variables.iter().chain(command);
        (*name, Process::spawn_other(Path::new("env"), folder.path(), name, words))
    };
    let mut running: Vec<_> = commands.iter().map(spawn).collect();
    for (_, process) in &mut running {
        process.says("that it asks again", |said| said.contains("not known yet").then_some(())).await;
    }
    shop.shop.start_kind(Kind::Order).await.unwrap();

    for (name, process) in running {
        let said = process.explains().await;
        let lines: Vec<_> = said.lines().map(|line| line.replace('"', "")).collect();
        let id = lines[0].strip_suffix(": CONFIRMED").unwrap_or_else(|| panic!("{name}: {said}"));
        let refused = format!("{id}-more");
        assert!(lines[1].starts_with(&format!("{refused}: refused, ")), "{name}: {said}");
        for order in [id, &refused] {
            let line = format!("on the page: {order}");
            assert_eq!(lines[2..].iter().filter(|found| **found == line).count(), 1, "{name}: {said}");
        }
        shop.get(format!("/orders/{id}")).await.is(200).has("/amount", 3);
        shop.get(format!("/orders/{refused}")).await.is(200).has("/reason", "out_of_stock");
    }
    let left = PLENTY - 3 * commands.len() as u64;
    assert_eq!((shop.balance("zoe").await, shop.stock("plum").await), (left, left));
    shop.close().await;
}

#[test]
fn every_example_fits_on_a_screen() {
    let files: Vec<_> = fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
    }
}

/// The command that runs an example, or what this machine lacks for it.
async fn command(name: &str, folder: &Path) -> Result<Vec<String>, &'static str> {
    let file = Path::new(FOLDER).join(name).display().to_string();
    match name {
        "order.sh" if succeeds(&["curl", "--version"]).await => Ok(words(&["sh", &file])),
        "order.sh" => Err("curl"),
        "order.py" if succeeds(&["python3", "--version"]).await => Ok(words(&["python3", &file])),
        "order.py" => Err("python3"),
        "order.go" => {
            // Where Go keeps what it has compiled before, which is not where the example is at home.
            let built = folder.join("order-go").display().to_string();
            succeeds(&["go", "build", "-o", &built, &file]).await.then(|| words(&[&built])).ok_or("go")
        }
        _ => {
            let probe = folder.join("probe.ts").display().to_string();
            fs::write(&probe, "const one: number = 1;\n").unwrap();
            for runner in [&["node"][..], &["deno", "run", "-NE"], &["bun"]] {
                if succeeds(&[runner, &[&probe]].concat()).await {
                    return Ok(words(&[runner, &[&file]].concat()));
                }
            }
            Err("node from 22.18 on, deno or bun")
        }
    }
}

async fn succeeds(words: &[&str]) -> bool {
    let output = Command::new(words[0]).args(&words[1..]).kill_on_drop(true).output().await;
    output.is_ok_and(|output| output.status.success())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().copied().map(str::to_owned).collect()
}
