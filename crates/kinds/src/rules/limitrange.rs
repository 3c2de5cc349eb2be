//! LimitRanges: what containers and pods of a namespace may request, and request if they say
//! nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::cursor::Cursor;
use crate::names;
use crate::quantity::Quantity;

use super::check::{self, Errors};
use super::meta::{self, NAMESPACED};
use super::pod::{resources, round_list};
use super::{Part, Rules};

const LISTS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub static RULES: LimitRangeRules = LimitRangeRules;

pub struct LimitRangeRules;

impl Rules for LimitRangeRules {
    fn default(&self, object: &mut Value) {
        let limits = object.pointer_mut("/spec/limits").and_then(Value::as_array_mut);
        for limit in limits.into_iter().flatten().filter(|limit| limit.is_object()) {
            // Containers' defaults follow from rounded amounts.
            LISTS.iter().for_each(|list| round_list(limit, list));
            if limit["type"] == "Container" {
                default_container(limit);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let limits = Cursor::root(object).field("spec").field("limits");
        let mut seen = BTreeSet::new();
        let mut errors = meta::validate(object, NAMESPACED);
        for limit in limits.items() {
            let kind = limit.field("type");
            errors.extend(validate_type(&kind));
            errors.extend((!seen.insert(kind.str())).then(|| kind.duplicate()));
            errors.extend(validate_limit(&limit));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(self.validate_create(object));
        errors
    }
}

/// Limits default to the maximum, requests to the limits, then to the minimum.
fn default_container(limit: &mut Value) {
    for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
        let amounts: Map<String, Value> = limit[from].as_object().cloned().unwrap_or_default();
        let list = meta::child(limit, to);
        for (name, amount) in amounts {
            list.entry(name).or_insert(amount);
        }
    }
}

fn validate_type(kind: &Cursor<'_>) -> Errors {
    let errors = check::named(kind, names::qualified_name);
    let is_known = matches!(kind.str(), "Pod" | "Container" | "PersistentVolumeClaim") || kind.str().contains('/');
    if errors.is_empty() && !is_known {
        return vec![kind.invalid_str("must be a standard limit type or fully qualified")];
    }
    errors
}

fn validate_limit(limit: &Cursor<'_>) -> Errors {
    let kind = limit.field("type").str();
    let names_of = |list: &'static str| validate_names(&limit.field(list), kind);
    let mut errors = names_of("max");
    errors.extend(names_of("min"));
    for list in ["default", "defaultRequest"] {
        if kind != "Pod" {
            errors.extend(names_of(list));
        } else if !limit.field(list).is_empty() {
            errors.push(limit.field(list).forbidden("may not be specified when `type` is 'Pod'"));
        }
    }
    let has_storage = ["min", "max"].iter().any(|list| limit.field(list).key("storage").exists());
    if kind == "PersistentVolumeClaim" && !has_storage {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(limit.field("limits").required(detail));
    }
    errors.extend(names_of("maxLimitRequestRatio"));
    let resources: BTreeSet<&str> = LISTS.iter().flat_map(|list| limit.field(list).entries().map(|(name, _)| name)).collect();
    errors.extend(resources.into_iter().flat_map(|resource| validate_amounts(limit, resource)));
    errors
}

/// Pods and containers have fewer resources than claims have.
fn validate_names(list: &Cursor<'_>, kind: &str) -> Errors {
    let mut errors = Vec::new();
    for (name, amount) in list.entries() {
        errors.extend(resources::resource_name(name, &amount));
        if !matches!(kind, "Pod" | "Container") {
            continue;
        }
        let is_of_containers = matches!(name, "cpu" | "memory" | "ephemeral-storage") || resources::is_huge_pages(name);
        if !name.contains('/') && !is_of_containers {
            errors.push(amount.invalid_value(name, "must be a standard resource for containers"));
        } else if name.contains('/') && !resources::is_native(name) && !resources::is_extended(name) {
            errors.push(amount.invalid_value(name, "doesn't follow extended resource name standard"));
        }
    }
    errors
}

/// The amounts of one resource, held against each other.
fn validate_amounts(limit: &Cursor<'_>, resource: &str) -> Errors {
    let is_pod = limit.field("type").str() == "Pod";
    let amount = |list: &'static str| {
        let cursor = limit.field(list).key(resource);
        let is_ignored = is_pod && matches!(list, "default" | "defaultRequest");
        (cursor.exists() && !is_ignored).then(|| (check::quantity(&cursor), cursor))
    };
    let (min, max) = (amount("min"), amount("max"));
    let (default, request, ratio) = (amount("default"), amount("defaultRequest"), amount("maxLimitRequestRatio"));
    type Amount<'a> = Option<(Quantity, Cursor<'a>)>;
    let mut errors = Vec::new();
    let mut ordered = |low: &Amount<'_>, high: &Amount<'_>, at: &Amount<'_>, shown: &Amount<'_>, words: [&str; 2]| {
        if let (Some((low, _)), Some((high, _)), Some((_, at)), Some((shown, _))) = (low, high, at, shown)
            && low > high
        {
            let detail = format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
            errors.push(at.invalid_value(shown.to_string(), detail));
        }
    };
    ordered(&min, &max, &min, &min, ["min", "max"]);
    ordered(&min, &request, &request, &request, ["min", "default request"]);
    ordered(&request, &max, &request, &request, ["default request", "max"]);
    ordered(&request, &default, &request, &request, ["default request", "default limit"]);
    ordered(&min, &default, &default, &min, ["min", "default"]);
    ordered(&default, &max, &default, &max, ["default", "max"]);
    if let Some((ratio, at)) = &ratio {
        errors.extend(validate_ratio(ratio, at, min.as_ref().map(|(min, _)| min), max.as_ref().map(|(max, _)| max)));
    }
    if let (Some((default, _)), Some((request, at))) = (&default, &request)
        && !resources::is_overcommit_allowed(resource)
        && default != request
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {resource}");
        errors.push(at.invalid_value(request.to_string(), detail));
    }
    errors
}

fn validate_ratio(ratio: &Quantity, at: &Cursor<'_>, min: Option<&Quantity>, max: Option<&Quantity>) -> Errors {
    let mut errors = Vec::new();
    if *ratio < Quantity::from_units(1) {
        errors.push(at.invalid_value(ratio.to_string(), format!("ratio {ratio} is less than 1")));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let limit = max.millis() as f64 / min.millis() as f64;
        if ratio.millis() as f64 / 1000.0 > limit {
            errors.push(at.invalid_value(ratio.to_string(), format!("ratio {ratio} is greater than max/min = {limit:.6}")));
        }
    }
    errors
}
