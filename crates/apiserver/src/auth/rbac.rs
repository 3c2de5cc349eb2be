//! RBAC as Kubernetes evaluates it: rules of roles, bound to users, groups and service accounts.
//! Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::request::{Attributes, User, What};

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

    /// Every verb on every resource.
    pub fn everything() -> PolicyRule {
        let all = || vec!["*".to_owned()];
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() }
    }

    /// Every verb on every path that is no resource.
    pub fn every_path() -> PolicyRule {
        let all = || vec!["*".to_owned()];
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() }
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

    /// Does this rule grant everything that `other` grants? Takes time in proportion to the lists
    /// of both, but for URLs.
    fn covers(&self, other: &PolicyRule) -> bool {
        if !all_in(&other.verbs, &self.verbs) {
            return false;
        }
        if !other.non_resource_urls.is_empty() {
            // The API refuses rules of both kinds; one that is there all the same is compared piece
            // by piece.
            return other.resources.is_empty() && urls_cover(&self.non_resource_urls, &other.non_resource_urls);
        }
        let names =
            self.resource_names.is_empty() || !other.resource_names.is_empty() && each_in(&other.resource_names, &self.resource_names);
        names && all_in(&other.api_groups, &self.api_groups) && resources_cover(&self.resources, &other.resources)
    }

    /// Does the rule say of each thing that it grants what it is? Others have no pieces, and grant
    /// nothing.
    fn is_nonempty(&self) -> bool {
        self.piece_count() > 0
    }

    /// How many texts the rule consists of.
    fn size(&self) -> usize {
        [&self.verbs, &self.api_groups, &self.resources, &self.resource_names, &self.non_resource_urls].iter().map(|list| list.len()).sum()
    }

    /// How many [`PolicyRule::pieces`] there are; `usize::MAX` for more than can be counted.
    fn piece_count(&self) -> usize {
        let resources = self.api_groups.len().saturating_mul(self.resources.len()).saturating_mul(self.resource_names.len().max(1));
        self.verbs.len().saturating_mul(resources.saturating_add(self.non_resource_urls.len()))
    }

    /// The rule cut into pieces of one verb, group and resource each: several rules together may
    /// cover what none covers alone.
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

/// Rules are multiplied out into at most this many pieces: a megabyte of verbs, groups and
/// resources would make 10^15.
const PIECES_MAX: usize = 20_000;

/// Comparisons of pieces with held rules that one check may take.
const COMPARISONS_MAX: usize = 20_000_000;

/// Missing pieces that are found before the search ends; a message shows no more.
const MISSING_MAX: usize = 100;

/// What of `wanted` is not covered by `held`; the first [`MISSING_MAX`] pieces of it.
///
/// A rule that no single held rule covers and that has too many pieces counts as missing: a user
/// who holds all of it writes it as several rules.
pub fn not_covered(wanted: &[PolicyRule], held: &[PolicyRule]) -> Vec<PolicyRule> {
    let held_size: usize = held.iter().map(PolicyRule::size).sum();
    let mut pieces_left = PIECES_MAX.min(COMPARISONS_MAX / held_size.max(1));
    let mut missing = Vec::new();
    for rule in wanted {
        if missing.len() >= MISSING_MAX {
            break;
        }
        if rule.is_nonempty() && held.iter().any(|own| own.covers(rule)) {
            continue;
        }
        match pieces_left.checked_sub(rule.piece_count()) {
            Some(left) => {
                pieces_left = left;
                missing.extend(rule.pieces().into_iter().filter(|piece| !held.iter().any(|own| own.covers(piece))));
            }
            None => missing.push(rule.clone()),
        }
    }
    missing.truncate(MISSING_MAX);
    missing
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

fn all_in(wanted: &[String], held: &[String]) -> bool {
    has(held, "*") || each_in(wanted, held)
}

fn each_in(wanted: &[String], held: &[String]) -> bool {
    match wanted {
        [one] => has(held, one),
        several => {
            let held: HashSet<&str> = held.iter().map(String::as_str).collect();
            several.iter().all(|item| held.contains(item.as_str()))
        }
    }
}

fn resources_cover(held: &[String], wanted: &[String]) -> bool {
    let covers_one = |resource: &String| {
        let (plain, sub) = resource.split_once('/').unwrap_or((resource, ""));
        held.iter().any(|own| own == resource || resource_matches(own, plain, sub))
    };
    if let [one] = wanted {
        return covers_one(one);
    }
    let known: HashSet<&str> = held.iter().map(String::as_str).collect();
    let by_subresource = |resource: &str| resource.split_once('/').is_some_and(|(_, sub)| known.contains(format!("*/{sub}").as_str()));
    known.contains("*") || wanted.iter().all(|resource| known.contains(resource.as_str()) || by_subresource(resource))
}

fn urls_cover(held: &[String], wanted: &[String]) -> bool {
    held.len().saturating_mul(wanted.len()) <= COMPARISONS_MAX && wanted.iter().all(|url| held.iter().any(|own| url_covers(own, url)))
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

/// A role's rules, bound to subjects.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// For reasons: `ClusterRoleBinding "x" of ClusterRole "y"`.
    pub description: String,
    /// Empty for cluster-wide bindings.
    pub namespace: String,
    subjects: Vec<Subject>,
    /// Shared by all bindings of the role.
    pub rules: Arc<[PolicyRule]>,
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
        let roles = Roles::of(objects);
        let bindings = objects.cluster_role_bindings.iter().chain(&objects.role_bindings);
        Policy { bindings: bindings.filter_map(|binding| bind(&roles, binding)).collect() }
    }

    /// Why the request is allowed, or None.
    pub fn allows(&self, attributes: &Attributes<'_>) -> Option<String> {
        let namespace = match attributes.what {
            What::Resource { namespace, .. } => namespace,
            What::Path(_) => "",
        };
        self.bindings.iter().filter(|b| b.namespace.is_empty() || b.namespace == namespace).find_map(|binding| {
            let subject = binding.subjects.iter().find(|subject| subject.is(attributes.user))?;
            binding.rules.iter().find(|rule| rule.allows(attributes.verb, &attributes.what))?;
            Some(format!("RBAC: allowed by {} to {}", binding.description, subject.describe()))
        })
    }

    /// All rules that a user has in a namespace.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let applicable = self.bindings.iter().filter(|b| b.namespace.is_empty() || b.namespace == namespace);
        applicable.filter(|b| b.subjects.iter().any(|subject| subject.is(user))).flat_map(|b| b.rules.iter().cloned()).collect()
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// The rules of all roles, by namespace (empty for ClusterRoles) and name.
struct Roles<'a>(HashMap<(&'a str, &'a str), Arc<[PolicyRule]>>);

impl<'a> Roles<'a> {
    fn of(objects: &'a Objects) -> Roles<'a> {
        let cluster_roles = objects.cluster_roles.iter().map(|role| (("", name_of(role)), rules_of_role(role).into()));
        let roles = objects.roles.iter().map(|role| ((namespace_of(role), name_of(role)), rules_of_role(role).into()));
        Roles(cluster_roles.chain(roles).collect())
    }
}

/// None when the role is not there.
fn bind(roles: &Roles<'_>, binding: &Value) -> Option<Binding> {
    let (namespace, name) = (namespace_of(binding), name_of(binding));
    let (role_kind, role_name) = (binding["roleRef"]["kind"].as_str()?, binding["roleRef"]["name"].as_str()?);
    let rules = roles.0.get(&(if role_kind == "ClusterRole" { "" } else { namespace }, role_name))?.clone();
    let description = match namespace {
        "" => format!("ClusterRoleBinding {name:?} of {role_kind} {role_name:?}"),
        namespace => format!("RoleBinding {:?} of {role_kind} {role_name:?}", format!("{name}/{namespace}")),
    };
    let text = |subject: &Value, field: &str| subject[field].as_str().unwrap_or_default().to_owned();
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    let subjects = subjects.map(|s| Subject { kind: text(s, "kind"), name: text(s, "name"), namespace: text(s, "namespace") }).collect();
    Some(Binding { description, namespace: namespace.to_owned(), subjects, rules })
}

/// The rules that are written in a role.
///
/// The rules of a role with an aggregation rule are written by the controller
/// `clusterrole-aggregation-controller`, as in Kubernetes. Following aggregation rules here would
/// let roles that select each other recurse without an end.
pub fn rules_of_role(role: &Value) -> Vec<PolicyRule> {
    role["rules"].as_array().into_iter().flatten().map(PolicyRule::from_value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let rule = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]});
        Policy::new(&Objects {
            cluster_roles: vec![json!({"metadata": {"name": "all"}, "rules": [rule]})],
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

    #[test]
    fn a_rule_with_more_pieces_than_can_be_counted_is_missing_and_costs_nothing() {
        let many = |prefix: &str| (0..20_000).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
        let huge = PolicyRule {
            verbs: many("v"),
            api_groups: many("g"),
            resources: many("r"),
            resource_names: many("n"),
            non_resource_urls: Vec::new(),
        };
        assert_eq!(not_covered(std::slice::from_ref(&huge), &[]), std::slice::from_ref(&huge));
        let held = [PolicyRule { resources: vec!["other".to_owned()], ..huge.clone() }, huge.clone()];
        assert_eq!(not_covered(std::slice::from_ref(&huge), &held), []);
        assert_eq!(not_covered(&[huge], &[PolicyRule::everything()]), []);
    }

    #[test]
    fn a_rule_of_urls_and_resources_is_not_covered_by_one_of_its_halves() {
        let both = PolicyRule { non_resource_urls: vec!["/healthz".to_owned()], ..PolicyRule::everything() };
        let urls = PolicyRule { verbs: vec!["*".to_owned()], non_resource_urls: vec!["*".to_owned()], ..PolicyRule::default() };
        assert_eq!(not_covered(std::slice::from_ref(&both), &[urls]).len(), 1);
    }

    #[test]
    fn subresources_are_covered_by_their_wildcard_also_among_many() {
        let of = |resources: &[&str]| PolicyRule {
            verbs: vec!["get".to_owned()],
            api_groups: vec![String::new()],
            resources: resources.iter().map(|&r| r.to_owned()).collect(),
            ..PolicyRule::default()
        };
        assert_eq!(not_covered(&[of(&["pods/log", "pods/exec"])], &[of(&["*/log", "pods/exec"])]), []);
        assert_eq!(not_covered(&[of(&["pods/log", "pods"])], &[of(&["*/log", "secrets"])]).len(), 1);
    }
}
