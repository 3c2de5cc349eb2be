//! Query parameters: the options of each verb, checked as Kubernetes checks them.

use std::time::Duration;

use kinds::field::{FieldError, Path, go_quote};
use kinds::selector::{FieldSelector, Selector};
use kinds::status::Status;
use kinds::table::{Kind, Selectable};
use serde_json::{Value, json};

use crate::registry::list::check_continue_token;
use crate::request::decode;
use crate::request::options::{DeleteOptions, FieldValidation, ListOptions, Propagation, ReadAt, WriteOptions};

/// Decoded query parameters in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Query {
        let pairs = query.unwrap_or("").split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Kubernetes' reading of a flag: present and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
            }
        }
    }
}

/// Which options kind the errors name.
#[derive(Debug, Copy, Clone, PartialEq)]
pub enum WriteKind {
    Create,
    Update,
    Patch { apply: bool },
}

impl WriteKind {
    fn options_name(self) -> &'static str {
        match self {
            WriteKind::Create => "CreateOptions",
            WriteKind::Update => "UpdateOptions",
            WriteKind::Patch { .. } => "PatchOptions",
        }
    }
}

const FIELD_MANAGER_BYTES_MAX: usize = 128;

impl WriteOptions {
    pub fn parse(query: &Query, kind: WriteKind) -> Result<WriteOptions, Status> {
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        let mut errors = check_dry_run(query);
        errors.extend(check_field_manager(&field_manager, kind));
        if kind == (WriteKind::Patch { apply: false }) && query.has("force") {
            errors.insert(0, FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        let validation_text = query.get("fieldValidation").unwrap_or_default();
        let field_validation = match validation_text {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(&Path::new("fieldValidation"), other, &["", "Ignore", "Strict", "Warn"]));
                FieldValidation::Warn
            }
        };
        refuse(kind.options_name(), &errors)?;
        Ok(WriteOptions { dry_run: query.has("dryRun"), field_manager, field_validation, force: query.flag("force") })
    }
}

fn check_field_manager(manager: &str, kind: WriteKind) -> Vec<FieldError> {
    let path = Path::new("fieldManager");
    let mut errors = Vec::new();
    if manager.is_empty() && kind == (WriteKind::Patch { apply: true }) {
        errors.push(FieldError::required(&path, "is required for apply patch"));
    }
    if manager.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&path, FIELD_MANAGER_BYTES_MAX));
    }
    if let Some(at) = manager.chars().position(|c| c.is_control() || c == '\u{fffd}') {
        errors.push(FieldError::invalid(&path, manager, format!("should only contain printable characters (got {at})")));
    }
    errors
}

fn check_dry_run(query: &Query) -> Vec<FieldError> {
    let values: Vec<&str> = query.all("dryRun").collect();
    if values.iter().all(|v| *v == "All") {
        return Vec::new();
    }
    let listed = json!(values);
    vec![FieldError::not_supported(&Path::new("dryRun"), listed, &["All"])]
}

fn refuse(options_kind: &str, errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", options_kind, "", errors)) }
}

/// How long a client waits at most, as its query says; no time at all means that it says nothing.
pub fn timeout(query: &Query) -> Result<Option<Duration>, Status> {
    let text = query.get("timeout").filter(|text| !text.is_empty());
    let parsed = text.map(go_duration).transpose();
    let parsed = parsed.map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - time: {why}")))?;
    Ok(parsed.filter(|timeout| !timeout.is_zero()))
}

/// The units of Go's durations, in nanoseconds.
const UNITS: [(&str, f64); 8] = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Go's `time.ParseDuration`: numbers with units, as in `1m30s`. What is negative is no time at
/// all.
fn go_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {}", go_quote(text));
    let (is_negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let amount: f64 = number.parse().map_err(|_| invalid())?;
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        if unit.is_empty() {
            return Err(format!("missing unit in duration {}", go_quote(text)));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, size) = known.ok_or_else(|| format!("unknown unit {} in duration {}", go_quote(unit), go_quote(text)))?;
        nanoseconds += amount * size;
        rest = after;
    }
    if nanoseconds > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if is_negative { Duration::ZERO } else { Duration::from_nanos(nanoseconds as u64) })
}

impl ListOptions {
    pub fn parse(query: &Query, kind: &Kind, watch: bool) -> Result<ListOptions, Status> {
        let limit = query.integer("limit")?.unwrap_or(0);
        let timeout_seconds = query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|&s| s > 0);
        let labels = parse_labels(query.get("labelSelector").unwrap_or_default())?;
        let fields = parse_fields(query.get("fieldSelector").unwrap_or_default(), kind)?;
        let send_initial_events = query.get("sendInitialEvents").map(|v| !matches!(v, "false" | "0"));
        refuse("ListOptions", &check_version_match(query, watch, send_initial_events.is_some()))?;
        let continue_token = query.get("continue").unwrap_or_default().to_owned();
        let resource_version = parse_resource_version(query.get("resourceVersion").unwrap_or_default(), watch)?;
        if !continue_token.is_empty() && resource_version.is_some_and(|version| version != 0) {
            check_continue_token(&continue_token)?;
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let read_at = match (resource_version, query.get("resourceVersionMatch")) {
            (Some(version), Some("Exact")) => ReadAt::Exactly(version),
            (None, _) => ReadAt::Latest,
            (Some(0), _) => ReadAt::Any,
            // Before resourceVersionMatch existed, a limited list at a version was exact.
            (Some(version), None | Some("")) if limit > 0 && !watch => ReadAt::Exactly(version),
            (Some(version), _) => ReadAt::NotOlderThan(version),
        };
        Ok(ListOptions {
            labels,
            fields,
            limit: usize::try_from(limit).unwrap_or(0),
            continue_token,
            resource_version,
            read_at,
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events,
            timeout_seconds,
        })
    }
}

fn parse_labels(text: &str) -> Result<Selector, Status> {
    Selector::parse(text).map_err(|e| Status::bad_request(e.to_string()))
}

fn parse_fields(text: &str, kind: &Kind) -> Result<FieldSelector, Status> {
    let mut selector = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
    for requirement in &mut selector.requirements {
        if !kind.is_selectable(&requirement.field) {
            let field = &requirement.field;
            return Err(Status::bad_request(match kind.selectable {
                Selectable::MetadataOnly => {
                    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                }
                Selectable::Fields(_) => format!("field label not supported: {field}"),
            }));
        }
        // The caches index objects as they are stored.
        requirement.field = kind.stored_field(&requirement.field).into_owned();
    }
    Ok(selector)
}

fn check_version_match(query: &Query, watch: bool, sends_initial: bool) -> Vec<FieldError> {
    let path = Path::new("resourceVersionMatch");
    let version_match = query.get("resourceVersionMatch").unwrap_or_default();
    let version = query.get("resourceVersion").unwrap_or_default();
    let mut errors = Vec::new();
    let continues = query.get("continue").is_some_and(|token| !token.is_empty());
    if watch {
        if continues {
            errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if sends_initial && version_match != "NotOlderThan" {
            errors.push(FieldError::forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        }
        if !version_match.is_empty() {
            if !sends_initial {
                errors
                    .push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
            }
            if version_match != "NotOlderThan" {
                errors.push(FieldError::not_supported(&path, version_match, &["NotOlderThan"]));
            }
        }
        return errors;
    }
    if sends_initial {
        errors.push(FieldError::forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
    }
    if version_match.is_empty() {
        return errors;
    }
    if version.is_empty() {
        errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
    }
    if continues {
        errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    match version_match {
        "NotOlderThan" => {}
        "Exact" if version == "0" => {
            errors.push(FieldError::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
        "Exact" => {}
        other => errors.push(FieldError::not_supported(&path, other, &["Exact", "NotOlderThan", ""])),
    }
    errors
}

fn parse_resource_version(text: &str, watch: bool) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let what = format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
        if watch { Status::unclassified(what) } else { Status::bad_request(format!("invalid resource version: {what}")) }
    })
}

impl DeleteOptions {
    /// Reads a decoded `DeleteOptions` object and refuses contradictions.
    pub fn from_value(options: &Value) -> Result<DeleteOptions, Status> {
        let errors = check_delete_options(options);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let propagation = match (options["propagationPolicy"].as_str(), options["orphanDependents"].as_bool()) {
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            _ => None,
        };
        Ok(DeleteOptions {
            grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation,
            dry_run: options["dryRun"].as_array().is_some_and(|values| !values.is_empty()),
        })
    }
}

fn check_delete_options(options: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("propagationPolicy");
    let policy = options["propagationPolicy"].as_str();
    if let (Some(policy), Some(_)) = (policy, options["orphanDependents"].as_bool()) {
        errors.push(FieldError::invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set"));
    }
    if let Some(other) = policy.filter(|p| !matches!(*p, "Foreground" | "Background" | "Orphan")) {
        errors.push(FieldError::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
    }
    if let Some(values) = options["dryRun"].as_array().filter(|values| values.iter().any(|v| v != "All")) {
        errors.push(FieldError::not_supported(&Path::new("dryRun"), json!(values), &["All"]));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        let shown = |text: &str| go_duration(text).map(|duration| duration.as_millis());
        assert_eq!(shown("1m30.5s"), Ok(90_500));
        assert_eq!(shown("0"), Ok(0));
        assert_eq!(shown("-1h"), Ok(0));
        assert_eq!(shown("1x").unwrap_err(), r#"unknown unit "x" in duration "1x""#);
        assert_eq!(shown("5").unwrap_err(), r#"missing unit in duration "5""#);
        for bad in ["x", ".s", "-", "1s2.3.4s", "999999999h"] {
            assert_eq!(shown(bad).unwrap_err(), format!("invalid duration {bad:?}"));
        }
    }
}
