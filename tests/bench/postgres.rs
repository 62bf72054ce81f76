//! The same orders in one PostgreSQL: a new cluster with its defaults, so that it syncs at every
//! commit, and pgbench on its socket. The scripts are in `postgres/`.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use shop_tests::{
    bench::{pgbench::Run, report},
    folder::Folder,
};

use crate::options::Options;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/postgres");
/// What is run of them, in this order.
const RUNS: [&str; 3] = ["uniform", "hot", "statements"];
/// Each client is a process of the server's: beyond this it only gets slower.
const CONNECTIONS_MAX: u32 = 256;
/// 256 clients may take a second to come in.
const SECONDS_MIN: u32 = 2;
/// Who runs it when we are root, which it refuses to be run as.
const USER: &str = "postgres";
/// Where it is put when its user may not enter the folder that was chosen.
const FALLBACK: &str = "/var/tmp";

/// A running cluster. Dropping it stops it.
struct Cluster {
    programs: PathBuf,
    as_user: bool,
    folder: Folder,
}

/// All scripts at all numbers of connections, and what could not be measured.
pub(crate) fn measure(options: &Options) -> (Vec<report::Postgres>, Vec<String>) {
    let cluster = match Cluster::start(&options.folder) {
        Ok(cluster) => cluster,
        Err(reason) => return (vec![], vec![reason]),
    };
    let (mut figures, mut skipped) = (Vec::new(), Vec::new());
    for script in RUNS {
        for &connections in options.connections.iter().filter(|&&connections| connections <= CONNECTIONS_MAX) {
            match cluster.measure_one(script, connections, options.seconds.max(SECONDS_MIN)) {
                Ok(figure) => figures.push(figure),
                Err(reason) => skipped.push(format!("{script} at {connections}: {reason}")),
            }
        }
    }
    (figures, skipped)
}

/// What pgbench says its version is.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(find_programs()?.join("pgbench")).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(format!("PostgreSQL {}", text.split_whitespace().nth(2)?))
}

impl Cluster {
    fn start(folder: &Path) -> Result<Self, String> {
        let programs = find_programs().ok_or("not installed (apt-get install postgresql)")?;
        let as_user = rustix::process::getuid().is_root();
        let folder = if as_user { folder_of_user(folder)? } else { Folder::within(folder) };
        let mut cluster = Self { programs, as_user, folder };
        // Left to stop when the start fails half-way; that it does not run then is no harm.
        cluster.init_and_start()?;
        Ok(cluster)
    }

    fn init_and_start(&mut self) -> Result<(), String> {
        let [data, log, socket] = ["data", "log", "."].map(|name| self.folder.path().join(name).display().to_string());
        self.run("initdb", &["-D", &data, "-A", "trust", "-U", USER, "-E", "UTF8", "--locale", "C"])?;
        let settings = format!("-k {socket} -c listen_addresses='' -c max_connections={}", CONNECTIONS_MAX + 40);
        self.run("pg_ctl", &["-D", &data, "-l", &log, "-w", "-o", &settings, "start"])?;
        self.run("psql", &["-q", "-h", &socket, "-U", USER, "-f", &format!("{SCRIPTS}/schema.sql"), "postgres"])?;
        self.run("psql", &["-q", "-h", &socket, "-U", USER, "-c", "vacuum analyze", "postgres"])?;
        Ok(())
    }

    fn measure_one(&self, script: &'static str, connections: u32, seconds: u32) -> Result<report::Postgres, String> {
        // Nobody looks at the warm-up, which may be too short for all clients to come in.
        drop(self.pgbench(script, connections, seconds.div_ceil(5)));
        let Run { per_second, latency } = self.pgbench(script, connections, seconds)?;
        eprintln!("PostgreSQL {script} at {connections}: {per_second:.0} orders/s, p99 {:.1} ms", latency.p99_ms);
        Ok(report::Postgres { script, connections, per_second, latency })
    }

    fn pgbench(&self, script: &str, connections: u32, seconds: u32) -> Result<Run, String> {
        let logs = self.folder.path().join("pgbench");
        fs::create_dir_all(&logs).and_then(|()| self.give(&logs)).map_err(|error| error.to_string())?;
        let [prefix, socket] = [logs.join("log"), self.folder.path().join(".")].map(|path| path.display().to_string());
        let (clients, threads) = (connections.to_string(), connections.min(2).to_string());
        let (script, seconds) = (format!("{SCRIPTS}/{script}.sql"), seconds.to_string());
        let words = ["-n", "-l", "--log-prefix", &prefix, "-h", &socket, "-U", USER, "-f", &script];
        let more = ["-c", &clients, "-j", &threads, "-T", &seconds, "postgres"];
        let output = self.run("pgbench", &[&words[..], &more[..]].concat())?;
        let files = fs::read_dir(&logs).map_err(|error| error.to_string())?.flatten();
        let log: String = files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
        fs::remove_dir_all(&logs).map_err(|error| error.to_string())?;
        Run::read(&String::from_utf8_lossy(&output.stdout), &log)
    }

    /// Runs one of its programs, as the user who may.
    fn run(&self, program: &str, words: &[&str]) -> Result<Output, String> {
        let program = self.programs.join(program);
        let mut command = if self.as_user {
            let mut command = Command::new("runuser");
            command.args(["-u", USER, "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        // The server outlives `pg_ctl start`: it must not keep our pipes open.
        let output = if words.contains(&"start") {
            let status = command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.map(|status| Output { status, stdout: vec![], stderr: b"see its log".into() })
        } else {
            command.args(words).current_dir(self.folder.path()).stdin(Stdio::null()).output()
        };
        let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let failed = || format!("{} failed ({}): {complaint}", program.display(), output.status);
        if output.status.success() { Ok(output) } else { Err(failed()) }
    }

    fn give(&self, path: &Path) -> std::io::Result<()> {
        if self.as_user { chown(path, user_id(), None) } else { Ok(()) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.folder.path().join("data").display().to_string();
        if let Err(error) = self.run("pg_ctl", &["-D", &data, "-w", "-m", "fast", "stop"]) {
            eprintln!("{error}");
        }
    }
}

/// The folder with all its programs: on the path, or the newest where Debian keeps them.
fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|folder| has_programs(folder));
    on_path.or_else(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        let version = |folder: &PathBuf| folder.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = versions.map(|folder| folder.path()).max_by_key(version)?;
        Some(newest.join("bin")).filter(|folder| has_programs(folder))
    })
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "psql", "pgbench"].iter().all(|program| folder.join(program).exists())
}

/// A new folder that belongs to the user of the server and that he can get to.
fn folder_of_user(chosen: &Path) -> Result<Folder, String> {
    let id = user_id().ok_or_else(|| format!("we are root, and there is no user {USER}"))?;
    for parent in [chosen, Path::new(FALLBACK)] {
        let folder = Folder::within(parent);
        chown(folder.path(), Some(id), None).map_err(|error| format!("chown: {error}"))?;
        let enters = Command::new("runuser").args(["-u", USER, "--", "test", "-w"]).arg(folder.path()).status();
        if enters.is_ok_and(|status| status.success()) {
            return Ok(folder);
        }
    }
    Err(format!("the user {USER} can enter neither {} nor {FALLBACK}", chosen.display()))
}

fn user_id() -> Option<u32> {
    let output = Command::new("id").args(["-u", USER]).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
