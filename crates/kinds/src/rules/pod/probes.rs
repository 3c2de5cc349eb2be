//! Probes and lifecycle hooks: what is run or called in a container, and how patiently.

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};
use crate::rules::meta;

/// Checks the three probes and the hooks of a container that may have them.
pub fn validate(container: &Cursor<'_>, grace_seconds: Option<i64>) -> Errors {
    let lifecycle = container.field("lifecycle");
    let mut errors = Vec::new();
    for hook in ["postStart", "preStop"].map(|name| lifecycle.field(name)).iter().filter(|hook| hook.exists()) {
        errors.extend(validate_handler(hook, HOOK_ACTIONS, grace_seconds));
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.field(name);
        if probe.exists() {
            errors.extend(validate_probe(&probe, grace_seconds));
            errors.extend(if name == "readinessProbe" { without_grace(&probe) } else { success_once(&probe) });
        }
    }
    errors
}

fn without_grace(probe: &Cursor<'_>) -> Option<FieldError> {
    let grace = probe.field("terminationGracePeriodSeconds");
    grace.exists().then(|| grace.invalid("must not be set for readinessProbes"))
}

fn success_once(probe: &Cursor<'_>) -> Option<FieldError> {
    let threshold = probe.field("successThreshold");
    (threshold.int_or_zero() != 1).then(|| threshold.invalid_value(threshold.int_or_zero(), "must be 1"))
}

fn validate_probe(probe: &Cursor<'_>, grace_seconds: Option<i64>) -> Errors {
    let mut errors = validate_handler(probe, PROBE_ACTIONS, grace_seconds);
    let numbers = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    errors.extend(numbers.into_iter().filter_map(|name| meta::non_negative(&probe.field(name))));
    let grace = probe.field("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        errors.push(grace.invalid("must be greater than 0"));
    }
    errors
}

type Action = (&'static str, fn(&Cursor<'_>, Option<i64>) -> Errors);

const PROBE_ACTIONS: &[Action] = &[
    ("exec", |action, _| exec(action)),
    ("httpGet", |action, _| http_get(action)),
    ("tcpSocket", |action, _| check::port_number_or_name(&action.field("port"))),
    ("grpc", |action, _| check::port_number_or_name(&action.field("port"))),
];
const HOOK_ACTIONS: &[Action] = &[
    ("exec", |action, _| exec(action)),
    ("httpGet", |action, _| http_get(action)),
    ("tcpSocket", |action, _| check::port_number_or_name(&action.field("port"))),
    ("sleep", sleep),
];

fn validate_handler(handler: &Cursor<'_>, actions: &[Action], grace_seconds: Option<i64>) -> Errors {
    let mut errors = Vec::new();
    let mut found = 0;
    for (name, validate) in actions {
        let action = handler.field(name);
        if action.exists() {
            found += 1;
            if found > 1 {
                errors.push(action.forbidden("may not specify more than 1 handler type"));
            } else {
                errors.extend(validate(&action, grace_seconds));
            }
        }
    }
    if found == 0 {
        errors.push(handler.required("must specify a handler type"));
    }
    errors
}

fn exec(action: &Cursor<'_>) -> Errors {
    let command = action.field("command");
    if command.is_empty() { vec![command.required("")] } else { Vec::new() }
}

fn http_get(action: &Cursor<'_>) -> Errors {
    let mut errors = check::required_fields(action, &["path"]);
    errors.extend(check::port_number_or_name(&action.field("port")));
    let scheme = action.field("scheme");
    if !matches!(scheme.str(), "HTTP" | "HTTPS") {
        errors.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    let headers = action.field("httpHeaders");
    for name in headers.items().map(|header| header.field("name")) {
        let findings = names::http_header_name(name.str());
        errors.extend(findings.into_iter().map(|finding| headers.invalid_value(name.str(), finding)));
    }
    errors
}

fn sleep(action: &Cursor<'_>, grace_seconds: Option<i64>) -> Errors {
    let seconds = action.field("seconds").int_or_zero();
    match grace_seconds {
        Some(grace) if seconds < 0 || seconds > grace => {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            vec![action.invalid_value(seconds, detail)]
        }
        _ => Vec::new(),
    }
}
