//! From a pod to what a container runtime is asked to make: sandboxes and containers.
//!
//! In: the pod, what the node is like ([`Site`]), and what was prepared for the container
//! ([`Parts`]). Out: the runtime's configurations. What cannot be made is an error with the
//! kubelet's words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use containers::{
    ContainerConfig, HostNamespaces, Mount, PodId, PortMapping, Protocol, SandboxConfig, Seccomp, SecurityContext, UserNamespace,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::environment::{Environment, expand_all};
use super::files::{self, DnsSettings, NameTooLong};
use super::security::{self, Profile};
use super::{limits, pod_id, restart, sysctls};

/// Annotations that containers carry for the next agent.
pub const HASH: &str = "io.kubernetes.container.hash";
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";

/// What the node is like, as far as sandboxes and containers depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub dns: &'a DnsSettings,
    /// The kernel's name of the node: pods in the node's network have it.
    pub hostname: &'a str,
    /// `/var/log/pods`.
    pub logs: &'a Path,
    /// Above all control groups of this node's pods: `everynode/NAME`.
    pub cgroup_root: &'a str,
    /// The folder of seccomp profiles.
    pub profiles: &'a Path,
    pub memory_bytes: i64,
}

/// The sandbox of a pod. `users`: those of its own.
pub fn sandbox(site: &Site<'_>, pod: &Pod, attempt: u32, users: Option<UserNamespace>) -> Result<SandboxConfig, NameTooLong> {
    let pod_id = pod_id(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let host = HostNamespaces {
        network: spec.host_network.unwrap_or(false),
        pid: spec.host_pid.unwrap_or(false),
        ipc: spec.host_ipc.unwrap_or(false),
    };
    let own_name = files::kernel_name(pod, &site.dns.cluster_domain)?;
    let wanted_sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    Ok(SandboxConfig {
        attempt,
        hostname: if host.network { site.hostname.to_owned() } else { own_name },
        handler: String::new(),
        log_dir: log_dir(site.logs, &pod_id),
        dns: files::dns(pod, site.dns).config,
        port_mappings: if host.network { Vec::new() } else { port_mappings(pod) },
        host,
        share_process_namespace: spec.share_process_namespace.unwrap_or(false) && !host.pid,
        cgroup_parent: format!("/{}/{}", site.cgroup_root, limits::cgroup(pod)),
        resources: limits::of_pod(pod),
        sysctls: wanted_sysctls.into_iter().flatten().map(|sysctl| (sysctls::with_dots(&sysctl.name), sysctl.value.clone())).collect(),
        user_namespace: users,
        labels: labels(&pod_id, None),
        annotations: BTreeMap::new(),
        pod: pod_id,
    })
}

/// Where a pod's logs are: `NAMESPACE_NAME_UID` below `/var/log/pods`.
pub fn log_dir(logs: &Path, pod: &PodId) -> PathBuf {
    logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// What a container is made of besides its pod.
#[derive(Debug)]
pub struct Parts<'a> {
    pub restarts: u32,
    pub image_id: &'a str,
    pub environment: &'a Environment,
    pub mounts: Vec<Mount>,
    /// The container whose processes it sees.
    pub target: Option<String>,
}

/// One of the pod's containers.
pub fn container(site: &Site<'_>, pod: &Pod, container: &Container, parts: Parts<'_>) -> ContainerConfig {
    let pod_id = pod_id(pod);
    let expand = |texts: &Option<Vec<String>>| expand_all(texts.as_deref().unwrap_or_default(), parts.environment);
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
        resources: limits::of_container(pod, container, site.memory_bytes),
        security: security_context(site, pod, container, parts.target),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        labels: labels(&pod_id, Some(&container.name)),
        annotations: BTreeMap::from([
            (HASH.to_owned(), restart::hash(container)),
            (MESSAGE_POLICY.to_owned(), message_policy),
            (RESTART_COUNT.to_owned(), parts.restarts.to_string()),
        ]),
    }
}

fn security_context(site: &Site<'_>, pod: &Pod, container: &Container, target: Option<String>) -> SecurityContext {
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
            Profile::Unconfined => Seccomp::Unconfined,
            Profile::RuntimeDefault => Seccomp::RuntimeDefault,
            Profile::Localhost(name) => Seccomp::Localhost(site.profiles.join(name)),
        },
        unmasked_proc: wanted.unmasked_proc,
        target_container: target,
    }
}

fn labels(pod: &PodId, container: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("io.kubernetes.pod.name".to_owned(), pod.name.clone()),
        ("io.kubernetes.pod.namespace".to_owned(), pod.namespace.clone()),
        ("io.kubernetes.pod.uid".to_owned(), pod.uid.clone()),
    ]);
    labels.extend(container.map(|container| ("io.kubernetes.container.name".to_owned(), container.to_owned())));
    labels
}

/// The host ports of all containers.
pub fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let number = |port: i32| u16::try_from(port).ok();
    let ports = super::containers(pod).iter().chain(super::init_containers(pod)).flat_map(|c| c.ports.iter().flatten());
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
