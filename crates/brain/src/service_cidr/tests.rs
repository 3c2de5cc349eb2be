//! Plans for small clusters of ranges, addresses and Services, from text.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::fixture::{at, now};
use crate::service_cidr::repair::IpAddressRepair;

/// `cidr NAME RANGE[,RANGE] [ready] [held] [deleted=SECONDS]`, `ip ADDRESS SERVICE|- [unlabelled]
/// [age=SECONDS]`, `svc NAME ADDRESS`, one a line.
fn picture(text: &str) -> Picture {
    let mut picture = Picture::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, name, what, facts @ ..] = words.as_slice() else { panic!("three words: {line}") };
        let has = |fact: &str| facts.contains(&fact);
        let seconds = |fact: &str| facts.iter().find_map(|word| word.strip_prefix(fact)).map(|text| text.parse::<i64>().expect("a number"));
        let object = match *kind {
            "cidr" => {
                let mut cidr = json!({"metadata": {"name": name, "uid": format!("{name}-uid"), "resourceVersion": "7"}, "spec": {"cidrs": what.split(',').collect::<Vec<_>>()}});
                if has("held") {
                    cidr["metadata"]["finalizers"] = json!(["a/b", FINALIZER]);
                }
                if has("ready") {
                    cidr["status"]["conditions"] = json!([{"type": "Ready", "status": "True", "message": READY.message}]);
                }
                if let Some(ago) = seconds("deleted=") {
                    cidr["metadata"]["deletionTimestamp"] = json!(format_time(at(-ago)));
                }
                Object::ServiceCidr(serde_json::from_value::<ServiceCidr>(cidr).expect("well formed").into())
            }
            "ip" => {
                let ip: IpAddr = name.parse().expect("an address");
                let parent = match *what {
                    "-" => json!({"group": "a.b", "resource": "gateways", "name": "g"}),
                    service => json!({"resource": "services", "namespace": "ns", "name": service}),
                };
                let mut address = json!({"metadata": {"name": name, "uid": format!("{name}-uid")}, "spec": {"parentRef": parent}});
                address["metadata"]["creationTimestamp"] = json!(format_time(at(-seconds("age=").unwrap_or(0))));
                if !has("unlabelled") {
                    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                    address["metadata"]["labels"] = json!({MANAGER_LABEL: MANAGER, "ipaddress.kubernetes.io/ip-family": family});
                }
                Object::IpAddress(serde_json::from_value::<IpAddress>(address).expect("well formed").into())
            }
            _ => {
                let service =
                    json!({"metadata": {"name": name, "namespace": "ns", "uid": format!("{name}-uid")}, "spec": {"clusterIP": what}});
                Object::Service(serde_json::from_value::<crate::model::Service>(service).expect("well formed").into())
            }
        };
        picture.put(object);
    }
    picture
}

fn shown(work: &Work) -> String {
    let mut lines: Vec<String> = Vec::new();
    for request in work.steps.iter().flat_map(|step| &step.requests) {
        let (method, _, body) = request.body();
        let body = if body.is_null() { String::new() } else { format!(" {body}") };
        lines.push(format!("{method} {}{body}", request.path()));
    }
    lines.extend(work.events.iter().map(|event| format!("{} {}: {}", event.about.key, event.reason, event.message)));
    if let Some(at) = work.wake_at {
        lines.push(format!("again after {}", at.as_second() - now().as_second()));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn check(text: &str, name: &str, expected: Expect) {
    expected.assert_eq(&shown(&ServiceCidrController.plan(&picture(text), &Key::new("", name), now())));
}

#[test]
fn a_new_range_is_held_and_ready() {
    check(
        "cidr a 10.0.0.0/16",
        "a",
        expect![[r#"
            PATCH /apis/networking.k8s.io/v1/servicecidrs/a {"metadata":{"finalizers":["networking.k8s.io/service-cidr-finalizer"],"resourceVersion":"7","uid":"a-uid"}}
            PATCH /apis/networking.k8s.io/v1/servicecidrs/a/status {"metadata":{"uid":"a-uid"},"status":{"conditions":[{"lastTransitionTime":"1970-01-12T13:46:40Z","message":"Kubernetes Service CIDR is ready","reason":"","status":"True","type":"Ready"}]}}
        "#]],
    );
    check("cidr a 10.0.0.0/16 held ready", "a", expect![""]);
}

#[test]
fn a_range_stays_while_it_is_the_only_one_for_an_address() {
    let blocked = expect![[r#"
        PATCH /apis/networking.k8s.io/v1/servicecidrs/a/status {"metadata":{"uid":"a-uid"},"status":{"conditions":[{"lastTransitionTime":"1970-01-12T13:46:40Z","message":"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR","reason":"Terminating","status":"False","type":"Ready"}]}}
    "#]];
    check("cidr a 10.0.0.0/16 held ready deleted=60\n ip 10.0.0.1 s", "a", blocked);
    let free = [
        // Nothing is in it.
        "cidr a 10.0.0.0/16 held ready deleted=60\n ip 10.1.0.1 s",
        // No Service has the address.
        "cidr a 10.0.0.0/16 held ready deleted=60\n ip 10.0.0.1 - unlabelled",
        // Another range has all of its addresses, or those that are taken.
        "cidr a 10.0.0.0/16 held ready deleted=60\n cidr b 10.0.0.0/8\n ip 10.0.0.1 s",
        "cidr a 10.0.0.0/16 held ready deleted=60\n cidr b 10.0.0.0/24\n ip 10.0.0.1 s",
    ];
    for text in free {
        check(
            text,
            "a",
            expect![[r#"
                PATCH /apis/networking.k8s.io/v1/servicecidrs/a {"metadata":{"finalizers":["a/b"],"resourceVersion":"7","uid":"a-uid"}}
            "#]],
        );
    }
    // Two that go together take nothing over from each other.
    let text = "cidr a 10.0.0.0/16 held ready deleted=60\n cidr b 10.0.0.0/16 deleted=60 held\n ip 10.0.0.1 s";
    for name in ["a", "b"] {
        assert!(shown(&ServiceCidrController.plan(&picture(text), &Key::new("", name), now())).contains("Terminating"));
    }
    // 10.0.0.0 is no address that the smaller range gives out.
    let text = "cidr a 8.0.0.0/6 held ready deleted=60\n cidr b 10.0.0.0/24\n ip 10.0.0.0 s";
    assert!(shown(&ServiceCidrController.plan(&picture(text), &Key::new("", "a"), now())).contains("Terminating"));
    // One of two families is enough.
    let text = "cidr a 10.0.0.0/16,2001:db8::/64 held ready deleted=60\n cidr b 10.0.0.0/8\n ip 2001:db8::1 s";
    assert!(shown(&ServiceCidrController.plan(&picture(text), &Key::new("", "a"), now())).contains("Terminating"));
}

#[test]
fn a_range_that_is_free_waits_for_addresses_that_are_on_their_way() {
    check("cidr a 10.0.0.0/16 held ready deleted=4", "a", expect!["again after 6\n"]);
}

#[test]
fn only_ranges_that_are_deleted_look_at_addresses() {
    let picture = picture("cidr a 10.0.0.0/16 held deleted=60\n cidr b 10.0.0.0/8\n cidr c 10.1.0.0/16 held deleted=60\n ip 10.0.0.1 s");
    let address = Object::IpAddress(picture.ip_addresses["10.0.0.1"].clone());
    let concerned = |change: Change| {
        let mut keys = Vec::new();
        ServiceCidrController.concerns(&picture, &change, &mut |key| keys.push(key.name.to_string()));
        keys
    };
    assert_eq!(concerned(Change { old: None, new: Some(address.clone()) }), ["a"]);
    assert_eq!(concerned(Change { old: Some(address.clone()), new: None }), ["a"]);
    assert_eq!(concerned(Change { old: Some(address.clone()), new: Some(address) }), Vec::<String>::new());
    let range = Object::ServiceCidr(picture.service_cidrs["b"].clone());
    assert_eq!(concerned(Change { old: None, new: Some(range) }), ["b", "a", "c"]);
}

const RANGE: &str = "cidr kubernetes 10.0.0.0/16 held ready";

/// The plan when the state has lasted.
fn repaired(text: &str, key: &Key) -> String {
    let mut controller = IpAddressRepair::default();
    let picture = picture(text);
    controller.plan(&picture, key, at(-5));
    shown(&controller.plan(&picture, key, now()))
}

#[test]
fn services_of_an_older_store_get_their_addresses() {
    let mut controller = IpAddressRepair::default();
    let (old, key) = (picture(&format!("{RANGE}\n svc s 10.0.0.1")), Key::new("ns", "s"));
    assert_eq!(shown(&controller.plan(&old, &key, now())), "again after 5\n");
    expect![[r#"
        POST /apis/networking.k8s.io/v1/ipaddresses {"apiVersion":"networking.k8s.io/v1","kind":"IPAddress","metadata":{"labels":{"ipaddress.kubernetes.io/ip-family":"IPv4","ipaddress.kubernetes.io/managed-by":"ipallocator.k8s.io"},"name":"10.0.0.1"},"spec":{"parentRef":{"name":"s","namespace":"ns","resource":"services"}}}
        ns/s ClusterIPNotAllocated: Cluster IP [IPv4]: 10.0.0.1 is not allocated; repairing
    "#]]
    .assert_eq(&shown(&controller.plan(&old, &key, at(5))));
    // It came by itself.
    let mut controller = IpAddressRepair::default();
    controller.plan(&old, &key, now());
    let whole = picture(&format!("{RANGE}\n svc s 10.0.0.1\n ip 10.0.0.1 s"));
    assert_eq!(shown(&controller.plan(&whole, &key, at(5))), "");
    assert_eq!(shown(&controller.plan(&old, &key, at(6))), "again after 11\n");
}

#[test]
fn services_without_an_address_and_clusters_without_a_range_are_left_alone() {
    let key = Key::new("ns", "s");
    for text in ["svc s 10.0.0.1".to_owned(), format!("{RANGE}\n svc s None"), format!("{RANGE}\n svc s 10.0.0.1\n ip 10.0.0.1 s")] {
        assert_eq!(repaired(&text, &key), "", "{text}");
    }
}

#[test]
fn addresses_that_do_not_name_their_service_are_made_again() {
    let key = Key::new("ns", "s");
    for (address, what) in [("ip 10.0.0.1 -", "reference"), ("ip 10.0.0.1 t", "reference"), ("ip 10.0.0.1 s unlabelled", "labels")] {
        let text = repaired(&format!("{RANGE}\n svc s 10.0.0.1\n{address}"), &key);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("DELETE ") && lines[0].contains(r#""uid":"10.0.0.1-uid""#), "{text}");
        assert!(lines[1].starts_with("POST ") && lines[2].contains(what), "{text}");
    }
}

#[test]
fn what_cannot_be_repaired_is_told() {
    let key = Key::new("ns", "s");
    expect![[r#"
        ns/s ClusterIPOutOfRange: Cluster IP [IPv4]: 10.1.0.1 is not within any configured Service CIDR; please recreate service
    "#]]
    .assert_eq(&repaired(&format!("{RANGE}\n svc s 10.1.0.1"), &key));
    expect![[r#"
        ns/s ClusterIPAlreadyAllocated: Cluster IP [IPv4]: 10.0.0.1 was assigned to multiple services; please recreate service
    "#]]
    .assert_eq(&repaired(&format!("{RANGE}\n svc s 10.0.0.1\n svc t 10.0.0.1\n ip 10.0.0.1 t"), &key));
}

#[test]
fn addresses_of_services_that_are_gone_are_deleted_after_a_while() {
    let key = Key::new("", "10.0.0.1");
    let plan = |text: &str| shown(&IpAddressRepair::default().plan(&picture(&format!("{RANGE}\n{text}")), &key, now()));
    assert_eq!(plan("ip 10.0.0.1 s age=20"), "again after 40\n");
    assert_eq!(plan("ip 10.0.0.1 s age=60 unlabelled"), "", "a client's own");
    assert_eq!(plan("ip 10.0.0.1 s age=60\n svc s 10.0.0.1"), "");
    expect![[r#"
        DELETE /apis/networking.k8s.io/v1/ipaddresses/10.0.0.1 {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"10.0.0.1-uid"}}
        10.0.0.1 IPAddressNotAllocated: IPAddress: 10.0.0.1 for Service ns/s appears to have leaked: cleaning up
    "#]]
    .assert_eq(&plan("ip 10.0.0.1 s age=60"));
    assert!(plan("ip 10.0.0.1 s age=60\n svc s 10.0.0.2").contains("IPAddressWrongReference"));
    assert!(plan("ip 10.0.0.1 - age=0").contains("not referencing a Service"));
}
