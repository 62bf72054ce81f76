//! What a process of the shop leaves behind for others on its machine to read: its files, and what it logs.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;
use shop_tests::{
    client::Client,
    cluster::Cluster,
    folder::Folder,
    process::{Launcher, Process},
};

/// How long a tool may take to see that there is no server.
const END_LIMIT: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct-horse-battery";

fn by(words: &[&str]) -> Launcher {
    Launcher { command: words.iter().map(OsString::from).collect(), ..Launcher::default() }
}

/// A shell that lets every file be open to everybody, and becomes the program.
fn careless() -> Launcher {
    by(&["sh", "-c", "umask 000; exec \"$@\"", "sh"])
}

fn traced(variable: &str) -> Launcher {
    by(&["env", "RUST_LOG=trace", variable])
}

fn all_in(folder: &Path, found: &mut Vec<PathBuf>) {
    found.push(folder.to_owned());
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => all_in(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn whatever_the_shell_allows_all_that_a_shop_keeps_is_its_owners_alone() {
    let folder = Folder::new();
    let [data, keys, backup] = ["data", "keys", "backup"].map(|name| folder.path().join(name));
    let (text, ports) = (data.display().to_string(), folder.path().join("ports.json"));
    let options = ["--http-addr", "127.0.0.1:0", "--nats-port", "0", "--secure", "--data-dir", &text, "--ports-file"];
    let options: Vec<_> = options.into_iter().map(OsString::from).chain([ports.clone().into()]).collect();
    let mut shop = Process::spawn_by(&careless(), folder.path(), "shop", &options);
    shop.says("that it is open", |words| words.contains("The shop is open").then_some(())).await;
    let told: serde_json::Value = serde_json::from_slice(&fs::read(&ports).unwrap()).unwrap();
    assert_eq!(mode(&ports), 0o600);
    let http = told["http"]["url"].as_str().unwrap().trim_start_matches("http://").parse().unwrap();
    let client = Client::new(http);
    client.post("/products", &json!({ "id": "pear", "name": "Pear", "price": 100, "stock": 10 })).await.json(201);
    client.post("/wallets", &json!({ "id": "alice", "balance": 1_000 })).await.json(201);
    client.post("/orders", &json!({ "id": "o-1", "user": "alice", "product": "pear", "quantity": 2 })).await.json(201);
    let [url, seed] = [told["nats"]["url"].as_str().unwrap().to_owned(), format!("{text}/keys/reader.nk")];
    let to = backup.display().to_string();
    let options = ["backup", "--nats-url", &url, "--nats-nkey", &seed, "--to", &to];
    Process::spawn_by(&careless(), folder.path(), "backup", options).explains().await;
    let options = ["nats", "keygen", "--cluster", "--out", &keys.display().to_string()];
    Process::spawn_by(&careless(), folder.path(), "keygen", options).explains().await;
    // It writes checkpoints and snapshots when it stops.
    shop.terminate().await;

    for (folder, files_min) in [(&data, 40), (&backup, 5), (&keys, 6)] {
        let mut found = Vec::new();
        all_in(folder, &mut found);
        assert!(found.len() >= files_min, "{found:?}");
        let open: Vec<_> = found.iter().filter(|path| mode(path) & 0o077 != 0).collect();
        assert!(open.is_empty(), "open to others: {open:?}");
    }

    // A folder of its owner's making stays as it was made, and that is said.
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let mut shop =
        Process::spawn(folder.path(), "again", ["--http-addr", "127.0.0.1:0", "--nats-port", "0", "--data-dir", &text]);
    shop.says("that it is open", |words| words.contains("The shop is open").then_some(())).await;
    let said = shop.stderr();
    assert!(
        said.contains("is open to others than its owner (its mode is 755)") && said.contains("chmod 700"),
        "{said}"
    );
    assert_eq!(mode(&data), 0o755);
    shop.terminate().await;
}

#[tokio::test]
async fn however_much_is_logged_no_password_and_no_seed_is() {
    let mut cluster = Cluster::without_processes(1).await;
    let folder = cluster.folder().to_owned();
    let url = cluster.nats().url().replace("nats://", &format!("nats://shop:{PASSWORD}@"));
    let data = folder.join("data").display().to_string();
    // Once as an option, once as what a container is given.
    let variable = format!("SHOP_NATS_URL={url}");
    let (given, nothing) = (traced(&variable), traced("A=b"));
    let mut host = Process::spawn_by(&given, &folder, "host", ["serve", "--data-dir", &data]);
    host.says("that it serves", |log| (log.matches(" is served").count() == 5).then_some(())).await;
    let bridge = ["bridge", "--nats-url", &url, "--http-addr", "127.0.0.1:0", "--leave-ms", "0"];
    let mut bridge = Process::spawn_by(&nothing, &folder, "bridge", bridge);
    let http =
        bridge.says("where it listens", |log| log.split("listening on http://").nth(1)?.lines().next()?.parse().ok());
    let client = Client::new(http.await);
    client.post("/wallets", &json!({ "id": "alice", "balance": 1_000 })).await.json(201);
    let whole = ["--nats-url", &url, "--http-addr", "127.0.0.1:0", "--data-dir", &format!("{data}-2")];
    let mut whole = Process::spawn_by(&nothing, &folder, "whole", whole);
    whole.says("that it is open", |words| words.contains("The shop is open").then_some(())).await;
    let audit = Process::spawn_by(&given, &folder, "audit", ["audit"]).explains().await;
    assert!(audit.contains("no differences"), "{audit}");
    let wrong = format!("nats://shop:{PASSWORD}@127.0.0.1:1");
    let mut wrong = Process::spawn_by(&nothing, &folder, "wrong", ["audit", "--nats-url", &wrong]);
    assert!(!wrong.ends_within(END_LIMIT).await.success());
    Process::spawn_by(&given, &folder, "help-whole", ["--help"]).explains().await;
    for help in ["serve", "bridge", "audit"] {
        Process::spawn_by(&given, &folder, &format!("help-{help}"), [help, "--help"]).explains().await;
    }
    whole.terminate().await;
    bridge.terminate().await;
    host.terminate().await;

    let keys = ["--http-addr", "127.0.0.1:0", "--nats-port", "0", "--secure", "--data-dir", &format!("{data}-3")];
    let mut keyed = Process::spawn_by(&nothing, &folder, "keyed", keys);
    keyed.says("that it is open", |words| words.contains("The shop is open").then_some(())).await;
    keyed.terminate().await;
    let mut secrets = vec![PASSWORD.to_owned()];
    for entry in fs::read_dir(format!("{data}-3/keys")).unwrap() {
        secrets.push(fs::read_to_string(entry.unwrap().path()).unwrap().trim().to_owned());
    }
    assert_eq!(secrets.len(), 6, "a password and five seeds");

    for name in
        ["host", "bridge", "whole", "audit", "wrong", "help-serve", "help-bridge", "help-audit", "help-whole", "keyed"]
    {
        let said = ["stdout", "stderr"].map(|sort| fs::read_to_string(folder.join(format!("{name}.{sort}"))).unwrap());
        let said = said.concat();
        let is_traced = said.contains("DEBUG") || name.starts_with("help");
        assert!(is_traced, "{name} does not say all that it could");
        for secret in &secrets {
            let at = said.find(secret.as_str());
            assert!(at.is_none(), "{name} says a secret: {:?}", at.map(|at| &said[at.saturating_sub(200)..at]));
        }
    }
}
