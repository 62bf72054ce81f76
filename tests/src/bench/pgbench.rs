//! What pgbench says at its end, and writes with `--log`: one line per transaction.
//! See <https://www.postgresql.org/docs/current/pgbench.html>, "Per-Transaction Logging".

use super::report::Latency;

/// One run of pgbench.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Transactions per second.
    pub per_second: f64,
    /// From the first statement to the commit.
    pub latency: Latency,
}

impl Run {
    /// Reads its output, and the log of all its threads: the third word of a line is the time in microseconds.
    pub fn read(output: &str, log: &str) -> Result<Self, String> {
        let rate = output.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        let per_second = rate.ok_or("pgbench did not finish a single transaction")?;
        let time_in = |line: &str| line.split(' ').nth(2).and_then(|us| us.parse().ok()).ok_or(line.to_owned());
        let times: Result<Vec<u64>, String> = log.lines().map(time_in).collect();
        let mut times = times.map_err(|line| format!("pgbench logged something else: {line}"))?;
        times.sort_unstable();
        let latency = Latency::of_sorted_us(&times).ok_or("pgbench did not log any transaction")?;
        Ok(Self { per_second, latency })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of what pgbench 15 says.
    const OUTPUT: &str = "latency average = 7.600 ms\ninitial connection time = 61.5 ms\n\
                          tps = 8420.125000 (without initial connection time)\n";

    #[test]
    fn the_rate_and_the_times_of_all_transactions_are_read() {
        let run = Run::read(OUTPUT, "0 199 2241 0 1175850568 995598\n1 200 2465 0 1175850568 998079\n").unwrap();
        assert_eq!((run.per_second, run.latency.p50_ms, run.latency.max_ms), (8_420.125, 2.241, 2.465));
    }

    #[test]
    fn a_log_without_transactions_or_with_failed_ones_is_no_result() {
        assert!(Run::read(OUTPUT, "").is_err());
        assert!(Run::read(OUTPUT, "0 814 failed 0 1684765195 2341\n").is_err());
        assert!(Run::read("", "0 199 2241 0 1175850568 995598\n").is_err());
    }
}
