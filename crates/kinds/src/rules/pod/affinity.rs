//! Where a pod wants to run: node and pod affinity, and how it spreads.

use std::collections::{BTreeMap, BTreeSet};

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(affinity: &Cursor<'_>) -> Errors {
    let mut errors = validate_node_affinity(&affinity.field("nodeAffinity"));
    for pods in ["podAffinity", "podAntiAffinity"].map(|name| affinity.field(name)) {
        errors.extend(pods.field(REQUIRED).items().flat_map(|term| validate_pod_term(&term)));
        for weighted in pods.field(PREFERRED).items() {
            errors.extend(validate_weight(&weighted));
            errors.extend(validate_pod_term(&weighted.field("podAffinityTerm")));
        }
    }
    errors
}

fn validate_weight(term: &Cursor<'_>) -> Option<FieldError> {
    let weight = term.field("weight");
    let is_valid = (1..=100).contains(&weight.int_or_zero());
    (!is_valid).then(|| weight.invalid_value(weight.int_or_zero(), "must be in the range 1-100"))
}

fn validate_node_affinity(affinity: &Cursor<'_>) -> Errors {
    let required = affinity.field(REQUIRED);
    let mut errors = Vec::new();
    if required.exists() {
        let terms = required.field("nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(terms.required("must have at least one node selector term"));
        }
        errors.extend(terms.items().flat_map(|term| validate_node_term(&term, Values::Checked)));
    }
    for term in affinity.field(PREFERRED).items() {
        errors.extend(validate_weight(&term));
        errors.extend(validate_node_term(&term.field("preference"), Values::Unchecked));
    }
    errors
}

/// Whether values must be possible label values; those of preferences need not.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    Checked,
    Unchecked,
}

fn validate_node_term(term: &Cursor<'_>, values: Values) -> Errors {
    let expressions = term.field("matchExpressions");
    let mut errors: Errors = expressions.items().flat_map(|expression| validate_node_expression(&expression, values)).collect();
    errors.extend(term.field("matchFields").items().flat_map(|expression| validate_field_expression(&expression)));
    errors
}

fn validate_node_expression(expression: &Cursor<'_>, checked: Values) -> Errors {
    let (operator, values) = (expression.field("operator"), expression.field("values"));
    let mut errors = Vec::new();
    match operator.str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.push(operator.invalid_str("not a valid selector operator")),
    }
    errors.extend(check::named(&expression.field("key"), names::qualified_name));
    if checked == Values::Checked {
        errors.extend(values.items().flat_map(|value| check::named(&value, names::label_value)));
    }
    errors
}

fn validate_field_expression(expression: &Cursor<'_>) -> Errors {
    let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
    let mut errors = Vec::new();
    match operator.str() {
        "In" | "NotIn" if values.len() != 1 => {
            errors.push(values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector"));
        }
        "In" | "NotIn" => {}
        _ => errors.push(operator.invalid_str("not a valid selector operator")),
    }
    if key.str() == "metadata.name" {
        errors.extend(values.items().flat_map(|value| check::named(&value, names::dns1123_subdomain)));
    } else {
        errors.push(key.invalid_str("not a valid field selector key"));
    }
    errors
}

fn validate_pod_term(term: &Cursor<'_>) -> Errors {
    let mut errors = check::label_selector(&term.field("labelSelector"));
    errors.extend(check::label_selector(&term.field("namespaceSelector")));
    let blamed = term.path().child("namespace");
    for name in term.field("namespaces").strs() {
        let findings = names::dns1123_label(name);
        errors.extend(findings.into_iter().map(|finding| FieldError::invalid(&blamed, name, finding)));
    }
    errors.extend(validate_label_keys(term));
    let key = term.field("topologyKey");
    if key.str().is_empty() {
        errors.push(key.required("can not be empty"));
    }
    errors.extend(check::named(&key, names::qualified_name));
    errors
}

/// `matchLabelKeys` and `mismatchLabelKeys`: labels of the pod itself that the selector is extended
/// with.
fn validate_label_keys(term: &Cursor<'_>) -> Errors {
    let (selector, matched, mismatched) = (term.field("labelSelector"), term.field("matchLabelKeys"), term.field("mismatchLabelKeys"));
    let mut errors = Vec::new();
    for keys in [&matched, &mismatched].into_iter().filter(|keys| !keys.is_empty()) {
        if selector.exists() {
            errors.extend(keys.items().flat_map(|key| check::named(&key, names::qualified_name)));
        } else {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
        }
    }
    errors.extend(keys_selected_twice(term, &selector, &matched));
    let excluded: BTreeSet<&str> = mismatched.strs().collect();
    for key in matched.items().filter(|key| excluded.contains(key.str())) {
        errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
    errors
}

/// By now the selector has an expression for every matched key, so two are one too many.
fn keys_selected_twice(term: &Cursor<'_>, selector: &Cursor<'_>, matched: &Cursor<'_>) -> Errors {
    let mut seen: BTreeSet<&str> = selector.field("matchLabels").entries().map(|(key, _)| key).collect();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, key) in matched.strs().enumerate() {
        places.entry(key).or_insert(index);
    }
    let mut errors = Vec::new();
    for key in selector.field("matchExpressions").items().map(|expression| expression.field("key").str()) {
        if let Some(&index) = places.get(key).filter(|_| seen.contains(key)) {
            let blamed = term.path().index(index);
            errors.push(FieldError::invalid(&blamed, key, "exists in both matchLabelKeys and labelSelector"));
        }
        seen.insert(key);
    }
    errors
}

pub fn validate_spread(constraints: &Cursor<'_>) -> Errors {
    let mut left: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for constraint in constraints.items() {
        *left.entry((constraint.field("topologyKey").str(), constraint.field("whenUnsatisfiable").str())).or_default() += 1;
    }
    let mut errors = Vec::new();
    for constraint in constraints.items() {
        let (skew, key, action) = (constraint.field("maxSkew"), constraint.field("topologyKey"), constraint.field("whenUnsatisfiable"));
        if skew.int_or_zero() <= 0 {
            errors.push(skew.invalid_value(skew.int_or_zero(), "must be greater than zero"));
        }
        if key.str().is_empty() {
            errors.push(key.required("can not be empty"));
        }
        if !matches!(action.str(), "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(action.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
        let same = left.entry((key.str(), action.str())).or_default();
        *same -= 1;
        if *same > 0 {
            let blamed = constraint.path().child("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(&blamed, format!("{{{}, {}}}", key.str(), action.str())));
        }
        errors.extend(validate_spread_options(&constraint));
    }
    errors
}

fn validate_spread_options(constraint: &Cursor<'_>) -> Errors {
    let (domains, action) = (constraint.field("minDomains"), constraint.field("whenUnsatisfiable").str());
    let mut errors = Vec::new();
    if domains.int().is_some_and(|number| number <= 0) {
        errors.push(domains.invalid("must be greater than zero"));
    }
    if domains.exists() && action != "DoNotSchedule" {
        errors.push(domains.invalid(format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}")));
    }
    for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        errors.extend(check::one_of_if_set(&constraint.field(name), &["Honor", "Ignore"]));
    }
    errors.extend(validate_spread_keys(constraint));
    errors.extend(check::label_selector(&constraint.field("labelSelector")));
    errors
}

fn validate_spread_keys(constraint: &Cursor<'_>) -> Errors {
    let (keys, selector) = (constraint.field("matchLabelKeys"), constraint.field("labelSelector"));
    let mut errors = Vec::new();
    if !keys.is_empty() && !selector.exists() {
        errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
    }
    // A Pod's selector has one expression for each of the keys already, a template's has none.
    let expressions = selector.field("matchExpressions");
    let is_extension = |expression: &Cursor<'_>| expression.field("operator").str() == "In" && expression.field("values").len() == 1;
    let mut expected: BTreeMap<&str, bool> = BTreeMap::new();
    for expression in expressions.items() {
        let is_expected = is_extension(&expression);
        expected.entry(expression.field("key").str()).and_modify(|only| *only = false).or_insert(is_expected);
    }
    for key in keys.items() {
        errors.extend(check::named(&key, names::qualified_name));
        let is_label = selector.field("matchLabels").key(key.str()).exists();
        let has_other = expected.get(key.str()) == Some(&false);
        if is_label || has_other {
            errors.push(key.invalid("exists in both matchLabelKeys and labelSelector"));
        }
    }
    errors
}
