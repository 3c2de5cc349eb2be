//! The smaller parts: environments, files, limits, security, pulls, probes, eviction, admission of
//! resources.

use std::collections::BTreeMap;

use containers::{Image, UnusedImage};
use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Probe, Secret, Service};
use serde_json::{Value, json};

use super::pretended::pod;
use crate::podsync::env_file::EnvFileError;
use crate::podsync::environment::{Environment, Sources, environment, expand, expand_strictly};
use crate::podsync::eviction::{self, ContainerUsage, Disk, Figures, Room, Thresholds, Usage};
use crate::podsync::files::{DnsSettings, PodDns, dns, hosts, parse_resolv_conf};
use crate::podsync::probe::{Kind, Outcome, Worker};
use crate::podsync::pull::{Decision, decide};
use crate::podsync::{limits, payload, qos, security, termination};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("tests write valid objects")
}

fn first(pod: &Pod) -> &Container {
    &pod.spec.as_ref().unwrap().containers[0]
}

#[test]
fn references_are_expanded_once() {
    let lookup = |name: &str| (name == "A").then(|| "$(B)".to_owned());
    let cases = ["$(A)", "$$(A)", "$(NOPE)", "$(A", "$", "a$b", "$$$(A)"];
    let out: Vec<String> = cases.iter().map(|text| expand(text, &lookup)).collect();
    expect![[r#"["$(B)", "$(A)", "$(NOPE)", "$(A", "$", "a$b", "$$(B)"]"#]].assert_eq(&format!("{out:?}"));
}

#[test]
fn environments_have_services_maps_and_own_values_in_this_order() {
    let mut pod = pod(
        json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "P_", "configMapRef": {"name": "m"}}],
        "env": [{"name": "K", "value": "own"}, {"name": "E", "value": "$(K)-$(WEB_SERVICE_HOST)"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
    );
    pod.metadata.namespace = Some("n".to_owned());
    let map: ConfigMap = from(json!({"data": {"K": "map", "bad=key": "x"}}));
    let web: Service =
        from(json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80}]}}));
    let other: Service =
        from(json!({"metadata": {"name": "x", "namespace": "other"}, "spec": {"clusterIP": "10.0.0.8", "ports": [{"port": 80}]}}));
    let sources = Sources { config_maps: BTreeMap::from([("m".to_owned(), map)]), services: vec![web, other], ..Sources::default() };
    let made = environment(&pod, first(&pod), &sources).unwrap();
    let names: Vec<String> = made.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    expect!["K=own P_K=map E=own-10.0.0.9 N=p WEB_PORT=tcp://10.0.0.9:80 WEB_PORT_80_TCP=tcp://10.0.0.9:80 WEB_PORT_80_TCP_ADDR=10.0.0.9 WEB_PORT_80_TCP_PORT=80 WEB_PORT_80_TCP_PROTO=tcp WEB_SERVICE_HOST=10.0.0.9 WEB_SERVICE_PORT=80"]
        .assert_eq(&names.join(" "));
    assert_eq!(made.warnings.len(), 2, "the key that is no name is told of: {:?}", made.warnings);
    let error = environment(&pod, first(&pod), &Sources::default()).unwrap_err();
    expect![[r#"configmap "m" not found"#]].assert_eq(&error.to_string());
}

#[test]
fn a_variable_that_cannot_be_made_says_why_in_the_kubelets_words() {
    let sources = |text: Result<&str, EnvFileError>| Sources {
        config_maps: BTreeMap::from([("m".to_owned(), ConfigMap::default())]),
        secrets: BTreeMap::from([("s".to_owned(), Secret::default())]),
        env_files: BTreeMap::from([(("v".to_owned(), "f".to_owned()), text.map(str::to_owned))]),
        ..Sources::default()
    };
    let why = |value_from: Value, text: Result<&str, EnvFileError>| {
        let mut pod = pod(json!({"containers": [{"name": "c", "env": [{"name": "V", "valueFrom": value_from}]}]}));
        pod.metadata.namespace = Some("n".to_owned());
        environment(&pod, first(&pod), &sources(text)).map(|made| made.variables).unwrap_err().to_string()
    };
    let key = |name: &str| json!({"name": name, "key": "k"});
    let of_file = || json!({"fileKeyRef": {"volumeName": "v", "path": "f", "key": "k"}});
    let all = [
        why(json!({"configMapKeyRef": key("none")}), Ok("")),
        why(json!({"configMapKeyRef": key("m")}), Ok("")),
        why(json!({"secretKeyRef": key("none")}), Ok("")),
        why(json!({"secretKeyRef": key("s")}), Ok("")),
        why(json!({"fieldRef": {"fieldPath": "spec.x"}}), Ok("")),
        why(json!({"fieldRef": {"fieldPath": "spec.x['y']"}}), Ok("")),
        why(json!({"resourceFieldRef": {"resource": "cpu"}}), Ok("")),
        why(json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "d"}}), Ok("")),
        why(of_file(), Ok("a=b")),
        why(of_file(), Ok("no variables")),
        why(of_file(), Err(EnvFileError::Unreadable)),
        why(json!({"fileKeyRef": {"volumeName": "v", "path": "none", "key": "k"}}), Ok("")),
        expand_strictly("$(A)/b", &Environment::default()).unwrap_err().to_string(),
    ];
    expect![[r#"
        configmap "none" not found
        couldn't find key k in ConfigMap n/m
        secret "none" not found
        couldn't find key k in Secret n/s
        unsupported fieldPath: spec.x
        fieldPath "spec.x['y']" does not support subscript
        unsupported container resource : cpu
        container d not found
        environment variable key "k" not found in file "f"
        couldn't parse env file
        couldn't parse env file
        couldn't parse env file
        missing value for "$(A)/b""#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn a_volume_that_cannot_be_made_says_why_in_the_kubelets_words() {
    let sources = Sources { config_maps: BTreeMap::from([("m".to_owned(), ConfigMap::default())]), ..Sources::default() };
    let why = |volume: Value| {
        let files = payload::files(&Pod::default(), &from(volume), &sources, &BTreeMap::new());
        files.expect("it is made of objects").unwrap_err().to_string()
    };
    let item = json!([{"key": "k", "path": "p"}]);
    let all = [
        why(json!({"name": "v", "configMap": {"name": "none"}})),
        why(json!({"name": "v", "configMap": {"name": "m", "items": item}})),
        why(json!({"name": "v", "secret": {"secretName": "none"}})),
        why(json!({"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "x"}}]}})),
        why(json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
        why(json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "a"}}, {"secret": {"name": "b"}}]}})),
    ];
    expect![[r#"
        configmap "none" not found
        references non-existent config key: k
        secret "none" not found
        unsupported fieldPath: x
        failed to fetch token: none was issued
        [configmap "a" not found, secret "b" not found]"#]]
    .assert_eq(&all.join("\n"));
}

#[test]
fn names_resolve_by_policy_and_config() {
    let node = parse_resolv_conf("nameserver 1.1.1.1\nsearch old\nsearch corp\noptions timeout:1\n");
    let settings = DnsSettings { cluster_servers: vec!["10.96.0.10".to_owned()], cluster_domain: "cluster.local".to_owned(), node };
    let show = |spec: Value| {
        let PodDns { config, warnings } = dns(&pod(spec), &settings);
        assert_eq!(warnings, []);
        format!("{} | {} | {}", config.servers.join(" "), config.searches.join(" "), config.options.join(" "))
    };
    expect!["10.96.0.10 | n.svc.cluster.local svc.cluster.local cluster.local corp | ndots:5"]
        .assert_eq(&show(json!({"containers": [{"name": "c"}]})));
    expect!["1.1.1.1 | corp | timeout:1"].assert_eq(&show(json!({"hostNetwork": true, "containers": [{"name": "c"}]})));
    expect!["9.9.9.9 | a | ndots:2"].assert_eq(&show(json!({"dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}]}, "containers": [{"name": "c"}]})));
}

/// A node without the cluster's resolver gives its own, and says so.
#[test]
fn pods_without_the_clusters_resolver_get_that_of_the_node() {
    let settings = DnsSettings { node: parse_resolv_conf("nameserver 1.1.1.1\nsearch corp.\n"), ..DnsSettings::default() };
    let of = |spec: Value| dns(&pod(spec), &settings);
    let PodDns { config, warnings } = of(json!({"containers": [{"name": "c"}]}));
    assert_eq!((config.servers, config.searches, config.options), (vec!["1.1.1.1".to_owned()], vec!["corp".to_owned()], vec![]));
    let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
    assert_eq!(warning.reason, "MissingClusterDNS");
    expect![[r#"pod: "p_n(u)". kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy."#]]
        .assert_eq(&warning.message);
    assert!(warning.of_node.as_ref().is_some_and(|message| warning.message.ends_with(message)));
    for unconcerned in [
        json!({"dnsPolicy": "Default"}),
        json!({"hostNetwork": true}),
        json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}}),
    ] {
        assert_eq!(of(unconcerned).warnings, []);
    }
    assert_eq!(of(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).warnings.len(), 1);
}

#[test]
fn resolvers_get_no_more_than_they_take() {
    let servers: Vec<String> = (1..=5).map(|number| format!("10.0.0.{number}")).collect();
    let of = |searches: Vec<String>| {
        let config = json!({"nameservers": servers, "searches": searches});
        dns(&pod(json!({"dnsPolicy": "None", "dnsConfig": config})), &DnsSettings::default())
    };
    let PodDns { config, warnings } = of(vec!["a".to_owned()]);
    assert_eq!((config.servers.join(" ").as_str(), config.searches.len()), ("10.0.0.1 10.0.0.2 10.0.0.3", 1));
    expect!["DNSConfigForming: Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.0.0.1 10.0.0.2 10.0.0.3"]
        .assert_eq(&format!("{}: {}", warnings[0].reason, warnings[0].message));
    let many = of((0..33).map(|number| format!("p{number}")).collect());
    assert_eq!((many.config.searches.len(), many.warnings.len()), (32, 2));
    assert!(many.warnings[1].message.ends_with(" p30 p31"));
    let long = of(vec!["a".repeat(254), "b".to_owned()]);
    assert_eq!((long.config.searches, long.warnings.len()), (vec!["b".to_owned()], 2));
    // 2048 bytes and no more: eight paths of 253 with seven spaces, and one of 16 with its space.
    let line = |last: usize| of((0..8).map(|number| format!("{number}{}", "a".repeat(252))).chain(["b".repeat(last)]).collect());
    assert_eq!((line(16).config.searches.len(), line(16).warnings.len()), (9, 1));
    assert_eq!((line(17).config.searches.len(), line(17).warnings.len()), (8, 2));
}

#[test]
fn hosts_of_the_node_are_kept_for_pods_in_its_network() {
    let aliases = json!([{"ip": "10.1.2.3", "hostnames": ["foo", "bar"]}]);
    let text = hosts(
        &pod(json!({"hostNetwork": true, "hostAliases": aliases, "containers": [{"name": "c"}]})),
        &[],
        "cluster.local",
        "127.0.0.1 me",
    );
    expect![[r#"
        # Kubernetes-managed hosts file (host network).
        127.0.0.1 me

        # Entries added by HostAliases.
        10.1.2.3	foo	bar
    "#]]
    .assert_eq(&text);
}

#[test]
fn classes_and_limits_follow_requests() {
    let show = |resources: Value| {
        let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
        let limits = limits::of_container(&pod, first(&pod), 16 << 30);
        format!(
            "{} shares {:?} quota {:?} memory {:?} oom {:?} {}",
            qos::class(&pod).text(),
            limits.cpu_shares,
            limits.cpu_quota_us,
            limits.memory_limit_bytes,
            limits.oom_score_adj,
            limits::cgroup(&pod)
        )
    };
    expect!["BestEffort shares Some(2) quota None memory None oom Some(1000) kubepods/besteffort/podu"].assert_eq(&show(json!({})));
    expect!["Burstable shares Some(102) quota Some(50000) memory Some(67108864) oom Some(997) kubepods/burstable/podu"]
        .assert_eq(&show(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "64Mi"}})));
    expect!["Guaranteed shares Some(1024) quota Some(100000) memory Some(1073741824) oom Some(-997) kubepods/podu"]
        .assert_eq(&show(json!({"limits": {"cpu": "1", "memory": "1Gi"}})));
}

#[test]
fn limits_beyond_the_kernels_are_the_largest_it_takes() {
    let pod = pod(json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "100000000000000"}}}]}));
    for limits in [limits::of_container(&pod, first(&pod), 16 << 30), limits::of_pod(&pod)] {
        assert_eq!((limits.cpu_shares, limits.cpu_quota_us), (Some(1 << 18), Some((1 << 44) - 1)));
    }
}

#[test]
fn a_pod_needs_the_sum_of_its_containers_or_its_largest_init_container() {
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    let pod = pod(json!({
        "initContainers": [{"name": "i", "resources": cpu("3")}, {"name": "s", "restartPolicy": "Always", "resources": cpu("1")}, {"name": "j", "resources": cpu("500m")}],
        "containers": [{"name": "a", "resources": cpu("1")}, {"name": "b", "resources": cpu("250m")}],
    }));
    let requests = limits::pod_requirements(&pod).requests.unwrap();
    assert_eq!(requests["cpu"].0, "3");
}

#[test]
fn pull_policies_decide_with_what_is_here() {
    let show = |image: &str, policy: Option<&str>, present| {
        let container = Container { image: Some(image.to_owned()), image_pull_policy: policy.map(str::to_owned), ..Container::default() };
        match decide(&container, present) {
            Decision::Use => "use".to_owned(),
            Decision::Pull => "pull".to_owned(),
            Decision::Refuse(failure) => failure.reason().to_owned(),
        }
    };
    assert_eq!(show("a:1", None, true), "use");
    assert_eq!(show("a:1", None, false), "pull");
    assert_eq!(show("a", None, true), "pull");
    assert_eq!(show("host:5000/a", None, true), "pull");
    assert_eq!(show("a:1", Some("Always"), true), "pull");
    assert_eq!(show("a:1", Some("Never"), false), "ErrImageNeverPull");
}

#[test]
fn run_as_non_root_needs_a_number_that_is_not_zero() {
    let pod = pod(json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]}));
    let wanted = security::effective(&pod, first(&pod));
    let check = |uid, name: &str| {
        let image = Image { uid, username: name.to_owned(), ..Image::default() };
        security::check(&wanted, &pod, first(&pod), &image).map_or_else(|error| error.to_string(), |()| String::new())
    };
    expect![[r#"container has runAsNonRoot and image will run as root (pod: "p_n(u)", container: c)"#]].assert_eq(&check(None, ""));
    expect![[
        r#"container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: "p_n(u)", container: c)"#
    ]]
    .assert_eq(&check(None, "app"));
    assert_eq!(check(Some(1000), ""), "");
}

#[test]
fn probes_count_to_their_thresholds() {
    let probe: Probe = from(json!({"failureThreshold": 2, "successThreshold": 2}));
    let mut worker = Worker::new(Kind::Readiness, Some(false));
    let fail = Outcome::Failure("no".to_owned());
    let seen: Vec<bool> =
        [Outcome::Success, fail.clone(), Outcome::Success, Outcome::Success, fail.clone(), Outcome::Error("?".to_owned()), fail]
            .iter()
            .map(|outcome| worker.observe(&probe, outcome))
            .collect();
    assert_eq!(seen, [false, false, false, true, false, false, true]);
    assert_eq!(worker.verdict, Some(false));
}

#[test]
fn hooks_leave_at_least_two_seconds() {
    use std::time::Duration;
    let after = |grace: u64, took: u64| termination::grace_after_hook(Duration::from_secs(grace), Duration::from_secs(took)).as_secs();
    assert_eq!([after(10, 3), after(10, 9), after(10, 20), after(0, 5)], [7, 2, 2, 0]);
}

fn user(name: &str, priority: i32, request: &str, used_mi: i64) -> (Pod, Usage) {
    let resources = json!({"requests": {"memory": request}});
    let mut pod = pod(json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]}));
    pod.metadata.name = Some(name.to_owned());
    let usage = ContainerUsage { name: "c".to_owned(), memory_bytes: used_mi << 20, ..ContainerUsage::default() };
    (pod, Usage { containers: vec![usage], ..Usage::default() })
}

#[test]
fn those_beyond_their_requests_are_evicted_first_then_the_less_important() {
    let figures = Figures { memory_available: 50 << 20, ..Figures::default() };
    let shortage = eviction::shortages(&figures, &Thresholds::default())[0];
    let pods = [
        user("modest", 0, "100Mi", 90),
        user("greedy", 0, "10Mi", 60),
        user("vital", 1000, "10Mi", 500),
        user("system", 2_000_000_001, "1Mi", 900),
    ];
    let (pod, usage) = eviction::victim(&shortage, &pods).unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("greedy"));
    let told = eviction::ended(&shortage, pod, usage);
    expect!["The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 60Mi, request is 10Mi, has larger consumption of memory. "]
        .assert_eq(&told.message);
    assert!(eviction::victim(&shortage, &pods[3..]).is_none(), "critical pods stay");
}

#[test]
fn unknown_figures_cross_no_threshold_and_full_disks_do() {
    assert!(eviction::shortages(&Figures::default(), &Thresholds::default()).is_empty());
    let disk = Disk { capacity: 1000, available: 99, inodes: 100, inodes_free: 50 };
    let found = eviction::shortages(&Figures { disk, memory_available: 1 << 30, ..Figures::default() }, &Thresholds::default());
    assert_eq!(found.len(), 1);
    assert!(found[0].is_disk);
}

#[test]
fn images_go_oldest_first_until_there_is_room() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let image = |id: &str, age: i64, frees_bytes, pinned| UnusedImage {
        image: Image { id: id.to_owned(), pinned, ..Image::default() },
        last_used: Timestamp::from_second(1_000_000 - age).unwrap(),
        frees_bytes,
    };
    let images =
        [image("new", 10, 500, false), image("old", 9000, 40, false), image("older", 10_000, 30, false), image("pinned", 99_999, 99, true)];
    let remove = |available, is_short| {
        let disk = Disk { capacity: 1000, available, ..Disk::default() };
        eviction::images_to_remove(&disk, &images, Room { now, is_short, thresholds: &Thresholds::default() })
    };
    assert!(remove(200, false).is_empty());
    assert_eq!(remove(140, false), ["older", "old"]);
    assert_eq!(remove(500, true), ["older", "old"]);
}

#[test]
fn thresholds_are_written_as_for_a_kubelet() {
    let mut thresholds = Thresholds::default();
    thresholds.set("nodefs.available<256Mi,imagefs.available<1%").unwrap();
    assert_eq!(thresholds.disk, eviction::Amount::Absolute(256 << 20));
    let disk = Disk { capacity: 100 << 30, available: 2 << 30, inodes: 100, inodes_free: 50 };
    assert!(eviction::shortages(&Figures { disk, image_disk: disk, ..Figures::default() }, &thresholds).is_empty());
    for (text, why) in [("nodefs<1", "no signal"), ("memory.available=1", "no threshold"), ("memory.available<x", "no quantity")] {
        let error = thresholds.set(text).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn names_of_a_pod() {
    let name = |spec: Value| {
        let mut pod = pod(spec);
        pod.metadata.namespace = Some("n".to_owned());
        crate::podsync::files::kernel_name(&pod, "cluster.local")
    };
    let with = |mut spec: Value| {
        spec["containers"] = json!([{"name": "c"}]);
        name(spec)
    };
    assert_eq!(with(json!({})), Ok("p".to_owned()));
    assert_eq!(with(json!({"hostname": "h", "subdomain": "s"})), Ok("h".to_owned()));
    assert_eq!(with(json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true})), Ok("h.s.n.svc.cluster.local".to_owned()));
    assert_eq!(with(json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "a.b.example"})), Ok("a.b.example".to_owned()));
    let long = "x".repeat(60);
    let whole = format!("{long}.s.n.svc.cluster.local");
    let expected = format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {whole} is too long (64 characters is the max, {} characters requested)",
        whole.len()
    );
    assert_eq!(
        with(json!({"hostname": long, "subdomain": "s", "setHostnameAsFQDN": true})).map_err(|error| error.to_string()),
        Err(expected)
    );
}

#[test]
fn resources_of_the_whole_pod() {
    let whole =
        |resources: Value, own: Value| pod(json!({"resources": resources, "containers": [{"name": "c", "resources": own}, {"name": "d"}]}));
    let equal = json!({"requests": {"cpu": "300m", "memory": "64Mi"}, "limits": {"cpu": "300m", "memory": "64Mi"}});
    let bounded = whole(equal, json!({"requests": {"cpu": "100m"}}));
    assert_eq!(qos::class(&bounded).text(), "Guaranteed", "whatever its containers say");
    let limits = limits::of_pod(&bounded);
    assert_eq!((limits.memory_limit_bytes, limits.cpu_quota_us, limits.cpu_shares), (Some(64 << 20), Some(30_000), Some(307)));
    let part = whole(
        json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}),
        json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
    );
    assert_eq!(qos::class(&part).text(), "Burstable");
    assert_eq!(limits::of_pod(&part).cpu_quota_us, None, "not every container is limited");
    assert_eq!(limits::of_pod(&part).memory_limit_bytes, Some(1 << 30));
    let other = whole(json!({"requests": {"example.com/x": "1"}}), json!({}));
    assert_eq!(qos::class(&other).text(), "BestEffort");
    let selector = |resource: &str| from(json!({"resource": resource, "divisor": "1Mi"}));
    let free = &bounded.spec.as_ref().unwrap().containers[1];
    let seen = crate::podsync::fields::resource(&bounded, free, &selector("limits.memory"), &BTreeMap::new());
    assert_eq!(seen, Ok("64".to_owned()), "the pod's limit, not the node's");
}

/// In Kubernetes' order: a volume, the pod as a whole with what it wrote outside of its containers,
/// one container.
#[test]
fn what_holds_more_than_its_limit_ends_its_pod() {
    const MIB: i64 = 1 << 20;
    let limited = |text: &str| json!({"limits": {"ephemeral-storage": text}});
    let pod = pod(json!({
        "containers": [{"name": "a", "resources": limited("2Mi")}, {"name": "b", "resources": limited("1Mi")}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "m", "emptyDir": {"sizeLimit": "1", "medium": "Memory"}}],
    }));
    let usage = |a: i64, b: i64, volumes_bytes: i64| Usage {
        containers: [("a", a), ("b", b)]
            .map(|(name, disk_bytes)| ContainerUsage { name: name.to_owned(), disk_bytes, ..ContainerUsage::default() })
            .into(),
        volumes_bytes,
        ..Usage::default()
    };
    let told = |volume: i64, usage: Usage| {
        let used = BTreeMap::from([("v".to_owned(), volume), ("m".to_owned(), 9 * MIB)]);
        eviction::over_limit(&pod, &used, &usage).map_or_else(|| "-".to_owned(), |ended| ended.message)
    };
    let all = [
        told(MIB, usage(2 * MIB, MIB, 0)),
        told(MIB + 1, usage(9 * MIB, 9 * MIB, 0)),
        told(0, usage(2 * MIB, MIB, 1)),
        told(0, usage(0, MIB + 1, 0)),
    ];
    expect![[r#"
        -
        Usage of EmptyDir volume "v" exceeds the limit "1Mi". 
        Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. 
        Container b exceeded its local ephemeral storage limit "1Mi". "#]]
    .assert_eq(&all.join("\n"));
}
