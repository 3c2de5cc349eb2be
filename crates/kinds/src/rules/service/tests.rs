//! Examples; `golden.rs` has the recorded ones.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::rules::Part;
use crate::rules::testing::{create, created, update};

fn check(spec: Value, expect: Expect) {
    expect.assert_eq(&create("Service", json!({"spec": spec})));
}

fn check_update(old: Value, change: impl FnOnce(&mut Value), expect: Expect) {
    let (new, errors) = update("Service", json!({"spec": old}), Part::Main, |new| change(&mut new["spec"]));
    expect.assert_eq(&format!("{}\n{errors}", new["spec"]));
}

fn allocated() -> Value {
    json!({"type": "NodePort", "clusterIP": "10.96.1.1", "ports": [{"port": 80, "nodePort": 30001}]})
}

#[test]
fn families_are_filled_before_anything_is_checked() {
    let spec = |spec: Value| created("Service", json!({"spec": spec}))["spec"].clone();
    let headless = spec(json!({"clusterIP": "None"}));
    assert_eq!((&headless["ipFamilies"], &headless["ipFamilyPolicy"]), (&json!(["IPv4", "IPv6"]), &json!("RequireDualStack")));
    let plain = spec(json!({"ports": [{"port": 1}]}));
    assert_eq!((&plain["ipFamilies"], &plain["ipFamilyPolicy"]), (&json!(["IPv4"]), &json!("SingleStack")));
    check(
        json!({"ipFamilyPolicy": "RequireDualStack"}),
        expect![[r#"
        spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services
    "#]],
    );
    check(
        json!({"clusterIP": "fd00::1"}),
        expect![[r#"
        spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster
    "#]],
    );
    check(
        json!({"ipFamilies": ["IPv6", "IPv6", "x"]}),
        expect![[r#"
        spec.ipFamilies[1]: Duplicate value: "IPv6"
        spec.ipFamilies[2]: Unsupported value: "x": supported values: "IPv4", "IPv6"
    "#]],
    );
    check(
        json!({"clusterIPs": ["10.96.0.9"]}),
        expect![[r#"
        spec.clusterIPs: Invalid value: ["10.96.0.9"]: must be empty when `clusterIP` is not specified
    "#]],
    );
}

#[test]
fn addresses_are_strict() {
    check(
        json!({"ports": [{"port": 1}], "externalIPs": ["010.0.0.1", "::ffff:1.2.3.4", "127.0.0.1", "169.254.1.1"]}),
        expect![[r#"
            spec.externalIPs[0]: Invalid value: "010.0.0.1": must not have leading 0s
            spec.externalIPs[1]: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address
            spec.externalIPs[2]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
            spec.externalIPs[3]: Invalid value: "169.254.1.1": may not be in the link-local range (169.254.0.0/16, fe80::/10)
        "#]],
    );
    check(
        json!({"type": "LoadBalancer", "ports": [{"port": 1}], "loadBalancerSourceRanges": ["10.0.0.1/8", " 10.0.0.0/8 ", "x"]}),
        expect![[r#"
            spec.LoadBalancerSourceRanges[0]: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length
            spec.LoadBalancerSourceRanges[2]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
        "#]],
    );
}

#[test]
fn fields_depend_on_the_type() {
    check(
        json!({
            "ports": [{"port": 80, "nodePort": 30001}], "loadBalancerClass": "a/b", "allocateLoadBalancerNodePorts": true,
            "healthCheckNodePort": 1, "loadBalancerSourceRanges": ["10.0.0.0/8"], "trafficDistribution": "Near",
        }),
        expect![[r#"
            spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
            spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'
            spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'
            spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'
            spec.healthCheckNodePort: Invalid value: 1: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'
            spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"
        "#]],
    );
    check(
        json!({"type": "ExternalName", "clusterIP": "10.96.0.9", "ipFamilyPolicy": "SingleStack"}),
        expect![[r#"
            spec.clusterIPs: Forbidden: may not be set for ExternalName services
            spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services
            spec.externalName: Required value
        "#]],
    );
    check(
        json!({"ports": [{"port": 1}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
        expect![[r#"
            spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400
        "#]],
    );
}

#[test]
fn what_was_allocated_is_kept_and_does_not_change() {
    check_update(
        allocated(),
        |spec| *spec = json!({"type": "NodePort", "ports": [{"port": 81}]}),
        expect![[r#"
            {"clusterIP":"10.96.1.1","clusterIPs":["10.96.1.1"],"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"nodePort":30001,"port":81,"protocol":"TCP","targetPort":81}],"sessionAffinity":"None","type":"NodePort"}
        "#]],
    );
    let (_, errors) = update("Service", json!({"spec": allocated()}), Part::Main, |new| new["spec"]["clusterIP"] = json!("10.96.1.2"));
    expect![[r#"
        spec.clusterIPs[0]: Invalid value: ["10.96.1.2"]: may not change once set
    "#]]
    .assert_eq(&errors);
}

#[test]
fn another_type_drops_what_was_filled_in() {
    check_update(
        allocated(),
        |spec| spec["type"] = json!("ClusterIP"),
        expect![[r#"
            {"clusterIP":"10.96.1.1","clusterIPs":["10.96.1.1"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ClusterIP"}
        "#]],
    );
    check_update(
        allocated(),
        |spec| {
            spec["type"] = json!("ExternalName");
            spec["externalName"] = json!("a.b");
        },
        expect![[r#"
            {"externalName":"a.b","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","type":"ExternalName"}
        "#]],
    );
    let (_, errors) = update("Service", json!({"spec": allocated()}), Part::Main, |new| {
        new["spec"]["type"] = json!("ClusterIP");
        new["spec"]["ports"][0]["nodePort"] = json!(30002);
    });
    expect![[r#"
        spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
    "#]]
    .assert_eq(&errors);
}

#[test]
fn only_load_balancers_have_a_status() {
    let point = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "1.2.3.4"}]}});
    let (_, errors) = update("Service", json!({"spec": allocated()}), Part::Status, |new| new["status"] = point.clone());
    expect![[r#"
        status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is "LoadBalancer"
    "#]]
    .assert_eq(&errors);
    let balancer = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let (new, errors) = update("Service", balancer, Part::Status, |new| new["status"] = point);
    assert_eq!(new["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    expect![[r#"
        status.loadBalancer.ingress[1].hostname: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
    "#]]
    .assert_eq(&errors);
}
