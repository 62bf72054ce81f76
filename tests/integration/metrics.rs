//! Numbers of bridge and hosts, as Prometheus and `promtool check metrics` want them.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::json;
use shop_tests::client::Ask;

use crate::shop::{TestShop, raw};

/// Words in names by which promtool knows a unit that is none of the base units, or an abbreviation.
const OTHER_UNITS: [&str; 26] = [
    "s",
    "ms",
    "us",
    "ns",
    "sec",
    "b",
    "kb",
    "mb",
    "gb",
    "tb",
    "pb",
    "m",
    "h",
    "d",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "days",
    "weeks",
    "kilobytes",
    "megabytes",
    "gigabytes",
    "bits",
    "percent",
];
/// Types, which a name must not repeat.
const TYPES: [&str; 4] = ["counter", "gauge", "histogram", "summary"];

/// What `promtool check metrics` would find, as far as it applies to the classic text format.
fn faults(text: &str) -> Vec<String> {
    let (mut faults, mut helps, mut types) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let mut samples = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            if help.is_empty() || helps.insert(name, help).is_some() {
                faults.push(format!("{name} is described not at all, or twice"));
            }
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if types.insert(name, kind).is_some() {
                faults.push(format!("{name} has two types"));
            }
        } else if line.starts_with('#') || line.is_empty() {
            faults.push(format!("{line:?} is none of the format"));
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            if value.parse::<f64>().is_err() || !samples.insert(sample) {
                faults.push(format!("{line} has no number, or comes twice"));
            }
        }
    }
    for (name, kind) in &types {
        let parts: Vec<&str> = name.split('_').collect();
        let is_clean = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        for (is_fault, what) in [
            (!helps.contains_key(name), "has no help"),
            (!is_clean, "is not in small letters"),
            ((*kind == "counter") != name.ends_with("_total"), "is a counter without _total, or the reverse"),
            (!["counter", "gauge", "histogram"].contains(kind), "is of another type"),
            (parts.iter().any(|part| TYPES.contains(part)), "repeats a type"),
            (parts.iter().any(|part| OTHER_UNITS.contains(part)), "is in another unit than a base unit"),
            (["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "ends like a part of a histogram"),
        ] {
            if is_fault {
                faults.push(format!("{name} {what}"));
            }
        }
    }
    for sample in &samples {
        let name = sample.split('{').next().unwrap_or_default();
        let of_histogram = ["_count", "_sum", "_bucket"].iter().find_map(|end| name.strip_suffix(end));
        if !types.contains_key(name) && of_histogram.is_none_or(|name| types.get(name) != Some(&"histogram")) {
            faults.push(format!("{sample} is of no metric"));
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bridge_and_hosts_say_their_numbers_in_the_format_that_is_asked_for() {
    let shop = TestShop::open().await;
    shop.product("apple", 1000, 2).await;
    shop.wallet("alice", 50_000).await;
    shop.order("o-1", "alice", "apple", 1).await;
    shop.order("o-1", "alice", "apple", 1).await;
    let order = |quantity: u64| json!({ "user": "alice", "product": "apple", "quantity": quantity });
    shop.post("/orders", order(5)).await.is(409);
    shop.post("/orders", order(1)).prefer("respond-async").await.is(202);
    shop.get("/nothing").await.is(404);
    shop.ask("BREW".parse().unwrap(), "/nothing").await.is(404);

    // Customers do not see them; those who run it see all of the process on one page.
    shop.get("/metrics").await.refused(404, "not_found");
    let inside = shop.inside();
    let ask = async |accept: Option<&str>| {
        let ask = Ask::new(Method::GET, "/metrics");
        let ask = match accept {
            Some(accept) => ask.header("accept", accept),
            None => ask,
        };
        let answer = inside.exchange(&ask).await.unwrap();
        (answer.header("content-type").unwrap().to_owned(), String::from_utf8(answer.bytes.to_vec()).unwrap())
    };
    let (content_type, text) = ask(None).await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(faults(&text), Vec::<String>::new(), "in\n{text}");
    let builds = ["bridge", "host"].map(|part| format!("shop_build_info{{part=\"{part}\",version="));
    for name in ["shop_http_", "shop_host_", "process_cpu_seconds_total ", &builds[0], &builds[1]] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
    }
    let (content_type, open) = ask(Some("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")).await;
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert_eq!(ask(Some("*/*")).await.0, "text/plain; version=0.0.4; charset=utf-8");

    for line in [
        r#"shop_http_orders_total{outcome="confirmed",code=""} 1"#,
        r#"shop_http_orders_total{outcome="refused",code="out_of_stock"} 1"#,
        r#"shop_http_orders_total{outcome="accepted",code=""} 1"#,
        "shop_http_order_duration_seconds_count 2",
        "shop_http_orders_under_way 0",
        "shop_http_order_oldest_age_seconds 0.0",
        r#"shop_http_requests_total{method="GET",route="unmatched",status="404"} 2"#,
        r#"shop_http_requests_total{method="other",route="unmatched",status="404"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    // All kinds together, as they are in one process.
    let ready = raw(
        &inside.address().to_string(),
        b"GET /readyz HTTP/1.1\r\nHost: shop.any.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    for kind in ["wallet", "product", "order", "delivery", "mypage"] {
        assert!(ready.contains(&format!("\"{kind}\":{{")), "{ready}");
    }
    shop.close().await;
}

#[test]
fn faults_of_metrics_are_found() {
    let fine = "# HELP a_seconds_total What.\n# TYPE a_seconds_total counter\na_seconds_total{b=\"c\"} 1\n";
    assert_eq!(faults(fine), Vec::<String>::new());
    for bad in [
        "# TYPE a_total counter\na_total 1\n",
        "# HELP a What.\n# TYPE a counter\na 1\n",
        "# HELP a_total What.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a_ms What.\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a_gauge What.\n# TYPE a_gauge gauge\na_gauge 1\n",
        "# HELP aB What.\n# TYPE aB gauge\naB 1\n",
        "a 1\n",
        "# HELP a What.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a What.\n# TYPE a gauge\na x\n",
        "# HELP a What.\n# TYPE a gauge\na 1\n# EOF\n",
    ] {
        assert!(!faults(bad).is_empty(), "{bad}");
    }
}
