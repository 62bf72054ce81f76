//! What `/metrics` answers, of a bridge as of a host: the numbers that it has, what program it is and
//! what its process uses, in the format that is asked for; and where it is asked.
//!
//! Owns the formats, and the port for those who run a process. Must not know what is counted.

mod accept;
mod classic;
mod process;
mod server;

use std::fmt::Write;

use prometheus_client::{encoding::text, metrics::info::Info, registry::Registry};

pub use server::{Observable, serve};

/// The format that Prometheus and everything that is like it can read.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is answered.
#[derive(Debug)]
pub struct Page {
    /// Its content type.
    pub content_type: &'static str,
    /// The numbers.
    pub text: String,
}

/// What a part of the shop counts, written down.
#[derive(Debug)]
pub struct Numbers(String);

impl Numbers {
    /// As they are now.
    pub fn of(registry: &Registry) -> Self {
        let mut text = String::new();
        text::encode_registry(&mut text, registry).expect(WRITES);
        Self(text)
    }
}

impl Page {
    /// What these `parts` of the shop, a bridge or hosts, say together to a client that sent these values of
    /// `Accept`: in the classic text format, unless OpenMetrics is asked for.
    pub fn new<'a>(parts: &[&'static str], numbers: &[Numbers], accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text: String = numbers.iter().map(|Numbers(text)| text.as_str()).collect();
        text.push_str(&program(parts));
        text::encode_registry(&mut text, &process::usage()).expect(WRITES);
        if accept::prefers_open_metrics(accept) {
            text::encode_eof(&mut text).expect(WRITES);
            Self { content_type: OPEN_METRICS, text }
        } else {
            Self { content_type: CLASSIC, text: classic::from_open_metrics(&text) }
        }
    }
}

const WRITES: &str = "a String takes everything";

/// One metric with a line for each part: the library makes a metric of its own of each.
fn program(parts: &[&'static str]) -> String {
    let mut lines = String::new();
    for part in parts {
        let mut registry = Registry::with_prefix("shop");
        let info = Info::new([("part", *part), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What program this is", info);
        let Numbers(text) = Numbers::of(&registry);
        let is_first = lines.is_empty();
        text.lines().filter(|text| is_first || !text.starts_with('#')).for_each(|text| {
            line(&mut lines, format_args!("{text}"));
        });
    }
    lines
}

/// Writes a line into a text.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect(WRITES);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn page(accept: &str) -> Page {
        let mut numbers = Registry::with_prefix("shop_till");
        let sales = Counter::<u64>::default();
        sales.inc();
        numbers.register("sales", "What was sold", sales);
        Page::new(&["till"], &[Numbers::of(&numbers)], [accept])
    }

    #[track_caller]
    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_classic_format_is_answered_unless_the_other_one_is_asked_for() {
        let Page { content_type, text } = page("*/*");
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
        let build = format!(r#"shop_build_info{{part="till",version="{}"}} 1"#, env!("CARGO_PKG_VERSION"));
        has(
            &text,
            &[
                "# HELP shop_till_sales_total What was sold.",
                "# TYPE shop_till_sales_total counter",
                "shop_till_sales_total 1",
                "# TYPE shop_build_info gauge",
                &build,
            ],
        );
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");

        let Page { content_type, text } = page("application/openmetrics-text");
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        has(&text, &["# TYPE shop_till_sales counter", "shop_till_sales_total 1", "# TYPE shop_build info", &build]);
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn parts_of_one_process_are_one_page_in_which_no_metric_is_told_twice() {
        let Page { text, .. } = Page::new(&["till", "door"], &[Numbers::of(&Registry::default())], []);
        for part in ["till", "door"] {
            let build = format!(r#"shop_build_info{{part="{part}",version="{}"}} 1"#, env!("CARGO_PKG_VERSION"));
            has(&text, &[&build]);
        }
        assert_eq!(text.matches("# TYPE shop_build_info").count(), 1, "{text}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_says_what_it_uses() {
        let text = page("").text;
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
        ] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let number = line.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse::<f64>().ok());
            assert!(number.is_some_and(|number| number >= 0.0), "{name}: {line:?}");
            let described = |what: &str| text.lines().any(|line| line.starts_with(&format!("# {what} {name} ")));
            assert!(described("HELP") && described("TYPE"), "{name} is not described");
        }
    }
}
