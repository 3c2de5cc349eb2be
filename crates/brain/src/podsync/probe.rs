//! From single probe runs to verdicts: thresholds, initial values, and what a verdict makes of the
//! next runs (the kubelet's prober).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events name it.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// One run of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With what it printed or why it failed; the text of the event `Unhealthy`.
    Failure(String),
    /// The probe itself could not be run.
    Error(String),
}

impl Outcome {
    /// The message of the warning that a run that did not succeed leaves.
    pub fn warning(&self, kind: Kind) -> Option<String> {
        match self {
            Outcome::Success => None,
            Outcome::Failure(output) => Some(format!("{} probe failed: {output}", kind.text())),
            Outcome::Error(error) => Some(format!("{} probe errored and resulted in unknown state: {error}", kind.text())),
        }
    }
}

/// The runs of one probe of one container so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub kind: Kind,
    last: Option<bool>,
    in_a_row: i32,
    /// What the rest of the agent sees.
    pub verdict: Option<bool>,
}

impl Worker {
    /// `initial` is what holds before the first verdict: no for the readiness of a new container.
    pub fn new(kind: Kind, initial: Option<bool>) -> Worker {
        Worker { kind, last: None, in_a_row: 0, verdict: initial }
    }

    /// Takes a run in; answers whether the verdict changed.
    pub fn observe(&mut self, probe: &Probe, outcome: &Outcome) -> bool {
        let success = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            // Nothing is known, nothing changes.
            Outcome::Error(_) => return false,
        };
        self.in_a_row = if self.last == Some(success) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.in_a_row < threshold || self.verdict == Some(success) {
            return false;
        }
        self.verdict = Some(success);
        true
    }

    /// Whether it rests: after a verdict that ends the container, and a startup probe that
    /// succeeded.
    pub fn rests(&self) -> bool {
        match self.kind {
            Kind::Startup => self.verdict.is_some(),
            Kind::Liveness => self.verdict == Some(false),
            Kind::Readiness => false,
        }
    }
}

/// When the first run is due.
pub fn first_run(probe: &Probe, started_at: Timestamp) -> Timestamp {
    started_at.saturating_add(Duration::from_secs(seconds(probe.initial_delay_seconds, 0))).unwrap_or(Timestamp::MAX)
}

pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(seconds(probe.period_seconds, 10).max(1))
}

pub fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(seconds(probe.timeout_seconds, 1).max(1))
}

fn seconds(value: Option<i32>, default: u64) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default)
}
