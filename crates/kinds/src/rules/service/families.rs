//! Keeps `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` consistent, in a cluster
//! whose Services have IPv4 addresses.

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::field::{FieldError, Path};
use crate::names;

use super::super::check::Errors;
use super::fields::{is_unset, spec_mut, spec_of};
use super::validate::validate_cluster_ips;

const SINGLE: &str = "SingleStack";
const PREFER_DUAL: &str = "PreferDualStack";
const REQUIRE_DUAL: &str = "RequireDualStack";

/// The family that Services of this cluster have.
const FAMILY: &str = "IPv4";

/// Brings the list of addresses in line with the one address, for clients that know only the
/// latter.
pub fn link_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let spec = spec_mut(service);
    let one = text(spec, "clusterIP").to_owned();
    let Some(old) = old.map(|old| &old["spec"]) else {
        if !one.is_empty() && list(spec, "clusterIPs").is_empty() {
            spec.insert("clusterIPs".into(), json!([one]));
        }
        return;
    };
    let old_one = old["clusterIP"].as_str().unwrap_or_default();
    let old_list = old["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !old_list.is_empty() && list(spec, "clusterIPs").is_empty() && old_one == one {
        spec.insert("clusterIPs".into(), old_list.into());
    }
    if old_one == one || list(spec, "clusterIPs") != old_list {
        return;
    }
    if one.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".into(), json!([one]));
    }
}

/// Fills policy and families; on errors nothing is changed.
pub fn init(service: &mut Value, old: Option<&Value>) -> Errors {
    let mut spec = spec_mut(service).clone();
    let errors = init_spec(&mut spec, old);
    if errors.is_empty() {
        service["spec"] = Value::Object(spec);
    }
    errors
}

fn init_spec(spec: &mut Map<String, Value>, old: Option<&Value>) -> Errors {
    let before = old.map(|old| &old["spec"]);
    if text(spec, "type") == "ExternalName" || before.is_some_and(|before| keeps_preferring_dual(spec, before)) {
        return Vec::new();
    }
    let without_endpoints =
        text(spec, "clusterIP") == "None" && spec.get("selector").is_none_or(|s| s.as_object().is_none_or(Map::is_empty));
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let inherited = before.and_then(|before| before.get("ipFamilyPolicy")).filter(|policy| !policy.is_null()).cloned();
        spec.insert("ipFamilyPolicy".into(), inherited.unwrap_or_else(|| if without_endpoints { REQUIRE_DUAL } else { SINGLE }.into()));
    }
    let mut errors = check(spec, |spec| validate_cluster_ips(spec, old.map(spec_of).as_ref()));
    if !errors.is_empty() {
        return errors;
    }
    if let Some(before) = before {
        errors.extend(release(spec, before));
    }
    errors.extend(check(spec, too_many_for_policy));
    errors.extend(infer_families(spec));
    if !errors.is_empty() {
        return errors;
    }
    if without_endpoints {
        complete_families(spec);
        return Vec::new();
    }
    errors = check(spec, not_configured);
    if errors.is_empty() && list(spec, "ipFamilies").is_empty() {
        spec.insert("ipFamilies".into(), json!([FAMILY]));
    }
    errors
}

/// A Service that prefers two families is not touched while it stays as it is.
fn keeps_preferring_dual(spec: &Map<String, Value>, before: &Value) -> bool {
    let prefers = |policy: Option<&Value>| policy.is_some_and(|policy| policy == PREFER_DUAL);
    let old_prefers = before.get("ipFamilyPolicy").is_none_or(|policy| policy == PREFER_DUAL);
    let same = |name: &str| spec.get(name) == before.get(name);
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && same("type")
        && prefers(spec.get("ipFamilyPolicy"))
        && old_prefers
        && same("clusterIPs")
        && same("ipFamilies")
}

/// Going back to one family takes the policy's change only; taking the second away takes the
/// policy's change as well.
fn release(spec: &mut Map<String, Value>, before: &Value) -> Errors {
    let mut errors = Vec::new();
    for (name, what) in [("clusterIPs", "secondary cluster IP"), ("ipFamilies", "secondary IP family")] {
        let (new, old) = (list(spec, name).to_vec(), before[name].as_array().cloned().unwrap_or_default());
        if text(spec, "ipFamilyPolicy") == SINGLE {
            if new == old && new.len() > 1 {
                spec.insert(name.into(), json!([new[0]]));
            }
        } else if !new.is_empty() && new.first() == old.first() && new.len() < old.len() {
            errors.push(policy_error(spec, &format!("must be 'SingleStack' to release the {what}")));
        }
    }
    errors
}

fn policy_error(spec: &Map<String, Value>, detail: &str) -> FieldError {
    FieldError::invalid(&Path::new("spec").child("ipFamilyPolicy"), text(spec, "ipFamilyPolicy"), detail)
}

fn too_many_for_policy(spec: &Cursor<'_>) -> Errors {
    let policy = spec.field("ipFamilyPolicy");
    if policy.str() != SINGLE {
        return Vec::new();
    }
    let several =
        [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")].into_iter().filter(|(name, _)| spec.field(name).len() == 2);
    let detail = |what: &str| format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
    several.map(|(_, what)| policy.invalid(detail(what))).collect()
}

/// Families follow from addresses.
fn infer_families(spec: &mut Map<String, Value>) -> Errors {
    let ips = list(spec, "clusterIPs").to_vec();
    let mut families = list(spec, "ipFamilies").to_vec();
    let mut errors = Vec::new();
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| **ip != "None").skip(families.len()) {
        let is_v6 = names::parse_ip(ip.as_str().unwrap_or_default()).is_some_and(|ip| ip.is_ipv6());
        if is_v6 {
            let path = Path::new("spec").child("clusterIPs").index(i);
            errors.push(FieldError::invalid(&path, json!(ips), "IPv6 is not configured on this cluster"));
        } else {
            families.push(FAMILY.into());
        }
    }
    if !families.is_empty() {
        spec.insert("ipFamilies".into(), families.into());
    }
    errors
}

/// Another client makes the endpoints: they may be of both families, whatever the cluster's are.
fn complete_families(spec: &mut Map<String, Value>) {
    let mut families = list(spec, "ipFamilies").to_vec();
    if families.is_empty() {
        families.push(FAMILY.into());
    }
    if families.len() < 2 && text(spec, "ipFamilyPolicy") != SINGLE {
        families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
    }
    spec.insert("ipFamilies".into(), families.into());
}

fn not_configured(spec: &Cursor<'_>) -> Errors {
    let policy = spec.field("ipFamilyPolicy");
    let mut errors = Vec::new();
    if policy.str() == REQUIRE_DUAL {
        errors.push(policy.invalid("this cluster is not configured for dual-stack services"));
    }
    let foreign = spec.field("ipFamilies").items().filter(|family| family.str() != FAMILY);
    errors.extend(foreign.map(|family| family.invalid("not configured on this cluster")));
    errors
}

fn check(spec: &Map<String, Value>, rule: impl Fn(&Cursor<'_>) -> Errors) -> Errors {
    let spec = Value::Object(spec.clone());
    rule(&Cursor::at(Some(&spec), Path::new("spec")))
}

fn text<'a>(spec: &'a Map<String, Value>, name: &str) -> &'a str {
    spec.get(name).filter(|value| !is_unset(Some(value))).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(spec: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    spec.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
