//! Search paths: which names a pod's resolver asks for after a name that is not there, so that a
//! server can go on for it and answer at once what the pod would find.
//!
//! A pod with the usual list (`NAMESPACE.svc.DOMAIN`, `svc.DOMAIN`, `DOMAIN`, the node's own paths;
//! ndots:5) asks for an external name with each path first. In goes which pods the node has, and
//! what each name turned out to be; out comes the next name, or what to answer. Libraries disagree
//! in corners: where they do, the server answers only what it was asked, and the pod goes on by
//! itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::Type;
use crate::model::Key;

/// Names with fewer dots are asked for with the paths first.
const NDOTS: usize = 5;
/// Names in a namespace's part of the zone have at most two labels before it (an endpoint and its
/// Service), or three that begin with `_`. Shorter ones may be asked for as they are, and must then
/// not turn into names outside of the cluster.
const LABELS_MIN: usize = 3;
/// Older glibc ignores further paths.
const PATHS_MAX: usize = 6;
/// musl ignores longer lines (`search`, a space and a line break are the rest of 255).
const LIST_BYTES_MAX: usize = 247;
const NAME_BYTES_MAX: usize = 253;

/// The pods of a node, and the paths that they have besides their namespace's.
#[derive(Debug)]
pub struct SearchPaths {
    domain: String,
    of_node: Vec<String>,
    pods: BTreeMap<Key, Pod>,
    by_address: BTreeMap<IpAddr, BTreeSet<Key>>,
}

/// A pod with a network of its own that has not ended.
#[derive(Debug)]
struct Pod {
    addresses: Vec<IpAddr>,
    has_usual_list: bool,
}

/// The rest of a list, from the question that was answered "no such name" on.
#[derive(Debug, PartialEq, Eq)]
pub struct Search {
    names: Vec<String>,
    at: usize,
}

/// What a name of the list turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has records of the wanted type.
    Records,
    /// It is there, without records of the wanted type.
    Empty,
    Missing,
    /// There is no telling.
    Failed,
}

/// The end of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The question's name leads to [`Search::name`].
    Leads,
    /// The question gets its own negative answer, and the pod goes on by itself.
    Nothing,
}

impl SearchPaths {
    /// For pods that have these paths of their node, too. None where libraries use different parts
    /// of such a list.
    pub fn new(domain: &str, of_node: &[String]) -> Option<SearchPaths> {
        let of_node: Vec<String> = of_node.iter().map(|path| path.to_ascii_lowercase()).collect();
        let fits = of_node.len() + 3 <= PATHS_MAX && of_node.iter().all(|path| is_plain(path));
        let domain = domain.to_owned();
        fits.then(|| SearchPaths { domain, of_node, pods: BTreeMap::new(), by_address: BTreeMap::new() })
    }

    /// Of an object only what is needed is kept.
    pub fn put_pod(&mut self, key: &Key, object: &Value) {
        self.remove_pod(key);
        let Some(pod) = Pod::read(object) else { return };
        for address in &pod.addresses {
            self.by_address.entry(*address).or_default().insert(key.clone());
        }
        self.pods.insert(key.clone(), pod);
    }

    pub fn remove_pod(&mut self, key: &Key) {
        for address in self.pods.remove(key).into_iter().flat_map(|pod| pod.addresses) {
            if let Some(keys) = self.by_address.get_mut(&address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    pub fn pod_keys(&self) -> impl Iterator<Item = &Key> {
        self.pods.keys()
    }

    /// How a client goes on after it was told that there is no such name. None when it is no pod
    /// with the usual list, or the question may not be the first one of a search.
    pub fn after(&self, client: IpAddr, name: &str, kind: Type) -> Option<Search> {
        let namespace = self.namespace(client)?;
        let first = format!("{namespace}.svc.{}", self.domain);
        let wanted = name.strip_suffix(&first)?.strip_suffix('.')?;
        let labels = wanted.split('.').count();
        if !matches!(kind, Type::A | Type::Aaaa) || !(LABELS_MIN..=NDOTS).contains(&labels) || !is_plain(wanted) {
            return None;
        }
        let paths: Vec<String> =
            [format!("svc.{}", self.domain), self.domain.clone()].into_iter().chain(self.of_node.iter().cloned()).collect();
        let list_bytes = first.len() + paths.iter().map(|path| 1 + path.len()).sum::<usize>();
        let mut names: Vec<String> = paths.iter().map(|path| format!("{wanted}.{path}")).collect();
        names.push(wanted.to_owned());
        let is_usable = list_bytes <= LIST_BYTES_MAX && names.iter().all(|name| name.len() <= NAME_BYTES_MAX);
        is_usable.then_some(Search { names, at: 0 })
    }

    /// Of the pod with the usual list that has this address. None when another pod claims it, too:
    /// addresses change hands.
    fn namespace(&self, address: IpAddr) -> Option<&Arc<str>> {
        let mut keys = self.by_address.get(&address)?.iter();
        let (Some(key), None) = (keys.next(), keys.next()) else { return None };
        self.pods.get(key).filter(|pod| pod.has_usual_list).map(|_| &key.namespace)
    }
}

impl Pod {
    /// None for pods that have ended or share their node's address.
    fn read(object: &Value) -> Option<Pod> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let shares_network = object.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or_default();
        if shares_network || matches!(text("/status/phase"), Some("Succeeded" | "Failed")) {
            return None;
        }
        let all = object.pointer("/status/podIPs").and_then(Value::as_array);
        let addresses = all.into_iter().flatten().filter_map(|item| item.get("ip")?.as_str()?.parse().ok()).collect();
        let is_running = text("/status/phase") == Some("Running");
        let is_usual = text("/spec/dnsPolicy") == Some("ClusterFirst") && keeps_list(object.pointer("/spec/dnsConfig"));
        Some(Pod { addresses, has_usual_list: is_running && is_usual })
    }
}

/// Whether a `dnsConfig` leaves servers, paths and ndots as they are.
fn keeps_list(config: Option<&Value>) -> bool {
    let Some(config) = config.filter(|config| !config.is_null()) else { return true };
    if !config.is_object() {
        return false;
    }
    let items = |field: &str| match config.get(field) {
        None | Some(Value::Null) => Some([].as_slice()),
        Some(Value::Array(items)) => Some(items.as_slice()),
        Some(_) => None,
    };
    let is_other = |option: &Value| option.get("name").and_then(Value::as_str).is_some_and(|name| name != "ndots");
    let is_empty = |field: &str| items(field).is_some_and(<[Value]>::is_empty);
    is_empty("searches") && is_empty("nameservers") && items("options").is_some_and(|options| options.iter().all(is_other))
}

/// A name of letters, digits and dashes, lower-case, without empty labels.
fn is_plain(name: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    name.split('.').all(is_label)
}

impl Search {
    /// What is to be asked for now, or what was asked for last.
    pub fn name(&self) -> &str {
        &self.names[self.at]
    }

    /// Takes in what [`Search::name`] is. None: there is a next name.
    ///
    /// A name without the wanted type ends the search of musl, and that of a client that asks for
    /// both types and finds the other one. It does not end that of Go, nor of glibc unless a CNAME
    /// leads there. At the end of the list all agree. A failure ends the search of musl only.
    pub fn take(&mut self, seen: Seen) -> Option<End> {
        let is_last = self.at + 1 == self.names.len();
        match seen {
            Seen::Records => Some(End::Leads),
            Seen::Empty if is_last => Some(End::Leads),
            Seen::Missing if !is_last => {
                self.at += 1;
                None
            }
            Seen::Empty | Seen::Missing | Seen::Failed => Some(End::Nothing),
        }
    }
}

#[cfg(test)]
mod tests;
