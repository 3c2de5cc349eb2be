//! metrics.k8s.io: what nodes and pods use, for `kubectl top`. Made of what was collected, for
//! objects that still exist.

use std::collections::BTreeMap;

use http::Response;
use kinds::quantity::Quantity;
use kinds::status::Status;
use kinds::table;
use serde_json::{Value, json};

use super::super::answer;
use super::super::resources::ResourceCall;
use crate::body::Body;
use crate::nodes::usage::Figures;
use crate::registry::object::Object;
use crate::request::options::ListOptions;

pub fn answer(request: &ResourceCall<'_>, verb: &str) -> Result<Response<Body>, Status> {
    let kind = request.kind;
    // The objects behind the figures have the labels that selectors look at.
    let objects = table::by_resource("", "v1", kind.plural).expect("the table has nodes and pods");
    let encoding = request.presenter.accepted.encoding;
    let registry = request.registry();
    let namespace = request.namespace();
    if verb == "get" {
        let key = crate::registry::object::local_key(namespace, &request.path.name);
        let found = registry.caches.of(objects).get(&key).and_then(|object| item(request, &object));
        let mut found = found.ok_or_else(|| Status::not_found(kind.resource(), &request.path.name))?;
        found["kind"] = kind.kind.into();
        found["apiVersion"] = kind.api_version().into();
        return Ok(answer::value(200, &found, encoding));
    }
    let options = ListOptions::parse(request.query(), objects, false)?;
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let snapshot = registry.caches.of(objects).snapshot(&prefix, registry.caches.applied());
    let selected = snapshot.objects.iter().filter(|object| options.selects(object));
    let items: Vec<Value> = selected.filter_map(|object| item(request, object)).collect();
    let list = json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": {}, "items": items});
    Ok(answer::value(200, &list, encoding))
}

/// None for what nothing was collected of.
fn item(request: &ResourceCall<'_>, object: &Object) -> Option<Value> {
    let usage = &request.server.inner.usage;
    let value = object.value();
    let mut metadata = json!({"name": object.name(), "creationTimestamp": crate::nodes::usage::time(request.now)});
    if let Some(labels) = value["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    if request.kind.plural == "nodes" {
        let figures = usage.node(object.name())?;
        return Some(timed(json!({"metadata": metadata, "usage": quantities(&figures)}), &figures));
    }
    metadata["namespace"] = object.namespace().into();
    let node = value["spec"]["nodeName"].as_str()?;
    let containers: BTreeMap<String, Figures> = usage.pod(node, object.namespace(), object.name())?;
    let newest = containers.values().max_by_key(|figures| figures.at)?.clone();
    let told: Vec<Value> = containers.iter().map(|(name, figures)| json!({"name": name, "usage": quantities(figures)})).collect();
    Some(timed(json!({"metadata": metadata, "containers": told}), &newest))
}

fn timed(mut item: Value, figures: &Figures) -> Value {
    item["timestamp"] = crate::nodes::usage::time(figures.at).into();
    item["window"] = format!("{}s", figures.window.as_secs_f64().round()).into();
    item
}

fn quantities(figures: &Figures) -> Value {
    // Whole kibibytes, as agents of the field tell memory.
    let memory = Quantity::parse(&format!("{}Ki", figures.memory_bytes / 1024));
    json!({"cpu": format!("{}n", figures.cpu_nanocores), "memory": memory.map_or_else(|_| "0".to_owned(), |memory| memory.to_string())})
}
