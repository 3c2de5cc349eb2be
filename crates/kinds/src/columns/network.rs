//! Tables of services and of the endpoints behind them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::cells::{Subject, labels, or, or_none, shortened};
use super::{AGE, NAME, Printer, text, wide};
use crate::cursor::Cursor;

pub static SERVICES: Printer = Printer::new(
    &[
        NAME,
        text("Type", "How the service is reached."),
        text("Cluster-IP", "Address inside the cluster."),
        text("External-IP", "Addresses outside the cluster."),
        text("Port(s)", "Ports, with the node's ports where there are any."),
        AGE,
        wide("Selector", "Labels of the pods behind the service."),
    ],
    service,
);

pub static ENDPOINTS: Printer = Printer::new(&[NAME, text("Endpoints", "Addresses and ports that are ready."), AGE], endpoints);

pub static ENDPOINT_SLICES: Printer = Printer::new(
    &[
        NAME,
        text("AddressType", "IPv4, IPv6 or FQDN."),
        text("Ports", "Ports of every endpoint."),
        text("Endpoints", "Addresses of the endpoints."),
        AGE,
    ],
    endpoint_slice,
);

pub static SERVICE_CIDRS: Printer =
    Printer::new(&[NAME, text("CIDRs", "Ranges from which Services get their addresses."), AGE], service_cidr);

/// Kubernetes' rows have a cell for the age, too, which no column is declared for and no client
/// shows.
pub static IP_ADDRESSES: Printer = Printer::new(&[NAME, text("ParentRef", "The object that has the address.")], ip_address);

fn service_cidr(object: &Subject<'_>) -> Vec<Value> {
    let cidrs: Vec<&str> = object.spec().field("cidrs").strs().collect();
    vec![object.name(), json!(cidrs.join(",")), object.age()]
}

fn ip_address(object: &Subject<'_>) -> Vec<Value> {
    let parent = object.spec().field("parentRef");
    let text = |name| parent.field(name).str();
    let mut shown = text("resource").to_lowercase();
    if !text("group").is_empty() {
        shown = format!("{shown}.{}", text("group").to_lowercase());
    }
    for part in [text("namespace"), text("name")].into_iter().filter(|part| !part.is_empty()) {
        shown = format!("{shown}/{part}");
    }
    vec![object.name(), or_none(&shown)]
}

fn service(object: &Subject<'_>) -> Vec<Value> {
    let spec = object.spec();
    vec![
        object.name(),
        json!(spec.field("type").str()),
        or_none(spec.field("clusterIP").str()),
        json!(external_ips(object)),
        or_none(&service_ports(&spec.field("ports"))),
        object.age(),
        labels(&spec.field("selector")),
    ]
}

fn external_ips(object: &Subject<'_>) -> String {
    let spec = object.spec();
    let external = spec.field("externalIPs");
    let (addresses, placeholder) = match spec.field("type").str() {
        "ExternalName" => return spec.field("externalName").str().to_owned(),
        "ClusterIP" | "NodePort" => (external.strs().collect(), "<none>"),
        "LoadBalancer" => (balancer_ips(object).into_iter().chain(external.strs()).collect(), "<pending>"),
        _ => (Vec::new(), "<unknown>"),
    };
    if addresses.is_empty() { placeholder.to_owned() } else { addresses.join(",") }
}

fn balancer_ips<'a>(object: &Subject<'a>) -> BTreeSet<&'a str> {
    let ingress = object.status().field("loadBalancer").field("ingress");
    let address = |point: Cursor<'a>| match point.field("ip").str() {
        "" => point.field("hostname").str(),
        ip => ip,
    };
    ingress.items().map(address).filter(|address| !address.is_empty()).collect()
}

fn service_ports(ports: &Cursor<'_>) -> String {
    let texts: Vec<String> = ports.items().map(|port| service_port(&port)).collect();
    texts.join(",")
}

fn service_port(port: &Cursor<'_>) -> String {
    let (number, protocol) = (port.field("port").int_or_zero(), port.field("protocol").str());
    match port.field("nodePort").int_or_zero() {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn endpoints(object: &Subject<'_>) -> Vec<Value> {
    let subsets = object.field("subsets");
    let addresses: Vec<String> = subsets.items().flat_map(|subset| subset_addresses(&subset)).collect();
    let shown = if subsets.is_empty() { "<none>".to_owned() } else { shortened(&addresses) };
    vec![object.name(), json!(shown), object.age()]
}

/// Every address with every port; the addresses alone where there are no ports.
fn subset_addresses(subset: &Cursor<'_>) -> Vec<String> {
    let addresses = subset.field("addresses");
    let ips: Vec<&str> = addresses.items().map(|address| address.field("ip").str()).collect();
    let ports: Vec<i64> = subset.field("ports").items().map(|port| port.field("port").int_or_zero()).collect();
    if ports.is_empty() {
        return ips.into_iter().map(str::to_owned).collect();
    }
    ports.iter().flat_map(|port| ips.iter().map(move |ip| host_port(ip, *port))).collect()
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn endpoint_slice(object: &Subject<'_>) -> Vec<Value> {
    let ports: Vec<String> = object.field("ports").items().map(|port| slice_port(&port)).collect();
    let endpoints = object.field("endpoints");
    let addresses: Vec<String> =
        endpoints.items().flat_map(|endpoint| endpoint.field("addresses").strs().map(str::to_owned).collect::<Vec<_>>()).collect();
    vec![
        object.name(),
        json!(object.field("addressType").str()),
        or(&shortened(&ports), "<unset>"),
        or(&shortened(&addresses), "<unset>"),
        object.age(),
    ]
}

/// The number; without one the name, without that any port.
fn slice_port(port: &Cursor<'_>) -> String {
    let (number, name) = (port.field("port"), port.field("name"));
    match number.int() {
        Some(number) => number.to_string(),
        None if name.exists() => name.str().to_owned(),
        None => "*".to_owned(),
    }
}
