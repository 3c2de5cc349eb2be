//! The pod spec as a whole, in the order of Kubernetes' checks.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};
use crate::rules::meta;

use super::{affinity, containers, go, resources, security, tolerations, volumes, windows};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;
const HOSTNAME_BYTES_MAX: usize = 64;
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

pub fn validate(spec: &Cursor<'_>, around: &volumes::Around<'_>) -> Errors {
    let field = |name| spec.field(name);
    let mut errors = Vec::new();
    if !field("terminationGracePeriodSeconds").exists() {
        errors.push(field("terminationGracePeriodSeconds").required(""));
    }
    let (sound_volumes, found) = volumes::validate(&field("volumes"), around);
    errors.extend(found);
    errors.extend(validate_resource_claims(&field("resourceClaims")));
    errors.extend(validate_containers(spec, sound_volumes));
    if field("resources").exists() {
        errors.extend(resources::validate_pod(spec));
    }
    errors.extend(validate_host_ports(spec, around.is_pod));
    errors.extend(check::one_of(&field("restartPolicy"), RESTART_POLICIES));
    errors.extend(check::one_of(&field("dnsPolicy"), DNS_POLICIES));
    errors.extend(meta::validate_labels(&field("nodeSelector")));
    errors.extend(security::validate_pod(spec));
    errors.extend(affinity::validate(&field("affinity")));
    errors.extend(validate_dns(&field("dnsConfig"), field("dnsPolicy").str()));
    errors.extend(validate_readiness_gates(&field("readinessGates")));
    errors.extend(validate_scheduling_gates(&field("schedulingGates")));
    errors.extend(affinity::validate_spread(&field("topologySpreadConstraints")));
    errors.extend(windows::validate_host_process(spec));
    errors.extend(security::validate_host_users(spec));
    errors.extend(validate_names(spec));
    errors.extend(validate_last(spec));
    errors
}

fn validate_containers(spec: &Cursor<'_>, volumes: volumes::Volumes<'_>) -> Errors {
    let claims = spec.field("resourceClaims");
    let around = containers::Around {
        volumes,
        claim_names: claims.items().map(|claim| claim.field("name").str()).filter(|name| !name.is_empty()).collect(),
        grace_seconds: spec.field("terminationGracePeriodSeconds").int(),
        restart_policy: spec.field("restartPolicy").str(),
        host_users: spec.field("hostUsers").bool() != Some(false),
    };
    let regular = spec.field("containers");
    let mut errors = containers::validate(&regular, &around);
    errors.extend(containers::validate_init(&spec.field("initContainers"), &regular, &around));
    errors.extend(containers::validate_ephemeral(&spec.field("ephemeralContainers"), spec, &around));
    errors
}

fn validate_resource_claims(claims: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.field("name");
        if name.str().is_empty() {
            errors.push(name.required(""));
        } else if !taken.insert(name.str()) {
            errors.push(name.duplicate());
        } else {
            errors.extend(check::named(&name, names::dns1123_label));
        }
        errors.extend(validate_claim_source(&claim));
    }
    errors
}

fn validate_claim_source(claim: &Cursor<'_>) -> Errors {
    let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|name| claim.field(name));
    let set = || sources.iter().filter(|source| source.exists());
    let detail = match set().count() {
        0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
        1 => None,
        _ => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
    };
    let refuse = |detail: &str| claim.invalid_value(go::print("PodResourceClaim", claim.value()), detail);
    let mut errors: Errors = detail.map(refuse).into_iter().collect();
    errors.extend(set().flat_map(|source| check::named(source, names::dns1123_subdomain)));
    errors
}

/// On the host's network a container's port is the host's. Templates may leave that to the Pod's
/// defaults.
fn validate_host_ports(spec: &Cursor<'_>, is_pod: bool) -> Errors {
    if !spec.field("hostNetwork").is_true() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for port in spec.field("containers").items().flat_map(|container| container.field("ports").items()) {
        let host = port.field("hostPort");
        let is_told = is_pod || host.int_or_zero() != 0;
        if is_told && host.int_or_zero() != port.field("containerPort").int_or_zero() {
            errors.push(host.invalid_value(host.int_or_zero(), "must match `containerPort` when `hostNetwork` is true"));
        }
    }
    errors
}

fn validate_dns(config: &Cursor<'_>, policy: &str) -> Errors {
    let (servers, searches) = (config.field("nameservers"), config.field("searches"));
    if policy == "None" && !config.exists() {
        return vec![config.required("must provide `dnsConfig` when `dnsPolicy` is None")];
    }
    if policy == "None" && servers.is_empty() {
        return vec![servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None")];
    }
    let mut errors = Vec::new();
    if servers.len() > NAMESERVERS_MAX {
        errors.push(servers.invalid(format!("must not have more than {NAMESERVERS_MAX} nameservers")));
    }
    errors.extend(servers.items().flat_map(|server| check::ip(&server)));
    if searches.len() > SEARCHES_MAX {
        errors.push(searches.invalid(format!("must not have more than {SEARCHES_MAX} search paths")));
    }
    let characters = searches.strs().map(|search| search.len() + 1).sum::<usize>().saturating_sub(1);
    if characters > SEARCH_CHARACTERS_MAX {
        let detail = format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list");
        errors.push(searches.invalid(detail));
    }
    for search in searches.items().filter(|search| search.str() != ".") {
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        let findings = names::dns1123_subdomain_with_underscore(name);
        errors.extend(findings.into_iter().map(|finding| search.invalid_value(name, finding)));
    }
    let nameless = config.field("options").items().filter(|option| option.field("name").str().is_empty());
    errors.extend(nameless.map(|option| option.required("must not be empty")));
    errors
}

fn validate_readiness_gates(gates: &Cursor<'_>) -> Errors {
    gates.items().flat_map(|gate| check::named(&gate.field("conditionType"), names::qualified_name)).collect()
}

/// Errors name the gate, not its name.
fn validate_scheduling_gates(gates: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.field("name").str();
        errors.extend(names::qualified_name(name).into_iter().map(|finding| gate.invalid_value(name, finding)));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(gate.path(), name));
        }
    }
    errors
}

fn validate_names(spec: &Cursor<'_>) -> Errors {
    let mut errors = check::named_if_set(&spec.field("serviceAccountName"), names::dns1123_subdomain);
    errors.extend(check::named_if_set(&spec.field("nodeName"), names::dns1123_subdomain));
    let deadline = spec.field("activeDeadlineSeconds");
    if let Some(seconds) = deadline.int() {
        errors.extend(check::number_findings(&deadline, names::in_range(seconds, 1, i64::from(i32::MAX))));
    }
    errors.extend(validate_hostname_override(spec));
    errors.extend(check::named_if_set(&spec.field("hostname"), names::dns1123_label));
    errors.extend(check::named_if_set(&spec.field("subdomain"), names::dns1123_label));
    errors
}

fn validate_hostname_override(spec: &Cursor<'_>) -> Errors {
    let name = spec.field("hostnameOverride");
    if !name.exists() {
        return Vec::new();
    }
    let mut errors = check::named(&name, names::dns1123_subdomain);
    if name.str().len() > HOSTNAME_BYTES_MAX {
        errors.push(name.too_long(HOSTNAME_BYTES_MAX));
    }
    let rivals = ["setHostnameAsFQDN", "hostNetwork"].into_iter().filter(|rival| spec.field(rival).is_true());
    errors.extend(rivals.map(|rival| name.forbidden(format!("may not be specified when {rival} is true"))));
    errors
}

fn validate_last(spec: &Cursor<'_>) -> Errors {
    let mut errors = tolerations::validate(&spec.field("tolerations"));
    for alias in spec.field("hostAliases").items() {
        errors.extend(check::ip(&alias.field("ip")));
        errors.extend(alias.field("hostnames").items().flat_map(|name| check::named(&name, names::dns1123_subdomain)));
    }
    errors.extend(check::named_if_set(&spec.field("priorityClassName"), names::dns1123_subdomain));
    if spec.field("runtimeClassName").exists() {
        errors.extend(check::named(&spec.field("runtimeClassName"), names::dns1123_subdomain));
    }
    let preemption = spec.field("preemptionPolicy");
    if preemption.exists() {
        errors.extend(check::one_of(&preemption, &["PreemptLowerPriority", "Never"]));
    }
    errors.extend(resources::validate_overhead(&spec.field("overhead")));
    errors.extend(windows::validate_os(spec));
    errors
}
