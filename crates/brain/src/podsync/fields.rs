//! The downward API: what `fieldRef` and `resourceFieldRef` give, in environments and in volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kinds::quantity::QuantityError;

use super::{containers, init_containers, limits};

/// Why a field of the downward API has no value. The words are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("fieldPath \"{0}\" does not support subscript")]
    NoMap(String),
    #[error("unsupported fieldPath: {0}")]
    UnknownPath(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("unsupported container resource : {0}")]
    UnknownResource(String),
    #[error("divisor {divisor:?} is no quantity")]
    Divisor { divisor: String, source: QuantityError },
}

/// The addresses that a pod has where its status does not say so yet.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub pod: Vec<String>,
    pub host: Vec<String>,
}

/// The value of a field of the pod. Maps as a whole are for volumes only; callers in environments
/// get them too, as Kubernetes' validation keeps them out.
pub fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(FieldError::NoMap(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(addresses.host.first()),
        "status.hostIPs" => addresses.host.join(","),
        "status.podIP" => text(addresses.pod.first()),
        "status.podIPs" => addresses.pod.join(","),
        _ => return Err(FieldError::UnknownPath(path.to_owned())),
    })
}

/// `metadata.labels['app']` is the map and its key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, sorted by key, quoted as Go quotes.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A limit or request of a container in units of the divisor, rounded up. What is not limited has
/// the whole node.
pub fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<String, FieldError> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => containers(pod)
            .iter()
            .chain(init_containers(pod))
            .find(|container| container.name == name)
            .ok_or_else(|| FieldError::NoContainer(name.to_owned()))?,
    };
    let unknown = || FieldError::UnknownResource(selector.resource.clone());
    let (side, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let requirements = limits::requirements(container);
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| if divisor.0 == "0" { "1" } else { divisor.0.as_str() });
    let divisor = kinds::quantity::Quantity::parse(divisor)
        .map_err(|source| FieldError::Divisor { divisor: divisor.to_owned(), source })?
        .millis()
        .max(1);
    let milli = match side {
        "limits" => {
            let of_pod = || limits::own_resources(pod).and_then(|own| limits::amount(&own.limits, name)).filter(|&milli| milli != 0);
            let of_node = || kinds::quantity::Quantity::parse(&allocatable.get(name)?.0).ok().map(|quantity| quantity.millis());
            limits::amount(&requirements.limits, name).filter(|&milli| milli != 0).or_else(of_pod).or_else(of_node)
        }
        "requests" => limits::amount(&requirements.requests, name),
        _ => return Err(unknown()),
    };
    let milli = milli.unwrap_or(0);
    Ok((milli / divisor + i64::from(milli % divisor != 0)).to_string())
}
