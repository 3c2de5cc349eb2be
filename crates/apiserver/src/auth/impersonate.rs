//! Acting as another user: the `Impersonate-*` headers.

use http::{HeaderMap, HeaderValue};
use kinds::names;
use kinds::status::Status;

use crate::request::{Attributes, User, What};

const PREFIX: &str = "impersonate-";
const EXTRA_PREFIX: &str = "impersonate-extra-";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user that a client wants to be.
#[derive(Debug, PartialEq)]
pub struct Impersonation {
    user: User,
    /// The groups that the client named; those that follow from the user's name need no permission.
    groups: Vec<String>,
}

/// What the headers ask for; None without them. A header that cannot be read refuses: without it
/// the request would run as the caller.
pub fn requested(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
    if headers.keys().all(|name| !name.as_str().starts_with(PREFIX)) {
        return Ok(None);
    }
    if let Some(unknown) = headers.keys().find(|name| name.as_str().starts_with(PREFIX) && !is_known(name.as_str())) {
        return Err(Status::bad_request(format!("{unknown} is no header that says whom to impersonate")));
    }
    let name = single(headers, "impersonate-user")?;
    let uid = single(headers, "impersonate-uid")?;
    let named: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect::<Result<_, _>>()?;
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA_PREFIX) {
            extra.entry(wire::query::decode_path(key)).or_default().push(text(value)?);
        }
    }
    if name.is_empty() {
        return Err(Status::bad_request("requested impersonation without naming a user in impersonate-user"));
    }
    let mut groups = if named.is_empty() { service_account_groups(&name).unwrap_or_default() } else { named.clone() };
    let told = |groups: &[String]| groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED);
    if name == "system:anonymous" {
        if !groups.iter().any(|g| g == UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !told(&groups) {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(Impersonation { user: User { name, uid, groups, extra }, groups: named }))
}

fn is_known(header: &str) -> bool {
    matches!(header, "impersonate-user" | "impersonate-uid" | "impersonate-group") || header.starts_with(EXTRA_PREFIX)
}

/// Header values are bytes; Kubernetes reads them as UTF-8.
fn text(value: &HeaderValue) -> Result<String, Status> {
    let text = std::str::from_utf8(value.as_bytes());
    text.map(str::to_owned).map_err(|_| Status::bad_request("a header that says whom to impersonate is not UTF-8"))
}

/// The value of a header that may be there once; empty without it.
fn single(headers: &HeaderMap, name: &str) -> Result<String, Status> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(String::new()),
        (Some(value), None) => text(value),
        (Some(_), Some(_)) => Err(Status::bad_request(format!("{name} is there more than once"))),
    }
}

/// Namespace and name of the service account that a user name stands for, if it is one.
///
/// Both have to be names that accounts can have: anything else is a user who only looks like one,
/// as in Kubernetes.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let is_name = names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(name).is_empty();
    is_name.then_some((namespace, name))
}

/// The groups of a service account's user name, if it is one.
pub fn service_account_groups(user: &str) -> Option<Vec<String>> {
    let (namespace, _) = service_account(user)?;
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
        match service_account(&self.user.name) {
            Some((namespace, name)) => asked.push(ask("", "serviceaccounts", "", namespace, name)),
            None => asked.push(ask("", "users", "", "", &self.user.name)),
        }
        asked.extend(self.groups.iter().map(|group| ask("", "groups", "", "", group)));
        if !self.user.uid.is_empty() {
            asked.push(ask("authentication.k8s.io", "uids", "", "", &self.user.uid));
        }
        for (key, values) in &self.user.extra {
            asked.extend(values.iter().map(|value| ask("authentication.k8s.io", "userextras", key, "", value)));
        }
        asked
    }

    pub fn into_user(self) -> User {
        self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested_by(headers: &[(&'static str, &[u8])]) -> Result<Option<Impersonation>, Status> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        requested(&map)
    }

    #[test]
    fn without_the_headers_there_is_no_impersonation() {
        assert_eq!(requested_by(&[("accept", b"*/*")]).unwrap(), None);
    }

    #[test]
    fn names_are_utf_8() {
        let ann = requested_by(&[("impersonate-user", "jürgen".as_bytes())]).unwrap().unwrap().into_user();
        assert_eq!((ann.name.as_str(), ann.groups.as_slice()), ("jürgen", ["system:authenticated".to_owned()].as_slice()));
    }

    #[test]
    fn what_cannot_be_read_refuses() {
        let user: (&'static str, &[u8]) = ("impersonate-user", b"ann");
        for headers in [
            vec![("impersonate-user", b"j\xfcrgen".as_slice())],
            vec![("impersonate-user", b"".as_slice())],
            vec![user, ("impersonate-user", b"bob")],
            vec![user, ("impersonate-group", b"\xff")],
            vec![user, ("impersonate-uid", b"\xff")],
            vec![user, ("impersonate-extra-scopes", b"\xff")],
            vec![user, ("impersonate-groups", b"ops")],
            vec![("impersonate-group", b"ops".as_slice())],
            vec![("impersonate-extra-scopes", b"view".as_slice())],
        ] {
            assert_eq!(requested_by(&headers).unwrap_err().code, 400, "{headers:?}");
        }
    }

    #[test]
    fn every_group_that_is_named_needs_permission_and_implied_ones_do_not() {
        let caller = User::system("bob", &[]);
        let asked = |headers: &[(&'static str, &[u8])]| -> Vec<String> {
            let wanted = requested_by(headers).unwrap().unwrap();
            let permissions = wanted.permissions(&caller);
            let resources = permissions.iter().map(|p| match p.what {
                What::Resource { resource, name, .. } => format!("{resource}/{name}"),
                What::Path(path) => path.to_owned(),
            });
            resources.collect()
        };
        let account: (&'static str, &[u8]) = ("impersonate-user", b"system:serviceaccount:dev:bot");
        assert_eq!(asked(&[account]), ["serviceaccounts/bot"]);
        let group = ("impersonate-group", b"system:serviceaccounts".as_slice());
        assert_eq!(asked(&[account, group]), ["serviceaccounts/bot", "groups/system:serviceaccounts"]);
        assert_eq!(asked(&[("impersonate-user", b"system:serviceaccount:dev:a:b")]), ["users/system:serviceaccount:dev:a:b"]);
    }
}
