//! The Services that are measured: as many as wanted, each with two endpoints. The first one has
//! endpoints that answer, and a node port.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use containers::{Backend, Backends, Protocol, ServicePort, ServicePortName};
use net::services::ServiceSettings;

pub const TABLE: &str = "bench_services";
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 1);
pub const PORT: u16 = 80;
pub const NODE_PORT: u16 = 30080;
pub const TARGET_PORT: u16 = 8080;
/// The pods behind the first Service.
pub const PODS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 2, 2), Ipv4Addr::new(10, 244, 3, 2)];
pub const ENDPOINTS: usize = 2;
/// Addresses of Services begin here, those of endpoints that nobody is at there.
const FIRST_SERVICE: u32 = u32::from_be_bytes([10, 96, 0, 10]);
const FIRST_ENDPOINT: u32 = u32::from_be_bytes([10, 244, 16, 0]);
const SERVICES_PER_NAMESPACE: usize = 100;
/// What the ranges of addresses have room for.
pub const SERVICES_MAX: usize = 28_000;

pub fn settings() -> ServiceSettings {
    ServiceSettings {
        table: TABLE.to_owned(),
        cluster_cidr: "10.244.0.0/16".parse().expect("this is a range"),
        service_cidrs: vec!["10.96.0.0/16".parse().expect("this is a range")],
        node_addresses: vec![NODE_ADDRESS],
    }
}

pub fn ports(count: usize) -> BTreeMap<ServicePortName, ServicePort> {
    (0..count).map(|number| (name(number), port(number))).collect()
}

pub fn namespace(number: usize) -> String {
    format!("team-{}", number / SERVICES_PER_NAMESPACE)
}

pub fn service(number: usize) -> String {
    format!("service-{number}")
}

pub fn name(number: usize) -> ServicePortName {
    ServicePortName { namespace: namespace(number), service: service(number), port: String::new() }
}

pub fn address(number: usize) -> Ipv4Addr {
    (FIRST_SERVICE + number as u32).into()
}

pub fn endpoints(number: usize) -> [Ipv4Addr; ENDPOINTS] {
    if number == 0 {
        return PODS;
    }
    [0, 1].map(|index| (FIRST_ENDPOINT + (ENDPOINTS * number) as u32 + index).into())
}

pub fn port(number: usize) -> ServicePort {
    to(number, endpoints(number))
}

/// The same Service with other endpoints.
pub fn to(number: usize, endpoints: [Ipv4Addr; ENDPOINTS]) -> ServicePort {
    let backends = endpoints.map(|address| Backend { address: address.into(), port: TARGET_PORT }).to_vec();
    ServicePort {
        protocol: Protocol::Tcp,
        port: PORT,
        cluster_address: address(number).into(),
        node_port: (number == 0).then_some(NODE_PORT),
        external_addresses: Vec::new(),
        source_ranges: None,
        affinity_seconds: None,
        internal: Backends::To(backends.clone()),
        external: Backends::To(backends.clone()),
        external_local: None,
        on_this_node: Vec::new(),
        serving: backends,
    }
}
