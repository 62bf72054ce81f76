//! `--ports-file`: where everything is, as JSON, for programs.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use shop_nats::private;

use crate::Shop;

/// A file that is there while the shop is open, and as a whole or not at all. Only a shop that is killed leaves it.
#[derive(Debug)]
pub struct PortsFile {
    path: PathBuf,
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source} (use --ports-file for another place)", .path.display())]
pub struct PortsError {
    path: PathBuf,
    source: io::Error,
}

impl PortsFile {
    /// Makes room for it: what a shop has left there that was killed is gone before this one is open.
    pub fn prepare(path: &Path) -> Result<Self, PortsError> {
        let failed = |source| PortsError { path: path.to_owned(), source };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            Ok(()) | Err(_) => Ok(Self { path: path.to_owned() }),
        }
    }

    /// Writes where this shop is.
    pub fn write(&self, shop: &Shop) -> Result<(), PortsError> {
        let failed = |source| PortsError { path: self.path.clone(), source };
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let text = format!("{:#}\n", ports(shop));
        let written = private::make_file(Path::new(&new)).and_then(|mut file| file.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&new, &self.path)).map_err(failed)
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn ports(shop: &Shop) -> Value {
    let mut nats = json!({ "url": shop.nats_url() });
    if let Some(server) = shop.nats_server() {
        nats = place("nats", server.address());
        (nats["pid"], nats["version"]) = (json!(server.pid()), json!(server.version()));
    }
    let mut ports = json!({
        "pid": std::process::id(),
        "data_dir": shop.folder().display().to_string(),
        "http": place("http", shop.http_address()),
        "nats": nats,
    });
    if let Some(address) = shop.observe_address() {
        ports["observe"] = place("http", address);
    }
    ports
}

fn place(scheme: &str, address: SocketAddr) -> Value {
    json!({ "url": format!("{scheme}://{address}"), "host": address.ip().to_string(), "port": address.port() })
}
