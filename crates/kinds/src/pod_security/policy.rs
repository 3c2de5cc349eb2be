//! What a namespace asks for with its labels.

use std::fmt;

use serde_json::Value;

use super::NEWEST;
use crate::field::{FieldError, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

/// A version of the standards: `latest`, or the 25 of `v1.25`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Version {
    Latest,
    Minor(u32),
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let digits = text.strip_prefix("v1.")?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        is_number.then(|| digits.parse().ok().map(Version::Minor)).flatten()
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Version::Latest => NEWEST,
            Version::Minor(minor) => minor.min(NEWEST),
        }
    }
}

#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl LevelVersion {
    const PRIVILEGED: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What is refused, what is noted in the audit log, what earns a warning.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

/// The policy of a namespace with these labels, and what is wrong with them.
///
/// A level that cannot be read enforces the strictest; audit and warn, which refuse nothing, then
/// ask for nothing. Without a level of its own, warn follows what is enforced.
pub fn policy_of(labels: &Value) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let text = |name: &str| labels[format!("{PREFIX}{name}")].as_str();
    let mut refused = |name: &str, value: &str, why: &str| {
        let path = Path::new("metadata").child("labels").key(&format!("{PREFIX}{name}"));
        errors.push(FieldError::invalid(&path, value, why));
    };
    let mut read = |name: &str, unreadable: Level| {
        let mut asked = LevelVersion::PRIVILEGED;
        let level = text(name);
        let parsed = level.and_then(Level::parse);
        if let Some(level) = level {
            asked.level = parsed.unwrap_or(unreadable);
            if parsed.is_none() {
                refused(name, level, "must be one of privileged, baseline, restricted");
            }
        }
        let name = format!("{name}-version");
        let version = text(&name);
        if let Some(version) = version {
            asked.version = Version::parse(version).unwrap_or_else(|| {
                refused(&name, version, "must be \"latest\" or \"v1.x\"");
                Version::Latest
            });
        }
        (asked, level.is_some(), parsed.is_some(), version.is_some())
    };
    let (enforce, _, enforces, _) = read("enforce", Level::Restricted);
    let (audit, ..) = read("audit", Level::Privileged);
    let (mut warn, has_warn, _, has_version) = read("warn", Level::Privileged);
    if !has_warn && enforces && enforce.level > warn.level {
        warn.level = enforce.level;
        if !has_version {
            warn.version = enforce.version;
        }
    }
    (Policy { enforce, audit, warn }, errors)
}
