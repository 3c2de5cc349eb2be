//! How registries are reached: mirrors, plain HTTP, limits. Loaded by the caller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where images come from. The default is right for registries on the internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Registries {
    /// By the registry's name in references (`docker.io`): endpoints that are asked before it, in
    /// order, without credentials. An endpoint is `https://host[:port]`, `http://host[:port]` or
    /// `host[:port]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`host[:port]`) that are spoken to without TLS. Those on the loopback interface
    /// always are.
    pub insecure: Vec<String>,
    /// A connection that sends nothing for that long is given up.
    pub stall_seconds: u64,
    /// Tries for a request that fails on the way or in the registry. A layer that makes progress is
    /// tried again that often each time.
    pub attempts: u32,
    /// Waited before the second try, doubled before each one after.
    pub backoff_milliseconds: u64,
}

const BACKOFF_MAX: Duration = Duration::from_secs(10);

impl Default for Registries {
    fn default() -> Registries {
        Registries { mirrors: BTreeMap::new(), insecure: Vec::new(), stall_seconds: 30, attempts: 4, backoff_milliseconds: 250 }
    }
}

/// A server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// With its port, if it has one.
    pub host: String,
    pub plain: bool,
    /// The registry that the reference names, not a mirror: only this one gets credentials.
    pub origin: bool,
}

impl Registries {
    /// The endpoints to ask for what that registry has, in order.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirrors = self.mirrors.get(registry).into_iter().flatten().map(|text| self.mirror(text));
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let origin = Endpoint { host: host.to_owned(), plain: self.is_insecure(registry), origin: true };
        mirrors.chain([origin]).collect()
    }

    fn mirror(&self, text: &str) -> Endpoint {
        let (host, plain) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(host), _) => (host, true),
            (_, Some(host)) => (host, false),
            _ => (text, self.is_insecure(text)),
        };
        Endpoint { host: host.trim_end_matches('/').to_owned(), plain, origin: false }
    }

    fn is_insecure(&self, registry: &str) -> bool {
        is_loopback(registry) || self.insecure.iter().any(|insecure| insecure == registry)
    }

    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds.max(1))
    }

    /// Before the try of that number, counted from 1; the first is not waited for.
    pub fn backoff(&self, attempt: u32) -> Duration {
        Duration::from_millis(self.backoff_milliseconds).saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(BACKOFF_MAX)
    }
}

pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_before_the_registry() {
        let mirrors = BTreeMap::from([("docker.io".to_owned(), vec!["http://cache:5000/".to_owned(), "second.example".to_owned()])]);
        let registries = Registries { mirrors, insecure: vec!["second.example".into()], ..Registries::default() };
        let hosts: Vec<_> = registries.endpoints("docker.io").into_iter().map(|e| (e.host, e.plain, e.origin)).collect();
        let expected = [("cache:5000", true, false), ("second.example", true, false), ("registry-1.docker.io", false, true)];
        assert_eq!(hosts, expected.map(|(host, plain, origin)| (host.to_owned(), plain, origin)));
    }

    #[test]
    fn loopback_needs_no_tls() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:9", "127.8.9.1", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in ["docker.io", "10.0.0.1:5000", "localhost.example", "[2001:db8::1]:5000"] {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
