//! Counters of the server, for `/metrics` in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_BOUNDS_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Requests by method and code.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), Series>>,
}

#[derive(Debug, Default, Clone)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; LATENCY_BOUNDS_SECONDS.len()],
}

impl Metrics {
    pub fn observe(&self, method: &Method, code: StatusCode, elapsed: Duration) {
        // Clients can invent methods; the label set stays bounded.
        let method = match *method {
            Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::HEAD | Method::OPTIONS => method.as_str(),
            _ => "OTHER",
        };
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let series = requests.entry((method.to_owned(), code.as_u16())).or_default();
        series.count += 1;
        series.seconds += elapsed.as_secs_f64();
        for (bucket, bound) in series.buckets.iter_mut().zip(LATENCY_BOUNDS_SECONDS) {
            *bucket += u64::from(elapsed.as_secs_f64() <= bound);
        }
    }

    /// The text of `/metrics`; `gauges` are (name, help, value).
    pub fn render(&self, gauges: &[(&str, &str, f64)]) -> String {
        let mut out = String::new();
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.push_str("# HELP apiserver_request_total Requests answered, by method and code.\n# TYPE apiserver_request_total counter\n");
        for ((method, code), series) in &requests {
            line(&mut out, &format!("apiserver_request_total{{verb=\"{method}\",code=\"{code}\"}}"), series.count as f64);
        }
        out.push_str("# HELP apiserver_request_duration_seconds Time to the first byte of the answer.\n");
        out.push_str("# TYPE apiserver_request_duration_seconds histogram\n");
        for ((method, code), series) in &requests {
            let labels = format!("verb=\"{method}\",code=\"{code}\"");
            for (bucket, bound) in series.buckets.iter().zip(LATENCY_BOUNDS_SECONDS) {
                line(&mut out, &format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"{bound}\"}}"), *bucket as f64);
            }
            line(&mut out, &format!("apiserver_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}}"), series.count as f64);
            line(&mut out, &format!("apiserver_request_duration_seconds_sum{{{labels}}}"), series.seconds);
            line(&mut out, &format!("apiserver_request_duration_seconds_count{{{labels}}}"), series.count as f64);
        }
        for (name, help, value) in gauges {
            let bare = name.split('{').next().unwrap_or(name);
            if !out.contains(&format!("# TYPE {bare} ")) {
                writeln!(out, "# HELP {bare} {help}\n# TYPE {bare} gauge").expect("writing to a String cannot fail");
            }
            line(&mut out, name, *value);
        }
        out
    }
}

fn line(out: &mut String, name: &str, value: f64) {
    writeln!(out, "{name} {value}").expect("writing to a String cannot fail");
}
