//! What CRI answers in the port's words. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::configs::{CONTAINER_NAME, IMAGE_ANNOTATION, POD_NAME, POD_NAMESPACE, POD_UID};
use super::messages::{self as cri, container_state, namespace_mode};
use containers::{ContainerState, ContainerStatus, HostNamespaces, Image, PodId, Resources, SandboxState, SandboxStatus, User};

pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    // 0 means "not yet"; some runtimes say it with the first instant of their calendar.
    Timestamp::from_nanosecond(nanoseconds.into()).ok().filter(|_| nanoseconds > 0)
}

/// What the runtime says about its network, in the kubelet's words; None when it is ready.
pub fn network_problem(status: &cri::RuntimeStatus) -> Option<String> {
    let network = status.conditions.iter().find(|condition| condition.r#type == "NetworkReady");
    match network {
        Some(network) if network.status => None,
        Some(network) => Some(format!("NetworkReady=false reason:{} message:{}", network.reason, network.message)),
        None => Some("runtime network is not ready: no NetworkReady condition".to_owned()),
    }
}

pub fn sandbox(status: cri::PodSandboxStatus) -> SandboxStatus {
    let metadata = status.metadata.unwrap_or_default();
    let network = status.network.unwrap_or_default();
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options).unwrap_or_default();
    let texts = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|a| &a.ip));
    let addresses: Vec<IpAddr> = texts.filter_map(|t| t.parse().ok()).collect();
    let host = HostNamespaces {
        network: options.network == namespace_mode::NODE,
        pid: options.pid == namespace_mode::NODE,
        ipc: options.ipc == namespace_mode::NODE,
    };
    SandboxStatus {
        id: status.id,
        pod: PodId { name: metadata.name, namespace: metadata.namespace, uid: metadata.uid },
        attempt: metadata.attempt,
        state: if status.state == cri::SANDBOX_READY { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: time(status.created_at).unwrap_or_default(),
        addresses: if host.network { Vec::new() } else { addresses },
        host,
        labels: status.labels,
        annotations: status.annotations,
    }
}

/// A status does not tell the sandbox, nor what the image was asked for by; the entry of the list
/// does.
pub fn container(listed: &cri::Container, status: cri::ContainerStatus) -> ContainerStatus {
    let metadata = status.metadata.unwrap_or_default();
    let mut annotations = status.annotations;
    let asked = annotations.remove(IMAGE_ANNOTATION);
    let name = status.labels.get(CONTAINER_NAME).cloned().unwrap_or(metadata.name);
    let state = state(status.state);
    let has_ended = state == ContainerState::Exited;
    let (started_at, finished_at) = (time(status.started_at), time(status.finished_at));
    // Runtimes note the start when they learn of it, which may be after the end of a short program.
    let started_at = started_at.map(|started| finished_at.map_or(started, |finished| started.min(finished)));
    ContainerStatus {
        id: status.id,
        sandbox_id: listed.pod_sandbox_id.clone(),
        pod: pod(&status.labels),
        name,
        attempt: metadata.attempt,
        state,
        created_at: time(status.created_at).unwrap_or_default(),
        started_at,
        finished_at,
        exit_code: status.exit_code,
        reason: if has_ended { status.reason } else { String::new() },
        message: if has_ended { status.message } else { String::new() },
        image: asked.unwrap_or_else(|| status.image.unwrap_or_default().image),
        image_id: image_id(listed, &status.image_id),
        log_path: status.log_path.into(),
        labels: status.labels,
        annotations,
        user: status.user.and_then(|u| u.linux).map(user),
        resources: status.resources.and_then(|r| r.linux).map(resources).unwrap_or_default(),
    }
}

fn pod(labels: &BTreeMap<String, String>) -> PodId {
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    PodId { name: label(POD_NAME), namespace: label(POD_NAMESPACE), uid: label(POD_UID) }
}

fn state(state: i32) -> ContainerState {
    match state {
        container_state::CREATED => ContainerState::Created,
        container_state::RUNNING => ContainerState::Running,
        container_state::EXITED => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

/// Runtimes older than the field for it answer the id as the reference, or the reference by digest;
/// what the container was asked to be made of is always the id.
pub fn image_id(listed: &cri::Container, told: &str) -> String {
    let asked = listed.image.as_ref().map(|i| i.image.as_str()).unwrap_or_default();
    let known = [told, &listed.image_id, asked, &listed.image_ref];
    known.into_iter().find(|id| !id.is_empty()).unwrap_or_default().to_owned()
}

fn user(user: cri::LinuxContainerUser) -> User {
    User { uid: user.uid, gid: user.gid, supplemental_groups: user.supplemental_groups }
}

fn resources(resources: cri::LinuxContainerResources) -> Resources {
    let some = |v: i64| (v != 0).then_some(v);
    let positive = |v: i64| u64::try_from(v).ok().filter(|v| *v > 0);
    Resources {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota_us: some(resources.cpu_quota),
        cpu_period_us: positive(resources.cpu_period),
        memory_limit_bytes: some(resources.memory_limit_in_bytes),
        pids_limit: resources.unified.get("pids.max").and_then(|v| v.parse().ok()),
        oom_score_adj: some(resources.oom_score_adj).and_then(|v| i32::try_from(v).ok()),
    }
}

pub fn image(image: cri::Image) -> Image {
    Image {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        uid: image.uid.map(|u| u.value),
        username: image.username,
        pinned: image.pinned,
    }
}

/// As the kubelet shows versions: `v2.0.1` is `2.0.1`, and a distribution's own ending
/// (`1.6.20~ds1`) is left out.
pub fn version(text: &str) -> String {
    let text = text.trim().trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let has_meaning = text[end..].starts_with(['-', '+']);
    if has_meaning { text.to_owned() } else { text[..end].to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_kubelet_shows_them() {
        assert_eq!(["1.6.20~ds1", "v2.0.1", "1.7.0-rc.1", "1.30.4"].map(version), ["1.6.20", "2.0.1", "1.7.0-rc.1", "1.30.4"]);
    }

    #[test]
    fn the_network_is_ready_when_the_runtime_says_so() {
        let condition = |kind: &str, status, message: &str| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: "NetworkPluginNotReady".to_owned(),
            message: message.to_owned(),
        };
        let problem = |conditions| network_problem(&cri::RuntimeStatus { conditions });
        assert_eq!(problem(vec![condition("RuntimeReady", true, ""), condition("NetworkReady", true, "")]), None);
        let told = problem(vec![condition("NetworkReady", false, "cni plugin not initialized")]);
        assert_eq!(told.as_deref(), Some("NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"));
        assert!(problem(vec![condition("RuntimeReady", true, "")]).is_some());
    }

    #[test]
    fn an_instant_that_never_was_is_none() {
        assert_eq!(time(0), None);
        assert_eq!(time(-6_795_364_578_871_345_152), None);
        assert!(time(1).is_some());
    }
}
