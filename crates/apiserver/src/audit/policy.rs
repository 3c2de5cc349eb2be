//! Which requests are written to the audit log, and how much of them: the rules of an
//! `audit.k8s.io/v1` Policy. Pure.
//!
//! The first rule that fits decides. A request that no rule fits is not written.

use crate::request::{User, What};
use serde::Deserialize;

#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

#[derive(Debug, Copy, Clone, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    kind: String,
    api_version: String,
    #[serde(default)]
    metadata: serde::de::IgnoredAny,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// A policy that cannot be read, or says what cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("it is no YAML: {0}")]
    Syntax(String),
    #[error("it is no Policy of audit.k8s.io/v1: {0}")]
    Shape(String),
}

/// What is written of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Decision {
    pub fn writes(&self, stage: Stage) -> bool {
        self.level != Level::None && !self.omit_stages.contains(&stage)
    }
}

impl Policy {
    /// Everything, without bodies: for users who ask for a log and write no policy.
    pub fn metadata_of_everything() -> Policy {
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";
        Policy::parse(text).expect("the policy above is well formed")
    }

    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let (node, duplicates) = kinds::yaml::parse(text).map_err(|error| PolicyError::Syntax(error.0))?;
        if let Some(duplicate) = duplicates.first() {
            return Err(PolicyError::Syntax(duplicate.clone()));
        }
        let policy: Policy = serde_json::from_value(node.into_value()).map_err(|error| PolicyError::Shape(error.to_string()))?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::Shape(format!("it is a {} of {}", policy.kind, policy.api_version)));
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Shape("it has no rules, so that nothing would be written".to_owned()));
        }
        let is_about_resources = |rule: &Rule| !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if policy.rules.iter().any(|rule| !rule.non_resource_urls.is_empty() && is_about_resources(rule)) {
            return Err(PolicyError::Shape("a rule may be about nonResourceURLs, or about resources and namespaces, not both".to_owned()));
        }
        Ok(policy)
    }

    pub fn decide(&self, user: &User, verb: &str, what: &What<'_>) -> Decision {
        let rule = self.rules.iter().find(|rule| rule.fits(user, verb, what));
        let Some(rule) = rule else { return Decision { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false } };
        Decision {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

/// An empty list asks for nothing.
fn allows(list: &[String], text: &str) -> bool {
    list.is_empty() || list.iter().any(|item| item == text)
}

impl Rule {
    fn fits(&self, user: &User, verb: &str, what: &What<'_>) -> bool {
        let in_groups = self.user_groups.is_empty() || self.user_groups.iter().any(|group| user.is_in(group));
        allows(&self.users, &user.name) && in_groups && allows(&self.verbs, verb) && self.fits_what(what)
    }

    fn fits_what(&self, what: &What<'_>) -> bool {
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        match what {
            What::Path(_) if about_resources => false,
            What::Path(path) => {
                let fits = |url: &String| url == "*" || url == path || url.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix));
                self.non_resource_urls.is_empty() || self.non_resource_urls.iter().any(fits)
            }
            What::Resource { .. } if !self.non_resource_urls.is_empty() => false,
            What::Resource { group, resource, subresource, namespace, name, .. } => {
                let fits = |own: &Resources| own.group == *group && own.fits(resource, subresource) && allows(&own.resource_names, name);
                allows(&self.namespaces, namespace) && (self.resources.is_empty() || self.resources.iter().any(fits))
            }
        }
    }
}

impl Resources {
    /// `pods` are pods alone, `pods/log` their logs, `pods/*` all of their subresources, `*/scale`
    /// those of all kinds, `*` everything.
    fn fits(&self, resource: &str, subresource: &str) -> bool {
        let fits = |own: &String| match own.split_once('/') {
            None => own == "*" || own == resource && subresource.is_empty(),
            Some(("*", sub)) => sub == subresource,
            Some((plain, "*")) => plain == resource && !subresource.is_empty(),
            Some((plain, sub)) => plain == resource && sub == subresource,
        };
        self.resources.is_empty() || self.resources.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(policy: &Policy, user: &User, verb: &str, what: &What<'_>) -> Level {
        policy.decide(user, verb, what).level
    }

    fn resource<'a>(resource: &'a str, subresource: &'a str, namespace: &'a str, name: &'a str) -> What<'a> {
        What::Resource { group: "", version: "v1", resource, subresource, namespace, name, field_selector: "" }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::parse(
            "apiVersion: audit.k8s.io/v1
kind: Policy
metadata: {name: p}
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:kube-proxy'], verbs: [watch], resources: [{group: '', resources: [endpoints, services]}]}
- {level: None, userGroups: ['system:authenticated'], nonResourceURLs: ['/api*', /version]}
- {level: Request, resources: [{group: '', resources: [configmaps], resourceNames: [one]}], namespaces: [kube-system]}
- {level: Metadata, resources: [{group: '', resources: [secrets, 'pods/*', '*/token']}], omitStages: [ResponseStarted]}
- {level: RequestResponse, resources: [{group: ''}], omitManagedFields: true}
",
        )
        .unwrap();
        let ann = User::system("ann", &["system:authenticated"]);
        let proxy = User::system("system:kube-proxy", &[]);
        assert_eq!(level(&policy, &proxy, "watch", &resource("services", "", "", "")), Level::None);
        assert_eq!(level(&policy, &proxy, "list", &resource("services", "", "", "")), Level::RequestResponse);
        assert_eq!(level(&policy, &ann, "get", &What::Path("/api/v1")), Level::None);
        assert_eq!(level(&policy, &ann, "get", &What::Path("/healthz")), Level::None);
        assert_eq!(level(&policy, &ann, "get", &resource("configmaps", "", "kube-system", "one")), Level::Request);
        assert_eq!(level(&policy, &ann, "get", &resource("configmaps", "", "kube-system", "two")), Level::RequestResponse);
        assert_eq!(level(&policy, &ann, "create", &resource("serviceaccounts", "token", "a", "b")), Level::Metadata);
        assert_eq!(level(&policy, &ann, "create", &resource("pods", "exec", "a", "b")), Level::Metadata);
        assert_eq!(level(&policy, &ann, "get", &resource("pods", "", "a", "b")), Level::RequestResponse);
        let secret = policy.decide(&ann, "get", &resource("secrets", "", "a", "b"));
        assert_eq!(
            [Stage::RequestReceived, Stage::ResponseStarted, Stage::ResponseComplete].map(|stage| secret.writes(stage)),
            [false, false, true]
        );
        assert!(policy.decide(&ann, "get", &resource("pods", "", "a", "b")).omit_managed_fields);
        let other = What::Resource {
            group: "apps",
            version: "v1",
            resource: "daemonsets",
            subresource: "",
            namespace: "",
            name: "",
            field_selector: "",
        };
        assert_eq!(level(&policy, &ann, "get", &other), Level::None);
    }

    #[test]
    fn a_policy_that_cannot_be_meant_is_refused_with_what_is_wrong() {
        let refused = |text: &str| Policy::parse(text).unwrap_err().to_string();
        let with = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
        assert!(refused(&with("[]")).contains("no rules"));
        assert!(refused(&with("[{level: Everything}]")).contains("Everything"));
        assert!(refused(&with("[{level: None, verb: [get]}]")).contains("verb"));
        assert!(refused(&with("[{level: None, nonResourceURLs: ['/x'], namespaces: [a]}]")).contains("not both"));
        assert!(refused("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]\n").contains("v1beta1"));
        assert!(refused("a: [").contains("no YAML"));
    }
}
