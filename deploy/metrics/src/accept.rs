//! Which format a client prefers: `Accept` of RFC 9110, as far as there is something to choose.

/// Whether OpenMetrics is named, and the classic text format is not preferred to it.
pub(crate) fn prefers_open_metrics<'a>(accept: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut open_metrics, mut classic) = (0.0, None::<(usize, f32)>);
    for range in accept.into_iter().flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(quality).unwrap_or(1.0);
        // The more precise a range is, the more it counts, whatever its quality.
        let precision = match media_type.as_str() {
            "application/openmetrics-text" => {
                open_metrics = quality.max(open_metrics);
                continue;
            }
            "text/plain" => 3,
            "text/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        if classic.is_none_or(|best| best < (precision, quality)) {
            classic = Some((precision, quality));
        }
    }
    open_metrics > 0.0 && classic.is_none_or(|(_, quality)| open_metrics >= quality)
}

fn quality(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    // A quality that is no number is none.
    name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_answered_to_whom_names_it_and_does_not_prefer_text() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("application/*", false),
            ("text/plain", false),
            ("application/json", false),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; version=1.0.0", true),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=none", false),
            ("application/openmetrics-text;q=0.5, text/plain;q=0.9", false),
            ("application/openmetrics-text;q=0.5, text/*;q=0.9", false),
            ("application/openmetrics-text;q=0.9, text/plain;q=0.5, */*", true),
            // What Prometheus sends by default, and what it sends when it is told to prefer text.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                true,
            ),
            ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.1", false),
        ] {
            assert_eq!(prefers_open_metrics([accept]), expected, "{accept}");
        }
        assert!(prefers_open_metrics(["text/plain;q=0.5", "application/openmetrics-text"]));
    }
}
