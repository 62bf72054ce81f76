//! The shop's program as a child process: started, watched, signalled and reaped by its own pid.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

pub use rustix::process::Signal;

use crate::{program, wait::until};

/// How long a program may take to end by itself, after a signal or because it cannot start:
/// "a few seconds" on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How programs are started.
#[derive(Clone, Debug, Default)]
pub struct Launcher {
    /// A command, with its arguments, that becomes the program; none: the program itself.
    pub command: Vec<OsString>,
    /// The program, if not the one that is built like the tests.
    pub program: Option<PathBuf>,
    /// Whether Ctrl-C in the terminal reaches only whoever has started the program.
    pub apart: bool,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// A file that takes what a program says; each start adds to it.
#[derive(Debug)]
struct Output {
    path: PathBuf,
    /// How long it was before this start.
    before: usize,
}

impl Process {
    /// Starts the shop's program. What it says goes to `<folder>/<name>.stdout` and `.stderr`.
    pub fn spawn<A: AsRef<OsStr>>(folder: &Path, name: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::spawn_by(&Launcher::default(), folder, name, arguments)
    }

    /// Starts it in this way.
    pub fn spawn_by<A: AsRef<OsStr>>(
        launcher: &Launcher,
        folder: &Path,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let program = launcher.program.clone().unwrap_or_else(program::path);
        Self::start(launcher, &program, folder, name, arguments)
    }

    /// Starts a program that is not the shop's. Whatever it keeps at home it keeps in the folder.
    pub fn spawn_other<A: AsRef<OsStr>>(
        program: &Path,
        folder: &Path,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut home = OsString::from("HOME=");
        home.push(folder);
        let launcher = Launcher { command: vec!["env".into(), home], program: None, apart: true };
        Self::start(&launcher, program, folder, name, arguments)
    }

    fn start<A: AsRef<OsStr>>(
        launcher: &Launcher,
        path: &Path,
        folder: &Path,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let (stdout, to_stdout) = Output::open(folder.join(format!("{name}.stdout")));
        let (stderr, to_stderr) = Output::open(folder.join(format!("{name}.stderr")));
        let mut words = launcher.command.iter().map(OsString::as_os_str).chain([path.as_os_str()]);
        let mut command = Command::new(words.next().expect("there is the program at least"));
        command.args(words);
        if launcher.apart {
            command.process_group(0);
        }
        // Only the command line counts, not what this machine happens to have set.
        for (variable, _) in std::env::vars_os() {
            let is_setting = variable.to_string_lossy().starts_with("SHOP_") && variable != "SHOP_NATS_SERVER";
            if is_setting || variable == "RUST_LOG" {
                command.env_remove(variable);
            }
        }
        let child = command
            .args(arguments)
            .env("NO_COLOR", "1")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(to_stdout)
            .stderr(to_stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display()));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    /// What it has printed since it was started.
    pub fn stdout(&self) -> String {
        self.stdout.read()
    }

    /// What it has logged since it was started.
    pub fn stderr(&self) -> String {
        self.stderr.read()
    }

    /// Waits until `find` finds something in what it has printed and logged.
    pub async fn says<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        until(&format!("{} says {what}", self.name), async || {
            let found = find(&self.stdout()).or_else(|| find(&self.stderr()));
            if found.is_none() {
                self.assert_running();
            }
            found
        })
        .await
    }

    /// Fails the test when the process has ended.
    pub fn assert_running(&mut self) {
        let ended = self.has_ended();
        assert!(ended.is_none(), "{} has ended ({}): {}", self.name, ended.unwrap_or_default(), self.stderr());
    }

    /// How it ended, if it did.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked whether it has ended")
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("{} has ended before it got {signal:?}", self.name));
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} did not get {signal:?}: {error}", self.name));
    }

    /// SIGKILL: what a crash leaves behind. Returns when the process is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap_or_else(|error| panic!("cannot kill {}: {error}", self.name));
    }

    /// Sends it a signal that asks it to end, and returns how it did and what it has printed.
    pub async fn end_by(mut self, signal: Signal) -> (ExitStatus, String) {
        self.signal(signal);
        let status = self.ended().await;
        (status, self.stdout())
    }

    /// SIGTERM, which must lead to a good end.
    pub async fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status} after SIGTERM", self.name);
    }

    /// For a program that only says something: waits for its good end, and returns what it has printed.
    pub async fn explains(mut self) -> String {
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.stderr());
        self.stdout()
    }

    /// For a program that cannot start: waits until it ends, which must be a failure, and
    /// returns its last words.
    pub async fn refuses(mut self) -> String {
        let status = self.ended().await;
        assert_eq!(status.code(), Some(1), "{} ended with {status}: {}", self.name, self.stderr());
        self.stderr()
    }

    /// For a program with a long work: waits until it has done it, and returns how it ended.
    pub async fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let ended = timeout(limit, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} still runs after {limit:?}", self.name));
        ended.unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name))
    }

    async fn ended(&mut self) -> ExitStatus {
        self.ends_within(END_LIMIT).await
    }
}

impl Output {
    fn open(path: PathBuf) -> (Self, File) {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        let before = file.metadata().map_or(0, |file| file.len() as usize);
        (Self { path, before }, file)
    }

    fn read(&self) -> String {
        let all = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.before..).unwrap_or_default()).into_owned()
    }
}
