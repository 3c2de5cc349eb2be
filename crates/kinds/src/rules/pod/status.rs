//! What the status of a Pod may become.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;
use crate::rules::check::{self, Errors};
use crate::rules::meta;

use super::{annotations, containers, go};

const ONE_IP_PER_FAMILY: &str = "may specify no more than one IP for each IP family";

pub fn validate_update(object: &Value, old: &Value) -> Errors {
    let (new, before) = (Cursor::root(object), Cursor::root(old));
    let (metadata, status, spec) = (new.field("metadata"), new.field("status"), new.field("spec"));
    let old_status = before.field("status");
    let mut errors = meta::validate_update(object, old);
    errors.extend(annotations::validate_update(&metadata.field("annotations"), &before.field("metadata").field("annotations"), &spec));
    errors.extend(validate_conditions(&status.field("conditions"), &metadata.path().child("conditions")));
    if spec.field("nodeName").str() != before.field("spec").field("nodeName").str() {
        errors.push(status.field("nodeName").forbidden("may not be changed directly"));
    }
    let nominated = status.field("nominatedNodeName");
    if nominated.str() != old_status.field("nominatedNodeName").str() {
        errors.extend(check::named_if_set(&nominated, names::dns1123_subdomain));
    }
    errors.extend(meta::immutable_str(&status.field("qosClass"), &old_status.field("qosClass")));
    errors.extend(validate_transitions(&status, &old_status, &before.field("spec")));
    errors.extend(validate_resource_claims(&status.field("resourceClaimStatuses"), &spec.field("resourceClaims")));
    errors.extend(validate_pod_ips(&status.field("podIPs")));
    errors.extend(validate_host_ips(&status));
    errors.extend(validate_users(&status, spec.field("os").field("name").str()));
    errors
}

/// Upstream looks for the status's conditions under `metadata`.
fn validate_conditions(conditions: &Cursor<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, kind) in conditions.items().map(|condition| condition.field("type")).enumerate() {
        if !matches!(kind.str(), "PodScheduled" | "Ready" | "Initialized") {
            errors.extend(check::named(&Cursor::at(kind.value(), path.index(i).child("Type")), names::qualified_name));
        }
    }
    errors
}

/// A container that is to stay ended stays ended.
fn validate_transitions(new: &Cursor<'_>, old: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let policy = spec.field("restartPolicy").str();
    let mut errors = Vec::new();
    for (list, of_spec) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        let mut containers: BTreeMap<&str, Cursor<'_>> = BTreeMap::new();
        for container in spec.field(of_spec).items() {
            containers.entry(container.field("name").str()).or_insert(container);
        }
        let may_restart = |status: &Cursor<'_>| {
            let container = containers.get(status.field("name").str());
            let own = container.map(|container| container.field("restartPolicy").str()).filter(|own| !own.is_empty());
            let has_rules = container.is_some_and(|container| !container.field("restartPolicyRules").is_empty());
            let is_sidecar = of_spec == "initContainers" && container.is_some_and(containers::is_sidecar);
            let failed = status.field("state").field("terminated").field("exitCode").int_or_zero() != 0;
            let policy = own.unwrap_or(policy);
            is_sidecar || has_rules || policy == "Always" || (policy == "OnFailure" && failed)
        };
        errors.extend(restarted(&new.field(list), &old.field(list), may_restart));
    }
    let ephemeral = "ephemeralContainerStatuses";
    errors.extend(restarted(&new.field(ephemeral), &old.field(ephemeral), |_| false));
    errors
}

fn restarted(new: &Cursor<'_>, old: &Cursor<'_>, may_restart: impl Fn(&Cursor<'_>) -> bool) -> Errors {
    let mut errors = Vec::new();
    let is_ended = |status: &Cursor<'_>| status.field("state").field("terminated").exists();
    let going_on: BTreeSet<&str> = new.items().filter(|new| !is_ended(new)).map(|new| new.field("name").str()).collect();
    for (i, old) in old.items().enumerate().filter(|(_, old)| is_ended(old) && !may_restart(old)) {
        if going_on.contains(old.field("name").str()) {
            let blamed = new.path().index(i).child("state");
            errors.push(FieldError::forbidden(&blamed, "may not be transitioned to non-terminated state"));
        }
    }
    errors
}

fn validate_resource_claims(statuses: &Cursor<'_>, claims: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    let known: BTreeSet<&str> = claims.items().map(|claim| claim.field("name").str()).collect();
    for status in statuses.items() {
        let name = status.field("name");
        if !known.contains(name.str()) {
            errors.push(name.invalid_str("must match the name of an entry in `spec.resourceClaims`"));
        }
        if !taken.insert(name.str()) {
            errors.push(name.duplicate());
        }
        let claim = status.field("resourceClaimName");
        if claim.exists() {
            let findings = names::dns1123_subdomain(claim.str());
            errors.extend(findings.into_iter().map(|finding| name.invalid_value(claim.str(), finding)));
        }
    }
    errors
}

fn validate_pod_ips(ips: &Cursor<'_>) -> Errors {
    let mut errors = addresses_valid(ips);
    if ips.len() > 1 {
        errors.extend(validate_families(ips, "PodIP"));
        errors.extend(duplicates(ips, "PodIP"));
    }
    errors
}

fn validate_host_ips(status: &Cursor<'_>) -> Errors {
    let ips = status.field("hostIPs");
    let mut errors = Vec::new();
    let Some(first) = ips.items().next().map(|entry| entry.field("ip")) else { return errors };
    if first.str() != status.field("hostIP").str() {
        errors.push(first.invalid_str("must be equal to `hostIP`"));
    }
    errors.extend(addresses_valid(&ips));
    if ips.len() > 1 {
        errors.extend(duplicates(&ips, "HostIP"));
        errors.extend(validate_families(&ips, "HostIP"));
    }
    errors
}

/// Errors name the entry, not its `ip`.
fn addresses_valid(ips: &Cursor<'_>) -> Errors {
    ips.items().flat_map(|entry| check::ip(&Cursor::at(entry.field("ip").value(), entry.path().clone()))).collect()
}

fn validate_families(ips: &Cursor<'_>, kind: &str) -> Errors {
    let texts: Vec<&str> = ips.items().map(|entry| entry.field("ip").str()).collect();
    let parsed: Vec<Option<IpAddr>> = texts.iter().map(|text| names::parse_ip(text)).collect();
    let mut errors = Vec::new();
    if let Some(bad) = parsed.iter().position(Option::is_none) {
        let detail = format!("failed to check for dual stack with error:invalid IP: {bad}, {}", texts[bad]);
        errors.push(FieldError::internal(ips.path(), detail));
    }
    let addresses: Vec<IpAddr> = parsed.iter().flatten().copied().collect();
    let is_dual_stack = addresses.len() == texts.len() && check::is_dual_stack(&addresses);
    if !is_dual_stack || ips.len() > 2 {
        errors.push(ips.invalid_value(go::print_list(kind, ips.value()), ONE_IP_PER_FAMILY));
    }
    errors
}

fn duplicates(ips: &Cursor<'_>, kind: &str) -> Errors {
    let mut seen = BTreeSet::new();
    let again = ips.items().filter(|entry| !seen.insert(entry.field("ip").str()));
    again.map(|entry| FieldError::duplicate(entry.path(), go::print(kind, entry.value()))).collect()
}

fn validate_users(status: &Cursor<'_>, os: &str) -> Errors {
    let mut errors = Vec::new();
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for entry in status.field(list).items() {
            let linux = entry.field("user").field("linux");
            let path = entry.path().child("linux");
            if linux.exists() && os == "windows" {
                errors.push(FieldError::forbidden(&path, "cannot be set for a windows pod"));
            } else if linux.exists() {
                errors.extend(validate_user(&Cursor::at(linux.value(), path)));
            }
        }
    }
    errors
}

fn validate_user(user: &Cursor<'_>) -> Errors {
    let groups = user.field("supplementalGroups");
    let ids = ["uid", "gid"].map(|name| user.field(name)).into_iter().chain(groups.items());
    ids.flat_map(|id| check::number_findings(&id, names::user_or_group_id(id.int_or_zero()))).collect()
}
