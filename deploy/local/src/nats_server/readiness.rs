//! When a server that was started is ready: it has written its ports file, and JetStream answers.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use shop_nats::connection::{Connection, access::Access};
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
pub(super) async fn wait_until_ready(ports_folder: PathBuf, pid: u32, host: IpAddr, access: Option<Access>) -> Ready {
    loop {
        if let Some(port) = read_ports_file(&ports_folder, pid) {
            let address = (host, port).into();
            let asked = async {
                match &access {
                    Some(access) => ask_jetstream_as(access, address).await,
                    None => ask_jetstream(address).await,
                }
            };
            match timeout(ANSWER_LIMIT, asked).await {
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

/// The same by somebody whom the server knows.
async fn ask_jetstream_as(access: &Access, address: SocketAddr) -> io::Result<Option<String>> {
    let access = Access { url: format!("nats://{address}").into(), ..access.clone() };
    let connection = Connection::connect(&access, "shop").await.map_err(io::Error::other)?;
    Ok(connection.has_jetstream().await.then(|| connection.server_version()))
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
