//! What the process uses, under the names that Prometheus' own clients have for it. Linux tells in `/proc`;
//! elsewhere there is nothing to say.

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::param::{clock_ticks_per_second, page_size};

type Number = Gauge<u64, AtomicU64>;
type Seconds = Gauge<f64, AtomicU64>;

/// What it uses now.
pub(crate) fn usage() -> Registry {
    let mut registry = Registry::with_prefix("process");
    if let Some(stat) = Stat::read() {
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(stat.cpu_seconds);
        registry.register("cpu_seconds", "Processor time that was used, in seconds", cpu);
        let (resident, whole) = (stat.resident_bytes, stat.virtual_bytes);
        registry.register("resident_memory_bytes", "Memory that is held, in bytes", number(resident));
        registry.register("virtual_memory_bytes", "Address space that is taken, in bytes", number(whole));
        registry.register("threads", "Threads that there are", number(stat.threads));
        if let Some(booted) = booted() {
            let started = Seconds::default();
            started.set(booted + stat.started_seconds);
            registry.register("start_time_seconds", "When the process was started, in seconds since 1970", started);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // Looking at them takes one more.
        registry.register("open_fds", "File handles that are open", number(open.count() as u64 - 1));
    }
    if let Some(most) = most_file_handles() {
        registry.register("max_fds", "File handles that may be open", number(most));
    }
    registry
}

fn number(number: u64) -> Number {
    let gauge = Number::default();
    gauge.set(number);
    gauge
}

/// `/proc/self/stat`, see proc_pid_stat(5).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// Since the machine was booted.
    started_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::of(&fs::read_to_string("/proc/self/stat").ok()?, clock_ticks_per_second(), page_size() as u64)
    }

    fn of(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Option<Self> {
        // The name before may hold blanks and brackets; the first field behind it is the third one.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<u64> = fields.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
        Some(Self {
            cpu_seconds: seconds(field(14)? + field(15)?),
            threads: field(20)?,
            started_seconds: seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

/// When the machine was booted, in seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// None also where there is no limit.
fn most_file_handles() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "4711 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 20 0 9 0 1000 8192 3 18446744073709551615";
        let expected =
            Stat { cpu_seconds: 3.0, threads: 9, started_seconds: 10.0, virtual_bytes: 8192, resident_bytes: 3 * 4096 };
        assert_eq!(Stat::of(stat, 100, 4096), Some(expected));
        assert_eq!(Stat::of("4711 (a) S 1", 100, 4096), None);
    }
}
