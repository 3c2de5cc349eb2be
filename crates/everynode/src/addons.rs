//! The built-in DaemonSets of `kube-system`, as manifests.
//!
//! `everynode up` applies them to clusters with real nodes, `everynode addons` prints them. Their
//! pods run this program from the built-in image. The version in the template makes an upgrade of
//! everynode a rolling update of them.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use brain::pod_network::Mode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::builtin;

/// Where pods ask for names: the tenth address of the range of Services, as kubeadm has it.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const DNS_PORT: u16 = 53;

const NAMESPACE: &str = "kube-system";
const VERSION: &str = "everynode.dev/version";
const LABEL: &str = "k8s-app";

/// What the manifests depend on.
#[derive(Debug)]
pub struct Site {
    /// Where nodes reach the API server.
    pub server: String,
    /// The pods of all nodes.
    pub cluster_cidr: String,
    pub pod_network: PodNetworkChoice,
    /// Whether node-dns goes through the search paths for pods. It then reads all pods.
    pub autopath: bool,
}

/// What connects the pods of different nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PodNetworkChoice {
    /// The built-in DaemonSet `pod-network`.
    BuiltIn(Mode),
    /// Something else, that the user brings.
    None,
}

impl Default for PodNetworkChoice {
    fn default() -> PodNetworkChoice {
        PodNetworkChoice::BuiltIn(Mode::default())
    }
}

impl fmt::Display for PodNetworkChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PodNetworkChoice::BuiltIn(mode) => mode.fmt(f),
            PodNetworkChoice::None => f.write_str("none"),
        }
    }
}

impl FromStr for PodNetworkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<PodNetworkChoice, String> {
        match text {
            "none" => Ok(PodNetworkChoice::None),
            mode => mode.parse().map(PodNetworkChoice::BuiltIn).map_err(|_| format!("{mode:?}: write direct, vxlan, wireguard or none")),
        }
    }
}

impl TryFrom<String> for PodNetworkChoice {
    type Error = String;

    fn try_from(text: String) -> Result<PodNetworkChoice, String> {
        text.parse()
    }
}

impl From<PodNetworkChoice> for String {
    fn from(choice: PodNetworkChoice) -> String {
        choice.to_string()
    }
}

/// All objects, in the order in which they are applied.
pub fn manifests(site: &Site) -> Vec<Value> {
    let pod_network = match site.pod_network {
        PodNetworkChoice::BuiltIn(mode) => pod_network(site, mode),
        PodNetworkChoice::None => Vec::new(),
    };
    [pod_network, kube_proxy(site), node_dns(site)].concat()
}

fn pod_network(site: &Site, mode: Mode) -> Vec<Value> {
    const NAME: &str = "pod-network";
    const ROLE: &str = "everynode:pod-network";
    // New interfaces are closed to routers that others on them could play.
    const SYSCTLS: HostPath = HostPath { name: "sysctls", of_node: "/proc/sys/net", kind: "Directory", path: "/host/proc/sys/net" };
    // Nodes whose kernels know no WireGuard encrypt in the program.
    const TUN: HostPath = HostPath { name: "tun", of_node: "/dev/net/tun", kind: "CharDevice", path: "/dev/net/tun" };
    let is_encrypted = mode == Mode::WireGuard;
    let program = Program {
        name: NAME,
        arguments: [common_arguments(site, NAME), vec![format!("--mode={mode}")]].concat(),
        // Links and routes of the node's own network.
        capabilities: &["NET_ADMIN"],
        ready: json!({"httpGet": {"path": "/readyz", "port": 10255}, "periodSeconds": 2}),
        memory: "20Mi",
        update: json!({"maxUnavailable": "10%"}),
        host_paths: Some(SYSCTLS).into_iter().chain(is_encrypted.then_some(TUN)).collect(),
    };
    let mut rules = vec![
        json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}),
        // Of its own node only: the server refuses others.
        json!({"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}),
    ];
    if is_encrypted {
        // The node's public key is an annotation.
        rules.push(json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}));
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE}, "rules": rules});
    let mut objects = vec![account(NAME), role, binding(ROLE, ROLE, NAME)];
    objects.extend(own_set_role(NAME));
    objects.push(program.daemon_set());
    objects
}

fn kube_proxy(site: &Site) -> Vec<Value> {
    const NAME: &str = "kube-proxy";
    let program = Program {
        name: NAME,
        arguments: common_arguments(site, NAME),
        // Rules change in the node's own network, and nothing else of the node.
        capabilities: &["NET_ADMIN"],
        ready: json!({"httpGet": {"path": "/healthz", "port": 10256}, "periodSeconds": 2}),
        memory: "20Mi",
        update: json!({"maxUnavailable": "10%"}),
        host_paths: Vec::new(),
    };
    let mut objects = vec![account(NAME), binding("everynode:node-proxier", "system:node-proxier", NAME)];
    objects.extend(own_set_role(NAME));
    objects.push(program.daemon_set());
    objects
}

fn common_arguments(site: &Site, name: &str) -> Vec<String> {
    vec![
        format!("--server=https://{}", site.server),
        format!("--cluster-cidr={}", site.cluster_cidr),
        format!("--daemon-set={NAMESPACE}/{name}"),
    ]
}

/// The right to see whether the program's own set is still there.
fn own_set_role(name: &str) -> [Value; 2] {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let rule = json!({"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [name], "verbs": ["get", "list", "watch"]});
    [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(name), "rules": [rule]}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta(name),
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
        }),
    ]
}

fn node_dns(site: &Site) -> Vec<Value> {
    const NAME: &str = "node-dns";
    const ROLE: &str = "everynode:node-dns";
    let own = [Some(format!("--address={CLUSTER_DNS}")), site.autopath.then(|| "--autopath=true".to_owned())].into_iter().flatten();
    let program = Program {
        name: NAME,
        arguments: common_arguments(site, NAME).into_iter().chain(own).collect(),
        // Its address is one of the node's network, and its port is a low one.
        capabilities: &["NET_ADMIN", "NET_BIND_SERVICE"],
        ready: json!({"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2}),
        memory: "20Mi",
        // The old one answers until the new one does.
        update: json!({"maxSurge": "10%", "maxUnavailable": 0}),
        host_paths: Vec::new(),
    };
    let read = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    let mut rules = vec![read("", &["namespaces", "services"]), read("discovery.k8s.io", &["endpointslices"])];
    if site.autopath {
        // It asks for those of its node; a role cannot say so.
        rules.push(read("", &["pods"]));
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE}, "rules": rules});
    // By this name monitoring finds the resolvers, and others find the address. kube-proxy leaves
    // it alone: the address is the node's own.
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": NAMESPACE,
            "labels": {LABEL: "kube-dns", "kubernetes.io/name": "KubeDNS", "service.kubernetes.io/service-proxy-name": NAME},
        },
        "spec": {
            "clusterIP": CLUSTER_DNS,
            "selector": {LABEL: NAME},
            "ports": [
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
            ],
        },
    });
    let mut objects = vec![account(NAME), role, binding(ROLE, ROLE, NAME), service];
    objects.extend(own_set_role(NAME));
    objects.push(program.daemon_set());
    objects
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(name)})
}

fn binding(name: &str, role: &str, account: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    })
}

/// A program of the built-in image, as a DaemonSet.
struct Program {
    name: &'static str,
    arguments: Vec<String>,
    capabilities: &'static [&'static str],
    ready: Value,
    memory: &'static str,
    update: Value,
    host_paths: Vec<HostPath>,
}

/// What the program gets of the node besides its network.
struct HostPath {
    name: &'static str,
    of_node: &'static str,
    /// The type of the volume.
    kind: &'static str,
    path: &'static str,
}

impl Program {
    fn container(&self) -> Value {
        let mounts: Vec<Value> = self.host_paths.iter().map(|of| json!({"name": of.name, "mountPath": of.path})).collect();
        let mut container = json!({
            "name": self.name,
            "image": builtin::IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": [self.name],
            "args": self.arguments,
            "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
            "resources": {"requests": {"cpu": "10m", "memory": self.memory}},
            "readinessProbe": self.ready,
            "securityContext": {
                "capabilities": {"drop": ["ALL"], "add": self.capabilities}, "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "seccompProfile": {"type": "RuntimeDefault"},
            },
        });
        // An empty list would be a change at every apply.
        if !mounts.is_empty() {
            container["volumeMounts"] = mounts.into();
        }
        container
    }

    /// On every node, whatever its taints, in the node's own network.
    fn daemon_set(&self) -> Value {
        let name = self.name;
        let volume = |of: &HostPath| json!({"name": of.name, "hostPath": {"path": of.of_node, "type": of.kind}});
        let volumes: Vec<Value> = self.host_paths.iter().map(volume).collect();
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": meta(name),
            "spec": {
                "selector": {"matchLabels": {LABEL: name}},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": self.update},
                "template": {
                    "metadata": {"labels": {LABEL: name}, "annotations": {VERSION: env!("CARGO_PKG_VERSION")}},
                    "spec": {
                        "serviceAccountName": name,
                        "hostNetwork": true,
                        "priorityClassName": "system-node-critical",
                        "tolerations": [{"operator": "Exists"}],
                        "nodeSelector": {"kubernetes.io/os": "linux"},
                        "terminationGracePeriodSeconds": 5,
                        "dnsPolicy": "Default",
                        "containers": [self.container()],
                    },
                },
            },
        });
        if !volumes.is_empty() {
            set["spec"]["template"]["spec"]["volumes"] = volumes.into();
        }
        set
    }
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": NAMESPACE, "labels": {LABEL: name}})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of node-dns's role, and the arguments of its program.
    fn node_dns_of(autopath: bool) -> (String, String) {
        let site = Site {
            server: "192.0.2.10:6443".to_owned(),
            cluster_cidr: "10.244.0.0/16".to_owned(),
            pod_network: PodNetworkChoice::None,
            autopath,
        };
        let objects = node_dns(&site);
        let of = |kind: &str, path: &str| {
            let object = objects.iter().find(|object| object["kind"] == kind).expect("it is there");
            object.pointer(path).expect("it has this").to_string()
        };
        (of("ClusterRole", "/rules"), of("DaemonSet", "/spec/template/spec/containers/0/args"))
    }

    #[test]
    fn node_dns_reads_pods_only_where_it_goes_through_search_paths() {
        let (rules, arguments) = node_dns_of(false);
        assert!(!rules.contains("pods") && !arguments.contains("autopath"), "{rules} {arguments}");
        let (rules, arguments) = node_dns_of(true);
        assert!(rules.contains(r#""pods""#) && arguments.contains(r#""--autopath=true""#), "{rules} {arguments}");
    }
}
