//! When a server that was started is ready: it has written its ports file, and JetStream answers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{sleep, timeout},
};

/// How long the server may take for one answer before it is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What the server says about itself once it is ready.
pub(super) struct Ready {
    pub(super) port: u16,
    pub(super) version: String,
}

/// The ports file first: it is this server that wrote it, so that no other one that has the
/// port is taken for ours.
pub(super) async fn wait_until_ready(ports_folder: PathBuf, pid: u32, host: IpAddr) -> Ready {
    loop {
        if let Some(port) = read_ports_file(&ports_folder, pid) {
            match timeout(ANSWER_LIMIT, ask_jetstream((host, port).into())).await {
                Ok(Ok(Some(version))) => return Ready { port, version },
                Ok(Ok(None)) => tracing::debug!("JetStream is not up yet"),
                Ok(Err(error)) => tracing::debug!("the nats-server does not answer yet: {error}"),
                Err(_) => tracing::debug!("the nats-server did not answer within {ANSWER_LIMIT:?}"),
            }
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// `<program>_<pid>.ports` holds `{"nats":["nats://127.0.0.1:4222"]}`.
fn read_ports_file(folder: &Path, pid: u32) -> Option<u16> {
    let suffix = format!("_{pid}.ports");
    let mut files = std::fs::read_dir(folder).ok()?.flatten();
    let file = files.find(|file| file.file_name().to_string_lossy().ends_with(&suffix))?;
    let ports: Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    ports.pointer("/nats/0")?.as_str()?.rsplit(':').next()?.parse().ok()
}

/// One request in the protocol's plain text: the server's version when JetStream answers.
/// See <https://docs.nats.io/reference/reference-protocols/nats-protocol>.
pub(super) async fn ask_jetstream(address: SocketAddr) -> io::Result<Option<String>> {
    let mut socket = BufReader::new(TcpStream::connect(address).await?);
    let mut line = String::new();
    socket.read_line(&mut line).await?;
    let info: Value = serde_json::from_str(line.trim_start_matches("INFO ")).unwrap_or_default();
    let Some(version) = info["version"].as_str() else { return Ok(None) };
    let request = "CONNECT {\"verbose\":false}\r\nSUB ready 1\r\nPUB $JS.API.INFO ready 0\r\n\r\n";
    socket.write_all(request.as_bytes()).await?;
    loop {
        line.clear();
        if socket.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if let Ok(answer) = serde_json::from_str::<Value>(&line) {
            let up = answer["type"] == "io.nats.jetstream.api.v1.account_info_response" && answer["error"].is_null();
            return Ok(up.then(|| version.to_owned()));
        }
    }
}
