//! Acting as somebody else: the `Impersonate-*` headers.

use http::HeaderMap;
use kinds::status::Status;

use super::User;
use super::authorize::{Attributes, What};

const EXTRA_PREFIX: &str = "impersonate-extra-";

/// The user that a client wants to be.
#[derive(Debug, PartialEq)]
pub struct Impersonation(User);

/// What the headers ask for; None without them.
pub fn requested(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let name = text("impersonate-user");
    let uid = text("impersonate-uid");
    let mut groups: Vec<String> = headers.get_all("impersonate-group").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA_PREFIX), value.to_str()) {
            extra.entry(crate::http::options::decode_path(key)).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(Status::internal("requested impersonation of groups, uid or extra without impersonating a user"));
    }
    if groups.is_empty() {
        groups = service_account_groups(&name).unwrap_or_default();
    }
    let everybody = if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !groups.iter().any(|g| g == everybody) {
        groups.push(everybody.to_owned());
    }
    Ok(Some(Impersonation(User { name, uid, groups, extra })))
}

/// The groups of a service account's user name, if it is one.
pub fn service_account_groups(user: &str) -> Option<Vec<String>> {
    let (namespace, _) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")])
}

impl Impersonation {
    /// What `user` must be allowed, one question for each attribute of the other user.
    pub fn permissions<'a>(&'a self, user: &'a User) -> Vec<Attributes<'a>> {
        let ask = |group: &'static str, resource: &'static str, subresource: &'a str, namespace: &'a str, name: &'a str| Attributes {
            user,
            verb: "impersonate",
            what: What::Resource { group, version: "v1", resource, subresource, namespace, name, field_selector: "" },
        };
        let mut asked = Vec::new();
        match self.0.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, name)) => asked.push(ask("", "serviceaccounts", "", namespace, name)),
            None => asked.push(ask("", "users", "", "", &self.0.name)),
        }
        let implied = service_account_groups(&self.0.name).unwrap_or_default();
        let own = self
            .0
            .groups
            .iter()
            .filter(|g| !implied.contains(g) && !matches!(g.as_str(), "system:authenticated" | "system:unauthenticated"));
        asked.extend(own.map(|group| ask("", "groups", "", "", group)));
        if !self.0.uid.is_empty() {
            asked.push(ask("authentication.k8s.io", "uids", "", "", &self.0.uid));
        }
        for (key, values) in &self.0.extra {
            asked.extend(values.iter().map(|value| ask("authentication.k8s.io", "userextras", key, "", value)));
        }
        asked
    }

    pub fn into_user(self) -> User {
        self.0
    }
}
