//! Durations to figures, figures to a table.

use std::time::Duration;

/// Latencies of many requests, and how long all took together.
pub struct Latencies {
    sorted: Vec<Duration>,
    pub elapsed: Duration,
}

impl Latencies {
    pub fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Latencies {
        latencies.sort();
        Latencies { sorted: latencies, elapsed }
    }

    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// Milliseconds that this part of the requests took at most.
    pub fn ms(&self, part: f64) -> f64 {
        let at = (self.count() as f64 * part) as usize;
        self.sorted.get(at.min(self.count().saturating_sub(1))).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
    }

    pub fn print(&self, what: &str) {
        let (rate, p50, p99) = (self.per_second(), self.ms(0.5), self.ms(0.99));
        line(what, &format!("{rate:>9.0} /s    p50 {p50:.2} ms, p99 {p99:.2} ms ({} requests)", self.count()));
    }
}

/// A row of the table.
pub fn line(what: &str, figure: &str) {
    println!("{what:<44} {figure}");
}
