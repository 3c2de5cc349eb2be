//! From a question to its answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::Key;

use super::records::{Answer, Data, Outcome, Question, Record, Type};
use super::{Endpoint, Kind, Port, Service, Zone};

/// Of the specification that the records follow.
const VERSION: &str = "1.1.0";
/// Endpoints of a Service share this weight.
const WEIGHT: usize = 100;
const IPV4_REVERSE: &str = "in-addr.arpa";
const IPV6_REVERSE: &str = "ip6.arpa";
/// A chain of names of names in the cluster ends after so many.
const EXTERNAL_NAMES_MAX: usize = 8;
/// More records than a message has room for are not worth looking for: a small question must not
/// keep the resolver busy.
const RECORDS_MAX: usize = 2000;
/// Names of one address.
const NAMES_MAX: usize = 16;

impl Zone {
    /// The server that names itself in the zone's own records.
    pub fn server_name(&self) -> String {
        format!("ns.dns.{}", self.settings.domain)
    }

    pub fn domain(&self) -> &str {
        &self.settings.domain
    }

    pub fn answer(&self, question: &Question<'_>) -> Outcome {
        if let Some(address) = reverse(question.name) {
            return self.reverse(address, question);
        }
        let Some(inside) = inside(question.name, &self.settings.domain) else { return Outcome::NotOurs };
        let labels: Vec<&str> = if inside.is_empty() { Vec::new() } else { inside.split('.').collect() };
        match labels[..] {
            [] => self.apex(question),
            ["dns-version"] => found(question, [Data::Txt(VERSION.to_owned())]),
            ["dns"] | ["svc"] | ["pod"] => nothing(),
            ["ns", "dns"] => found(question, [Data::address(self.settings.server)]),
            [namespace, "svc" | "pod"] => self.if_there_is(namespace, nothing()),
            [pod, namespace, "pod"] => match dashed(pod) {
                Some(address) => self.if_there_is(namespace, found(question, [Data::address(address)])),
                None => Outcome::NoSuchName,
            },
            [service, namespace, "svc"] => self.with_service(namespace, service, |key, of| self.service(question, key, of, 0)),
            [endpoint, service, namespace, "svc"] => self.with_service(namespace, service, |key, _| self.endpoint(question, key, endpoint)),
            [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => {
                    self.with_service(namespace, service, |key, of| self.port(question, key, of, (port, protocol)))
                }
                _ => Outcome::NoSuchName,
            },
            _ => Outcome::NoSuchName,
        }
    }

    fn if_there_is(&self, namespace: &str, outcome: Outcome) -> Outcome {
        if self.namespaces.contains(namespace) { outcome } else { Outcome::NoSuchName }
    }

    fn with_service(&self, namespace: &str, name: &str, then: impl FnOnce(&Key, &Service) -> Outcome) -> Outcome {
        match self.services.get_key_value(&Key::new(namespace, name)) {
            Some((key, service)) => then(key, service),
            None => Outcome::NoSuchName,
        }
    }

    fn apex(&self, question: &Question<'_>) -> Outcome {
        match question.kind {
            Type::Soa => Outcome::Found(Answer { with_soa: true, ..Answer::default() }),
            Type::Ns => {
                let server = self.server_name();
                let additional = vec![Record { name: server.clone(), data: Data::address(self.settings.server) }];
                let records = vec![record(question, Data::Ns(server))];
                Outcome::Found(Answer { records, additional, ..Answer::default() })
            }
            _ => nothing(),
        }
    }

    fn service(&self, question: &Question<'_>, key: &Key, service: &Service, depth: usize) -> Outcome {
        match &service.kind {
            Kind::External(target) => self.external(question, target, depth),
            Kind::WithAddress(addresses) if question.kind == Type::Srv => {
                self.srv_of_service(question, key, addresses, &mut service.ports.iter())
            }
            Kind::WithAddress(addresses) => found(question, addresses.iter().copied().map(Data::address)),
            Kind::Headless => {
                let endpoints: Vec<_> = self.endpoints(key).collect();
                if endpoints.is_empty() {
                    return Outcome::NoSuchName;
                }
                if question.kind == Type::Srv {
                    let all = endpoints.iter().flat_map(|(endpoint, ports)| ports.iter().map(move |port| (*endpoint, port)));
                    return self.srv_of_endpoints(question, key, all.take(RECORDS_MAX).collect());
                }
                found(question, addresses(endpoints.into_iter().map(|(endpoint, _)| endpoint)))
            }
        }
    }

    /// The other name, with what it leads to in the cluster.
    fn external(&self, question: &Question<'_>, target: &str, depth: usize) -> Outcome {
        if !matches!(question.kind, Type::A | Type::Aaaa | Type::Cname) {
            return nothing();
        }
        let mut records = vec![record(question, Data::Cname(target.to_owned()))];
        if question.kind == Type::Cname || depth == EXTERNAL_NAMES_MAX {
            return Outcome::Found(Answer { records, ..Answer::default() });
        }
        let next = Question { name: target, kind: question.kind };
        let outcome = match self.external_service(target) {
            Some((key, service)) => self.service(&next, key, service, depth + 1),
            None => self.answer(&next),
        };
        match outcome {
            Outcome::NotOurs => Outcome::Found(Answer { records, continues_at: Some(target.to_owned()), ..Answer::default() }),
            Outcome::NoSuchName => Outcome::Found(Answer { records, ..Answer::default() }),
            Outcome::Found(answer) => {
                records.extend(answer.records);
                Outcome::Found(Answer { records, ..answer })
            }
        }
    }

    /// The Service that a name is of: chains of such names are counted.
    fn external_service(&self, name: &str) -> Option<(&Key, &Service)> {
        let labels: Vec<&str> = inside(name, &self.settings.domain)?.split('.').collect();
        let [service, namespace, "svc"] = labels[..] else { return None };
        self.services.get_key_value(&Key::new(namespace, service))
    }

    fn endpoint(&self, question: &Question<'_>, key: &Key, name: &str) -> Outcome {
        let named: Vec<_> = self.endpoints(key).filter(|(endpoint, _)| &*endpoint.name == name).collect();
        if named.is_empty() {
            return Outcome::NoSuchName;
        }
        found(question, addresses(named.into_iter().map(|(endpoint, _)| endpoint)))
    }

    fn port(&self, question: &Question<'_>, key: &Key, service: &Service, (name, protocol): (&str, &str)) -> Outcome {
        let is_it = |port: &&Port| *port.name == *name && *port.protocol == *protocol;
        match &service.kind {
            Kind::External(_) => Outcome::NoSuchName,
            Kind::WithAddress(addresses) => {
                let mut named = service.ports.iter().filter(is_it).peekable();
                if named.peek().is_none() {
                    return Outcome::NoSuchName;
                }
                self.srv_of_service(question, key, addresses, &mut named)
            }
            Kind::Headless => {
                let all = self.endpoints(key).flat_map(|(endpoint, ports)| ports.iter().map(move |port| (endpoint, port)));
                let named: Vec<_> = all.filter(|(_, port)| is_it(port)).take(RECORDS_MAX).collect();
                if named.is_empty() {
                    return Outcome::NoSuchName;
                }
                self.srv_of_endpoints(question, key, named)
            }
        }
    }

    fn srv_of_service(&self, question: &Question<'_>, key: &Key, addresses: &[IpAddr], ports: &mut dyn Iterator<Item = &Port>) -> Outcome {
        if question.kind != Type::Srv {
            return nothing();
        }
        let target = self.name_of(key);
        let weight = WEIGHT as u16;
        let records: Vec<Record> =
            ports.map(|port| record(question, Data::Srv { priority: 0, weight, port: port.port, target: target.clone() })).collect();
        let additional = addresses.iter().map(|address| Record { name: target.clone(), data: Data::address(*address) }).collect();
        Outcome::Found(Answer { records, additional, ..Answer::default() })
    }

    fn srv_of_endpoints(&self, question: &Question<'_>, key: &Key, endpoints: Vec<(&Endpoint, &Port)>) -> Outcome {
        if question.kind != Type::Srv {
            return nothing();
        }
        let weight = u16::try_from((WEIGHT / endpoints.len().max(1)).max(1)).unwrap_or(1);
        let mut answer = Answer::default();
        let mut known = BTreeSet::new();
        for (endpoint, port) in endpoints {
            let target = format!("{}.{}", endpoint.name, self.name_of(key));
            for address in &endpoint.addresses {
                if known.insert((&*endpoint.name, *address)) {
                    answer.additional.push(Record { name: target.clone(), data: Data::address(*address) });
                }
            }
            answer.records.push(record(question, Data::Srv { priority: 0, weight, port: port.port, target }));
        }
        Outcome::Found(answer)
    }

    fn name_of(&self, key: &Key) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.settings.domain)
    }

    fn reverse(&self, address: IpAddr, question: &Question<'_>) -> Outcome {
        let services = || self.by_address.get(&address).into_iter().flat_map(|services| services.keys());
        let is_own = |key: &&Key| {
            let kind = self.services.get(*key).map(|service| &service.kind);
            matches!(kind, Some(Kind::WithAddress(addresses)) if addresses.contains(&address))
        };
        // Every user can list an address as an endpoint; the Service whose own it is has the name.
        let named: Vec<&Key> = match services().find(is_own) {
            Some(own) => vec![own],
            None => services().take(NAMES_MAX).collect(),
        };
        let names: Vec<Data> = named.into_iter().flat_map(|key| self.names_at(key, address)).take(NAMES_MAX).collect();
        match names.is_empty() {
            false => found(question, names),
            true if self.settings.ranges.iter().any(|range| range.contains(&address)) => Outcome::NoSuchName,
            true => Outcome::NotOurs,
        }
    }

    /// The names that a Service gives an address: its own, or those of endpoints.
    fn names_at(&self, key: &Key, address: IpAddr) -> Vec<Data> {
        match self.services.get(key).map(|service| &service.kind) {
            Some(Kind::WithAddress(addresses)) if addresses.contains(&address) => vec![Data::Ptr(self.name_of(key))],
            Some(Kind::Headless) => {
                let here = self.endpoints(key).filter(|(endpoint, _)| endpoint.addresses.contains(&address));
                here.map(|(endpoint, _)| Data::Ptr(format!("{}.{}", endpoint.name, self.name_of(key)))).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn addresses<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Data> {
    let mut all: Vec<IpAddr> = endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(RECORDS_MAX);
    all.into_iter().map(Data::address).collect()
}

/// The part of a name before the domain; None outside of it.
fn inside<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    match rest {
        "" => Some(""),
        _ => rest.strip_suffix('.'),
    }
}

/// Those of the data that are of the wanted type.
fn found(question: &Question<'_>, data: impl IntoIterator<Item = Data>) -> Outcome {
    let records = data.into_iter().filter(|data| data.kind() == question.kind).map(|data| record(question, data)).collect();
    Outcome::Found(Answer { records, ..Answer::default() })
}

fn nothing() -> Outcome {
    Outcome::Found(Answer::default())
}

fn record(question: &Question<'_>, data: Data) -> Record {
    Record { name: question.name.to_owned(), data }
}

/// The address in the name of a pod: `10-244-1-2`.
fn dashed(name: &str) -> Option<IpAddr> {
    let by_dots = name.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok();
    by_dots.or_else(|| name.replace('-', ":").parse().map(IpAddr::V6).ok())
}

/// The address that a name of the reverse zones is about.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = inside(name, IPV4_REVERSE) {
        let mut parts: Vec<&str> = octets.split('.').collect();
        parts.reverse();
        return parts.join(".").parse::<Ipv4Addr>().map(IpAddr::V4).ok();
    }
    let nibbles: Vec<&str> = inside(name, IPV6_REVERSE)?.rsplit('.').collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let groups: Vec<String> = nibbles.chunks(4).map(<[&str]>::concat).collect();
    groups.join(":").parse().map(IpAddr::V6).ok()
}
