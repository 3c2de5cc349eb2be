//! Which sysctls a node lets its pods set: those that Kubernetes calls safe on the node's kernel,
//! and what the administrator added.
//!
//! Only sysctls that belong to a namespace of the pod can ever be on the list: any other one is the
//! machine's.

use k8s_openapi::api::core::v1::Pod;

use super::admission::Rejection;

/// Safe: in a namespace of the pod, and without effect on other pods. With the first kernel that
/// has it in the namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

const NAME_BYTES_MAX: usize = 253;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Ipc,
    Network,
}

/// Why a pattern of `--allowed-unsafe-sysctls` cannot be allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the sysctl {0:?} is malformed: write names like net.core.somaxconn, or a prefix that ends in *")]
    Malformed(String),
    #[error("the sysctl {0:?} is not known to be namespaced: it would be the whole machine's")]
    NotNamespaced(String),
}

/// What pods of a node may set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowlist {
    names: Vec<String>,
    prefixes: Vec<String>,
}

impl Allowlist {
    /// `kernel` is the kernel's release (`6.1.0-18-amd64`); one that cannot be read has none of the
    /// newer sysctls. `added` are names, or prefixes that end in `*`.
    pub fn new(kernel: &str, added: &[String]) -> Result<Allowlist, Error> {
        let kernel = version(kernel);
        let safe = SAFE.iter().filter(|(_, since)| *since <= kernel).map(|(name, _)| (*name).to_owned());
        let mut list = Allowlist { names: safe.collect(), prefixes: Vec::new() };
        for pattern in added {
            list.add(pattern)?;
        }
        Ok(list)
    }

    fn add(&mut self, pattern: &str) -> Result<(), Error> {
        let prefix = pattern.strip_suffix('*');
        // What is left of a prefix may end in a separator or within a word.
        let plain = prefix.map_or(pattern, |prefix| prefix.trim_end_matches(['.', '/', '_', '-']));
        if !is_name(plain) {
            return Err(Error::Malformed(pattern.to_owned()));
        }
        let dotted = with_dots(prefix.unwrap_or(pattern));
        namespace(&dotted).ok_or_else(|| Error::NotNamespaced(pattern.to_owned()))?;
        if prefix.is_some() {
            self.prefixes.push(dotted)
        } else {
            self.names.push(dotted)
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Whether the pod asks for nothing else.
    pub fn check(&self, pod: &Pod) -> Result<(), Rejection> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let wanted = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
        for sysctl in wanted.into_iter().flatten() {
            let name = with_dots(&sysctl.name);
            let shared = match namespace(&name) {
                Some(Namespace::Ipc) => spec.host_ipc.unwrap_or(false).then_some("ipc"),
                Some(Namespace::Network) => spec.host_network.unwrap_or(false).then_some("net"),
                None => None,
            };
            let why = match shared {
                _ if !self.has(&name) || !is_name(&sysctl.name) => format!("{name:?} not allowlisted"),
                Some(shared) => format!("{name:?} not allowed with host {shared} enabled"),
                None => continue,
            };
            return Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")));
        }
        Ok(())
    }
}

/// The namespace that a sysctl (written with dots) belongs to; None: the machine.
pub fn namespace(name: &str) -> Option<Namespace> {
    match name {
        "kernel.sem" => Some(Namespace::Ipc),
        _ if ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix)) => Some(Namespace::Ipc),
        _ if name.starts_with("net.") => Some(Namespace::Network),
        _ => None,
    }
}

/// `net/ipv4/conf/eth0.1/x` is another way to write `net.ipv4.conf.eth0/1.x`: the first separator
/// says which.
pub fn with_dots(name: &str) -> String {
    let uses_slashes = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if uses_slashes { name.chars().map(swap).collect() } else { name.to_owned() }
}

/// As the API server has it. Static pods did not pass there.
fn is_name(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_segment = |segment: &str| {
        segment.starts_with(is_edge) && segment.ends_with(is_edge) && segment.chars().all(|c| is_edge(c) || matches!(c, '-' | '_'))
    };
    name.len() <= NAME_BYTES_MAX && name.split(['.', '/']).all(is_segment)
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(kernel: &str, added: &[&str]) -> Result<Allowlist, Error> {
        Allowlist::new(kernel, &added.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    /// The message of the refusal, or nothing.
    fn verdict(list: &Allowlist, name: &str, host: &str) -> String {
        let spec = json!({"spec": {host: true, "containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}});
        let pod = serde_json::from_value(spec).unwrap();
        match list.check(&pod) {
            Ok(()) => String::new(),
            Err(rejection) => {
                assert_eq!(rejection.reason, "SysctlForbidden");
                rejection.message
            }
        }
    }

    #[test]
    fn only_safe_ones_without_permission() {
        let list = list("6.1.0-18-amd64", &[]).unwrap();
        for (name, _) in SAFE {
            assert_eq!(verdict(&list, name, "x"), "");
            assert_eq!(verdict(&list, &name.replace('.', "/"), "x"), "");
        }
        assert_eq!(verdict(&list, "net.core.somaxconn", "x"), "forbidden sysctl: \"net.core.somaxconn\" not allowlisted");
        let machine = [
            "kernel.core_pattern",
            "vm.overcommit_memory",
            "fs.file-max",
            "kernel/core_pattern",
            "kernel.hostname",
            "user.max_user_namespaces",
        ];
        let hostile =
            ["", ".", "net", "net//ipv4", "net/../kernel.core_pattern", "net.//.kernel.core_pattern", "net.ipv4.tcp_syncookies\n"];
        for name in machine.into_iter().chain(hostile) {
            assert!(verdict(&list, name, "x").ends_with("not allowlisted"), "{name:?}");
        }
    }

    #[test]
    fn old_and_unreadable_kernels_have_fewer() {
        for kernel in ["4.4.0", "3.15", "", "x.y", "99999999999.1"] {
            let list = list(kernel, &[]).unwrap();
            assert!(verdict(&list, "net.ipv4.tcp_keepalive_time", "x").ends_with("not allowlisted"), "{kernel}");
            assert_eq!(verdict(&list, "net.ipv4.tcp_syncookies", "x"), "", "{kernel}");
        }
        assert_eq!(verdict(&list("4.5", &[]).unwrap(), "net.ipv4.tcp_keepalive_time", "x"), "");
    }

    #[test]
    fn never_the_nodes_own() {
        let list = list("6.1", &["net.core.*", "kernel.msg*"]).unwrap();
        assert_eq!(
            verdict(&list, "net.ipv4.tcp_syncookies", "hostNetwork"),
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"
        );
        assert_eq!(verdict(&list, "kernel.msgmax", "hostIPC"), "forbidden sysctl: \"kernel.msgmax\" not allowed with host ipc enabled");
        assert_eq!(verdict(&list, "kernel.msgmax", "hostNetwork"), "");
        assert_eq!(verdict(&list, "net/core/somaxconn", "x"), "");
    }

    #[test]
    fn what_is_not_namespaced_cannot_be_permitted() {
        for pattern in ["kernel.core_pattern", "kernel.*", "vm/*", "fs.*"] {
            assert_eq!(list("6.1", &[pattern]), Err(Error::NotNamespaced(pattern.to_owned())));
        }
        for pattern in ["", "*", "net.*.x", "net..x", "net.**", "../*"] {
            assert_eq!(list("6.1", &[pattern]), Err(Error::Malformed(pattern.to_owned())));
        }
    }
}
