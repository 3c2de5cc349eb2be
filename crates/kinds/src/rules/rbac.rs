//! Roles and who has them, in a namespace or cluster-wide.

use serde_json::{Map, Value, json};

use crate::cursor::Cursor;
use crate::names;

use super::check::{self, Errors};
use super::meta::{self, MetaRule};
use super::pod::go;
use super::{Part, Rules};

const GROUP: &str = "rbac.authorization.k8s.io";

pub static CLUSTER_ROLE: RoleRules = RoleRules(Scope::Cluster);
pub static CLUSTER_ROLE_BINDING: BindingRules = BindingRules(Scope::Cluster);
pub static ROLE: RoleRules = RoleRules(Scope::Namespace);
pub static ROLE_BINDING: BindingRules = BindingRules(Scope::Namespace);

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Cluster,
    Namespace,
}

impl Scope {
    /// Names need only fit into a path.
    fn meta(self) -> MetaRule {
        MetaRule { namespaced: self == Scope::Namespace, name: names::name_is_path_segment }
    }

    fn role_kinds(self) -> &'static [&'static str] {
        match self {
            Scope::Cluster => &["ClusterRole"],
            Scope::Namespace => &["Role", "ClusterRole"],
        }
    }
}

pub struct RoleRules(Scope);

impl Rules for RoleRules {
    fn default(&self, _object: &mut Value) {}

    fn validate_create(&self, object: &Value) -> Errors {
        let role = Cursor::root(object);
        let mut errors = meta::validate(object, self.0.meta());
        errors.extend(role.field("rules").items().flat_map(|rule| validate_rule(&rule, self.0)));
        errors.extend(validate_aggregation(&role.field("aggregationRule")));
        errors
    }

    /// Kubernetes' stored form does not tell an empty list from none.
    fn canonicalize(&self, object: &mut Value) {
        if object["rules"].as_array().is_some_and(Vec::is_empty) {
            object["rules"] = Value::Null;
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(self.validate_create(object));
        errors.extend(meta::validate_update(object, old));
        errors
    }
}

fn validate_rule(rule: &Cursor<'_>, scope: Scope) -> Errors {
    let (groups, resources, resource_names) = (rule.field("apiGroups"), rule.field("resources"), rule.field("resourceNames"));
    let urls = rule.field("nonResourceURLs");
    let mut errors = Vec::new();
    if rule.field("verbs").is_empty() {
        errors.push(rule.field("verbs").required("verbs must contain at least one value"));
    }
    if !urls.is_empty() {
        if scope == Scope::Namespace {
            errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        if [&groups, &resources, &resource_names].iter().any(|list| !list.is_empty()) {
            errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
        }
        return errors;
    }
    if groups.is_empty() {
        errors.push(groups.required("resource rules must supply at least one api group"));
    }
    if resources.is_empty() {
        errors.push(resources.required("resource rules must supply at least one resource"));
    }
    errors
}

/// A role may be the sum of others.
fn validate_aggregation(aggregation: &Cursor<'_>) -> Errors {
    let selectors = aggregation.field("clusterRoleSelectors");
    if aggregation.exists() && selectors.is_empty() {
        return vec![selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil")];
    }
    selectors.items().flat_map(|selector| check::label_selector(&selector)).collect()
}

pub struct BindingRules(Scope);

impl Rules for BindingRules {
    fn default(&self, object: &mut Value) {
        default_group(meta::child(object, "roleRef"), GROUP);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let is_person = matches!(subject["kind"].as_str(), Some("User" | "Group"));
            if let Some(subject) = subject.as_object_mut().filter(|_| is_person) {
                default_group(subject, GROUP);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let binding = Cursor::root(object);
        let mut errors = meta::validate(object, self.0.meta());
        errors.extend(validate_role_ref(&binding.field("roleRef"), self.0));
        errors.extend(binding.field("subjects").items().flat_map(|subject| validate_subject(&subject, self.0)));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(self.validate_create(object));
        errors.extend(meta::validate_update(object, old));
        let role = Cursor::root(object).field("roleRef");
        if role.value() != Cursor::root(old).field("roleRef").value() {
            errors.push(role.invalid_value(go::print("RoleRef", role.value()), "cannot change roleRef"));
        }
        errors
    }
}

fn default_group(reference: &mut Map<String, Value>, group: &str) {
    if reference.get("apiGroup").is_none_or(|own| own.is_null() || own == "") {
        reference.insert("apiGroup".into(), json!(group));
    }
}

fn validate_role_ref(role: &Cursor<'_>, scope: Scope) -> Errors {
    let (group, kind, name) = (role.field("apiGroup"), role.field("kind"), role.field("name"));
    let mut errors = Vec::new();
    if group.str() != GROUP {
        errors.push(group.not_supported(&[GROUP]));
    }
    if !scope.role_kinds().contains(&kind.str()) {
        errors.push(kind.not_supported(scope.role_kinds()));
    }
    match name.str() {
        "" => errors.push(name.required("")),
        _ => errors.extend(check::named(&name, names::path_segment)),
    }
    errors
}

fn validate_subject(subject: &Cursor<'_>, scope: Scope) -> Errors {
    let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
    let mut errors: Errors = check::required(&name).into_iter().collect();
    match kind.str() {
        "ServiceAccount" => {
            errors.extend(check::named_if_set(&name, names::dns1123_subdomain));
            if !group.str().is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if scope == Scope::Cluster {
                errors.extend(check::required(&subject.field("namespace")));
            }
            return errors;
        }
        "User" | "Group" => {}
        _ => {
            errors.push(kind.not_supported(&["ServiceAccount", "User", "Group"]));
            return errors;
        }
    }
    if group.str() != GROUP {
        errors.push(group.not_supported(&[GROUP]));
    }
    errors
}
