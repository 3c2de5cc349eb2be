//! What people are warned of although it is accepted: deprecated and useless things in pods and
//! templates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::{Path, go_quote};
use crate::names;
use crate::rules::check;

use super::{all_containers, annotations};

const DEPRECATED_LABELS: &[(&str, &str, &str)] = &[
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];
const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const DEPRECATED_VOLUMES: &[(&str, &str, &str)] = &[
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";
const USE_SECCOMP_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
const USE_APP_ARMOR_FIELD: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";

pub fn warnings_for_pod(pod: &Value) -> Vec<String> {
    let pod = Cursor::at(Some(pod), Path::root());
    let mut warnings = Vec::new();
    let findings = names::dns1123_label(pod.field("metadata").field("name").str());
    if !findings.is_empty() {
        let findings = findings.join(" ");
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{findings}]"
        ));
    }
    warnings.extend(warnings_of(&pod));
    warnings
}

pub fn warnings_for_template(template: &Value, path: Path) -> Vec<String> {
    warnings_of(&Cursor::at(Some(template), path))
}

fn warnings_of(pod: &Cursor<'_>) -> Vec<String> {
    let (annotations, spec) = (pod.field("metadata").field("annotations"), pod.field("spec"));
    let mut warnings = scheduling(&spec);
    for (key, text) in DEPRECATED_ANNOTATIONS {
        if annotations.key(key).exists() {
            warnings.push(warning(&annotations.key(key), text));
        }
    }
    warnings.extend(spec.field("volumes").items().flat_map(|volume| volume_warnings(&volume)));
    warnings.extend(token_paths(&spec.field("volumes")));
    warnings.extend(host_aliases(&spec.field("hostAliases")));
    warnings.extend(pull_secrets(&spec.field("imagePullSecrets")));
    warnings.extend(fractions(&spec.field("overhead")));
    if annotations.key(annotations::SECCOMP_POD).exists() && !spec.field("securityContext").field("seccompProfile").exists() {
        warnings.push(warning(&annotations.key(annotations::SECCOMP_POD), USE_SECCOMP_FIELD));
    }
    warnings.extend(all_containers(&spec).flat_map(|container| container_warnings(&container, &spec, &annotations)));
    warnings.extend(ports(&spec));
    let grace = spec.field("terminationGracePeriodSeconds");
    if grace.int_or_zero() < 0 {
        warnings.push(warning(&grace, "must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warnings.extend(pod_affinity(&spec.field("affinity")));
    warnings.extend(spec.field("dnsConfig").field("nameservers").items().filter_map(|server| address(&server)));
    warnings
}

fn warning(at: &Cursor<'_>, text: &str) -> String {
    format!("{}: {text}", at.path())
}

fn deprecated_label(label: &str) -> Option<String> {
    let (_, since, successor) = DEPRECATED_LABELS.iter().find(|(name, _, _)| *name == label)?;
    Some(format!("deprecated since {since}; use \"{successor}\" instead"))
}

fn scheduling(spec: &Cursor<'_>) -> Vec<String> {
    let mut warnings: Vec<String> =
        spec.field("nodeSelector").entries().filter_map(|(label, at)| Some(warning(&at, &deprecated_label(label)?))).collect();
    let affinity = spec.field("affinity").field("nodeAffinity");
    let required = affinity.field("requiredDuringSchedulingIgnoredDuringExecution").field("nodeSelectorTerms");
    warnings.extend(required.items().flat_map(|term| node_term(&term, false)));
    let preferred = affinity.field("preferredDuringSchedulingIgnoredDuringExecution");
    warnings.extend(preferred.items().flat_map(|term| node_term(&term.field("preference"), true)));
    for constraint in spec.field("topologySpreadConstraints").items() {
        let key = constraint.field("topologyKey");
        warnings.extend(deprecated_label(key.str()).map(|text| warning(&key, &format!("{} is {text}", key.str()))));
        if !constraint.field("labelSelector").exists() {
            warnings.push(warning(&constraint.field("labelSelector"), NULL_SELECTOR));
        }
    }
    warnings
}

/// Values that no label can have are let through in preferences only.
fn node_term(term: &Cursor<'_>, checks_values: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for expression in term.field("matchExpressions").items() {
        let key = expression.field("key");
        warnings.extend(deprecated_label(key.str()).map(|text| warning(&key, &format!("{} is {text}", key.str()))));
        for value in expression.field("values").items().filter(|_| checks_values) {
            let findings = names::label_value(value.str());
            if !findings.is_empty() {
                warnings.push(warning(&value, &format!("{} is invalid, {}", value.str(), findings.join("; "))));
            }
        }
    }
    warnings
}

fn volume_warnings(volume: &Cursor<'_>) -> Vec<String> {
    let deprecated = DEPRECATED_VOLUMES.iter().filter(|(name, _, _)| volume.field(name).exists());
    let mut warnings: Vec<String> = deprecated.map(|(_, shown, text)| format!("{}: {text}", volume.path().child(shown))).collect();
    let claim = volume.field("ephemeral").field("volumeClaimTemplate").field("spec");
    for list in ["requests", "limits"] {
        warnings.extend(fraction(&claim.field("resources").field(list).key("storage")));
    }
    warnings
}

fn sources<'a>(volume: &Cursor<'a>) -> Cursor<'a> {
    volume.field("projected").field("sources")
}

/// Files of other sources that a token will overwrite.
fn token_paths(volumes: &Cursor<'_>) -> Vec<String> {
    let tokens = volumes.items().flat_map(|volume| sources(&volume).items()).map(|source| source.field("serviceAccountToken"));
    let taken: BTreeSet<&str> = tokens.filter(Cursor::exists).map(|token| token.field("path").str()).collect();
    let mut warnings = Vec::new();
    for volume in volumes.items() {
        let blamed = volume.path().child("projected").child("sources");
        let text = |path: &str| format!("has duplicated path with ServiceAccountToken {}", go_quote(path));
        for source in sources(&volume).items() {
            for (name, shown) in [("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")] {
                for (i, item) in source.field(name).field("items").items().enumerate() {
                    let path = item.field("path").str();
                    if taken.contains(path) {
                        warnings.push(format!("{}: {}", blamed.child(shown).index(i), text(path)));
                    }
                }
            }
            let bundle = source.field("clusterTrustBundle");
            if bundle.exists() && taken.contains(bundle.field("path").str()) {
                warnings.push(format!("{}: {}", blamed.child("ClusterTrustBundle"), text(bundle.field("path").str())));
            }
        }
    }
    warnings
}

fn host_aliases(aliases: &Cursor<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen = BTreeSet::new();
    for ip in aliases.items().map(|alias| alias.field("ip")) {
        if !seen.insert(ip.str()) {
            warnings.push(warning(&ip, &format!("duplicate ip {}", go_quote(ip.str()))));
        }
        warnings.extend(address(&ip));
    }
    warnings
}

/// Ways to write an address that will not be read forever.
fn address(at: &Cursor<'_>) -> Option<String> {
    let ip = names::parse_ip(at.str())?;
    match at.str().parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => (v6.to_string() != at.str()).then(|| {
            let (own, canonical) = (go_quote(at.str()), go_quote(&v6.to_string()));
            warning(at, &format!("IPv6 address {own} should be in RFC 5952 canonical format ({canonical})"))
        }),
        Ok(IpAddr::V4(_)) => None,
        _ => {
            let (own, canonical) = (go_quote(at.str()), go_quote(&ip.to_string()));
            let text = format!("non-standard IP address {own} will be considered invalid in a future Kubernetes release: use {canonical}");
            Some(warning(at, &text))
        }
    }
}

fn pull_secrets(secrets: &Cursor<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen = BTreeSet::new();
    let names: Vec<Cursor<'_>> =
        secrets.items().map(|secret| Cursor::at(secret.field("name").value(), secret.path().child("name"))).collect();
    for name in &names {
        if !seen.insert(name.str()) {
            warnings.push(warning(name, &format!("duplicate name {}", go_quote(name.str()))));
        }
    }
    let empty = names.iter().filter(|name| name.str().is_empty());
    warnings.extend(empty.map(|name| warning(name, "invalid empty name \"\"")));
    warnings
}

fn fractions(list: &Cursor<'_>) -> Vec<String> {
    ["memory", "ephemeral-storage"].into_iter().filter_map(|name| fraction(&list.key(name))).collect()
}

fn fraction(amount: &Cursor<'_>) -> Option<String> {
    let quantity = check::quantity(amount);
    (quantity.millis() % 1000 != 0).then(|| {
        let text = format!("fractional byte value {} is invalid, must be an integer", go_quote(&quantity.to_string()));
        warning(amount, &text)
    })
}

fn container_warnings(container: &Cursor<'_>, spec: &Cursor<'_>, annotations: &Cursor<'_>) -> Vec<String> {
    let (name, context) = (container.field("name").str(), container.field("securityContext"));
    let mut warnings = Vec::new();
    let seccomp = annotations.key(&format!("{}{name}", annotations::SECCOMP_CONTAINER_PREFIX));
    if seccomp.exists() && !context.field("seccompProfile").exists() {
        warnings.push(warning(&seccomp, USE_SECCOMP_FIELD));
    }
    let app_armor = annotations.key(&format!("{}{name}", annotations::APP_ARMOR_PREFIX));
    if app_armor.exists() && is_unused(&app_armor, &context, spec) {
        warnings.push(warning(&app_armor, USE_APP_ARMOR_FIELD));
    }
    let resources = container.field("resources");
    for name in ["memory", "ephemeral-storage"] {
        warnings.extend(["limits", "requests"].into_iter().filter_map(|list| fraction(&resources.field(list).key(name))));
    }
    warnings.extend(hidden_variables(&container.field("env")));
    warnings
}

/// In a template: no field says the same. In a Pod the annotation has become the container's field
/// by now.
fn is_unused(annotation: &Cursor<'_>, context: &Cursor<'_>, spec: &Cursor<'_>) -> bool {
    let is_template = annotation.path().to_string().starts_with("spec.");
    let of_pod = spec.field("securityContext").field("appArmorProfile");
    let own = context.field("appArmorProfile");
    if is_template { !of_pod.exists() && !own.exists() } else { own.exists() && own.value() != of_pod.value() }
}

fn hidden_variables(env: &Cursor<'_>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let again = env.items().filter(|variable| !seen.insert(variable.field("name").str()));
    let hides = |variable: &Cursor<'_>| {
        let (value, reference) = (variable.field("value").str(), format!("$({})", variable.field("name").str()));
        variable.field("valueFrom").exists() || value == reference || !value.contains(&reference)
    };
    again
        .filter(hides)
        .map(|variable| {
            let name = go_quote(variable.field("name").str());
            warning(&variable, &format!("hides previous definition of {name}, which may be dropped when using apply"))
        })
        .collect()
}

/// Warnings about ports past this number are left out.
const PORT_WARNINGS_MAX: usize = 100;

fn ports(spec: &Cursor<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: BTreeMap<(i64, &str), Vec<Cursor<'_>>> = BTreeMap::new();
    for port in all_containers(spec).flat_map(|container| container.field("ports").items()) {
        if !port.field("hostIP").str().is_empty() && port.field("hostPort").int_or_zero() == 0 {
            warnings.push(warning(&port, &format!("hostIP set without hostPort: {}", go_struct(&port))));
        }
        let key = (port.field("containerPort").int_or_zero(), port.field("protocol").str());
        let others = seen.entry(key).or_default();
        // Each pair of ten thousand equal ports would be gigabytes of text.
        let room = PORT_WARNINGS_MAX.saturating_sub(warnings.len());
        warnings.extend(others.iter().filter_map(|other| port_conflict(&port, other)).take(room));
        if others.len() < PORT_WARNINGS_MAX {
            others.push(port);
        }
    }
    warnings
}

/// A container port as Go's `%+v` prints it.
fn go_struct(port: &Cursor<'_>) -> String {
    let text = |name| port.field(name).str();
    let number = |name| port.field(name).int_or_zero();
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text("name"),
        number("hostPort"),
        number("containerPort"),
        text("protocol"),
        text("hostIP")
    )
}

fn port_conflict(port: &Cursor<'_>, other: &Cursor<'_>) -> Option<String> {
    let host = |port: &Cursor<'_>| port.field("hostPort").int_or_zero();
    let (own_ip, other_ip) = (port.field("hostIP").str(), other.field("hostIP").str());
    let what = if own_ip == other_ip && host(port) == host(other) {
        "duplicate"
    } else if host(port) == 0 || host(other) == 0 {
        "overlapping"
    } else if host(port) == host(other) && own_ip.is_empty() != other_ip.is_empty() {
        "dangerously ambiguous"
    } else {
        return None;
    };
    Some(warning(port, &format!("{what} port definition with {}", other.path())))
}

fn pod_affinity(affinity: &Cursor<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for pods in ["podAffinity", "podAntiAffinity"].map(|name| affinity.field(name)) {
        let required = pods.field("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = pods.field("preferredDuringSchedulingIgnoredDuringExecution");
        let terms = required.items().chain(preferred.items().map(|weighted| weighted.field("podAffinityTerm")));
        let selectors = terms.map(|term| term.field("labelSelector"));
        warnings.extend(selectors.filter(|selector| !selector.exists()).map(|selector| warning(&selector, NULL_SELECTOR)));
    }
    warnings
}
