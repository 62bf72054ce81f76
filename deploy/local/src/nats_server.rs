//! A nats-server of our own: a child process with its folder, its port and its end.
//!
//! Nobody but this module starts, signals or reaps it. It does not outlive the shop, not even
//! when the shop is killed, and two of them never share a folder.

mod program;
mod readiness;
mod setup;

use std::{
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use shop_nats::private;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use self::readiness::wait_until_ready;
pub use self::{
    program::find_program,
    setup::{Member, Setup},
};
use crate::folder::{FolderError, FolderLock};

/// How long a start may take. A large log is read once at start; a server that cannot start
/// ends by itself and is noticed at once, so this is only for one that hangs.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a stop may take, should the watchdog not see to it within its 5 seconds.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long a folder may still be held by the server of a shop that was killed.
const FOLDER_LIMIT: Duration = Duration::from_secs(8);
/// How much of the server's log goes into an error.
const LOG_LINES_MAX: usize = 8;

/// Ends the server when the shop says so, or is gone: it reads a pipe whose other end the shop
/// holds, and end of file means either. After 5 seconds it kills; nothing acknowledged is lost
/// by that, it was synced before. Its standard output is the folder's lock, which is thereby
/// held until the server is gone as well.
/// (`PR_SET_PDEATHSIG` would need `unsafe`, exists on Linux only and fires when the starting
/// *thread* ends.)
const WATCHDOG: &str = r#"
while read -r _; do :; done
kill -TERM "$1" 2>/dev/null || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
    kill -0 "$1" 2>/dev/null || exit 0
    sleep 0.2
done
kill -KILL "$1" 2>/dev/null
"#;

/// A nats-server that was started by [`NatsServer::start`]. Dropping it kills the server.
#[derive(Debug)]
pub struct NatsServer {
    binary: PathBuf,
    setup: Setup,
    folder: PathBuf,
    version: String,
    running: Option<Running>,
    lock: FolderLock,
}

#[derive(Debug)]
struct Running {
    pid: u32,
    server: Child,
    watchdog: Child,
}

/// Why there is no nats-server.
#[derive(Debug, thiserror::Error)]
pub enum NatsServerError {
    /// There is none on this machine and none could be fetched.
    #[error("found no usable nats-server (nats/install.sh says above what it tried)")]
    NotFound,
    /// Its folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The port is taken.
    #[error(
        "port {port} is in use, so the shop's own nats-server cannot listen there: \
         use --nats-port for another port, or --nats-url if that is a nats-server to be used"
    )]
    PortInUse {
        /// Which.
        port: u16,
    },
    /// It ended while it was starting.
    #[error("the nats-server ended while it was starting ({status}); the end of {}:\n{lines}", .log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        lines: String,
    },
    /// It runs but is not ready.
    #[error("the nats-server is not ready after {START_LIMIT:?}; the end of {}:\n{lines}", .log.display())]
    NotReady {
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        lines: String,
    },
    /// The system does not let us.
    #[error("cannot start {}: {source}", .what.display())]
    System {
        /// What.
        what: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl NatsServer {
    /// Starts a nats-server that keeps its data in `folder`, and waits until JetStream answers.
    /// Port 0 takes any free one, which it keeps over [`NatsServer::start_again`].
    pub async fn start(folder: &Path, port: u16) -> Result<Self, NatsServerError> {
        Self::start_as(Setup::alone(port), folder).await
    }

    /// Starts one that is set up like this. Of a cluster, JetStream answers once most servers run:
    /// they are started at the same time.
    pub async fn start_as(setup: Setup, folder: &Path) -> Result<Self, NatsServerError> {
        let lock = FolderLock::take_within(folder, FOLDER_LIMIT).await?;
        let folder = folder.canonicalize().map_err(|source| system(folder, source))?;
        let binary = find_program().await?;
        let mut server = Self { binary, setup, folder, version: String::new(), running: None, lock };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it on the same port and folder after [`NatsServer::stop`], [`NatsServer::kill`] or
    /// an end of its own. Does nothing when it runs.
    pub async fn start_again(&mut self) -> Result<(), NatsServerError> {
        if self.running.is_some() {
            return Ok(());
        }
        let log_start = std::fs::metadata(self.log()).map_or(0, |log| log.len());
        let mut running = self.spawn()?;
        let ready = wait_until_ready(self.ports_folder(), running.pid, self.setup.host, self.setup.access.clone());
        let ready = timeout(START_LIMIT, ready);
        let outcome = tokio::select! {
            status = running.server.wait() => Err(self.explain(status, log_start)),
            ready = ready => ready.map_err(|_| NatsServerError::NotReady { log: self.log(), lines: self.log_end(log_start) }),
        };
        self.running = Some(running);
        match outcome {
            Ok(ready) => {
                (self.setup.port, self.version) = (ready.port, ready.version);
                Ok(())
            }
            Err(error) => {
                self.kill().await;
                Err(error)
            }
        }
    }

    /// Stops it in good order, or kills it after 5 seconds.
    pub async fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            // The watchdog's end of file: it sends the SIGTERM, as it would without us.
            drop(running.watchdog.stdin.take());
            if timeout(STOP_LIMIT, running.server.wait()).await.is_err() {
                tracing::warn!("the nats-server did not stop within {STOP_LIMIT:?}, killing it");
            }
        }
        self.kill().await;
    }

    /// Kills it on the spot, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            // The server first: while the watchdog lives, so does the folder's lock.
            for child in [&mut running.server, &mut running.watchdog] {
                if let Err(error) = child.kill().await {
                    tracing::warn!("failed to kill a child process: {error}");
                }
            }
        }
    }

    /// Waits until it ends by itself; for ever when it does not run.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let status = running.server.wait().await;
        self.kill().await;
        status
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| !matches!(running.server.try_wait(), Ok(None)))
    }

    /// Where clients reach it, for example `nats://127.0.0.1:4222`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The same as an address.
    pub fn address(&self) -> SocketAddr {
        (self.setup.host, self.setup.port).into()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.setup.port
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// What the server calls its version, for example `2.15.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's log file.
    pub fn log(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    fn ports_folder(&self) -> PathBuf {
        self.folder.join("ports")
    }

    fn spawn(&self) -> Result<Running, NatsServerError> {
        let Setup { launcher, port, file, configuration: lines, folder: folder_variable, .. } = &self.setup;
        let configuration = self.folder.join(file);
        let port = if *port == 0 { "-1".to_owned() } else { port.to_string() };
        let prepare = || {
            private::make_file(&configuration)?.write_all(lines.as_bytes())?;
            // Left over from a server that was killed.
            std::fs::remove_dir_all(self.ports_folder()).or_else(not_found_is_fine)?;
            private::make_folder(&self.ports_folder())?;
            std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.log())
        };
        let log = prepare().map_err(|source| system(&self.folder, source))?;

        // A process group of its own: Ctrl-C in the terminal reaches the shop, which first lets
        // the hosts finish and then stops this one.
        let mut command = launcher.iter().cloned().chain([self.binary.clone().into_os_string()]);
        let program = command.next().expect("there is the binary at least");
        let server = Command::new(&program)
            .args(command)
            .arg("--config")
            .arg(&configuration)
            .args(["--port", &port])
            .arg("--ports_file_dir")
            .arg(self.ports_folder())
            .arg("--log")
            .arg(self.log())
            .args(&self.setup.arguments)
            .envs(self.setup.variables.iter().map(|(name, value)| (name, value)))
            .env(folder_variable, quoted(&self.folder))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| system(Path::new(&program), source))?;
        let pid = server.id().expect("a child that nobody has waited for has a pid");
        let shell = Path::new("sh");
        let lock = self.lock.share().map_err(|source| system(shell, source))?;
        let watchdog = Command::new(shell)
            .args(["-c", WATCHDOG, "nats-server-watchdog"])
            .arg(pid.to_string())
            .stdin(Stdio::piped())
            .stdout(lock)
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| system(shell, source))?;
        Ok(Running { pid, server, watchdog })
    }

    fn explain(&self, status: io::Result<ExitStatus>, log_start: u64) -> NatsServerError {
        let lines = self.log_end(log_start);
        match status {
            Ok(_) if lines.contains("address already in use") => NatsServerError::PortInUse { port: self.setup.port },
            Ok(status) => NatsServerError::Ended { status, log: self.log(), lines },
            Err(source) => system(&self.binary, source),
        }
    }

    /// The last lines of what the server has logged since its log was `start` bytes long.
    fn log_end(&self, start: u64) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(log.get(start as usize..).unwrap_or(&log));
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
    }
}

/// A value in NATS configuration syntax: unquoted, a path that begins with a digit is a number.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

fn system(what: &Path, source: io::Error) -> NatsServerError {
    NatsServerError::System { what: what.to_owned(), source }
}

fn not_found_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tempfile::{TempDir, tempdir};

    use super::{readiness::ask_jetstream, *};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_started_server_answers_and_a_stopped_one_does_not() {
        let folder = tempdir().unwrap();
        let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
        assert!(ask_jetstream(([127, 0, 0, 1], server.port()).into()).await.unwrap().is_some());
        assert!(server.url().ends_with(&server.port().to_string()));
        server.stop().await;
        assert_eq!(server.pid(), None);
        assert!(ask_jetstream(([127, 0, 0, 1], server.port()).into()).await.is_err());
    }

    #[tokio::test]
    async fn a_server_comes_back_on_the_same_port_however_it_ended() {
        let folder = tempdir().unwrap();
        let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
        let (port, pid) = (server.port(), server.pid());
        server.stop().await;
        server.start_again().await.unwrap();
        server.kill().await;
        server.start_again().await.unwrap();
        assert_eq!(server.port(), port);
        assert_ne!(server.pid(), pid);
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_noticed() {
        let folder = tempdir().unwrap();
        let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
        kill_from_outside(server.pid().unwrap());
        timeout(LIMIT, server.ended()).await.unwrap().unwrap();
        assert_eq!(server.pid(), None);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let folder = tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = NatsServer::start(folder.path(), port).await.unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
        assert!(error.contains("--nats-port"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_why() {
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join("jetstream"), "not a folder").unwrap();
        let error = NatsServer::start(folder.path(), 0).await.unwrap_err();
        assert!(matches!(error, NatsServerError::Ended { .. }), "{error}");
        assert!(error.to_string().contains("[FTL]"), "{error}");
    }

    #[tokio::test]
    async fn two_servers_never_share_a_folder() {
        let folder = tempdir().unwrap();
        let _server = NatsServer::start(folder.path(), 0).await.unwrap();
        assert!(matches!(FolderLock::take(folder.path()), Err(FolderError::InUse { .. })));
    }

    #[tokio::test]
    async fn a_folder_may_have_any_name() {
        let folder = tempdir().unwrap();
        NatsServer::start(&folder.path().join("1 \"odd\" name"), 0).await.unwrap();
    }

    /// What happens when the shop is killed: its end of the pipe closes, and nothing else.
    #[tokio::test]
    async fn a_server_does_not_outlive_the_shop() {
        let folder: TempDir = tempdir().unwrap();
        let mut server = NatsServer::start(folder.path(), 0).await.unwrap();
        let running = server.running.as_mut().unwrap();
        drop(running.watchdog.stdin.take());
        timeout(LIMIT, running.server.wait()).await.unwrap().unwrap();
        timeout(LIMIT, running.watchdog.wait()).await.unwrap().unwrap();
        drop(server);
        let start = Instant::now();
        NatsServer::start(folder.path(), 0).await.unwrap();
        assert!(start.elapsed() < LIMIT);
    }

    fn kill_from_outside(pid: u32) {
        let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(status.success());
    }
}
