//! nats-servers that the shop does not start itself: with JetStream's default sync, or for the raw
//! publish rate. Their configuration is the shop's own in everything else.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use shop_tests::{bench::report::Sync, wait::until};

const LOCAL_CONFIGURATION: &str = include_str!("../../nats/server/local.conf");
const SYNC_ALWAYS: &str = "sync_interval: always";

/// A running nats-server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Nats {
    server: Child,
    url: String,
}

impl Nats {
    /// Starts one that keeps its data in a new folder, and waits until JetStream answers.
    pub(crate) async fn start(folder: &Path, sync: Sync) -> Self {
        fs::create_dir(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        let configuration = folder.join("nats.conf");
        fs::write(&configuration, configured(sync)).expect("a new folder can be written to");
        let port = free_port().to_string();
        let server = Command::new(binary())
            .arg("--config")
            .arg(&configuration)
            .args(["--port", &port, "--log"])
            .arg(folder.join("nats-server.log"))
            .env("SHOP_NATS_FOLDER", format!("\"{}\"", folder.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start a nats-server: {error}"));
        let nats = Self { server, url: format!("nats://127.0.0.1:{port}") };
        until("JetStream answers", async || {
            let context = async_nats::jetstream::new(async_nats::connect(&nats.url).await.ok()?);
            context.query_account().await.ok()
        })
        .await;
        nats
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let ended = self.server.kill().and_then(|()| self.server.wait());
        if let Err(error) = ended {
            eprintln!("failed to end a nats-server: {error}");
        }
    }
}

/// What its version is, as it says it.
pub(crate) fn version() -> String {
    let output = Command::new(binary()).arg("--version").output().expect("a nats-server says its version");
    String::from_utf8_lossy(&output.stdout).trim().replace(": v", " ")
}

fn configured(sync: Sync) -> String {
    assert!(LOCAL_CONFIGURATION.contains(SYNC_ALWAYS), "local.conf does not say {SYNC_ALWAYS:?} any more");
    match sync {
        Sync::Always => LOCAL_CONFIGURATION.to_owned(),
        Sync::Default => LOCAL_CONFIGURATION.replace(SYNC_ALWAYS, ""),
    }
}

fn binary() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/install.sh");
    let output = Command::new("sh").arg(script).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {script}: {error}"));
    assert!(output.status.success(), "{script} finds no nats-server");
    String::from_utf8_lossy(&output.stdout).trim().into()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there should be a free port");
    listener.local_addr().expect("a listener has an address").port()
}
