//! Small disks of our own that can be filled, in a mount namespace that only the processes of one
//! test are in: nothing is mounted where anybody else could see it, and the kernel takes all of it
//! away with the last of these processes.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::wait::until;

/// More than any test writes. It is memory, but only what is written is taken.
const SIZE: &str = "4g";
/// What is left on a disk that is filled, in KiB: so little that the next writes do not fit.
const LEFT_KIB: u32 = 8;

/// Mounts a disk on every folder, says so, and holds them until its input ends.
const KEEPER: &str = r#"
for folder; do mount -t tmpfs -o size="$SIZE" shop-test "$folder" || exit 1; done
echo mounted
read -r _
"#;
/// Leaves next to nothing on a disk. It may have grown in between: then once more. (All is named
/// again: what `mount` would add by itself from what is mounted, only the real root may say.)
const FILL: &str = r#"
used=$(df -k -P "$1" | awk 'NR == 2 { print $3 }') &&
mount -t tmpfs -o remount,size=$((used + LEFT_KIB))k shop-test "$1"
"#;

/// Disks, each mounted on a folder.
#[derive(Debug)]
pub struct Disks {
    keeper: Child,
    pid: u32,
    enter: Vec<OsString>,
}

impl Disks {
    /// Mounts a disk on each of these folders, which must exist; an error says why this machine
    /// does not let us.
    pub async fn mount(folders: &[PathBuf]) -> Result<Self, String> {
        let as_root = rustix::process::geteuid().is_root();
        // Whoever is not root is root in a namespace of users of his own.
        let own: &[&str] = if as_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
        let entered: &[&str] = if as_root { &["--mount"] } else { &["--user", "--preserve-credentials", "--mount"] };
        let mut keeper = Command::new("unshare")
            .args(own)
            .args(["sh", "-c", KEEPER, "keeper"])
            .args(folders)
            .env("SIZE", SIZE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("there is no unshare: {error}"))?;
        let (pid, stdout) = (keeper.id(), keeper.stdout.take().expect("it is piped"));
        let said = BufReader::new(stdout).lines().next_line().await.ok().flatten();
        let (Some("mounted"), Some(pid)) = (said.as_deref(), pid) else {
            let output = keeper.wait_with_output().await.map_err(|error| error.to_string())?;
            return Err(words(&output));
        };
        let target = ["nsenter".into(), "--target".into(), pid.to_string().into()];
        let enter = target.into_iter().chain(entered.iter().map(OsString::from)).chain(["--".into()]).collect();
        Ok(Self { keeper, pid, enter })
    }

    /// The command that becomes another one, which sees the disks.
    pub fn launcher(&self) -> &[OsString] {
        &self.enter
    }

    /// Where a folder on the disks is for somebody who does not see them.
    pub fn path(&self, folder: &Path) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root").join(folder.strip_prefix("/").unwrap_or(folder))
    }

    /// Takes all that is left on the disk on this folder.
    pub async fn fill(&self, folder: &Path) {
        until(&format!("the disk on {} is full", folder.display()), async || {
            let filled = self.run("sh", &["-c".as_ref(), FILL.as_ref(), "fill".as_ref(), folder]).await;
            filled.status.success().then_some(())
        })
        .await;
    }

    /// Makes room again.
    pub async fn make_room(&self, folder: &Path) {
        let remount = format!("mount -t tmpfs -o remount,size={SIZE} shop-test \"$1\"");
        let done = self.run("sh", &["-c".as_ref(), remount.as_ref(), "make_room".as_ref(), folder]).await;
        assert!(done.status.success(), "{}", words(&done));
    }

    async fn run(&self, program: &str, arguments: &[&Path]) -> Output {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).arg(program).args(arguments).env("LEFT_KIB", LEFT_KIB.to_string());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.output().await.unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // Killed in any case; an error only says that it has ended already.
        let _ended = self.keeper.start_kill();
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")
}
