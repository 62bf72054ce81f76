//! The classic text format, made from that of OpenMetrics: the samples are the same, and what is said of
//! them differs.

use crate::line;

/// The same numbers. A counter and an info are described under the names of their samples; there are no
/// units and no end.
pub(crate) fn from_open_metrics(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut meaning = "";
    for given in open_metrics.lines() {
        if let Some((_, help)) = given.strip_prefix("# HELP ").and_then(|help| help.split_once(' ')) {
            meaning = help;
        } else if let Some((name, kind)) = given.strip_prefix("# TYPE ").and_then(|kind| kind.rsplit_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            line(&mut text, format_args!("# HELP {name}{suffix} {meaning}"));
            line(&mut text, format_args!("# TYPE {name}{suffix} {kind}"));
        } else if !given.starts_with('#') {
            line(&mut text, format_args!("{given}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_metric_is_said_under_the_name_of_its_samples() {
        let open_metrics = r#"# HELP sales What was sold.
# TYPE sales counter
sales_total{fruit="kiwi # TYPE a counter"} 7
# HELP age_seconds How old it is.
# TYPE age_seconds gauge
# UNIT age_seconds seconds
age_seconds 1.5
# HELP took_seconds How long it took.
# TYPE took_seconds histogram
took_seconds_sum 1.0
took_seconds_count 1
took_seconds_bucket{le="0.5"} 0
# HELP build What it is.
# TYPE build info
build_info{version="1"} 1
# EOF
"#;
        let classic = r#"# HELP sales_total What was sold.
# TYPE sales_total counter
sales_total{fruit="kiwi # TYPE a counter"} 7
# HELP age_seconds How old it is.
# TYPE age_seconds gauge
age_seconds 1.5
# HELP took_seconds How long it took.
# TYPE took_seconds histogram
took_seconds_sum 1.0
took_seconds_count 1
took_seconds_bucket{le="0.5"} 0
# HELP build_info What it is.
# TYPE build_info gauge
build_info{version="1"} 1
"#;
        assert_eq!(from_open_metrics(open_metrics), classic);
    }
}
