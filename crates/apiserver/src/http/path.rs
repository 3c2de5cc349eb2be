//! Paths and methods of requests: which resource, which object, which verb.
//!
//! The rules are those of Kubernetes' RequestInfoFactory: `/api/v1/namespaces/NS/pods/NAME/log` and
//! so on.

use http::Method;

/// What a request is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Resource(ResourcePath),
    /// Health, version, discovery: everything that is no object.
    Other,
}

/// A resource of a group and version, and what of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Plural, as in the path.
    pub resource: String,
    /// Empty for collections.
    pub name: String,
    pub subresource: String,
    /// What follows the subresource (proxy paths).
    pub rest: String,
    /// The deprecated `/watch/` paths.
    pub deprecated_watch: bool,
}

/// Parses a decoded path.
pub fn parse(path: &str) -> Target {
    let mut parts = path.trim_matches('/').split('/').filter(|p| !p.is_empty());
    let (group, version) = match parts.next() {
        Some("api") => ("", parts.next()),
        Some("apis") => (parts.next().unwrap_or_default(), parts.next()),
        _ => return Target::Other,
    };
    let Some(version) = version else { return Target::Other };
    let mut rest: Vec<&str> = parts.collect();
    let deprecated_watch = rest.first() == Some(&"watch");
    if deprecated_watch {
        rest.remove(0);
    }
    if rest.is_empty() {
        return Target::Other;
    }
    let (namespace, resource_parts) = split_namespace(&rest);
    let part = |at: usize| resource_parts.get(at).copied().unwrap_or_default().to_owned();
    Target::Resource(ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: part(0),
        name: part(1),
        subresource: part(2),
        rest: resource_parts.get(3..).unwrap_or_default().join("/"),
        deprecated_watch,
    })
}

/// `namespaces/NS/pods` is pods in a namespace; `namespaces/NS` and `namespaces/NS/status` are
/// about the namespace itself.
fn split_namespace<'a>(parts: &'a [&'a str]) -> (String, &'a [&'a str]) {
    match parts {
        ["namespaces", name, "status" | "finalize", ..] | ["namespaces", name] => ((*name).to_owned(), parts),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => ((*namespace).to_owned(), rest),
        _ => (String::new(), parts),
    }
}

/// Kubernetes' verb of a request for a resource; `watch` is the query parameter's say.
pub fn verb(method: &Method, path: &ResourcePath, watch: bool) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD if path.deprecated_watch => "watch",
        Method::GET | Method::HEAD if !path.name.is_empty() => "get",
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD => "list",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if path.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath {
        match parse(path) {
            Target::Resource(path) => path,
            Target::Other => panic!("{path} is a resource"),
        }
    }

    #[test]
    fn namespaced_objects_and_subresources() {
        let path = resource("/api/v1/namespaces/dev/pods/a/log");
        assert_eq!(
            (path.namespace.as_str(), path.resource.as_str(), path.name.as_str(), path.subresource.as_str()),
            ("dev", "pods", "a", "log")
        );
    }

    #[test]
    fn namespaces_are_objects_too() {
        let path = resource("/api/v1/namespaces/dev/finalize");
        assert_eq!(
            (path.namespace.as_str(), path.resource.as_str(), path.name.as_str(), path.subresource.as_str()),
            ("dev", "namespaces", "dev", "finalize")
        );
        assert_eq!(resource("/api/v1/namespaces/dev").name, "dev");
        assert_eq!(resource("/api/v1/namespaces").name, "");
    }

    #[test]
    fn discovery_is_no_resource() {
        for path in ["/", "/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/healthz"] {
            assert_eq!(parse(path), Target::Other, "{path}");
        }
    }

    #[test]
    fn the_old_watch_paths_watch() {
        let path = resource("/apis/apps/v1/watch/namespaces/dev/daemonsets/web");
        assert_eq!((path.resource.as_str(), path.name.as_str()), ("daemonsets", "web"));
        assert_eq!(verb(&Method::GET, &path, false), "watch");
    }
}
