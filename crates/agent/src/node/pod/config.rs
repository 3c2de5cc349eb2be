//! From a pod to what the runtime is asked to make: sandboxes and containers.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use brain::podsync::environment::Environment;
use brain::podsync::files::{self, Dns, DnsSettings};
use brain::podsync::limits::{self, Limits};
use brain::podsync::{restart, security, sysctls};
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::port::{
    ContainerConfig, DnsConfig, HostNamespaces, PortMapping, Protocol, Resources, SandboxConfig, Seccomp, SecurityContext, UserNamespace,
};

use super::id;
use crate::node::Context;
use crate::node::observer::{HASH, MESSAGE_POLICY};

/// The sandbox of a pod, and a warning when it asks for the cluster's resolver and there is none.
/// An error says why the node cannot make it.
pub fn sandbox(context: &Context, pod: &Pod, attempt: u32) -> Result<(SandboxConfig, Option<String>), String> {
    let pod_id = id(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let host = HostNamespaces {
        network: spec.host_network.unwrap_or(false),
        pid: spec.host_pid.unwrap_or(false),
        ipc: spec.host_ipc.unwrap_or(false),
    };
    let settings = dns_settings(context);
    let (dns, is_missing) = files::dns(pod, &settings);
    let warning = is_missing.then(|| {
        format!(
            "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"{}\" policy. Falling back to \"Default\" policy.",
            brain::podsync::full_name(pod),
            spec.dns_policy.as_deref().unwrap_or("ClusterFirst")
        )
    });
    // The cluster's resolver is not there yet for anybody: nothing that users could do about it.
    let warning = warning.filter(|_| !context.settings.cluster_dns.is_empty());
    let own_name = files::kernel_name(pod, &context.settings.cluster_domain)?;
    let hostname = if host.network { node_hostname() } else { own_name };
    let wanted_sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let config = SandboxConfig {
        attempt,
        hostname,
        handler: String::new(),
        log_dir: context.settings.pod_log_dir(&pod_id.namespace, &pod_id.name, &pod_id.uid),
        dns: dns_config(dns),
        port_mappings: if host.network { Vec::new() } else { port_mappings(pod) },
        host,
        share_process_namespace: spec.share_process_namespace.unwrap_or(false) && !host.pid,
        cgroup_parent: format!("/{}/{}", context.settings.cgroup_root, limits::cgroup(pod)),
        resources: resources(&limits::of_pod(pod)),
        sysctls: wanted_sysctls.into_iter().flatten().map(|sysctl| (sysctls::with_dots(&sysctl.name), sysctl.value.clone())).collect(),
        user_namespace: user_namespace(context, pod)?,
        labels: labels(&pod_id.name, &pod_id.namespace, &pod_id.uid, None),
        annotations: BTreeMap::new(),
        pod: pod_id,
    };
    Ok((config, warning))
}

fn user_namespace(context: &Context, pod: &Pod) -> Result<Option<UserNamespace>, String> {
    if !security::has_own_users(pod) {
        return Ok(None);
    }
    if !context.runtime.has_user_namespaces() {
        return Err("can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned());
    }
    context.user_ids.get(&id(pod).uid).map(Some)
}

/// What a container is made of besides its pod.
pub struct Parts<'a> {
    pub restarts: u32,
    pub image_id: &'a str,
    pub environment: &'a Environment,
    pub mounts: Vec<runtime::port::Mount>,
    pub target: Option<String>,
}

pub fn container(context: &Context, pod: &Pod, container: &Container, parts: Parts<'_>) -> ContainerConfig {
    let pod_id = id(pod);
    let expand =
        |texts: &Option<Vec<String>>| brain::podsync::environment::expand_all(texts.as_deref().unwrap_or_default(), parts.environment);
    let message_policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    ContainerConfig {
        name: container.name.clone(),
        attempt: parts.restarts,
        image: container.image.clone().unwrap_or_default(),
        image_id: parts.image_id.to_owned(),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        env: parts.environment.variables.clone(),
        mounts: parts.mounts,
        devices: Vec::new(),
        log_path: PathBuf::from(format!("{}/{}.log", container.name, parts.restarts)),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        resources: resources(&limits::of_container(pod, container, context.machine.memory_bytes)),
        security: security_context(context, pod, container, parts.target),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        labels: labels(&pod_id.name, &pod_id.namespace, &pod_id.uid, Some(&container.name)),
        annotations: BTreeMap::from([
            (HASH.to_owned(), restart::hash(container)),
            (MESSAGE_POLICY.to_owned(), message_policy),
            ("io.kubernetes.container.restartCount".to_owned(), parts.restarts.to_string()),
        ]),
    }
}

fn security_context(context: &Context, pod: &Pod, container: &Container, target: Option<String>) -> SecurityContext {
    let wanted = security::effective(pod, container);
    SecurityContext {
        privileged: wanted.privileged,
        add_capabilities: wanted.add_capabilities,
        drop_capabilities: wanted.drop_capabilities,
        run_as_user: wanted.run_as_user,
        run_as_username: None,
        run_as_group: wanted.run_as_group,
        supplemental_groups: wanted.supplemental_groups,
        strict_supplemental_groups: wanted.strict_supplemental_groups,
        read_only_root: wanted.read_only_root,
        no_new_privileges: wanted.no_new_privileges && !wanted.privileged,
        seccomp: match wanted.seccomp {
            _ if wanted.privileged => Seccomp::Unconfined,
            security::Seccomp::Unconfined => Seccomp::Unconfined,
            security::Seccomp::RuntimeDefault => Seccomp::RuntimeDefault,
            security::Seccomp::Localhost(name) => Seccomp::Localhost(context.settings.seccomp_dir().join(name)),
        },
        unmasked_proc: wanted.unmasked_proc,
        target_container: target,
    }
}

fn labels(name: &str, namespace: &str, uid: &str, container: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
        ("io.kubernetes.pod.namespace".to_owned(), namespace.to_owned()),
        ("io.kubernetes.pod.uid".to_owned(), uid.to_owned()),
    ]);
    labels.extend(container.map(|container| ("io.kubernetes.container.name".to_owned(), container.to_owned())));
    labels
}

pub fn resources(limits: &Limits) -> Resources {
    Resources {
        cpu_shares: limits.cpu_shares,
        cpu_quota_us: limits.cpu_quota_us,
        cpu_period_us: limits.cpu_period_us,
        memory_limit_bytes: limits.memory_bytes,
        pids_limit: None,
        oom_score_adj: limits.oom_score_adj,
    }
}

pub fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let number = |port: i32| u16::try_from(port).ok();
    let ports = brain::podsync::containers(pod).iter().chain(brain::podsync::init_containers(pod)).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: number(port.container_port)?,
                host_port: port.host_port.and_then(number).filter(|&port| port != 0)?,
                host_ip: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}

fn dns_settings(context: &Context) -> DnsSettings {
    DnsSettings {
        cluster_servers: context.settings.cluster_dns.iter().map(ToString::to_string).collect(),
        cluster_domain: context.settings.cluster_domain.clone(),
        node: files::parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    }
}

fn dns_config(dns: Dns) -> DnsConfig {
    DnsConfig { servers: dns.servers, searches: dns.searches, options: dns.options }
}

fn node_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Writes the pod's /etc/hosts and answers where it is.
pub fn write_hosts(context: &Context, pod: &Pod, addresses: &[String]) -> std::io::Result<PathBuf> {
    let path = context.settings.pod_dir(&id(pod).uid).join("etc-hosts");
    let of_node = std::fs::read_to_string(Path::new("/etc/hosts")).unwrap_or_default();
    let text = files::hosts(pod, addresses, &context.settings.cluster_domain, &of_node);
    // The container may have made it as long as it likes.
    let mut old = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(text.len() as u64 + 1).read_to_end(&mut old));
    if read.is_ok() && old == text.as_bytes() {
        return Ok(path);
    }
    crate::node::settings::make_closed_dir(&context.settings.pod_dir(&id(pod).uid))?;
    std::fs::write(&path, text)?;
    Ok(path)
}
