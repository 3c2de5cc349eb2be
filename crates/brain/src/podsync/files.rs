//! What a pod finds in /etc: hosts, resolv.conf, its names.

use containers::DnsConfig;
use k8s_openapi::api::core::v1::Pod;
use kinds::field::go_quote;

use super::{full_name, is_host_network};

/// A name's longest form that the kernel takes.
const HOSTNAME_MAX: usize = 63;
const KERNEL_NAME_MAX: usize = 64;

/// What resolvers of C libraries take, after `MaxDNS…` of Kubernetes' validation.
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 253;
const SEARCH_LINE_BYTES_MAX: usize = 2048;

/// What the node knows about names.
#[derive(Debug, Clone, Default)]
pub struct DnsSettings {
    /// The cluster's resolver; empty while there is none.
    pub cluster_servers: Vec<String>,
    pub cluster_domain: String,
    /// The node's own resolv.conf.
    pub node: DnsConfig,
}

/// The pod's host name, and with a subdomain its whole name. An override is the whole of it.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let cut = |mut name: String| {
        name.truncate(HOSTNAME_MAX);
        name.trim_end_matches(['-', '.']).to_owned()
    };
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return (cut(name), None);
    }
    let name = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = cut(name.or_else(|| pod.metadata.name.clone()).unwrap_or_default());
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|subdomain| !subdomain.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = subdomain.map(|subdomain| format!("{name}.{subdomain}.{namespace}.svc.{cluster_domain}"));
    (name, full)
}

/// A whole name that the kernel does not take as a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({KERNEL_NAME_MAX} characters is the max, {} characters requested)",
    name.len()
)]
pub struct NameTooLong {
    pub name: String,
}

/// The host name that the agent gives the kernel: the pod's host name, or with `setHostnameAsFQDN`
/// the whole name if it is short enough.
pub fn kernel_name(pod: &Pod, cluster_domain: &str) -> Result<String, NameTooLong> {
    let (name, full) = hostname(pod, cluster_domain);
    match full.filter(|_| pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false)) {
        Some(name) if name.len() > KERNEL_NAME_MAX => Err(NameTooLong { name }),
        Some(full) => Ok(full),
        None => Ok(name),
    }
}

/// The pod's /etc/hosts. `node_hosts` is the node's own file.
pub fn hosts(pod: &Pod, addresses: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let mut out = String::new();
    if is_host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_hosts);
        if !node_hosts.is_empty() && !node_hosts.ends_with('\n') {
            out.push('\n');
        }
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str("127.0.0.1\tlocalhost\n");
        out.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (name, full) = hostname(pod, cluster_domain);
        for address in addresses {
            match &full {
                Some(full) => out.push_str(&format!("{address}\t{full}\t{name}\n")),
                None => out.push_str(&format!("{address}\t{name}\n")),
            }
        }
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    out
}

/// How a pod resolves names, and what it should have had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodDns {
    pub config: DnsConfig,
    pub warnings: Vec<DnsWarning>,
}

/// An event about a pod's names.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsWarning {
    pub reason: &'static str,
    pub message: String,
    /// For the node, where it is the one that lacks something.
    pub of_node: Option<String>,
}

/// By `dnsPolicy` and `dnsConfig`, within what resolvers take.
pub fn dns(pod: &Pod, settings: &DnsSettings) -> PodDns {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let wants_cluster = policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !is_host_network(pod));
    let is_missing = wants_cluster && settings.cluster_servers.is_empty();
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        _ if wants_cluster && !is_missing => cluster_dns(pod, settings),
        _ => settings.node.clone(),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        append_new(&mut dns.servers, config.nameservers.as_deref().unwrap_or_default());
        append_new(&mut dns.searches, config.searches.as_deref().unwrap_or_default());
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|old| old.split(':').next() != Some(&name));
            dns.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    let mut warnings: Vec<DnsWarning> = is_missing.then(|| missing_cluster_dns(pod)).into_iter().collect();
    warnings.extend(limit_servers(&mut dns.servers));
    warnings.extend(limit_searches(&mut dns.searches));
    PodDns { config: dns, warnings }
}

/// The pod gets what the policy Default gives.
fn missing_cluster_dns(pod: &Pod) -> DnsWarning {
    let of_node = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
    let message = format!("pod: {}. {of_node}", go_quote(&full_name(pod)));
    DnsWarning { reason: "MissingClusterDNS", message, of_node: Some(of_node.to_owned()) }
}

fn limit_servers(servers: &mut Vec<String>) -> Option<DnsWarning> {
    let is_too_long = servers.len() > SERVERS_MAX;
    servers.truncate(SERVERS_MAX);
    is_too_long.then(|| {
        let applied = servers.join(" ");
        left_out(format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}"))
    })
}

fn limit_searches(searches: &mut Vec<String>) -> Option<DnsWarning> {
    let count = searches.len();
    searches.truncate(SEARCHES_MAX);
    // Some resolvers abort when a path is longer.
    searches.retain(|path| path.len() <= SEARCH_BYTES_MAX);
    let mut line_bytes = searches.iter().map(|path| path.len() + 1).sum::<usize>().saturating_sub(1);
    while line_bytes > SEARCH_LINE_BYTES_MAX {
        let Some(last) = searches.pop() else { break };
        line_bytes -= last.len() + 1;
    }
    (searches.len() < count).then(|| {
        let applied = searches.join(" ");
        left_out(format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}"))
    })
}

fn left_out(message: String) -> DnsWarning {
    DnsWarning { reason: "DNSConfigForming", message, of_node: None }
}

fn cluster_dns(pod: &Pod, settings: &DnsSettings) -> DnsConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = &settings.cluster_domain;
    let mut searches = match domain.as_str() {
        "" => Vec::new(),
        domain => vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()],
    };
    append_new(&mut searches, &settings.node.searches);
    DnsConfig { servers: settings.cluster_servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn append_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// A resolv.conf as data.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last of several lines counts.
            Some("search") => dns.searches = words.map(|path| path.strip_suffix('.').unwrap_or(path).to_owned()).collect(),
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns
}
