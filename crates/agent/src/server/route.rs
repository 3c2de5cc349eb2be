//! Paths of the node's endpoints: what is asked, and which subresource of the Node stands for it
//! when permission is asked.

use http::Method;

/// A container of a pod (or a pod, where the container does not matter), as paths name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub namespace: String,
    pub pod: String,
    /// Where given, the pod must have it.
    pub uid: Option<String>,
    pub container: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metrics {
    Agent,
    Cadvisor,
    Resource,
    Probes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Health,
    Pods,
    RunningPods,
    Summary,
    Metrics(Metrics),
    /// A path below the node's folder of logs.
    NodeLogs(String),
    ContainerLogs(Target),
    Exec(Target),
    Attach(Target),
    Run(Target),
    PortForward(Target),
}

pub fn parse(path: &str) -> Option<Route> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(wire::query::decode_path).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Some(match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "syncloop" | "log"] => Route::Health,
        ["pods"] => Route::Pods,
        ["runningpods"] => Route::RunningPods,
        ["stats", "summary"] => Route::Summary,
        ["metrics"] => Route::Metrics(Metrics::Agent),
        ["metrics", "cadvisor"] => Route::Metrics(Metrics::Cadvisor),
        ["metrics", "resource"] => Route::Metrics(Metrics::Resource),
        ["metrics", "probes"] => Route::Metrics(Metrics::Probes),
        ["logs", rest @ ..] => Route::NodeLogs(rest.join("/")),
        ["containerLogs", namespace, pod, container] => Route::ContainerLogs(target(namespace, pod, None, container)),
        ["portForward", namespace, pod] => Route::PortForward(target(namespace, pod, None, "")),
        ["portForward", namespace, pod, uid] => Route::PortForward(target(namespace, pod, Some(uid), "")),
        [what @ ("exec" | "attach" | "run"), namespace, pod, container] => of_process(what, target(namespace, pod, None, container)),
        [what @ ("exec" | "attach" | "run"), namespace, pod, uid, container] => {
            of_process(what, target(namespace, pod, Some(uid), container))
        }
        _ => return None,
    })
}

fn target(namespace: &str, pod: &str, uid: Option<&str>, container: &str) -> Target {
    Target { namespace: namespace.to_owned(), pod: pod.to_owned(), uid: uid.map(str::to_owned), container: container.to_owned() }
}

fn of_process(what: &str, target: Target) -> Route {
    match what {
        "exec" => Route::Exec(target),
        "attach" => Route::Attach(target),
        _ => Route::Run(target),
    }
}

impl Route {
    /// The kubelet's mapping of paths to subresources of nodes.
    pub fn subresource(&self) -> &'static str {
        match self {
            Route::Health => "healthz",
            Route::Pods | Route::RunningPods => "pods",
            Route::Summary => "stats",
            Route::Metrics(_) => "metrics",
            Route::NodeLogs(_) => "log",
            Route::ContainerLogs(_) | Route::Exec(_) | Route::Attach(_) | Route::Run(_) | Route::PortForward(_) => "proxy",
        }
    }

    pub fn allows(&self, method: &Method) -> bool {
        match self {
            Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => matches!(*method, Method::GET | Method::POST),
            Route::Run(_) => *method == Method::POST,
            _ => matches!(*method, Method::GET | Method::HEAD),
        }
    }
}

/// The verb to ask permission for. A client that runs processes must be allowed to create, also by
/// the GET that begins a WebSocket; the kubelet is content with `get` there, which lets readers of
/// figures into containers.
pub fn verb(method: &Method, route: Option<&Route>) -> &'static str {
    if matches!(route, Some(Route::Exec(_) | Route::Attach(_) | Route::Run(_) | Route::PortForward(_))) {
        return "create";
    }
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_kubelets() {
        let expected = target("ns", "p", Some("u"), "c");
        assert_eq!(parse("/exec/ns/p/u/c"), Some(Route::Exec(expected)));
        assert_eq!(parse("/containerLogs/ns/p/c"), Some(Route::ContainerLogs(target("ns", "p", None, "c"))));
        assert_eq!(parse("/logs/"), Some(Route::NodeLogs(String::new())));
        assert_eq!(parse("/metrics/other"), None);
    }

    #[test]
    fn running_something_needs_create() {
        let route = parse("/exec/ns/p/c");
        assert_eq!(verb(&Method::GET, route.as_ref()), "create");
        assert_eq!(verb(&Method::GET, Some(&Route::Summary)), "get");
    }
}
