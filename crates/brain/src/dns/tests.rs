//! The tables of the specification, question by question.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

const DOMAIN: &str = "cluster.local";

fn key(name: &str) -> Key {
    Key::new("default", name)
}

fn zone() -> Zone {
    let mut zone = Zone::new(ZoneSettings {
        domain: DOMAIN.to_owned(),
        server: "10.96.0.10".parse().expect("an address"),
        ranges: vec!["10.96.0.0/12".parse().expect("a range"), "10.244.0.0/16".parse().expect("a range")],
    });
    zone.put_namespace(&"default".into());
    let ports = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    zone.put_service(&key("web"), &json!({"spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "ports": ports}}));
    zone.put_service(&key("agents"), &json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}}));
    zone.put_service(&key("empty"), &json!({"spec": {"clusterIP": "None"}}));
    for (name, target) in [("out", "Example.ORG."), ("alias", "web.default.svc.cluster.local"), ("loop", "loop.default.svc.cluster.local")]
    {
        zone.put_service(&key(name), &json!({"spec": {"type": "ExternalName", "externalName": target}}));
    }
    zone.put_slice(&key("agents-1"), slice("agents"));
    zone
}

fn slice(of: &str) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "agents-1", "labels": {SERVICE_NAME: of}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.244.1.2"], "hostname": "One", "conditions": {"ready": true}},
            {"addresses": ["10.244.2.2"]},
            {"addresses": ["10.244.3.2"], "conditions": {"ready": false}},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// An answer, a record a line.
fn asked(zone: &Zone, kind: Type, name: &str) -> String {
    match zone.answer(&Question { name, kind }) {
        Outcome::NotOurs => "not ours".to_owned(),
        Outcome::NoSuchName => "no such name".to_owned(),
        Outcome::Found(answer) => {
            let line = |record: &Record| format!("{} {:?}", record.name, record.data);
            let mut lines: Vec<String> = answer.records.iter().map(line).collect();
            if lines.is_empty() {
                lines.push(if answer.with_soa { "the zone itself".to_owned() } else { "nothing of this type".to_owned() });
            }
            lines.extend(answer.additional.iter().map(|record| format!("  with {}", line(record))));
            lines.extend(answer.continues_at.iter().map(|name| format!("  goes on at {name}")));
            lines.join("\n")
        }
    }
}

fn check(kind: Type, name: &str, expected: Expect) {
    expected.assert_eq(&asked(&zone(), kind, name));
}

#[test]
fn services_with_an_address() {
    check(Type::A, "web.default.svc.cluster.local", expect!["web.default.svc.cluster.local A(10.96.0.7)"]);
    check(Type::Aaaa, "web.default.svc.cluster.local", expect!["web.default.svc.cluster.local Aaaa(fd00::7)"]);
    check(Type::Txt, "web.default.svc.cluster.local", expect!["nothing of this type"]);
    check(
        Type::Srv,
        "_http._tcp.web.default.svc.cluster.local",
        expect![[r#"
            _http._tcp.web.default.svc.cluster.local Srv { priority: 0, weight: 100, port: 80, target: "web.default.svc.cluster.local" }
              with web.default.svc.cluster.local A(10.96.0.7)
              with web.default.svc.cluster.local Aaaa(fd00::7)"#]],
    );
    check(Type::Srv, "_http._udp.web.default.svc.cluster.local", expect!["no such name"]);
    check(Type::A, "_http._tcp.web.default.svc.cluster.local", expect!["nothing of this type"]);
    check(Type::Ptr, "7.0.96.10.in-addr.arpa", expect![[r#"7.0.96.10.in-addr.arpa Ptr("web.default.svc.cluster.local")"#]]);
}

#[test]
fn headless_services() {
    check(
        Type::A,
        "agents.default.svc.cluster.local",
        expect![[r#"
            agents.default.svc.cluster.local A(10.244.1.2)
            agents.default.svc.cluster.local A(10.244.2.2)"#]],
    );
    check(Type::A, "one.agents.default.svc.cluster.local", expect!["one.agents.default.svc.cluster.local A(10.244.1.2)"]);
    check(Type::A, "10-244-2-2.agents.default.svc.cluster.local", expect!["10-244-2-2.agents.default.svc.cluster.local A(10.244.2.2)"]);
    check(Type::A, "10-244-1-2.agents.default.svc.cluster.local", expect!["no such name"]);
    check(Type::A, "10-244-3-2.agents.default.svc.cluster.local", expect!["no such name"]);
    check(Type::A, "empty.default.svc.cluster.local", expect!["no such name"]);
    check(
        Type::Srv,
        "_http._tcp.agents.default.svc.cluster.local",
        expect![[r#"
            _http._tcp.agents.default.svc.cluster.local Srv { priority: 0, weight: 50, port: 8080, target: "one.agents.default.svc.cluster.local" }
            _http._tcp.agents.default.svc.cluster.local Srv { priority: 0, weight: 50, port: 8080, target: "10-244-2-2.agents.default.svc.cluster.local" }
              with one.agents.default.svc.cluster.local A(10.244.1.2)
              with 10-244-2-2.agents.default.svc.cluster.local A(10.244.2.2)"#]],
    );
    check(Type::Ptr, "2.1.244.10.in-addr.arpa", expect![[r#"2.1.244.10.in-addr.arpa Ptr("one.agents.default.svc.cluster.local")"#]]);
}

#[test]
fn names_of_other_names() {
    check(
        Type::A,
        "out.default.svc.cluster.local",
        expect![[r#"
            out.default.svc.cluster.local Cname("example.org")
              goes on at example.org"#]],
    );
    check(
        Type::A,
        "alias.default.svc.cluster.local",
        expect![[r#"
            alias.default.svc.cluster.local Cname("web.default.svc.cluster.local")
            web.default.svc.cluster.local A(10.96.0.7)"#]],
    );
    let ring = asked(&zone(), Type::A, "loop.default.svc.cluster.local");
    assert!(ring.lines().count() < 20, "{ring}");
}

#[test]
fn names_between_and_names_that_are_not_there() {
    for name in [
        "cluster.local",
        "svc.cluster.local",
        "default.svc.cluster.local",
        "pod.cluster.local",
        "default.pod.cluster.local",
        "dns.cluster.local",
    ] {
        check(Type::A, name, expect!["nothing of this type"]);
    }
    for name in [
        "none.default.svc.cluster.local",
        "web.none.svc.cluster.local",
        "none.svc.cluster.local",
        "x.cluster.local",
        "a.b.c.d.e.f.svc.cluster.local",
        "x.default.pod.cluster.local",
        "10-0-0-1.none.pod.cluster.local",
    ] {
        check(Type::A, name, expect!["no such name"]);
    }
    for name in ["example.org", "xcluster.local", "local", ""] {
        check(Type::A, name, expect!["not ours"]);
    }
    check(Type::A, "10-244-9-9.default.pod.cluster.local", expect!["10-244-9-9.default.pod.cluster.local A(10.244.9.9)"]);
}

#[test]
fn the_zone_itself() {
    check(Type::Soa, "cluster.local", expect!["the zone itself"]);
    check(
        Type::Ns,
        "cluster.local",
        expect![[r#"
            cluster.local Ns("ns.dns.cluster.local")
              with ns.dns.cluster.local A(10.96.0.10)"#]],
    );
    check(Type::Txt, "dns-version.cluster.local", expect![[r#"dns-version.cluster.local Txt("1.1.0")"#]]);
    check(Type::A, "ns.dns.cluster.local", expect!["ns.dns.cluster.local A(10.96.0.10)"]);
}

#[test]
fn reverse_names_outside_are_for_others() {
    check(Type::Ptr, "9.9.244.10.in-addr.arpa", expect!["no such name"]);
    check(Type::Ptr, "8.8.8.8.in-addr.arpa", expect!["not ours"]);
    check(Type::Ptr, "8.8.8.in-addr.arpa", expect!["not ours"]);
    let long = format!("{}ip6.arpa", "7.0.0.0.".to_owned() + &"0.".repeat(24) + "0.0.d.f.");
    check(
        Type::Ptr,
        &long,
        expect![[r#"7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa Ptr("web.default.svc.cluster.local")"#]],
    );
}

#[test]
fn what_goes_takes_its_names_along() {
    let mut zone = zone();
    zone.put_slice(&key("agents-1"), slice("web"));
    assert_eq!(asked(&zone, Type::A, "agents.default.svc.cluster.local"), "no such name");
    assert_eq!(asked(&zone, Type::Ptr, "2.1.244.10.in-addr.arpa"), "no such name");
    assert_eq!(asked(&zone, Type::A, "one.web.default.svc.cluster.local"), "one.web.default.svc.cluster.local A(10.244.1.2)");
    zone.remove_slice(&key("agents-1"));
    zone.remove_service(&key("web"));
    assert_eq!(asked(&zone, Type::A, "web.default.svc.cluster.local"), "no such name");
    assert_eq!(asked(&zone, Type::Ptr, "7.0.96.10.in-addr.arpa"), "no such name");
    assert!(zone.by_address.is_empty() && zone.of_service.is_empty(), "{zone:?}");
}

#[test]
fn an_address_has_the_name_of_the_service_whose_own_it_is() {
    let mut zone = zone();
    zone.put_service(&key("a-thief"), &json!({"spec": {"clusterIP": "None"}}));
    let stolen = json!({
        "metadata": {"namespace": "default", "name": "a", "labels": {SERVICE_NAME: "a-thief"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.96.0.7"], "hostname": "bank"}], "ports": [],
    });
    zone.put_slice(&key("a"), stolen);
    assert_eq!(asked(&zone, Type::Ptr, "7.0.96.10.in-addr.arpa"), r#"7.0.96.10.in-addr.arpa Ptr("web.default.svc.cluster.local")"#);
}

/// A small question must not keep the resolver busy.
#[test]
fn answers_have_an_end() {
    let mut zone = zone();
    zone.put_service(&key("huge"), &json!({"spec": {"clusterIP": "None"}}));
    for part in 0..10 {
        let endpoints: Vec<Value> =
            (0..1000).map(|number| json!({"addresses": [format!("10.{part}.{}.{}", number / 250, number % 250), "10.200.0.1"]})).collect();
        let ports: Vec<Value> =
            (0..100).map(|number| json!({"name": format!("p{number}"), "port": 1 + number, "protocol": "TCP"})).collect();
        let slice = json!({
            "metadata": {"namespace": "default", "name": format!("huge-{part}"), "labels": {SERVICE_NAME: "huge"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        zone.put_slice(&key(&format!("huge-{part}")), slice);
    }
    for kind in [Type::Srv, Type::A] {
        let Outcome::Found(answer) = zone.answer(&Question { name: "huge.default.svc.cluster.local", kind }) else { panic!("it is there") };
        assert_eq!(answer.records.len(), 2000);
        assert!(answer.additional.len() <= 2000);
    }
    // The second address of an endpoint is nobody's.
    assert_eq!(asked(&zone, Type::Ptr, "1.0.200.10.in-addr.arpa"), "not ours");
}

/// Names with empty parts are none, and lead nowhere.
#[test]
fn a_name_with_an_empty_label_is_not_there() {
    let mut zone = zone();
    zone.put_service(&key("ring"), &json!({"spec": {"type": "ExternalName", "externalName": "ring..default.svc.cluster.local"}}));
    assert_eq!(asked(&zone, Type::A, "web..default.svc.cluster.local"), "no such name");
    assert!(asked(&zone, Type::A, "ring.default.svc.cluster.local").lines().count() < 3);
}
