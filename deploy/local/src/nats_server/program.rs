//! Where the nats-server program is.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, sync::OnceCell};

use super::{NatsServerError, system};

/// The nats-server program of this machine, fetched if there is none. Asked once per process: tests start many servers,
/// and the answer stays the same.
pub async fn find_program() -> Result<PathBuf, NatsServerError> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY
        .get_or_try_init(|| async {
            let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../nats/install.sh"));
            if script.exists() { run_install(script).await } else { search_path().ok_or(NatsServerError::NotFound) }
        })
        .await
        .cloned()
}

async fn run_install(script: &Path) -> Result<PathBuf, NatsServerError> {
    let run = Command::new("sh")
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| system(script, source))?;
    let output = run.wait_with_output().await.map_err(|source| system(script, source))?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !path.is_empty() { Ok(path.into()) } else { Err(NatsServerError::NotFound) }
}

/// For a binary that was moved away from the repository.
fn search_path() -> Option<PathBuf> {
    let set = std::env::var_os("SHOP_NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    set.or_else(found)
}
