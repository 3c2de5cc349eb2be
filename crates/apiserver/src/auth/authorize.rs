//! May this user do this? The shell around the rules of RBAC: keeps the policy up to date and asks
//! it.

use std::sync::{Arc, PoisonError, RwLock};

use kinds::status::{GroupResource, Status};
use kinds::table;
use serde_json::Value;

use super::node;
use super::rbac::{Objects, Policy, PolicyRule};
use crate::registry::Registry;
use crate::request::{Attributes, MASTERS, User, What};

const RBAC: &str = "rbac.authorization.k8s.io";

/// The answer of the authorizers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
}

/// Decides who may do what, by the roles and bindings that are stored.
pub struct Authorizer {
    pub(super) registry: Arc<Registry>,
    /// The policy as of some versions of its objects.
    policy: RwLock<Option<(u64, Arc<Policy>)>>,
}

impl Authorizer {
    pub fn new(registry: Arc<Registry>) -> Authorizer {
        Authorizer { registry, policy: RwLock::default() }
    }

    /// Refuses what is not allowed.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.authorize(attributes);
        if decision.allowed { Ok(()) } else { Err(forbidden(attributes, &decision.reason)) }
    }

    /// Decides; does not look at what the request would do.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            return Decision { allowed: true, reason: String::new() };
        }
        if node::node_of(attributes.user).is_some_and(|node| node::allows(&self.registry, node, attributes)) {
            return Decision { allowed: true, reason: String::new() };
        }
        match self.policy().allows(attributes) {
            Some(reason) => Decision { allowed: true, reason },
            None => Decision::default(),
        }
    }

    /// All rules that hold for a user in a namespace.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let mut rules = self.policy().rules_of(user, namespace);
        if user.is_in(MASTERS) {
            rules.extend([PolicyRule::everything(), PolicyRule::every_path()]);
        }
        rules
    }

    /// The current policy; built anew when one of its objects has changed.
    pub fn policy(&self) -> Arc<Policy> {
        const RESOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];
        let cache = |resource| self.registry.caches.of(table::by_resource(RBAC, "v1", resource).expect("the table has the RBAC kinds"));
        // Revisions only rise, so that their sum changes whenever one of them does.
        let version: u64 = RESOURCES.iter().map(|resource| cache(resource).last_change()).sum();
        if let Some((known, policy)) = &*self.policy.read().unwrap_or_else(PoisonError::into_inner)
            && *known == version
        {
            return policy.clone();
        }
        let all = |resource| -> Vec<Value> { cache(resource).snapshot("", 0).objects.iter().map(|object| object.value()).collect() };
        let objects = Objects {
            cluster_roles: all("clusterroles"),
            roles: all("roles"),
            cluster_role_bindings: all("clusterrolebindings"),
            role_bindings: all("rolebindings"),
        };
        let policy = Arc::new(Policy::new(&objects));
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Some((version, policy.clone()));
        policy
    }
}

/// The refusal of a request that no rule allows.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = &attributes.user.name;
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match attributes.what {
        What::Path(path) => {
            let nothing = GroupResource { group: "", resource: "" };
            Status::forbidden(nothing, "", &format!("User {user:?} cannot {} path {path:?}{tail}", attributes.verb))
        }
        What::Resource { group, resource, subresource, namespace, name, .. } => {
            let whole = if subresource.is_empty() { resource.to_owned() } else { format!("{resource}/{subresource}") };
            let place = if namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {namespace:?}") };
            let why = format!("User {user:?} cannot {} resource {whole:?} in API group {group:?} {place}{tail}", attributes.verb);
            Status::forbidden(GroupResource { group, resource }, name, &why)
        }
    }
}
