//! Rules that no single kind of patch owns: nothing panics, applying twice changes nothing,
//! managers share and lose fields.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::managed_fields::{keep_times_if_unchanged, record_update};
use super::managers::{ManagerEntry, Operation};
use super::{Findings, apply, folded, json, merge, strategic};
use crate::table::{Kind, by_kind};

/// An object of arbitrary JSON without nulls.
pub fn object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", value(), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![any::<bool>().prop_map(Value::from), any::<i8>().prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
    scalar.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// JSON that has field names of pods and directives of patches in it.
fn pod_like() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "metadata",
        "spec",
        "name",
        "labels",
        "finalizers",
        "containers",
        "ports",
        "containerPort",
        "env",
        "volumes",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "managedFields",
        "tolerations",
        "resources",
        "limits",
    ]);
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "replace", "delete", "1Gi"]).prop_map(Value::from),
    ];
    scalar.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())),
        ]
    })
}

/// Pods that differ in a few fields, so that managers meet.
fn pods() -> impl Strategy<Value = Value> {
    let names = || prop::collection::btree_map("[ab]", "[xy]", 0..3);
    (names(), names(), names(), prop::option::of("[xy]")).prop_map(|(labels, images, conditions, phase)| {
        let containers: Vec<Value> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        let conditions: Vec<Value> = conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        json!({
            "metadata": {"name": "a", "labels": labels},
            "spec": {"containers": containers},
            "status": {"conditions": conditions, "phase": phase},
        })
    })
}

fn kind(name: &str) -> &'static Kind {
    by_kind("", name).unwrap()
}

fn entry(manager: &str, operation: Operation) -> ManagerEntry {
    let time = "2024-01-02T03:04:05Z".to_owned();
    ManagerEntry { manager: manager.to_owned(), operation, api_version: "v1".to_owned(), subresource: String::new(), time }
}

proptest! {
    #[test]
    fn no_patch_panics(current in pod_like(), patch in pod_like()) {
        let pod = kind("Pod");
        let current = crate::decode::normalize(current, pod.type_id()).unwrap_or_else(|_| json!({"metadata": {"name": "a"}}));
        let bytes = patch.to_string();
        let _ = json::apply(&current, bytes.as_bytes(), Findings::Listed);
        let _ = merge::apply(&current, bytes.as_bytes(), Findings::Listed);
        if let Ok(patched) = strategic::apply(&current, bytes.as_bytes(), pod.type_id(), Findings::Listed) {
            let _ = patched.misfit("", pod.type_id());
        }
        let mut new = crate::decode::normalize(patch, pod.type_id()).unwrap_or_default();
        record_update(pod, Some(&current), &mut new, &entry("m", Operation::Update));
        record_update(pod, None, &mut new, &entry("m", Operation::Update));
        keep_times_if_unchanged(&mut new, &current);
    }

    #[test]
    fn folded_managers_change_as_plain_ones_do(
        states in prop::collection::vec(pods(), 2..6),
        managers in prop::collection::vec(prop::sample::select(vec![("a", ""), ("b", ""), ("b", "status"), ("c", "binding")]), 6),
    ) {
        let pod = kind("Pod");
        let writer = |at: usize| ManagerEntry { subresource: managers[at].1.to_owned(), ..entry(managers[at].0, Operation::Update) };
        let mut states = states.into_iter().map(|state| crate::decode::normalize(state, pod.type_id()).unwrap());
        let mut plain = states.next().unwrap();
        record_update(pod, None, &mut plain, &writer(0));
        for (at, state) in states.enumerate() {
            let stored = crate::encode::encode("v1", "Pod", &plain);
            let folded = folded::parse(&stored).unwrap();
            plain = serde_json::from_slice(&stored).unwrap();
            let write = |old: &Value| {
                let mut new = state.clone();
                if !old["metadata"]["managedFields"].is_null() {
                    new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
                }
                record_update(pod, Some(old), &mut new, &writer(at + 1));
                keep_times_if_unchanged(&mut new, old);
                new
            };
            let next = write(&plain);
            let next_folded = write(&folded);
            prop_assert_eq!(crate::encode::encode("v1", "Pod", &next_folded), crate::encode::encode("v1", "Pod", &next));
            prop_assert_eq!(&folded::unfolded(&next_folded), &next);
            plain = next;
        }
    }

    #[test]
    fn applying_twice_is_applying_once(live in pod_like(), config in pod_like()) {
        let pod = kind("Pod");
        let mut live = crate::decode::normalize(live, pod.type_id()).unwrap_or_else(|_| json!({"metadata": {"name": "a"}}));
        live["metadata"].as_object_mut().unwrap().remove("managedFields");
        let mut config = config.as_object().cloned().unwrap_or_default();
        config.insert("apiVersion".to_owned(), json!("v1"));
        config.insert("kind".to_owned(), json!("Pod"));
        let text = Value::Object(config).to_string();
        let Ok(config) = apply::parse_config(pod, text.as_bytes(), "Pod") else { return Ok(()) };
        if let Ok(once) = apply::apply(pod, Some(&live), &config.object, &entry("m", Operation::Apply), true) {
            let twice = apply::apply(pod, Some(&once), &config.object, &entry("m", Operation::Apply), false);
            prop_assert_eq!(twice.map(|object| object["spec"].clone()), Ok(once["spec"].clone()));
        }
    }
}

fn managers(object: &Value) -> String {
    let text =
        |entry: &Value| format!("{} {} {}\n", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap(), entry["fieldsV1"]);
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(text).collect()
}

fn config_map(data: Value) -> Value {
    json!({"metadata": {"name": "c"}, "data": data})
}

fn created(data: Value) -> Value {
    let mut object = config_map(data);
    record_update(kind("ConfigMap"), None, &mut object, &entry("creator", Operation::Update));
    object
}

fn check_update(change: impl FnOnce(&mut Value), expected: Expect) {
    let old = created(json!({"a": "1", "b": "2"}));
    let mut new = old.clone();
    change(&mut new);
    record_update(kind("ConfigMap"), Some(&old), &mut new, &entry("writer", Operation::Update));
    expected.assert_eq(&managers(&new));
}

#[test]
fn a_write_takes_what_it_changes() {
    check_update(
        |_| {},
        expect![[r#"
        creator Update {"f:data":{".":{},"f:a":{},"f:b":{}}}
    "#]],
    );
    check_update(
        |new| new["data"]["a"] = json!("9"),
        expect![[r#"
        creator Update {"f:data":{".":{},"f:b":{}}}
        writer Update {"f:data":{"f:a":{}}}
    "#]],
    );
    check_update(
        |new| new["data"] = json!({"a": "1"}),
        expect![[r#"
        creator Update {"f:data":{".":{},"f:a":{}}}
    "#]],
    );
    check_update(
        |new| {
            new.as_object_mut().unwrap().remove("data");
        },
        expect![""],
    );
}

#[test]
fn clients_may_replace_or_reset_the_managers() {
    check_update(|new| new["metadata"]["managedFields"] = json!([{}]), expect![""]);
    check_update(
        |new| new["metadata"]["managedFields"] = json!([{"manager": "x"}]),
        expect![[r#"
        creator Update {"f:data":{".":{},"f:a":{},"f:b":{}}}
    "#]],
    );
    check_update(
        |new| {
            let fields = json!({"f:data": {"f:b": {}}});
            let entry = json!({"manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields});
            new["metadata"]["managedFields"] = json!([entry]);
        },
        expect![[r#"
            x Apply {"f:data":{"f:b":{}}}
        "#]],
    );
}

#[test]
fn at_most_ten_managers_update() {
    let mut object = created(json!({"a": "1"}));
    for at in 0..12 {
        let mut new = object.clone();
        new["data"][format!("k{at}")] = json!("x");
        let writer = ManagerEntry { time: format!("2024-01-02T03:04:{:02}Z", at + 10), ..entry(&format!("m{at}"), Operation::Update) };
        record_update(kind("ConfigMap"), Some(&object), &mut new, &writer);
        object = new;
    }
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["fieldsV1"], json!({"f:data": {".": {}, "f:a": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}}}));
}

#[test]
fn times_alone_are_no_change() {
    let old = created(json!({"a": "1"}));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = json!("2025-01-01T00:00:00Z");
    keep_times_if_unchanged(&mut new, &old);
    assert_eq!(new, old);
    new["metadata"]["managedFields"][0]["time"] = json!("2025-01-01T00:00:00Z");
    new["data"]["a"] = json!("2");
    keep_times_if_unchanged(&mut new, &old);
    assert_eq!(new["metadata"]["managedFields"][0]["time"], "2025-01-01T00:00:00Z");
}

/// Applies data as several managers, one after another; `!` after a name forces.
fn check_applies(steps: &[(&str, Value)], expected: Expect) {
    let config_map_kind = kind("ConfigMap");
    let mut live = None;
    let mut text = String::new();
    for (manager, data) in steps {
        let (name, force) = manager.strip_suffix('!').map_or((*manager, false), |name| (name, true));
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
        match apply::apply(config_map_kind, live.as_ref(), &config, &entry(name, Operation::Apply), force) {
            Ok(object) => live = Some(object),
            Err(error) => text = format!("{} {}\n", error.0.code, error.0.message),
        }
    }
    let live = live.unwrap();
    expected.assert_eq(&format!("{text}{}\n{}", live["data"], managers(&live)));
}

#[test]
fn appliers_share_lose_and_remove_fields() {
    check_applies(
        &[("m", json!({"a": "1", "b": "2"})), ("m", json!({"b": "2"}))],
        expect![[r#"
        {"b":"2"}
        m Apply {"f:data":{"f:b":{}}}
    "#]],
    );
    check_applies(
        &[("m", json!({"a": "1"})), ("n", json!({"a": "1"})), ("n", json!({"b": "x"}))],
        expect![[r#"
        {"a":"1","b":"x"}
        m Apply {"f:data":{"f:a":{}}}
        n Apply {"f:data":{"f:b":{}}}
    "#]],
    );
    check_applies(
        &[("m", json!({"a": "1"})), ("n", json!({"a": "2"}))],
        expect![[r#"
        409 Apply failed with 1 conflict: conflict with "m": .data.a
        {"a":"1"}
        m Apply {"f:data":{"f:a":{}}}
    "#]],
    );
    check_applies(
        &[("m", json!({"a": "1"})), ("n!", json!({"a": "2"}))],
        expect![[r#"
        {"a":"2"}
        n Apply {"f:data":{"f:a":{}}}
    "#]],
    );
}

#[test]
fn an_applied_configuration_is_held_against_its_type() {
    let check = |config: &str, expected: Expect| match apply::parse_config(kind("Pod"), config.as_bytes(), "Pod") {
        Ok(config) => expected.assert_eq(&config.object.to_string()),
        Err(status) => expected.assert_eq(&format!("{} {}", status.code, status.message)),
    };
    check("kind: Node\napiVersion: v1", expect!["400 invalid object type: /v1, Kind=Node"]);
    check(
        "{kind: Pod, apiVersion: v1, metadata: {name: p}, spec: {containers: [{image: x}], hostNetwork: 1}}",
        expect![[r#"
            500 failed to create typed patch object (/p; /v1, Kind=Pod): .spec.hostNetwork: expected boolean, got &{1}"#]],
    );
    check(
        "{kind: Pod, apiVersion: v1, spec: {containers: [{name: c}, {name: c}]}}",
        expect![[r#"500 failed to create typed patch object (/; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name="c"]"#]],
    );
}

#[test]
fn the_creator_of_a_daemon_set_owns_its_template_generation() {
    let daemon_set = by_kind("apps", "DaemonSet").unwrap();
    let mut object = crate::decode::normalize(json!({"metadata": {"name": "a"}}), daemon_set.type_id()).unwrap();
    record_update(daemon_set, None, &mut object, &entry("creator", Operation::Update));
    expect![[r#"
        creator Update {"f:metadata":{"f:annotations":{".":{},"f:deprecated.daemonset.template.generation":{}}}}
    "#]]
    .assert_eq(&managers(&object));
}
