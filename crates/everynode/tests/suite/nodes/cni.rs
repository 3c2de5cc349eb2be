//! A node with containerd whose network a DaemonSet brings, as flannel does: it installs a CNI
//! configuration, and tells by the condition NetworkUnavailable when the node has its part.
//!
//! The network here is our own. Where `EVERYNODE_FLANNEL_MANIFEST` names flannel's published
//! manifest, that is applied, too: its programs are replaced by scripts that do the same at the
//! places where they meet Kubernetes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::{condition, container, is_ready, pod, wait_long};
use crate::support::containerd::{CNI_BIN_DIR, CNI_CONF_DIR};
use crate::support::{Cluster, CriNode, Image};

/// What kubelets say with containerd 1.6 and 1.7.
const NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
     message:Network plugin returns error: cni plugin not initialized";
const TAINT: &str = "node.kubernetes.io/network-unavailable";
const CLUSTER_CIDR: &str = "everynode.dev/cluster-cidr";

/// Where this machine's own CNI files would be.
const OF_THE_MACHINE: [&str; 3] = ["/etc/cni", "/opt/cni", "/usr/lib/cni"];

const NETWORK: &str = "test-network";
const NETWORK_IMAGE: &str = "everynode.test/network:1";
const PORT: u16 = 8080;

/// Finds the node and its range, and changes its status by the way that a role with `patch` alone
/// allows.
const COMMON: &str = r#"#!/bin/sh
until node=$(kubectl -n $POD_NAMESPACE get pod $POD_NAME -o 'jsonpath={.spec.nodeName}') && [ -n "$node" ]; do sleep 1; done
range=$(kubectl get node $node -o 'jsonpath={.spec.podCIDR}')
[ -n "$range" ] || { echo "node $node has no range"; exit 1; }
patch() {
  { printf 'PATCH /api/v1/nodes/%s/status HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/strategic-merge-patch+json\r\n' $node
    printf 'Content-Length: %s\r\nConnection: close\r\n\r\n%s' ${#1} "$1"; sleep 2; } | nc 127.0.0.1 8001 > /tmp/answer
  grep -q '200 OK' /tmp/answer || { cat /tmp/answer; exit 1; }
}
condition() {
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  patch '{"status":{"conditions":[{"type":"NetworkUnavailable","status":"'$1'","reason":"'$2'","message":"'$2'","lastHeartbeatTime":"'$now'","lastTransitionTime":"'$now'"}]}}'
}
serve_api() { kubectl proxy --port=8001 > /dev/null & until nc 127.0.0.1 8001 < /dev/null; do sleep 0.2; done; }
"#;

/// Makes the CNI configuration of the template and the node's range.
/// containerd reads it when it is written to: a file that is moved there stays unread.
const INSTALL: &str = r#"sed "s#RANGE#$range#" /etc/test-network/cni.json > /host/cni/10-test.conflist
"#;

/// Is no part of the network until the test lets it.
const RUN: &str = r#"serve_api
condition True Starting
until [ -e /run/test-network/go ]; do sleep 0.2; done
condition False Started
touch /tmp/ready
while :; do sleep 1000; done
"#;

/// Answers for flanneld: metadata and a condition by nodes/status, subnet.env, health.
const FLANNELD: &str = r#"mkdir -p /tmp/w && echo ok > /tmp/w/healthz && httpd -p 8081 -h /tmp/w
serve_api
: >> /run/xtables.lock || exit 1
network=$(sed -n 's/.*"Network": *"\([^"]*\)".*/\1/p' /etc/kube-flannel/net-conf.json)
patch '{"metadata":{"annotations":{"flannel.alpha.coreos.com/kube-subnet-manager":"true"}}}'
base=${range%/*}
printf 'FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s1/%s\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n' $network ${base%0} ${range#*/} > /run/flannel/subnet.env
condition False FlannelIsUp
echo ok > /tmp/w/readyz
while :; do sleep 1000; done
"#;

const INSTALL_CONF: &str = "#!/bin/sh\ncat \"$1\" > \"$2\"\n";

/// Answers for flannel's CNI plugin: gives bridge and host-local the range of subnet.env.
const FLANNEL_PLUGIN: &str = r#"#!/bin/sh
conf=$(cat)
plugins=${CNI_PATH%%:*}
kept=/run/flannel/$CNI_CONTAINERID
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.3.1","supportedVersions":["0.3.0","0.3.1","0.4.0"]}' ;;
ADD)
  if ! [ -r /run/flannel/subnet.env ]; then
    echo '{"cniVersion":"0.3.1","code":999,"msg":"no /run/flannel/subnet.env"}'
    exit 1
  fi
  . /run/flannel/subnet.env
  range=${FLANNEL_SUBNET%.*}.0/${FLANNEL_SUBNET#*/}
  echo '{"cniVersion":"0.3.1","name":"cbr0","type":"bridge","bridge":"cni0","hairpinMode":true,"isDefaultGateway":true,"mtu":'$FLANNEL_MTU',
    "ipam":{"type":"host-local","dataDir":"/run/flannel/ipam","ranges":[[{"subnet":"'$range'"}]],"routes":[{"dst":"'$FLANNEL_NETWORK'"}]}}' > $kept
  exec $plugins/bridge < $kept ;;
DEL) [ -r $kept ] || exit 0; $plugins/bridge < $kept && rm $kept ;;
esac
"#;

struct Site<'a> {
    cluster: &'a Cluster,
    node: CriNode<'a>,
}

impl Site<'_> {
    fn node_object(&self) -> Value {
        self.cluster.node(&self.node.name)
    }

    fn wait_condition(&self, kind: &str, status: &str) {
        wait_long(&format!("{kind}={status}"), || (condition(&self.node_object(), kind) == status).then_some(()));
    }

    /// Taints follow conditions.
    fn wait_taint(&self, is_there: bool) {
        wait_long(&format!("the taint {TAINT}: {is_there}"), || {
            let node = self.node_object();
            let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
            let wanted = |taint: &&Value| taint["key"] == TAINT && taint["effect"] == "NoSchedule";
            (taints.iter().any(|taint| wanted(&taint)) == is_there).then_some(())
        });
    }

    /// A pod in a network of its own, on the node whatever it is like.
    fn create_bound(&self, mut pod: Value) {
        pod["spec"]["nodeName"] = self.node.name.as_str().into();
        self.cluster.create_pod(&pod);
    }

    /// Ready, with an address of the node's range.
    fn wait_connected(&self, name: &str) -> String {
        let pod = self.cluster.wait_ready(name);
        let address = pod["status"]["podIP"].as_str().expect("it has an address").to_owned();
        let range = self.node_object()["spec"]["podCIDR"].as_str().expect("the server gave the node a range").to_owned();
        assert!(is_in(&address, &range), "{address} is in {range}");
        address
    }

    /// Waits for its network: told by an event, and no sandbox is tried.
    fn assert_waits(&self, name: &str) {
        let told = format!("NetworkNotReady: network is not ready: {NOT_READY}");
        wait_long("the event NetworkNotReady", || self.cluster.events(name).contains(&told).then_some(()));
        let events = self.cluster.events(name);
        assert!(!events.iter().any(|event| event.contains("Sandbox")), "{events:?}");
    }

    /// An agent that was started again leaves everything as it is.
    fn restart_agent(&mut self, pods: &[&str]) {
        let ids = || pods.iter().map(|name| container(&self.cluster.pod(name))["containerID"].clone()).collect::<Vec<_>>();
        let before = ids();
        let heartbeat = self.heartbeat();
        self.node.restart_agent();
        wait_long("a report of the new agent", || (self.heartbeat() != heartbeat).then_some(()));
        assert_eq!(before, ids());
    }

    fn heartbeat(&self) -> Value {
        let node = self.node_object();
        let conditions = node["status"]["conditions"].as_array().expect("nodes have conditions");
        conditions.iter().find(|condition| condition["type"] == "Ready").expect("it is told")["lastHeartbeatTime"].clone()
    }

    /// Reason and message of the condition Ready.
    fn ready_message(&self) -> String {
        let node = self.node_object();
        let conditions = node["status"]["conditions"].as_array().expect("nodes have conditions");
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("it is told");
        format!("{}: {}", ready["reason"].as_str().unwrap_or_default(), ready["message"].as_str().unwrap_or_default())
    }
}

fn is_in(address: &str, range: &str) -> bool {
    let (base, length) = range.split_once('/').expect("a range has a length");
    let number = |text: &str| u32::from(text.parse::<Ipv4Addr>().expect("it is an address"));
    let length: u32 = length.parse().expect("it is a number");
    (number(address) ^ number(base)) >> (32 - length) == 0
}

/// Ready when the agent reaches its address.
fn server(name: &str) -> Value {
    let script = format!("mkdir /tmp/w && echo served > /tmp/w/index.html && exec httpd -f -p {PORT} -h /tmp/w");
    let mut pod = pod(name, &script);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1});
    pod
}

/// Ready when it has reached the server.
fn client(name: &str, address: &str) -> Value {
    let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {address} {PORT} | grep -q served");
    let mut pod = pod(name, &format!("until {ask}; do sleep 0.2; done; touch /tmp/reached; exec sleep 1000"));
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/reached"]}, "periodSeconds": 1});
    pod
}

/// Names and times of all files: neither agents nor DaemonSets may touch them here.
fn files_of_the_machine() -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut dirs: Vec<PathBuf> = OF_THE_MACHINE.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            }
            found.push((entry.path(), metadata.modified().expect("files have times")));
        }
    }
    found.sort();
    found
}

/// kubectl and what it is linked to, in an image.
fn kubectl_files() -> Vec<(PathBuf, &'static str)> {
    let found = Command::new("sh").args(["-c", "command -v kubectl"]).output().expect("there is a shell").stdout;
    let program = PathBuf::from(String::from_utf8_lossy(&found).trim());
    let linked = Command::new("ldd").arg(&program).output().map(|output| output.stdout).unwrap_or_default();
    let linked = String::from_utf8_lossy(&linked).into_owned();
    // They live as long as the test: a few short paths.
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/')).map(|word| -> (PathBuf, &'static str) {
        (PathBuf::from(word), Box::leak(word.trim_start_matches('/').to_owned().into_boxed_str()))
    });
    libraries.chain([(program, "bin/kubectl")]).collect()
}

/// An image of kubectl, busybox and scripts.
fn import(site: &Site<'_>, name: &str, programs: &[(&'static str, &str)]) {
    let mut files = kubectl_files();
    for (index, (path, text)) in programs.iter().enumerate() {
        files.push((site.cluster.home.file(&format!("program-{index}"), text), path));
    }
    site.node.import(&Image::with_files(&files), name);
}

/// The network of this test: the same shape as published ones.
fn own_network(site: &Site<'_>) -> Value {
    let host_path = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}});
    let server = site.node.server();
    let (host, port) = server.rsplit_once(':').expect("a server has a port");
    let of_pod = |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    let given = |name: &str, value: &str| json!({"name": name, "value": value});
    let env = json!([
        of_pod("POD_NAME", "metadata.name"),
        of_pod("POD_NAMESPACE", "metadata.namespace"),
        given("KUBERNETES_SERVICE_HOST", host),
        given("KUBERNETES_SERVICE_PORT", port),
    ]);
    let configuration = json!({"cniVersion": "0.4.0", "name": NETWORK, "plugins": [{
        "type": "ptp",
        "ipam": {"type": "host-local", "dataDir": "/run/test-network/ipam", "ranges": [[{"subnet": "RANGE"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    }]});
    let labels = json!({"app": NETWORK});
    let meta = json!({"name": NETWORK, "namespace": NETWORK});
    let spec = json!({
        "hostNetwork": true, "priorityClassName": "system-node-critical", "serviceAccountName": NETWORK,
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}], "terminationGracePeriodSeconds": 1,
        // Not on the local node, which has a network of everynode's.
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [site.node.name]},
        ]}]}}},
        "initContainers": [{
            "name": "install", "image": NETWORK_IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/install"], "env": env,
            "volumeMounts": [{"name": "cni", "mountPath": "/host/cni"}, {"name": "config", "mountPath": "/etc/test-network"}],
        }],
        "containers": [{
            "name": "network", "image": NETWORK_IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/run-network"], "env": env,
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
            "securityContext": {"privileged": false, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
            "volumeMounts": [{"name": "run", "mountPath": "/run/test-network"}, {"name": "lock", "mountPath": "/run/xtables.lock"}],
        }],
        "volumes": [
            host_path("cni", CNI_CONF_DIR), host_path("run", "/var/lib/cri/test-network"),
            {"name": "config", "configMap": {"name": NETWORK}},
            {"name": "lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
        ],
    });
    let rule = |resource: &str, verbs: Value| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": NETWORK, "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
        }},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": NETWORK}, "rules": [
            rule("pods", json!(["get"])), rule("nodes", json!(["get", "list", "watch"])), rule("nodes/status", json!(["patch"])),
        ]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": NETWORK},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NETWORK},
            "subjects": [{"kind": "ServiceAccount", "name": NETWORK, "namespace": NETWORK}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"cni.json": configuration.to_string()}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec},
        }},
    ]})
}

#[test]
fn a_daemon_set_brings_the_network_of_a_node() {
    let Some(cluster) = Cluster::start_or_skip("cni", 0) else { return };
    let before = files_of_the_machine();
    let Some(node) = CriNode::start_without_network_or_skip(&cluster) else { return };
    let mut site = Site { cluster: &cluster, node };
    assert_eq!(site.ready_message(), format!("KubeletNotReady: {NOT_READY}"));
    site.create_bound(server("web"));
    site.assert_waits("web");

    import(&site, NETWORK_IMAGE, &[("install", &format!("{COMMON}{INSTALL}")), ("run-network", &format!("{COMMON}{RUN}"))]);
    let network = own_network(&site);
    cluster.kubectl().stdin("apply -f -", &network.to_string());
    site.wait_condition("Ready", "True");
    assert_eq!(site.ready_message(), "KubeletReady: kubelet is posting ready status");
    let address = site.wait_connected("web");
    site.wait_condition("NetworkUnavailable", "True");
    site.wait_taint(true);
    // Pods that the scheduler places wait for the network's own word.
    let mut placed = client("client", &address);
    placed["spec"]["tolerations"] = json!([]);
    cluster.create_pod(&placed);
    cluster.wait_pod("client", "refused by the scheduler", |pod| condition(pod, "PodScheduled") == "False");
    std::fs::write(site.node.dir().join("test-network/go"), "").expect("the node's folder can be written to");
    site.wait_condition("NetworkUnavailable", "False");
    site.wait_taint(false);
    site.wait_connected("client");
    cluster.kubectl().run(&format!("-n {NETWORK} rollout status daemonset/{NETWORK} --timeout=120s"));
    site.restart_agent(&["web", "client"]);
    assert_eq!(condition(&site.node_object(), "NetworkUnavailable"), "False", "the agent leaves conditions of others alone");

    // Its configuration stays, as that of published networks does.
    cluster.kubectl().stdin("delete --timeout=120s -f -", &network.to_string());
    site.create_bound(client("later", &address));
    site.wait_connected("later");
    // Without a configuration, what runs goes on and what is new waits.
    let configuration = site.node.cni_conf_dir().join("10-test.conflist");
    let text = std::fs::read(&configuration).expect("it was installed");
    std::fs::remove_file(&configuration).expect("the node's folder can be written to");
    site.wait_condition("Ready", "False");
    site.restart_agent(&["web", "later"]);
    assert_eq!(site.ready_message(), format!("KubeletNotReady: {NOT_READY}"));
    site.create_bound(client("waiting", &address));
    site.assert_waits("waiting");
    assert!(is_ready(&cluster.pod("web")));
    std::fs::write(&configuration, text).expect("the node's folder can be written to");
    site.wait_condition("Ready", "True");
    site.wait_connected("waiting");
    assert_eq!(before, files_of_the_machine());
    end(&site);
}

/// The pods end while their network is there to be taken away.
fn end(site: &Site<'_>) {
    for pod in site.cluster.pods() {
        site.cluster.delete_pod(pod["metadata"]["name"].as_str().expect("pods have names"));
    }
    wait_long("the end of all pods", || site.cluster.pods().is_empty().then_some(()));
}

#[test]
fn flannels_manifest_brings_the_network_of_a_node() {
    let Some(manifest) = testing::variable("EVERYNODE_FLANNEL_MANIFEST") else { return };
    let text = std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("EVERYNODE_FLANNEL_MANIFEST: {error}"));
    let Some(cluster) = Cluster::start_or_skip("flannel", 0) else { return };
    let before = files_of_the_machine();
    let Some(node) = CriNode::start_without_network_or_skip(&cluster) else { return };
    let site = Site { cluster: &cluster, node };
    let objects = flannel(&site, &text);
    for image in images(&objects) {
        let programs = [
            ("flannel", FLANNEL_PLUGIN.to_owned()),
            ("opt/bin/install-conf", INSTALL_CONF.to_owned()),
            ("opt/bin/flanneld", format!("{COMMON}{FLANNELD}")),
        ];
        import(&site, &image, &programs.each_ref().map(|(path, text)| (*path, text.as_str())));
    }
    cluster.kubectl().stdin("apply -f -", &json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    site.wait_condition("Ready", "True");
    site.wait_condition("NetworkUnavailable", "False");
    assert_eq!(site.node_object()["metadata"]["annotations"]["flannel.alpha.coreos.com/kube-subnet-manager"], "true");
    site.create_bound(server("web"));
    let address = site.wait_connected("web");
    site.create_bound(client("client", &address));
    site.wait_connected("client");
    assert_eq!(before, files_of_the_machine());
    end(&site);
}

/// The manifest's objects, with folders, network and server of this node.
fn flannel(site: &Site<'_>, text: &str) -> Vec<Value> {
    let node = site.node_object();
    let network = node["metadata"]["annotations"][CLUSTER_CIDR].as_str().expect("the server tells the cluster's range");
    let text = text.replace("/etc/cni/net.d", CNI_CONF_DIR).replace("/opt/cni/bin", CNI_BIN_DIR).replace("10.244.0.0/16", network);
    let documents = text.split("\n---").map(|document| document.trim_start_matches("---")).filter(|text| !text.trim().is_empty());
    let mut objects: Vec<Value> = documents.map(|text| kinds::yaml::parse(text).expect("the manifest is YAML").0.into_value()).collect();
    let server = site.node.server();
    let (host, port) = server.rsplit_once(':').expect("a server has a port");
    for set in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
        let spec = &mut set["spec"]["template"]["spec"];
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": site.node.name});
        let env = spec["containers"][0]["env"].as_array_mut().expect("it has variables");
        env.push(json!({"name": "KUBERNETES_SERVICE_HOST", "value": host}));
        env.push(json!({"name": "KUBERNETES_SERVICE_PORT", "value": port}));
    }
    objects
}

/// All images that DaemonSets among the objects name.
fn images(objects: &[Value]) -> std::collections::BTreeSet<String> {
    let specs = objects.iter().map(|object| &object["spec"]["template"]["spec"]);
    let lists = specs.flat_map(|spec| [&spec["initContainers"], &spec["containers"]]);
    let containers = lists.flat_map(|list| list.as_array().into_iter().flatten());
    containers.filter_map(|container| container["image"].as_str().map(str::to_owned)).collect()
}
