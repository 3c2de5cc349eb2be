//! The built-in DaemonSets: addresses of Services and names work in pods, go on while parts of them
//! end, and stop when they are deleted.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::{LONG, PODS, pod, wait_long};
use crate::support::{Cluster, Kubectl};

const NODE_PORT: u16 = 30080;
const HOST_PORT: u16 = 8099;
/// By chance, all of them meet the same one of two endpoints once in a thousand million times.
const REQUESTS: usize = 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers with the pod's name. The pause before its end is for others to notice that it ends.
fn web() -> Value {
    let script = "mkdir /tmp/w && hostname > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w";
    let mut spec = pod("web", script)["spec"].clone();
    spec["terminationGracePeriodSeconds"] = json!(10);
    spec["tolerations"] = json!([]);
    let container = &mut spec["containers"][0];
    container["ports"] = json!([{"containerPort": 8080}]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 3}}});
    let labels = json!({"app": "web"});
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        },
    })
}

struct Addons {
    cluster: Cluster,
}

impl Addons {
    fn start_or_skip(group: &str) -> Option<Addons> {
        let cluster = Cluster::prepare_or_skip(group)?;
        cluster.up_with_addons(2);
        cluster.load_busybox();
        cluster.wait_for_service_account();
        let addons = Addons { cluster };
        addons.wait_for_addons();
        let api = addons.cluster.api();
        api.create("/apis/apps/v1/namespaces/default/daemonsets", &web());
        let service = |name: &str, spec: Value| {
            api.create("/api/v1/namespaces/default/services", &json!({"metadata": {"name": name}, "spec": spec}));
        };
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]);
        service("web", json!({"type": "NodePort", "selector": {"app": "web"}, "ports": ports}));
        let ports = json!([{"name": "http", "port": 8080}]);
        service("agents", json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": ports}));
        // Of the built-in image: busybox without shared libraries cannot look up names for wget.
        let mut client = pod("client", "");
        client["spec"]["containers"][0]["image"] = json!("everynode.dev/agent:builtin");
        client["spec"]["containers"][0]["command"] = json!(["sleep", "100000"]);
        addons.cluster.create_pod(&client);
        addons.cluster.create_pod(&pod("shell", "exec sleep 100000"));
        addons.kubectl().run("rollout status daemonset/web --timeout=120s");
        addons.cluster.wait_ready("client");
        addons.cluster.wait_ready("shell");
        Some(addons)
    }

    fn kubectl(&self) -> Kubectl<'_> {
        self.cluster.kubectl()
    }

    fn wait_for_addons(&self) {
        for set in ["kube-proxy", "node-dns"] {
            self.kubectl().run(&format!("-n kube-system rollout status daemonset/{set} --timeout=120s"));
        }
    }

    /// What a command in a pod prints; None when it fails.
    fn inside(&self, pod: &str, command: &[&str]) -> Option<String> {
        let output = self.kubectl().output(&[&["exec", pod, "--"], command].concat(), "", &[]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn get(&self, url: &str) -> Option<String> {
        self.inside("client", &["get", url])
    }

    fn look_up(&self, name: &str) -> Option<String> {
        self.inside("shell", &["nslookup", name])
    }

    fn web_pods(&self) -> Vec<Value> {
        let is_web = |pod: &Value| pod["metadata"]["labels"]["app"] == "web";
        self.cluster.api().get(PODS).json()["items"].as_array().into_iter().flatten().filter(|pod| is_web(pod)).cloned().collect()
    }

    fn web_names(&self) -> BTreeSet<String> {
        self.web_pods().iter().map(|pod| text(&pod["metadata"]["name"])).collect()
    }

    /// Waits until the Service answers with all pods.
    fn wait_until_all_answer(&self) {
        let wanted = self.web_names();
        let mut seen = BTreeSet::new();
        wait_long("answers of all endpoints", || {
            seen.extend(self.get("http://web/"));
            seen.is_superset(&wanted).then_some(())
        });
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn daemons_are_reached_in_every_way() {
    let Some(addons) = Addons::start_or_skip("addons") else { return };
    let pods = addons.web_pods();
    assert_eq!(pods.len(), 2);
    // A Service's address: any of them.
    addons.wait_until_all_answer();
    let answers: BTreeSet<String> = (0..REQUESTS).filter_map(|_| addons.get("http://web.default/")).collect();
    assert_eq!(answers, addons.web_names());
    // A headless Service's name: all of them.
    let listed = addons.look_up("agents.default.svc.cluster.local").expect("the name is known");
    for pod in &pods {
        let address = text(&pod["status"]["podIP"]);
        assert!(listed.contains(&address), "{address} is missing in {listed}");
    }
    // A port of all nodes, also those without a pod, from outside.
    let nodes = addons.cluster.api().get("/api/v1/nodes").json();
    for node in nodes["items"].as_array().expect("a list") {
        let address: SocketAddr = format!("{}:{NODE_PORT}", text(&node["status"]["addresses"][0]["address"])).parse().expect("an address");
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    // The API server, by its name.
    let secure = addons.kubectl().output(&["exec", "client", "--", "get", "http://kubernetes.default:443/"], "", &[]);
    let said = String::from_utf8_lossy(&secure.stderr).into_owned();
    // It is reached, and ends a connection that does not speak TLS.
    assert!(said.contains("no HTTP") || said.contains("reset"), "{said}");
    // What is not there is not found, and not waited for.
    assert_eq!(addons.look_up("nothing.default.svc.cluster.local"), None);
    let sets = addons.kubectl().run("-n kube-system get daemonsets -o wide");
    for column in ["kube-proxy    3         3         3", "everynode.dev/agent:builtin", "k8s-app=node-dns"] {
        assert!(sets.contains(column), "{column} is missing in\n{sets}");
    }
}

#[test]
fn host_ports_lead_to_the_pod_of_the_node() {
    let Some(addons) = Addons::start_or_skip("addonports") else { return };
    let mut set = web();
    set["metadata"]["name"] = json!("host");
    for labels in [&["spec", "selector", "matchLabels"][..], &["spec", "template", "metadata", "labels"]] {
        let place = labels.iter().fold(&mut set, |value, field| &mut value[*field]);
        *place = json!({"app": "host"});
    }
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    set["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 8080, "hostPort": HOST_PORT}]);
    addons.cluster.api().create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    addons.kubectl().run("rollout status daemonset/host --timeout=120s");
    let pods = addons.cluster.api().get(PODS).json();
    let of_set = pods["items"].as_array().into_iter().flatten().filter(|pod| pod["metadata"]["labels"]["app"] == "host");
    let mut count = 0;
    for pod in of_set {
        let node = text(&pod["status"]["hostIP"]);
        assert_eq!(addons.get(&format!("http://{node}:{HOST_PORT}/")), Some(text(&pod["metadata"]["name"])));
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn traffic_goes_on_while_the_addons_are_replaced() {
    let Some(addons) = Addons::start_or_skip("addonlives") else { return };
    addons.wait_until_all_answer();
    for set in ["kube-proxy", "node-dns"] {
        addons.kubectl().run(&format!("-n kube-system rollout restart daemonset/{set}"));
    }
    let done = || {
        let sets = addons.cluster.api().get("/apis/apps/v1/namespaces/kube-system/daemonsets").json();
        sets["items"].as_array().is_some_and(|sets| {
            sets.iter().all(|set| {
                let status = &set["status"];
                status["observedGeneration"] == set["metadata"]["generation"]
                    && status["updatedNumberScheduled"] == json!(3)
                    && status["numberAvailable"] == json!(3)
                    && status["currentNumberScheduled"] == json!(3)
            })
        })
    };
    let mut asked = 0;
    wait_long("the rollouts of the built-in DaemonSets", || {
        let output = addons.kubectl().output(&["exec", "client", "--", "get", "http://web/"], "", &[]);
        assert!(output.status.success(), "request {asked} failed: {}", String::from_utf8_lossy(&output.stderr));
        asked += 1;
        done().then_some(())
    });
    // Killed, not replaced: rules and addresses stay, and new pods come.
    addons.kubectl().run("-n kube-system delete pods -l k8s-app=kube-proxy --grace-period=0 --force");
    for _ in 0..5 {
        assert!(addons.get("http://web/").is_some());
    }
    addons.wait_for_addons();
}

/// Each pod is replaced by one that is ready before it ends. `EVERYNODE_REPLACEMENTS` says how
/// often all pods are replaced.
#[test]
fn no_connection_is_lost_while_pods_are_replaced() {
    let Some(addons) = Addons::start_or_skip("addonsurge") else { return };
    addons.wait_until_all_answer();
    let address = text(&addons.cluster.api().get("/api/v1/namespaces/default/services/web").json()["spec"]["clusterIP"]);
    let script = format!(
        "made=0; lost=0; while :; do if wget -q -O /dev/null http://{address}/; then made=$((made+1)); else lost=$((lost+1)); fi; \
         echo $made $lost > /tmp/new && mv /tmp/new /tmp/counts; done"
    );
    addons.cluster.create_pod(&pod("traffic", &script));
    addons.cluster.wait_ready("traffic");
    let counts = || -> [usize; 2] {
        let counts =
            wait_long("figures of the traffic", || addons.inside("traffic", &["cat", "/tmp/counts"]).filter(|text| !text.is_empty()));
        let numbers: Vec<usize> = counts.split(' ').filter_map(|number| number.parse().ok()).collect();
        numbers.try_into().expect("two numbers")
    };
    let rounds = std::env::var("EVERYNODE_REPLACEMENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for _ in 0..rounds {
        let (before, names) = (counts()[0], addons.web_names());
        addons.kubectl().run("rollout restart daemonset/web");
        addons.kubectl().run(&format!("rollout status daemonset/web --timeout={}s", LONG.as_secs()));
        wait_long("the end of the old pods", || addons.web_names().is_disjoint(&names).then_some(()));
        let [made, lost] = counts();
        assert!(made > before, "no connection was made meanwhile");
        assert_eq!(lost, 0, "of {made} connections");
    }
    let [made, lost] = counts();
    println!("{rounds} times all pods replaced: {made} connections, {lost} lost");
}

#[test]
fn a_set_that_is_deleted_takes_what_it_did_along() {
    let Some(addons) = Addons::start_or_skip("addongone") else { return };
    addons.wait_until_all_answer();
    let address = text(&addons.cluster.api().get("/api/v1/namespaces/default/services/web").json()["spec"]["clusterIP"]);
    assert!(addons.get(&format!("http://{address}/")).is_some());
    // As `kubectl delete -f` does with all of it: rights and accounts go first.
    addons.kubectl().run("-n kube-system delete rolebinding kube-proxy");
    addons.kubectl().run("-n kube-system delete serviceaccount kube-proxy node-dns");
    addons.kubectl().run("-n kube-system delete daemonset kube-proxy --wait");
    wait_long("the end of the rules", || addons.get(&format!("http://{address}/")).is_none().then_some(()));
    assert!(addons.look_up("web.default.svc.cluster.local").is_some(), "names are the other set's");
    addons.kubectl().run("-n kube-system delete daemonset node-dns --wait");
    wait_long("the end of names", || addons.look_up("web.default.svc.cluster.local").is_none().then_some(()));
    // They come back with the next `up`.
    addons.cluster.succeed(&["up"]);
    addons.wait_for_addons();
    addons.wait_until_all_answer();
}
