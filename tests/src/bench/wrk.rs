//! What wrk says at its end, by `tests/bench/order.lua`.

use serde::Deserialize;

use super::report::Latency;

/// One run of wrk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Orders that were answered 201.
    pub confirmed: u64,
    /// Answers other than that, and requests without one.
    pub errors: u64,
    /// How long it sent, in seconds.
    pub seconds: f64,
    /// From the request to the answer.
    pub latency: Latency,
}

#[derive(Deserialize)]
struct Summary {
    requests: u64,
    unexpected: u64,
    broken: u64,
    duration_us: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl Run {
    /// Reads wrk's output, which ends with one line of JSON. An error says what is there instead.
    pub fn read(output: &str) -> Result<Self, String> {
        let line = output.lines().rev().find(|line| line.starts_with('{'));
        let line = line.ok_or_else(|| format!("wrk did not say what it saw: {output}"))?;
        let summary: Summary = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let Summary { requests, unexpected, broken, duration_us, p50_us, p99_us, p999_us, max_us } = summary;
        let [p50_ms, p99_ms, p999_ms, max_ms] = [p50_us, p99_us, p999_us, max_us].map(|us| us / 1e3);
        Ok(Self {
            confirmed: requests.saturating_sub(unexpected),
            errors: unexpected + broken,
            seconds: duration_us / 1e6,
            latency: Latency { p50_ms, p99_ms, p999_ms, max_ms },
        })
    }

    /// Orders confirmed per second.
    pub fn per_second(&self) -> f64 {
        self.confirmed as f64 / self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What wrk 4.1.0 prints, cut to what is there with and without errors.
    const OUTPUT: &str = r#"Running 2s test @ http://127.0.0.1:8080
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.06ms    2.06ms  25.85ms   74.02%
  Requests/sec:   5302.11
{"requests":10604,"unexpected":4,"broken":2,"duration_us":2000000,"p50_us":11780,"p99_us":19010,"p999_us":24000,"max_us":25850}
"#;

    #[test]
    fn what_wrk_saw_is_read_with_every_answer_that_was_no_confirmation_as_an_error() {
        let run = Run::read(OUTPUT).unwrap();
        assert_eq!((run.confirmed, run.errors), (10_600, 6));
        assert_eq!(run.per_second(), 5_300.0);
        assert_eq!(run.latency, Latency { p50_ms: 11.78, p99_ms: 19.01, p999_ms: 24.0, max_ms: 25.85 });
    }

    #[test]
    fn a_wrk_that_could_not_connect_is_shown_with_its_own_words() {
        let error = Run::read("unable to connect to 127.0.0.1:1 Connection refused").unwrap_err();
        assert!(error.contains("unable to connect"), "{error}");
        assert!(Run::read(r#"{"requests":-nan}"#).is_err());
    }
}
