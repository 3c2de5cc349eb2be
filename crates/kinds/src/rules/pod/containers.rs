//! The containers of a pod: regular, init and ephemeral ones.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;
use crate::rules::check::{self, Errors};

use super::volumes::Volumes;
use super::{env, mounts, probes, resources, security};

/// What a container's check needs to know about the pod around it.
pub struct Around<'a> {
    pub volumes: Volumes<'a>,
    pub claim_names: BTreeSet<&'a str>,
    pub grace_seconds: Option<i64>,
    pub restart_policy: &'a str,
    /// Users of the pod are users of the host.
    pub host_users: bool,
}

pub const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const RESTART_RULES_MAX: usize = 20;
const RESTART_EXIT_CODES_MAX: usize = 255;

pub fn validate(containers: &Cursor<'_>, around: &Around<'_>) -> Errors {
    if containers.is_empty() {
        return vec![containers.required("")];
    }
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for container in containers.items() {
        errors.extend(validate_common(&container, around));
        errors.extend(take_name(&container, &mut taken));
        errors.extend(probes::validate(&container, around.grace_seconds));
        errors.extend(restart_policy(&container));
    }
    errors.extend(host_port_conflicts(containers.items(), containers.path()));
    errors
}

pub fn validate_init(containers: &Cursor<'_>, regular: &Cursor<'_>, around: &Around<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut taken: BTreeSet<&str> = regular.items().map(|container| container.field("name").str()).collect();
    for container in containers.items() {
        errors.extend(validate_common(&container, around));
        errors.extend(restart_policy(&container));
        errors.extend(take_name(&container, &mut taken));
        // Init containers run one by one, so only a container's own ports can collide; upstream
        // counts from zero here.
        errors.extend(host_port_conflicts(std::iter::once(container.clone()), containers.path()));
        errors.extend(if is_sidecar(&container) { probes::validate(&container, around.grace_seconds) } else { without_probes(&container) });
    }
    errors
}

/// An init container that keeps running.
pub fn is_sidecar(container: &Cursor<'_>) -> bool {
    container.field("restartPolicy").str() == "Always"
}

fn without_probes(container: &Cursor<'_>) -> Errors {
    let fields = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"].map(|name| container.field(name));
    let set = fields.iter().filter(|field| field.exists());
    set.map(|field| field.forbidden("may not be set for init containers without restartPolicy=Always")).collect()
}

fn take_name<'a>(container: &Cursor<'a>, taken: &mut BTreeSet<&'a str>) -> Option<FieldError> {
    let name = container.field("name");
    let is_new = name.str().is_empty() || taken.insert(name.str());
    (!is_new).then(|| name.duplicate())
}

/// Fields that a container for debugging may not have.
const NOT_FOR_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub fn validate_ephemeral(containers: &Cursor<'_>, spec: &Cursor<'_>, around: &Around<'_>) -> Errors {
    let mut errors = Vec::new();
    let (regular, init) = (spec.field("containers"), spec.field("initContainers"));
    let others: BTreeSet<&str> = regular.items().chain(init.items()).map(|container| container.field("name").str()).collect();
    let mut taken = others.clone();
    for container in containers.items() {
        errors.extend(validate_common(&container, around));
        errors.extend(image_whitespace(&container));
        errors.extend(take_name(&container, &mut taken));
        let target = container.field("targetContainerName");
        if !target.str().is_empty() && !others.contains(target.str()) {
            errors.push(target.not_found());
        }
        errors.extend(not_for_ephemeral(&container));
    }
    errors
}

fn not_for_ephemeral(container: &Cursor<'_>) -> Errors {
    let detail = "cannot be set for an Ephemeral Container";
    // `resources: {}` is what every container has.
    let is_set = |field: &Cursor<'_>| field.exists() && !matches!(field.value(), Some(Value::Object(map)) if map.is_empty());
    let fields = NOT_FOR_EPHEMERAL.iter().map(|name| container.field(name)).filter(is_set);
    let mut errors: Errors = fields.map(|field| field.forbidden(detail)).collect();
    for mount in container.field("volumeMounts").items() {
        let paths = ["subPath", "subPathExpr"].map(|name| mount.field(name));
        errors.extend(paths.iter().filter(|path| !path.str().is_empty()).map(|path| path.forbidden(detail)));
    }
    errors
}

/// What Pods refuse and templates let through.
pub fn image_whitespace(container: &Cursor<'_>) -> Option<FieldError> {
    let image = container.field("image");
    (image.str().trim().len() != image.str().len()).then(|| image.invalid("must not have leading or trailing whitespace"))
}

fn validate_common(container: &Cursor<'_>, around: &Around<'_>) -> Errors {
    let field = |name| container.field(name);
    let mut errors = match check::required(&field("name")) {
        Some(error) => vec![error],
        None => check::named(&field("name"), names::dns1123_label),
    };
    errors.extend(check::required(&field("image")));
    errors.extend(check::one_of(&field("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]));
    errors.extend(validate_ports(&field("ports")));
    errors.extend(env::validate(&field("env")));
    errors.extend(env::validate_from(&field("envFrom")));
    errors.extend(mounts::validate(container, &around.volumes));
    errors.extend(mounts::validate_devices(container, &around.volumes));
    errors.extend(check::one_of(&field("imagePullPolicy"), PULL_POLICIES));
    errors.extend(resources::validate_container(&field("resources"), &around.claim_names));
    errors.extend(validate_resize_policy(&field("resizePolicy"), around.restart_policy));
    errors.extend(security::validate_container(&field("securityContext"), around.host_users));
    errors
}

fn validate_ports(ports: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for port in ports.items() {
        let (name, number, host) = (port.field("name"), port.field("containerPort"), port.field("hostPort"));
        let findings = check::named_if_set(&name, names::port_name);
        if findings.is_empty() && !name.str().is_empty() && !taken.insert(name.str()) {
            errors.push(name.duplicate());
        }
        errors.extend(findings);
        match number.int_or_zero() {
            0 => errors.push(number.required("")),
            value => errors.extend(check::number_findings(&number, names::port_number(value))),
        }
        if host.int_or_zero() != 0 {
            errors.extend(check::number_findings(&host, names::port_number(host.int_or_zero())));
        }
        errors.extend(check::one_of(&port.field("protocol"), PROTOCOLS));
    }
    errors
}

fn host_port_conflicts<'a>(containers: impl Iterator<Item = Cursor<'a>>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for (i, container) in containers.enumerate() {
        for (j, port) in container.field("ports").items().enumerate() {
            let host_port = port.field("hostPort").int_or_zero();
            let key = format!("{}/{}/{host_port}", port.field("protocol").str(), port.field("hostIP").str());
            if host_port != 0 && !taken.insert(key.clone()) {
                let blamed = path.index(i).child("ports").index(j).child("hostPort");
                errors.push(FieldError::duplicate(&blamed, key));
            }
        }
    }
    errors
}

/// Errors name the list, but for repeated resources.
fn validate_resize_policy(policies: &Cursor<'_>, pod_restart_policy: &str) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let resource = Cursor::at(policy.field("resourceName").value(), policies.path().clone());
        let restart = Cursor::at(policy.field("restartPolicy").value(), policies.path().clone());
        if !seen.insert(resource.str()) {
            errors.push(FieldError::duplicate(policy.path(), resource.str()));
        }
        errors.extend(check::one_of(&resource, &["cpu", "memory"]));
        errors.extend(check::one_of(&restart, &["NotRequired", "RestartContainer"]));
        if pod_restart_policy == "Never" && restart.str() != "NotRequired" {
            errors.push(restart.invalid_str("must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
    errors
}

fn restart_policy(container: &Cursor<'_>) -> Errors {
    let (policy, rules) = (container.field("restartPolicy"), container.field("restartPolicyRules"));
    let mut errors = Vec::new();
    if policy.exists() {
        errors.extend(check::one_of_if_set(&policy, RESTART_POLICIES));
    } else if !rules.is_empty() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    if rules.len() > RESTART_RULES_MAX {
        errors.push(rules.too_long(RESTART_RULES_MAX));
    }
    errors.extend(rules.items().flat_map(|rule| restart_rule(&rule)));
    errors
}

fn restart_rule(rule: &Cursor<'_>) -> Errors {
    let (action, codes) = (rule.field("action"), rule.field("exitCodes"));
    let mut errors = Vec::new();
    if action.str() != "Restart" {
        errors.push(action.not_supported(&["Restart"]));
    }
    if !codes.exists() {
        errors.push(codes.required("must be specified"));
        return errors;
    }
    let (operator, values) = (codes.field("operator"), codes.field("values"));
    if !matches!(operator.str(), "In" | "NotIn") {
        errors.push(operator.not_supported(&["In", "NotIn"]));
    }
    if values.len() > RESTART_EXIT_CODES_MAX {
        errors.push(values.too_long(RESTART_EXIT_CODES_MAX));
    }
    errors
}
