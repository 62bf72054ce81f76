//! What a process costs, as the system counts it.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use rustix::process::{Pid, Signal, kill_process};

const FSYNCS: &str = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";

/// CPU seconds of a process so far, its ended threads included.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = read(pid, "stat");
    // After the name, which stands in brackets and may hold anything: utime and stime are 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number of ticks")).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// CPU seconds of all child processes that have ended.
pub(crate) fn cpu_seconds_of_ended_children() -> f64 {
    let stat = read(std::process::id(), "stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(13).take(2).map(|ticks| ticks.parse::<f64>().expect("a number of ticks")).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Memory that a process has now, in MB.
pub(crate) fn memory_mb(pid: u32) -> f64 {
    status_mb(pid, "VmRSS:")
}

/// Most memory that a process had since [`forget_peak`], or since it began.
pub(crate) fn peak_mb(pid: u32) -> f64 {
    status_mb(pid, "VmHWM:")
}

/// Begins to look for the most memory anew. See proc(5), `clear_refs`.
pub(crate) fn forget_peak(pid: u32) {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
}

/// Counts the fsyncs of some processes with `perf stat`, which costs them about a microsecond each.
#[derive(Debug)]
pub(crate) struct Fsyncs(Child);

impl Fsyncs {
    /// Begins; none when `perf` is not there or not permitted.
    pub(crate) fn count(pids: &[u32]) -> Option<Self> {
        if !can_count_fsyncs() {
            return None;
        }
        let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", FSYNCS, "-p", &pids])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Some(Self(perf.unwrap_or_else(|error| panic!("cannot start perf: {error}"))))
    }

    /// How many there were.
    pub(crate) fn stop(self) -> u64 {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("perf has a pid");
        kill_process(pid, Signal::INT).unwrap_or_else(|error| panic!("perf did not get the signal: {error}"));
        let output = self.0.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for perf: {error}"));
        let text = String::from_utf8_lossy(&output.stderr);
        let counts = text.lines().filter(|line| line.contains("sync")).map(|line| {
            let count = line.split(',').next().and_then(|count| count.parse::<u64>().ok());
            count.unwrap_or_else(|| panic!("perf did not count: {text}"))
        });
        counts.sum()
    }
}

/// Whether `perf stat` counts fsyncs on this machine for this user.
pub(crate) fn can_count_fsyncs() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let output = Command::new("perf").args(["stat", "-x", ",", "-e", FSYNCS, "true"]).output();
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success() && text.lines().filter(|line| line.starts_with("0,")).count() == 2
        })
    })
}

fn status_mb(pid: u32, field: &str) -> f64 {
    let status = read(pid, "status");
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    let kb = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    kb.unwrap_or_else(|| panic!("/proc/{pid}/status says no {field}")) / 1_024.0
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}
