//! RBAC as Kubernetes evaluates it: rules of roles, bound to users, groups and service accounts. Pure.

use serde_json::{Value, json};

use super::User;
use super::authorize::{Attributes, What};

/// A rule of a role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl PolicyRule {
    pub fn from_value(rule: &Value) -> PolicyRule {
        let texts = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        PolicyRule {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    pub fn to_value(&self) -> Value {
        let mut value = json!({"verbs": self.verbs});
        for (field, texts) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !texts.is_empty() {
                value[field] = json!(texts);
            }
        }
        value
    }

    /// Does the rule allow the request?
    pub fn allows(&self, verb: &str, what: &What<'_>) -> bool {
        let verb_fits = has(&self.verbs, verb) || has(&self.verbs, "*");
        verb_fits
            && match what {
                What::Path(path) => self.non_resource_urls.iter().any(|url| url_matches(url, path)),
                What::Resource { group, resource, subresource, name, .. } => {
                    (has(&self.api_groups, group) || has(&self.api_groups, "*"))
                        && self.resources.iter().any(|rule| resource_matches(rule, resource, subresource))
                        && (self.resource_names.is_empty() || has(&self.resource_names, name))
                }
            }
    }

    /// Does this rule grant everything that `other` grants?
    fn covers(&self, other: &PolicyRule) -> bool {
        if !other.non_resource_urls.is_empty() {
            let verbs = all_in(&other.verbs, &self.verbs);
            return verbs && other.non_resource_urls.iter().all(|url| self.non_resource_urls.iter().any(|own| url_covers(own, url)));
        }
        let names = self.resource_names.is_empty()
            || !other.resource_names.is_empty() && other.resource_names.iter().all(|n| has(&self.resource_names, n));
        let resources = other.resources.iter().all(|resource| {
            let (plain, sub) = resource.split_once('/').unwrap_or((resource, ""));
            self.resources.iter().any(|own| own == resource || resource_matches(own, plain, sub))
        });
        all_in(&other.verbs, &self.verbs) && all_in(&other.api_groups, &self.api_groups) && resources && names
    }

    /// The rule cut into pieces of one verb, group and resource each: several rules together may cover what none covers alone.
    fn pieces(&self) -> Vec<PolicyRule> {
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            pieces.extend(self.non_resource_urls.iter().map(|url| PolicyRule {
                verbs: verbs.clone(),
                non_resource_urls: vec![url.clone()],
                ..PolicyRule::default()
            }));
            for group in &self.api_groups {
                for resource in &self.resources {
                    let piece = PolicyRule {
                        verbs: verbs.clone(),
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..PolicyRule::default()
                    };
                    match self.resource_names.as_slice() {
                        [] => pieces.push(piece),
                        names => pieces.extend(names.iter().map(|name| PolicyRule { resource_names: vec![name.clone()], ..piece.clone() })),
                    }
                }
            }
        }
        pieces
    }
}

/// What of `wanted` is not covered by `held`.
pub fn not_covered(wanted: &[PolicyRule], held: &[PolicyRule]) -> Vec<PolicyRule> {
    let pieces = wanted.iter().flat_map(PolicyRule::pieces);
    pieces.filter(|piece| !held.iter().any(|rule| rule.covers(piece))).collect()
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

fn all_in(wanted: &[String], held: &[String]) -> bool {
    has(held, "*") || wanted.iter().all(|item| has(held, item))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((plain, sub)) => plain == resource && sub == subresource,
        None => subresource.is_empty() && rule == resource,
    }
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn url_covers(own: &str, url: &str) -> bool {
    own == url || own.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix))
}

/// A role's rules, bound to somebody.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// For reasons: `ClusterRoleBinding "x" of ClusterRole "y"`.
    pub description: String,
    /// Empty for cluster-wide bindings.
    pub namespace: String,
    subjects: Vec<Subject>,
    pub rules: Vec<PolicyRule>,
}

#[derive(Debug, Clone, PartialEq)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
                    == Some((&self.namespace, &self.name))
            }
            _ => false,
        }
    }

    fn describe(&self) -> String {
        match self.kind.as_str() {
            "ServiceAccount" => format!("ServiceAccount {:?}", format!("{}/{}", self.name, self.namespace)),
            kind => format!("{kind} {:?}", self.name),
        }
    }
}

/// All bindings with the rules of their roles.
#[derive(Debug, Default)]
pub struct Policy {
    bindings: Vec<Binding>,
}

/// The objects that a [`Policy`] is made of.
#[derive(Debug, Default)]
pub struct Objects {
    pub cluster_roles: Vec<Value>,
    pub roles: Vec<Value>,
    pub cluster_role_bindings: Vec<Value>,
    pub role_bindings: Vec<Value>,
}

impl Policy {
    pub fn new(objects: &Objects) -> Policy {
        let bindings = objects.cluster_role_bindings.iter().chain(&objects.role_bindings);
        Policy { bindings: bindings.filter_map(|binding| bind(objects, binding)).collect() }
    }

    /// Why the request is allowed, or None.
    pub fn allows(&self, attributes: &Attributes<'_>) -> Option<String> {
        let namespace = match attributes.what {
            What::Resource { namespace, .. } => namespace,
            What::Path(_) => "",
        };
        self.bindings.iter().filter(|b| b.namespace.is_empty() || b.namespace == namespace).find_map(|binding| {
            if !binding.rules.iter().any(|rule| rule.allows(attributes.verb, &attributes.what)) {
                return None;
            }
            let subject = binding.subjects.iter().find(|subject| subject.is(attributes.user))?;
            Some(format!("RBAC: allowed by {} to {}", binding.description, subject.describe()))
        })
    }

    /// All rules that a user has in a namespace.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let applicable = self.bindings.iter().filter(|b| b.namespace.is_empty() || b.namespace == namespace);
        applicable.filter(|b| b.subjects.iter().any(|subject| subject.is(user))).flat_map(|b| b.rules.clone()).collect()
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// None when the role is not there.
fn bind(objects: &Objects, binding: &Value) -> Option<Binding> {
    let (namespace, name) = (namespace_of(binding), name_of(binding));
    let (role_kind, role_name) = (binding["roleRef"]["kind"].as_str()?, binding["roleRef"]["name"].as_str()?);
    let role = match role_kind {
        "ClusterRole" => objects.cluster_roles.iter().find(|role| name_of(role) == role_name)?,
        _ => objects.roles.iter().find(|role| name_of(role) == role_name && namespace_of(role) == namespace)?,
    };
    let description = match namespace {
        "" => format!("ClusterRoleBinding {name:?} of {role_kind} {role_name:?}"),
        namespace => format!("RoleBinding {:?} of {role_kind} {role_name:?}", format!("{name}/{namespace}")),
    };
    let text = |subject: &Value, field: &str| subject[field].as_str().unwrap_or_default().to_owned();
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let subjects = subjects.map(|s| Subject { kind: text(s, "kind"), name: text(s, "name"), namespace: text(s, "namespace") }).collect();
    Some(Binding { description, namespace: namespace.to_owned(), subjects, rules: rules_of_role(role, &objects.cluster_roles) })
}

/// A role's own rules, or those of the roles that it aggregates.
pub fn rules_of_role(role: &Value, cluster_roles: &[Value]) -> Vec<PolicyRule> {
    let own = |role: &Value| -> Vec<PolicyRule> { role["rules"].as_array().into_iter().flatten().map(PolicyRule::from_value).collect() };
    let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    let Some(selectors) = selectors else { return own(role) };
    let parsed: Vec<_> = selectors.iter().filter_map(|s| kinds::selector::Selector::from_object(Some(s)).ok()).collect();
    let aggregated =
        cluster_roles.iter().filter(|other| name_of(other) != name_of(role) && parsed.iter().any(|s| s.matches_labels_of(other)));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in aggregated.flat_map(|other| rules_of_role(other, cluster_roles)) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let rule = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]});
        Policy::new(&Objects {
            cluster_roles: vec![
                json!({"metadata": {"name": "reader", "labels": {"agg": "yes"}}, "rules": [rule]}),
                json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"agg": "yes"}}]}}),
            ],
            role_bindings: vec![json!({
                "metadata": {"name": "b", "namespace": "dev"}, "roleRef": {"kind": "ClusterRole", "name": "all"},
                "subjects": [{"kind": "ServiceAccount", "name": "bot", "namespace": "dev"}, {"kind": "Group", "name": "ops"}],
            })],
            ..Objects::default()
        })
    }

    fn asks(user: &User, verb: &str, resource: &str, subresource: &str, namespace: &str) -> bool {
        let what = What::Resource { group: "", version: "v1", resource, subresource, namespace, name: "x", field_selector: "" };
        policy().allows(&Attributes { user, verb, what }).is_some()
    }

    #[test]
    fn bindings_hold_in_their_namespace_for_accounts_and_groups() {
        let bot = User::system("system:serviceaccount:dev:bot", &[]);
        assert!(asks(&bot, "get", "pods", "", "dev"));
        assert!(asks(&bot, "get", "pods", "log", "dev"));
        assert!(!asks(&bot, "get", "pods", "exec", "dev"));
        assert!(!asks(&bot, "get", "pods", "", "other"));
        assert!(!asks(&bot, "delete", "pods", "", "dev"));
        assert!(asks(&User::system("ann", &["ops"]), "list", "pods", "", "dev"));
        assert!(!asks(&User::system("ann", &[]), "list", "pods", "", "dev"));
    }

    #[test]
    fn several_rules_together_may_cover_one() {
        let rule = |verbs: &[&str], resources: &[&str]| PolicyRule {
            verbs: verbs.iter().map(|&v| v.to_owned()).collect(),
            api_groups: vec![String::new()],
            resources: resources.iter().map(|&r| r.to_owned()).collect(),
            ..PolicyRule::default()
        };
        let held = [rule(&["get"], &["pods"]), rule(&["get"], &["secrets"])];
        assert_eq!(not_covered(&[rule(&["get"], &["pods", "secrets"])], &held), []);
        assert_eq!(not_covered(&[rule(&["get", "list"], &["pods"])], &held).len(), 1);
        assert_eq!(not_covered(&[rule(&["list"], &["pods"])], &[rule(&["*"], &["*"])]), []);
    }
}
