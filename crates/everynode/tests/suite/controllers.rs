//! The smaller controllers from outside: endpoints, disruption budgets, quotas, roles that are
//! sums, what namespaces have.
//!
//! Each test is one story over the real server; the deciders' rules have their own tests in
//! `brain`.

use serde_json::{Value, json};

use crate::support::{Fleet, Server, wait_for};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/web";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const MERGE: &str = "application/merge-patch+json";

/// What these stories do to a fleet.
struct Cluster(Fleet);

impl std::ops::Deref for Cluster {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        &self.0
    }
}

impl Cluster {
    fn start(nodes: usize) -> Cluster {
        Cluster(Fleet::start(nodes))
    }

    fn create_daemon_set(&self) {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
                    "name": "c", "image": "nginx:1", "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }]}},
            },
        });
        self.api.create("/apis/apps/v1/namespaces/default/daemonsets", &set);
    }

    fn create_service(&self) -> Value {
        let ports = json!([{"name": "web", "port": 80, "targetPort": "http"}]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"tier": "front"}},
            "spec": {"selector": {"app": "web"}, "ports": ports},
        });
        self.api.create(SERVICES, &service)
    }

    /// The slices of the Service `web`.
    fn slices(&self) -> Vec<Value> {
        self.list(&format!("{SLICES}?labelSelector=kubernetes.io/service-name=web"))
    }

    /// Names of nodes with a ready endpoint in a slice of `web`.
    fn ready_nodes(&self) -> Vec<String> {
        let slices = self.slices();
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let mut nodes: Vec<String> = endpoints
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .map(|endpoint| endpoint["nodeName"].as_str().unwrap_or_default().to_owned())
            .collect();
        nodes.sort();
        nodes
    }

    fn wait_for_endpoints(&self, count: usize) {
        wait_for(&format!("{count} ready endpoints"), || {
            let addresses = self.api.get(ENDPOINTS).json()["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
            (self.ready_nodes().len() == count && addresses == count).then_some(())
        });
    }
}

fn allowed(budget: &Value) -> (&Value, &Value) {
    (&budget["status"]["disruptionsAllowed"], &budget["status"]["conditions"][0]["reason"])
}

#[test]
fn services_list_the_addresses_of_their_pods() {
    let cluster = Cluster::start(3);
    let service = cluster.create_service();
    wait_for("a slice without endpoints", || (cluster.slices().len() == 1).then_some(()));
    cluster.create_daemon_set();
    cluster.wait_for_endpoints(3);
    assert_eq!(cluster.ready_nodes(), ["everynode-1", "everynode-2", "everynode-3"]);
    let slices = cluster.slices();
    assert_eq!(slices.len(), 1);
    let slice = &slices[0];
    assert_eq!(slice["ports"], json!([{"name": "web", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], service["metadata"]["uid"]);
    assert_eq!(slice["metadata"]["labels"]["tier"], "front");
    assert_eq!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    let endpoints = cluster.api.get(ENDPOINTS).json();
    assert_eq!(endpoints["subsets"][0]["ports"], json!([{"name": "web", "port": 8080, "protocol": "TCP"}]));

    let version = || cluster.slices()[0]["metadata"]["resourceVersion"].clone();
    let before = version();
    let pod = cluster.list(PODS)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    cluster.patch(&format!("{PODS}/{pod}"), json!({"metadata": {"annotations": {"note": "x"}}}));
    cluster.patch(&format!("{PODS}/{pod}"), json!({"metadata": {"labels": {"app": "released"}}}));
    wait_for("the successor of the released pod", || {
        let pods = cluster.list(PODS);
        (pods.len() == 4 && !cluster.slices()[0].to_string().contains(&pod)).then_some(())
    });
    cluster.wait_for_endpoints(3);
    assert_ne!(version(), before);

    assert_eq!(cluster.api.delete(&format!("{SERVICES}/web")).code, 200);
    wait_for("slices and Endpoints to go", || (cluster.slices().is_empty() && cluster.api.get(ENDPOINTS).code == 404).then_some(()));
}

#[test]
fn many_endpoints_are_in_slices_of_a_hundred() {
    let cluster = Cluster::start(120);
    cluster.create_service();
    cluster.create_daemon_set();
    cluster.wait_for_endpoints(120);
    let sizes: Vec<usize> = cluster.slices().iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).collect();
    assert!(sizes.iter().all(|size| *size <= 100) && sizes.iter().sum::<usize>() == 120, "{sizes:?}");
}

#[test]
fn endpoints_made_by_hand_are_mirrored_and_otherwise_left_alone() {
    let cluster = Cluster::start(1);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hand"}, "spec": {"ports": [{"port": 80}]}});
    cluster.api.create(SERVICES, &service);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "hand"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}],
    });
    cluster.api.create("/api/v1/namespaces/default/endpoints", &endpoints);
    let mirrored = || cluster.list(&format!("{SLICES}?labelSelector=kubernetes.io/service-name=hand"));
    let slice = wait_for("the mirrored slice", || mirrored().pop());
    let by_hand = cluster.api.get("/api/v1/namespaces/default/endpoints/hand").json();
    assert_eq!(by_hand["subsets"][0]["addresses"], endpoints["subsets"][0]["addresses"]);
    assert_eq!(slice["endpoints"], json!([{"addresses": ["10.1.2.3"], "conditions": {"ready": true}}]));
    assert_eq!(slice["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
    let metadata = &slice["metadata"];
    assert_eq!(metadata["labels"]["endpointslice.kubernetes.io/managed-by"], "endpointslicemirroring-controller.k8s.io");
    assert_eq!(metadata["ownerReferences"][0]["uid"], by_hand["metadata"]["uid"]);
    assert_eq!(cluster.api.delete("/api/v1/namespaces/default/endpoints/hand").code, 200);
    wait_for("the mirrored slice to go", || mirrored().is_empty().then_some(()));
}

#[test]
fn a_budget_lets_evictions_pass_until_it_is_used_up() {
    let cluster = Cluster::start(3);
    cluster.create_daemon_set();
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}});
    cluster
        .api
        .create(BUDGETS, &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec}));
    let budget = || cluster.api.get(&format!("{BUDGETS}/b")).json();
    wait_for("one disruption", || (allowed(&budget()) == (&json!(1), &json!("SufficientPods"))).then_some(()));
    let status = budget()["status"].clone();
    assert_eq!((&status["currentHealthy"], &status["desiredHealthy"], &status["expectedPods"]), (&json!(3), &json!(2), &json!(3)));
    assert_eq!(status["observedGeneration"], 1);

    let names: Vec<String> = cluster.list(PODS).iter().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect();
    let evict = |name: &str| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        cluster.api.post(&format!("{PODS}/{name}/eviction"), &eviction)
    };
    assert_eq!(evict(&names[0]).code, 201);
    let refused = evict(&names[1]);
    assert_eq!(refused.code, 429, "{}", refused.text());
    wait_for("the evicted pod's successor", || {
        let budget = budget();
        let is_forgotten = budget["status"]["disruptedPods"].as_object().is_none_or(serde_json::Map::is_empty);
        (is_forgotten && allowed(&budget) == (&json!(1), &json!("SufficientPods"))).then_some(())
    });
    assert_eq!(evict(&names[1]).code, 201);
}

#[test]
fn a_budget_that_needs_the_scale_of_a_daemon_set_allows_nothing() {
    let cluster = Cluster::start(1);
    cluster.create_daemon_set();
    wait_for("a ready pod", || (cluster.list(PODS).first()?["status"]["phase"] == "Running").then_some(()));
    let spec = json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    cluster
        .api
        .create(BUDGETS, &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec}));
    let message = wait_for("the condition", || {
        let condition = cluster.api.get(&format!("{BUDGETS}/b")).json()["status"]["conditions"][0].clone();
        (condition["reason"] == "SyncFailed").then(|| condition["message"].clone())
    });
    assert_eq!(message, "daemonsets.apps does not implement the scale subresource");
    wait_for("the event", || {
        let events = cluster.list("/api/v1/namespaces/default/events");
        events.iter().any(|event| event["reason"] == "CalculateExpectedPodCountFailed").then_some(())
    });
}

#[test]
fn quotas_say_what_is_used_and_refuse_more_objects() {
    let cluster = Cluster::start(2);
    let hard = json!({"pods": "10", "requests.cpu": "1", "memory": "1Gi", "configmaps": "2", "count/daemonsets.apps": "5"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    cluster.api.create(QUOTAS, &quota);
    cluster.create_daemon_set();
    let used = |wanted: Value| {
        wait_for(&format!("{wanted} to be used"), || {
            let status = cluster.api.get(&format!("{QUOTAS}/q")).json()["status"].clone();
            (status["hard"] == hard && status["used"] == wanted).then_some(())
        });
    };
    used(json!({"pods": "2", "requests.cpu": "20m", "memory": "32Mi", "configmaps": "1", "count/daemonsets.apps": "1"}));
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    cluster.api.create(CONFIG_MAPS, &map("a"));
    let refused = cluster.api.post(CONFIG_MAPS, &map("b"));
    let message = refused.status(403);
    assert_eq!(
        message,
        "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
    );
    assert_eq!(cluster.api.delete(&format!("{CONFIG_MAPS}/a")).code, 200);
    cluster.api.create(CONFIG_MAPS, &map("b"));
    assert_eq!(cluster.api.delete("/apis/apps/v1/namespaces/default/daemonsets/web").code, 200);
    used(json!({"pods": "0", "requests.cpu": "0", "memory": "0", "configmaps": "2", "count/daemonsets.apps": "0"}));
}

#[test]
fn roles_that_are_sums_follow_what_they_sum() {
    let cluster = Cluster::start(1);
    let rule = |resource: &str| json!({"apiGroups": ["example.com"], "resources": [resource], "verbs": ["get"]});
    let part = |name: &str, resource: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name, "labels": {"sum": "yes"}}, "rules": [rule(resource)],
        })
    };
    let sum = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "sum"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"sum": "yes"}}]},
    });
    cluster.api.create(ROLES, &part("b", "widgets"));
    cluster.api.create(ROLES, &sum);
    let rules = |wanted: Value| {
        wait_for(&format!("the rules {wanted}"), || (cluster.api.get(&format!("{ROLES}/sum")).json()["rules"] == wanted).then_some(()));
    };
    rules(json!([rule("widgets")]));
    cluster.api.create(ROLES, &part("a", "gadgets"));
    rules(json!([rule("gadgets"), rule("widgets")]));
    assert_eq!(cluster.api.delete(&format!("{ROLES}/b")).code, 200);
    rules(json!([rule("gadgets")]));
    let mut view = part("everybody-sees-widgets", "widgets");
    view["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    cluster.api.create(ROLES, &view);
    wait_for("the rule in view, edit and admin", || {
        let has = |name: &str| cluster.api.get(&format!("{ROLES}/{name}")).json()["rules"].to_string().contains("widgets");
        ["view", "edit", "admin"].into_iter().all(has).then_some(())
    });
}

#[test]
fn the_root_certificate_of_a_namespace_is_put_back() {
    let cluster = Cluster::start(1);
    let path = format!("{CONFIG_MAPS}/kube-root-ca.crt");
    let certificate = wait_for("the certificate", || cluster.api.get(&path).json()["data"]["ca.crt"].as_str().map(str::to_owned));
    cluster.patch(&path, json!({"data": {"ca.crt": "nonsense", "more": "x"}}));
    wait_for("the certificate to be back", || (cluster.api.get(&path).json()["data"] == json!({"ca.crt": certificate})).then_some(()));
    assert_eq!(cluster.api.delete(&path).code, 200);
    wait_for("the certificate to be back", || (cluster.api.get(&path).json()["data"] == json!({"ca.crt": certificate})).then_some(()));
}

#[test]
fn nodes_are_told_how_long_to_keep_things() {
    let cluster = Cluster::start(2);
    wait_for("the annotation", || {
        let annotation = |node: &Value| node["metadata"]["annotations"]["node.alpha.kubernetes.io/ttl"] == "0";
        cluster.list("/api/v1/nodes").iter().all(annotation).then_some(())
    });
}

#[test]
fn there_is_one_default_priority() {
    let server = Server::start(&[]);
    let api = server.admin();
    let class = |name: &str, is_default: bool| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 5,
            "globalDefault": is_default,
        })
    };
    api.create(CLASSES, &class("one", true));
    api.create(CLASSES, &class("two", false));
    // As in Kubernetes, what is looked up here is a picture that follows.
    wait_for("the classes in the server's picture", || {
        let list = api.get(&format!("{CLASSES}?resourceVersion=0")).json();
        let names: Vec<&str> = list["items"].as_array()?.iter().filter_map(|class| class["metadata"]["name"].as_str()).collect();
        ["one", "two"].iter().all(|name| names.contains(name)).then_some(())
    });
    let message = "is forbidden: PriorityClass one is already marked as default. Only one default can exist";
    assert_eq!(api.post(CLASSES, &class("three", true)).status(403), format!("priorityclasses.scheduling.k8s.io \"three\" {message}"));
    let patch = |name: &str| {
        let body = json!({"globalDefault": true, "description": "x"}).to_string();
        api.ask("PATCH", &format!("{CLASSES}/{name}"), MERGE, body.as_bytes()).expect("the server answers")
    };
    assert_eq!(patch("two").status(403), format!("priorityclasses.scheduling.k8s.io \"two\" {message}"));
    assert_eq!(patch("one").code, 200, "it may stay the default");
}
