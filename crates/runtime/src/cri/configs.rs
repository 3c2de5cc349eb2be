//! What the port asks for in CRI's words, with the defaults that the kubelet adds. Pure.

use std::collections::BTreeMap;

use super::messages::{self as cri, namespace_mode, profile_type};
use crate::masks;
use containers::{ContainerConfig, HostNamespaces, PodId, Propagation, Protocol, Resources, SandboxConfig, Seccomp, SecurityContext};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Keeps the image's name as the user wrote it: runtimes answer the name that they know the image
/// by. Not among the annotations that the port shows.
pub const IMAGE_ANNOTATION: &str = "io.everynode.container.image";

pub fn sandbox(config: &SandboxConfig) -> cri::PodSandboxConfig {
    let mut labels = pod_labels(&config.pod);
    labels.extend(config.labels.clone());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: config.pod.name.clone(),
            uid: config.pod.uid.clone(),
            namespace: config.pod.namespace.clone(),
            attempt: config.attempt,
        }),
        // The node's own name space of names cannot be given another name; kubelets leave it empty,
        // too.
        hostname: if config.host.network { String::new() } else { config.hostname.clone() },
        log_directory: config.log_dir.to_string_lossy().into_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: config.dns.servers.clone(),
            searches: config.dns.searches.clone(),
            options: config.dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port_mapping).collect(),
        labels,
        annotations: config.annotations.clone(),
        linux: Some(linux_sandbox(config)),
    }
}

fn linux_sandbox(config: &SandboxConfig) -> cri::LinuxPodSandboxConfig {
    cri::LinuxPodSandboxConfig {
        cgroup_parent: config.cgroup_parent.clone(),
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(config.host, config.share_process_namespace, None)),
            // Permission for privileged containers to come, which are not known yet; without it
            // runtimes refuse them. It changes nothing for the others.
            privileged: true,
            seccomp: Some(cri::SecurityProfile { profile_type: profile_type::RUNTIME_DEFAULT, localhost_ref: String::new() }),
        }),
        sysctls: config.sysctls.clone(),
        resources: Some(resources(&config.resources)),
    }
}

fn pod_labels(pod: &PodId) -> BTreeMap<String, String> {
    [(POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (POD_UID, &pod.uid)].map(|(k, v)| (k.to_owned(), v.clone())).into()
}

fn port_mapping(mapping: &containers::PortMapping) -> cri::PortMapping {
    cri::PortMapping {
        protocol: protocol(mapping.protocol),
        container_port: mapping.container_port.into(),
        host_port: mapping.host_port.into(),
        host_ip: mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

pub fn protocol(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

fn namespaces(host: HostNamespaces, shares_processes: bool, target: Option<&str>) -> cri::NamespaceOption {
    let of = |is_host: bool| if is_host { namespace_mode::NODE } else { namespace_mode::POD };
    let pid = match (host.pid, shares_processes, target) {
        (true, ..) => namespace_mode::NODE,
        (_, true, _) => namespace_mode::POD,
        (_, _, Some(_)) => namespace_mode::TARGET,
        _ => namespace_mode::CONTAINER,
    };
    let target_id = target.filter(|_| pid == namespace_mode::TARGET).unwrap_or_default().to_owned();
    cri::NamespaceOption { network: of(host.network), pid, ipc: of(host.ipc), target_id }
}

/// Absent limits are 0 in CRI.
pub fn resources(resources: &Resources) -> cri::LinuxContainerResources {
    let positive = |v: Option<u64>| v.and_then(|v| i64::try_from(v).ok()).unwrap_or(0);
    // CRI has no field for it, and cgroup v1 no other way.
    let pids = resources.pids_limit.filter(|v| *v != 0).map(|v| if v < 0 { "max".to_owned() } else { v.to_string() });
    let has_unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    cri::LinuxContainerResources {
        cpu_period: positive(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or(0),
        cpu_shares: positive(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.unwrap_or(0).into(),
        unified: pids.filter(|_| has_unified).map(|v| ("pids.max".to_owned(), v)).into_iter().collect(),
    }
}

pub fn container(config: &ContainerConfig, sandbox: &SandboxConfig) -> cri::ContainerConfig {
    let mut labels = pod_labels(&sandbox.pod);
    labels.insert(CONTAINER_NAME.to_owned(), config.name.clone());
    labels.extend(config.labels.clone());
    let mut annotations = config.annotations.clone();
    annotations.insert(IMAGE_ANNOTATION.to_owned(), config.image.clone());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(cri::ImageSpec { image: config.image_id.clone(), user_specified_image: config.image.clone(), ..Default::default() }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone().unwrap_or_default(),
        envs: config.env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone().into_bytes() }).collect(),
        mounts: config.mounts.iter().map(mount).collect(),
        devices: config.devices.iter().map(device).collect(),
        labels,
        annotations,
        log_path: config.log_path.to_string_lossy().into_owned(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&config.resources)),
            security_context: Some(security(&config.security, sandbox)),
        }),
        stop_signal: config.stop_signal.as_deref().map_or(0, signal),
    }
}

fn mount(mount: &containers::Mount) -> cri::Mount {
    cri::Mount {
        container_path: mount.container_path.to_string_lossy().into_owned(),
        host_path: mount.host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only,
        propagation: propagation(mount.propagation),
        recursive_read_only: mount.recursive_read_only,
    }
}

pub fn propagation(propagation: Propagation) -> i32 {
    match propagation {
        Propagation::Private => 0,
        Propagation::HostToContainer => 1,
        Propagation::Bidirectional => 2,
    }
}

fn device(device: &containers::Device) -> cri::Device {
    cri::Device {
        container_path: device.container_path.to_string_lossy().into_owned(),
        host_path: device.host_path.to_string_lossy().into_owned(),
        permissions: device.permissions.clone(),
    }
}

fn security(security: &SecurityContext, sandbox: &SandboxConfig) -> cri::LinuxContainerSecurityContext {
    // Runtimes hide nothing of their own accord.
    let (masked_paths, readonly_paths) = match security.privileged {
        true => (Vec::new(), Vec::new()),
        false => (masks::hidden(), masks::READ_ONLY.map(str::to_owned).to_vec()),
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
        }),
        privileged: security.privileged,
        namespace_options: Some(namespaces(sandbox.host, sandbox.share_process_namespace, security.target_container.as_deref())),
        run_as_user: security.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_username: security.run_as_username.clone().unwrap_or_default(),
        readonly_rootfs: security.read_only_root,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privileges,
        run_as_group: security.run_as_group.map(|value| cri::Int64Value { value }),
        masked_paths,
        readonly_paths,
        seccomp: Some(seccomp(&security.seccomp)),
        supplemental_groups_policy: if security.strict_supplemental_groups { cri::GROUPS_STRICT } else { cri::GROUPS_MERGE },
    }
}

fn seccomp(seccomp: &Seccomp) -> cri::SecurityProfile {
    let (profile_type, localhost_ref) = match seccomp {
        Seccomp::Unconfined => (profile_type::UNCONFINED, String::new()),
        Seccomp::RuntimeDefault => (profile_type::RUNTIME_DEFAULT, String::new()),
        Seccomp::Localhost(path) => (profile_type::LOCALHOST, path.to_string_lossy().into_owned()),
    };
    cri::SecurityProfile { profile_type, localhost_ref }
}

/// `SIGUSR1` or `USR1`; a name that is not known is left to the image.
fn signal(name: &str) -> i32 {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    cri::SIGNALS.iter().zip(1..).find(|(known, _)| **known == name).map_or(0, |(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_numbers_of_cri() {
        assert_eq!(["SIGABRT", "SIGKILL", "SIGTERM", "USR1", "SIGRTMIN+15", "SIGRTMAX", "SIGNONE"].map(signal), [1, 13, 23, 29, 50, 65, 0]);
    }

    #[test]
    fn process_namespaces() {
        let own = HostNamespaces::default();
        let pid = |host, shares, target| namespaces(host, shares, target).pid;
        assert_eq!(pid(HostNamespaces { pid: true, ..own }, false, Some("c")), namespace_mode::NODE);
        assert_eq!(pid(own, true, None), namespace_mode::POD);
        assert_eq!(pid(own, false, None), namespace_mode::CONTAINER);
        assert_eq!(namespaces(own, false, Some("c")).target_id, "c");
        assert_eq!(namespaces(own, true, Some("c")).target_id, "");
    }

    #[test]
    fn nothing_is_hidden_from_privileged_containers() {
        let sandbox = SandboxConfig::default();
        assert_eq!(security(&SecurityContext::default(), &sandbox).masked_paths, masks::hidden());
        let privileged = security(&SecurityContext { privileged: true, ..Default::default() }, &sandbox);
        assert!(privileged.masked_paths.is_empty() && privileged.readonly_paths.is_empty());
    }
}
