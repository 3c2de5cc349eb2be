//! What containers, and pods as a whole, request of a node and are limited to.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;
use crate::quantity::Quantity;
use crate::rules::check::{self, Errors};
use crate::rules::meta::MUST_NOT_BE_NEGATIVE;

const HUGE_PAGES: &str = "hugepages-";
const CONTAINER_RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const POD_RESOURCES: &[&str] = &["cpu", "hugepages-", "memory"];
/// Counted things: quantities of them are whole numbers.
const COUNTED_RESOURCES: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const OTHER_STANDARD_RESOURCES: &[&str] = &[
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

pub fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// A resource of Kubernetes itself, not of a vendor.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests and limits may differ.
pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// A resource that pods as a whole may ask for.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

fn is_standard(name: &str) -> bool {
    let lists = [CONTAINER_RESOURCES, COUNTED_RESOURCES, OTHER_STANDARD_RESOURCES];
    lists.iter().any(|list| list.contains(&name)) || is_huge_pages(name)
}

pub fn validate_container(resources: &Cursor<'_>, claim_names: &BTreeSet<&str>) -> Errors {
    validate_requirements(resources, container_resource_name, claim_names)
}

/// A pod's overhead is checked like limits, and blamed like them.
pub fn validate_overhead(overhead: &Cursor<'_>) -> Errors {
    let limits = Cursor::at(overhead.value(), overhead.path().child("limits"));
    let mut errors: Errors = limits.entries().flat_map(|(name, amount)| validate_amount(name, &amount, container_resource_name)).collect();
    errors.extend(huge_pages_alone(overhead.path(), &[&limits]));
    errors
}

/// Resources of the pod as a whole, and that the containers fit into them.
pub fn validate_pod(spec: &Cursor<'_>) -> Errors {
    let resources = spec.field("resources");
    let mut errors = Vec::new();
    if resources.field("claims").exists() {
        errors.push(resources.field("claims").forbidden("claims cannot be set for Resources at pod-level"));
    }
    errors.extend(validate_requirements(&resources, pod_resource_name, &BTreeSet::new()));
    errors.extend(requests_fit(spec, &resources.field("requests")));
    errors.extend(limits_fit(spec, &resources));
    errors
}

type NameRule = fn(name: &str, path: &Cursor<'_>) -> Errors;

fn validate_requirements(resources: &Cursor<'_>, name_rule: NameRule, claim_names: &BTreeSet<&str>) -> Errors {
    let (limits, requests) = (resources.field("limits"), resources.field("requests"));
    let mut errors: Errors = limits.entries().flat_map(|(name, amount)| validate_amount(name, &amount, name_rule)).collect();
    for (name, request) in requests.entries() {
        errors.extend(name_rule(name, &request));
        errors.extend(validate_quantity(name, &request));
        errors.extend(within_limit(name, &request, &limits, &requests));
        errors.extend(whole_pages(name, &request));
    }
    errors.extend(huge_pages_alone(resources.path(), &[&limits, &requests]));
    errors.extend(validate_claims(&resources.field("claims"), claim_names));
    errors
}

fn validate_amount(name: &str, amount: &Cursor<'_>, name_rule: NameRule) -> Errors {
    let mut errors = name_rule(name, amount);
    errors.extend(validate_quantity(name, amount));
    errors.extend(whole_pages(name, amount));
    errors
}

fn container_resource_name(name: &str, path: &Cursor<'_>) -> Errors {
    let mut errors = resource_name(name, path);
    if !name.contains('/') {
        if !CONTAINER_RESOURCES.contains(&name) && !is_huge_pages(name) {
            errors.push(path.invalid_value(name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(path.invalid_value(name, "doesn't follow extended resource name standard"));
    }
    errors
}

fn pod_resource_name(name: &str, path: &Cursor<'_>) -> Errors {
    let mut errors = resource_name(name, path);
    if errors.is_empty() && !is_pod_level(name) {
        errors.push(FieldError::not_supported(path.path(), name, POD_RESOURCES));
    }
    errors
}

pub fn resource_name(name: &str, path: &Cursor<'_>) -> Errors {
    let findings = names::qualified_name(name);
    if findings.is_empty() && !name.contains('/') && !is_standard(name) {
        return vec![path.invalid_value(name, "must be a standard resource type or fully qualified")];
    }
    findings.into_iter().map(|finding| path.invalid_value(name, finding)).collect()
}

/// Not negative, and whole if it counts things.
pub fn validate_quantity(name: &str, amount: &Cursor<'_>) -> Errors {
    let quantity = check::quantity(amount);
    let mut errors = Vec::new();
    if quantity.is_negative() {
        errors.push(amount.invalid_value(quantity.to_string(), MUST_NOT_BE_NEGATIVE));
    }
    let is_counted = COUNTED_RESOURCES.contains(&name) || is_extended(name);
    if is_counted && quantity.millis() % 1000 != 0 {
        errors.push(amount.invalid_value(quantity.to_string(), "must be an integer"));
    }
    errors
}

fn within_limit(name: &str, request: &Cursor<'_>, limits: &Cursor<'_>, requests: &Cursor<'_>) -> Option<FieldError> {
    let limit = limits.key(name);
    let may_differ = is_overcommit_allowed(name);
    if !limit.exists() {
        return (!may_differ).then(|| limits.required("Limit must be set for non overcommitable resources"));
    }
    let (request, limit) = (check::quantity(request), check::quantity(&limit));
    let relation = match request.cmp(&limit) {
        Ordering::Equal => return None,
        _ if !may_differ => "equal to",
        Ordering::Greater => "less than or equal to",
        Ordering::Less => return None,
    };
    Some(requests.invalid_value(request.to_string(), format!("must be {relation} {name} limit of {limit}")))
}

fn whole_pages(name: &str, amount: &Cursor<'_>) -> Option<FieldError> {
    let size = name.strip_prefix(HUGE_PAGES)?;
    let quantity = check::quantity(amount);
    let size = size.parse::<Quantity>().unwrap_or(Quantity::ZERO);
    let is_size = size.is_whole() && !size.is_negative() && !size.is_zero();
    let is_divisible = is_size && quantity.value() % size.value() == 0;
    let detail = || format!("{quantity} is not positive integer multiple of {name}");
    (!is_divisible).then(|| amount.invalid_value(quantity.to_string(), detail()))
}

fn huge_pages_alone(path: &Path, lists: &[&Cursor<'_>]) -> Option<FieldError> {
    let any = |matches: fn(&str) -> bool| lists.iter().any(|list| list.entries().any(|(name, _)| matches(name)));
    let is_alone = any(is_huge_pages) && !any(|name| matches!(name, "cpu" | "memory"));
    is_alone.then(|| FieldError::forbidden(path, "HugePages require cpu or memory"))
}

fn validate_claims(claims: &Cursor<'_>, claim_names: &BTreeSet<&str>) -> Errors {
    let mut errors = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for claim in claims.items() {
        let (name, request) = (claim.field("name").str(), claim.field("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        if taken.contains(name) {
            errors.push(FieldError::duplicate(claim.path(), name));
        } else {
            errors.extend(check::named_if_set(&request, names::dns1123_label));
            let key = if request.str().is_empty() { name.to_owned() } else { format!("{name}/{}", request.str()) };
            if taken.contains(&key) {
                errors.push(FieldError::duplicate(claim.path(), key.as_str()));
            } else if request.str().is_empty() && !name.contains('/') {
                let prefix = format!("{name}/");
                let parts = taken.range(prefix.clone()..).take_while(|other| other.starts_with(&prefix));
                errors.extend(parts.map(|_| FieldError::duplicate(claim.path(), name)));
            }
            taken.insert(key);
        }
        if !claim_names.contains(name) {
            // The finding shows all names that there are: for each of thousands of claims it would
            // be gigabytes.
            let shown = if errors.len() < CLAIM_FINDINGS_MAX {
                claim_names.iter().copied().take(CLAIM_NAMES_SHOWN_MAX).collect()
            } else {
                Vec::new()
            };
            errors.push(unknown_claim(&claim, name, &shown, claim_names.len()));
        }
    }
    errors
}

/// Findings about claims past this number do not show the names that there are, and none shows more
/// of them than this.
const CLAIM_FINDINGS_MAX: usize = 20;
const CLAIM_NAMES_SHOWN_MAX: usize = 100;

fn unknown_claim(claim: &Cursor<'_>, name: &str, shown: &[&str], known: usize) -> FieldError {
    let known = match known {
        0 => " which is empty".to_owned(),
        _ if shown.is_empty() => String::new(),
        known if known > shown.len() => format!(": {} and {} more", shown.join(", "), known - shown.len()),
        _ => format!(": {}", shown.join(", ")),
    };
    let mut error = FieldError::not_found(claim.path(), name);
    error.detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
    error
}

fn requests_fit(spec: &Cursor<'_>, requests: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for (name, needed) in aggregate(spec, "requests") {
        let request = requests.key(&name);
        let given = check::quantity(&request);
        if needed > given {
            let detail = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.push(request.invalid_value(given.to_string(), detail));
        }
    }
    errors
}

fn limits_fit(spec: &Cursor<'_>, resources: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    for (i, container) in spec.field("containers").items().enumerate() {
        for (name, limit) in container.field("resources").field("limits").entries() {
            let pod_limit = resources.field("limits").key(name);
            let (own, whole) = (check::quantity(&limit), check::quantity(&pod_limit));
            if pod_limit.exists() && own > whole {
                let blamed = resources.path().child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {whole}");
                errors.push(FieldError::invalid(&blamed, own.to_string(), detail));
            }
        }
    }
    errors
}

type Amounts = BTreeMap<String, Quantity>;

/// What the containers of a pod need together: all regular ones and sidecars at once, or the
/// hungriest init container with the sidecars started before it, whichever is more. `list` is
/// `requests` or `limits`.
pub fn aggregate(spec: &Cursor<'_>, list: &'static str) -> Amounts {
    let (mut total, mut sidecars, mut peak) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in spec.field("containers").items() {
        add(&mut total, &container.field("resources").field(list));
    }
    for container in spec.field("initContainers").items() {
        let own = container.field("resources").field(list);
        // Only what the container itself needs can be more than before.
        let mut running: Amounts = own.entries().filter_map(|(name, _)| Some((name.to_owned(), sidecars.get(name)?.clone()))).collect();
        add(&mut running, &own);
        take_max(&mut peak, &running);
        if super::containers::is_sidecar(&container) {
            add(&mut total, &own);
            add(&mut sidecars, &own);
        }
    }
    take_max(&mut total, &peak);
    total
}

fn add(total: &mut Amounts, list: &Cursor<'_>) {
    for (name, amount) in list.entries() {
        let entry = total.entry(name.to_owned()).or_insert(Quantity::ZERO);
        *entry = entry.add(&check::quantity(&amount));
    }
}

fn take_max(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = total.entry(name.clone()).or_insert_with(|| amount.clone());
        if amount > entry {
            *entry = amount.clone();
        }
    }
}
