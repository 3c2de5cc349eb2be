//! Fills in the rules of ClusterRoles that are the sum of others.
//!
//! After `pkg/controller/clusterroleaggregation`: the rules of the selected roles, selector by
//! selector and by name, each once. There are few roles; every change of one is looked at for all
//! sums.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controller::{Controller, Work};
use crate::model::{ClusterRole, Key};
use crate::picture::{Change, Object, Picture};
use crate::request::{CLUSTER_ROLES, Request, Verb};

#[derive(Debug, Default)]
pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn concerns(&mut self, picture: &Picture, change: &Change, add: &mut dyn FnMut(Key)) {
        if matches!(change.object(), Object::ClusterRole(_)) {
            picture.cluster_roles.values().filter(|role| role.aggregates.is_some()).for_each(|role| add(role.meta.key()));
        }
    }

    fn plan(&mut self, picture: &Picture, key: &Key, _now: Timestamp) -> Work {
        let Some(role) = picture.cluster_roles.get(&key.name) else { return Work::default() };
        let Some(rules) = sum(picture, role).filter(|rules| rules_of(role) != rules) else { return Work::default() };
        let meta = &role.meta;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version.to_string()}, "rules": rules});
        Work::requests(vec![Request::new(CLUSTER_ROLES, key.clone(), Verb::Merge(patch))])
    }
}

/// None for roles that have rules of their own.
fn sum(picture: &Picture, role: &ClusterRole) -> Option<Vec<Value>> {
    // Roles may hold tens of thousands of rules: each is looked up, not compared with all.
    let mut known = BTreeSet::new();
    let mut rules: Vec<Value> = Vec::new();
    for selector in role.aggregates.as_ref()? {
        let is_meant = |other: &&ClusterRole| other.meta.name != role.meta.name && other.meta.labels.selected_by(selector);
        for rule in picture.cluster_roles.values().map(|other| &**other).filter(is_meant).flat_map(rules_of) {
            if known.insert(rule.to_string()) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

fn rules_of(role: &ClusterRole) -> &[Value] {
    role.rules.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `NAME LABEL RULE,RULE` or `NAME LABEL =SELECTED`; `-` is no label.
    fn picture(text: &str) -> Picture {
        let mut picture = Picture::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, label, what] = words.as_slice() else { panic!("three words: {line}") };
            let mut role = json!({"metadata": {"name": name, "uid": format!("{name}-uid"), "labels": {*label: "true"}}});
            match what.strip_prefix('=') {
                Some(selected) => role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {selected: "true"}}]}),
                None => role["rules"] = what.split(',').map(|rule| json!({"verbs": [rule]})).collect(),
            }
            let role: ClusterRole = serde_json::from_value(role).expect("roles of tests are well formed");
            picture.put(Object::ClusterRole(role.into()));
        }
        picture
    }

    fn check(text: &str, role: &str, expected: Expect) {
        let work = ClusterRoleAggregation.plan(&picture(text), &Key::new("", role), crate::fixture::now());
        let requests = work.steps.iter().flat_map(|step| &step.requests);
        expected.assert_eq(&requests.map(|request| format!("{} {}", request.path(), request.body().2["rules"])).collect::<String>());
    }

    #[test]
    fn rules_are_those_of_the_selected_roles_by_name_and_each_once() {
        check(
            "all - =part
             b part get,list
             a part get,watch
             other - delete",
            "all",
            expect![[r#"/apis/rbac.authorization.k8s.io/v1/clusterroles/all [{"verbs":["get"]},{"verbs":["watch"]},{"verbs":["list"]}]"#]],
        );
    }

    #[test]
    fn a_sum_does_not_add_itself_and_sums_may_be_summed() {
        check(
            "all part =part
             a part get",
            "all",
            expect![[r#"/apis/rbac.authorization.k8s.io/v1/clusterroles/all [{"verbs":["get"]}]"#]],
        );
    }

    #[test]
    fn roles_with_rules_of_their_own_and_sums_of_nothing_are_left_alone() {
        check("a part get", "a", expect![""]);
        check("all - =part", "all", expect![""]);
    }

    #[test]
    fn a_change_of_any_role_concerns_all_sums() {
        let picture = picture("all - =part\nmore - =part\na part get");
        let role = picture.cluster_roles["a"].clone();
        let mut keys = Vec::new();
        let change = Change { old: None, new: Some(Object::ClusterRole(role)) };
        ClusterRoleAggregation.concerns(&picture, &change, &mut |key| keys.push(key.to_string()));
        assert_eq!(keys, ["all", "more"]);
    }
}
