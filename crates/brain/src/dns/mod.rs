//! The cluster's names: which records a question about Services and pods has.
//!
//! After the specification of Kubernetes' DNS (kubernetes/dns, docs/specification.md, 1.1.0); where
//! it leaves a choice, as CoreDNS does with kubeadm's configuration. Pure: [`Zone`] is what is
//! known, a question is a name and a type, and the answer is data. Names are lower-case here and
//! have no dot at their end; whoever asks gets them back as they were asked.

mod answer;
mod records;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use crate::model::{EndpointSlice, Key};

pub use records::{Answer, Data, Outcome, Question, Record, TTL_SECONDS, Type};
pub use search::{End, Search, SearchPaths, Seen};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the records depend on besides objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneSettings {
    /// `cluster.local`.
    pub domain: String,
    /// Where this is asked.
    pub server: IpAddr,
    /// Ranges of Services and pods: unknown addresses in them have no name anywhere.
    pub ranges: Vec<IpNet>,
}

/// Everything that has a name.
#[derive(Debug)]
pub struct Zone {
    settings: ZoneSettings,
    namespaces: BTreeSet<Arc<str>>,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, Slice>,
    /// The slices of each Service.
    of_service: BTreeMap<Key, BTreeSet<Key>>,
    /// The Services that an address belongs to, and how often.
    by_address: BTreeMap<IpAddr, BTreeMap<Key, usize>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Service {
    kind: Kind,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    WithAddress(Vec<IpAddr>),
    Headless,
    /// Another name, as in `spec.externalName`.
    External(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Port {
    name: Box<str>,
    /// Lower-case.
    protocol: Box<str>,
    port: u16,
}

/// The ready endpoints of a slice.
#[derive(Debug, Clone, PartialEq)]
struct Slice {
    service: Key,
    endpoints: Vec<Endpoint>,
    ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq)]
struct Endpoint {
    /// Its hostname, or its address with dashes.
    name: Box<str>,
    addresses: Vec<IpAddr>,
}

impl Zone {
    pub fn new(settings: ZoneSettings) -> Zone {
        Zone {
            settings,
            namespaces: BTreeSet::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            of_service: BTreeMap::new(),
            by_address: BTreeMap::new(),
        }
    }

    pub fn put_namespace(&mut self, name: &Arc<str>) {
        self.namespaces.insert(name.clone());
    }

    pub fn remove_namespace(&mut self, name: &Arc<str>) {
        self.namespaces.remove(name);
    }

    pub fn put_service(&mut self, key: &Key, object: &Value) {
        self.remove_service(key);
        let Some(service) = Service::read(object) else { return };
        if let Kind::WithAddress(addresses) = &service.kind {
            for address in addresses {
                self.remember_address(*address, key);
            }
        }
        self.services.insert(key.clone(), service);
    }

    pub fn remove_service(&mut self, key: &Key) {
        let Some(service) = self.services.remove(key) else { return };
        if let Kind::WithAddress(addresses) = service.kind {
            addresses.iter().for_each(|address| self.forget_address(address, key));
        }
    }

    pub fn put_slice(&mut self, key: &Key, object: Value) {
        self.remove_slice(key);
        let Some(slice) = serde_json::from_value(object).ok().and_then(|slice| Slice::read(&slice)) else { return };
        for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            self.remember_address(*address, &slice.service);
        }
        self.of_service.entry(slice.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key.clone(), slice);
    }

    pub fn remove_slice(&mut self, key: &Key) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(slices) = self.of_service.get_mut(&slice.service) {
            slices.remove(key);
            if slices.is_empty() {
                self.of_service.remove(&slice.service);
            }
        }
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        addresses.for_each(|address| self.forget_address(address, &slice.service));
    }

    fn remember_address(&mut self, address: IpAddr, service: &Key) {
        *self.by_address.entry(address).or_default().entry(service.clone()).or_default() += 1;
    }

    fn forget_address(&mut self, address: &IpAddr, service: &Key) {
        if let Some(services) = self.by_address.get_mut(address) {
            match services.get_mut(service) {
                Some(times) if *times > 1 => *times -= 1,
                _ => {
                    services.remove(service);
                }
            }
            if services.is_empty() {
                self.by_address.remove(address);
            }
        }
    }

    /// The ready endpoints of a Service, each with the ports of its slice.
    fn endpoints(&self, service: &Key) -> impl Iterator<Item = (&Endpoint, &[Port])> {
        let keys = self.of_service.get(service).into_iter().flatten();
        let slices = keys.filter_map(|key| self.slices.get(key));
        slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| (endpoint, slice.ports.as_slice())))
    }

    /// What is there, for a list that is complete: keys that are not in it are gone.
    pub fn service_keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    pub fn slice_keys(&self) -> impl Iterator<Item = &Key> {
        self.slices.keys()
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.iter()
    }
}

impl Service {
    fn read(object: &Value) -> Option<Service> {
        let spec = object.get("spec")?;
        let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default();
        let kind = if text("type") == "ExternalName" {
            Kind::External(text("externalName").trim_end_matches('.').to_ascii_lowercase())
        } else if matches!(text("clusterIP"), "" | "None") {
            Kind::Headless
        } else {
            let all = spec.get("clusterIPs").and_then(Value::as_array);
            let mut texts: Vec<&str> = all.into_iter().flatten().filter_map(Value::as_str).collect();
            if texts.is_empty() {
                texts.push(text("clusterIP"));
            }
            Kind::WithAddress(texts.into_iter().filter_map(|text| text.parse().ok()).collect())
        };
        let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
        Some(Service { kind, ports: ports.filter_map(Port::read).collect() })
    }
}

impl Port {
    fn read(port: &Value) -> Option<Port> {
        let text = |field: &str| port.get(field).and_then(Value::as_str);
        Some(Port {
            name: text("name").unwrap_or_default().into(),
            protocol: text("protocol").unwrap_or("TCP").to_ascii_lowercase().into(),
            port: port.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok())?,
        })
    }
}

impl Slice {
    /// None for slices of no Service, and for those whose addresses are names.
    fn read(slice: &EndpointSlice) -> Option<Slice> {
        if &*slice.address_type == "FQDN" {
            return None;
        }
        let name = slice.meta.labels.get(SERVICE_NAME)?;
        let is_ready = |endpoint: &&crate::model::Endpoint| endpoint.conditions.ready.unwrap_or(true);
        let port = |port: &crate::model::EndpointPort| {
            Some(Port {
                name: port.name.clone(),
                protocol: port.protocol.to_ascii_lowercase().into(),
                port: u16::try_from(port.port?).ok()?,
            })
        };
        Some(Slice {
            service: Key { namespace: slice.meta.namespace.clone(), name: name.into() },
            endpoints: slice.endpoints.iter().filter(is_ready).filter_map(Endpoint::read).collect(),
            ports: slice.ports.iter().filter_map(port).collect(),
        })
    }
}

impl Endpoint {
    fn read(endpoint: &crate::model::Endpoint) -> Option<Endpoint> {
        // All addresses of an endpoint are as good as the first one, which proxies use.
        let addresses: Vec<IpAddr> = endpoint.addresses.first().and_then(|text| text.parse().ok()).into_iter().collect();
        let dashed = || addresses.first().map(|address| address.to_string().replace(['.', ':'], "-").into());
        let name = endpoint.hostname.clone().filter(|name| !name.is_empty()).or_else(dashed)?;
        Some(Endpoint { name: name.to_ascii_lowercase().into(), addresses })
    }
}

#[cfg(test)]
mod tests;
