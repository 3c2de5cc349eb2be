//! What the node is like, for the configurations of its sandboxes and containers; and the hosts
//! files of its pods.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use brain::podsync::config::{self, Parts, Site};
use brain::podsync::files::{self, DnsSettings, DnsWarning, NameTooLong};
use brain::podsync::{pod_id, security};
use containers::{ContainerConfig, SandboxConfig, UserNamespace};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::node::{Context, user_ids};

/// Why a sandbox cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    NoUserNamespaces,
    #[error(transparent)]
    Users(#[from] user_ids::Error),
    #[error(transparent)]
    Name(#[from] NameTooLong),
}

/// The sandbox of a pod.
pub fn sandbox(context: &Context, pod: &Pod, attempt: u32) -> Result<SandboxConfig, Error> {
    let users = user_namespace(context, pod)?;
    Ok(with_site(context, |site| config::sandbox(site, pod, attempt, users))?)
}

/// What the pod should have had to resolve names.
pub fn dns_warnings(context: &Context, pod: &Pod) -> Vec<DnsWarning> {
    with_site(context, |site| files::dns(pod, site.dns).warnings)
}

fn user_namespace(context: &Context, pod: &Pod) -> Result<Option<UserNamespace>, Error> {
    if !security::has_own_users(pod) {
        return Ok(None);
    }
    if !context.runtime.has_user_namespaces() {
        return Err(Error::NoUserNamespaces);
    }
    Ok(Some(context.user_ids.get(&pod_id(pod).uid)?))
}

pub fn container(context: &Context, pod: &Pod, container: &Container, parts: Parts<'_>) -> ContainerConfig {
    with_site(context, |site| config::container(site, pod, container, parts))
}

fn with_site<T>(context: &Context, work: impl FnOnce(&Site<'_>) -> T) -> T {
    let settings = &context.settings;
    work(&Site {
        dns: &DnsSettings {
            cluster_servers: settings.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: settings.cluster_domain.clone(),
            node: files::parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        },
        hostname: &rustix::system::uname().nodename().to_string_lossy(),
        logs: &settings.pod_logs_dir(),
        cgroup_root: &settings.cgroup_root,
        profiles: &settings.seccomp_dir(),
        memory_bytes: context.machine.memory_bytes,
    })
}

/// Writes the pod's /etc/hosts and answers where it is.
pub fn write_hosts(context: &Context, pod: &Pod, addresses: &[String]) -> std::io::Result<PathBuf> {
    let path = context.settings.pod_dir(&pod_id(pod).uid).join("etc-hosts");
    let of_node = std::fs::read_to_string(Path::new("/etc/hosts")).unwrap_or_default();
    let text = files::hosts(pod, addresses, &context.settings.cluster_domain, &of_node);
    // The container may have made it as long as it likes.
    let mut old = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(text.len() as u64 + 1).read_to_end(&mut old));
    if read.is_ok() && old == text.as_bytes() {
        return Ok(path);
    }
    crate::node::settings::make_closed_dir(&context.settings.pod_dir(&pod_id(pod).uid))?;
    std::fs::write(&path, text)?;
    Ok(path)
}
