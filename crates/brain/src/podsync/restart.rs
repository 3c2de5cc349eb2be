//! Whether a container that ended is to run again, and whether one that runs is still what the pod
//! asks for.

use containers::ContainerState;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Observed, Record, is_deleted, is_sidecar, restart_policy};

/// Whether a container that does not run should be started: never tried, or its policy wants it
/// back.
pub fn should_run(container: &Container, pod: &Pod, observed: &Observed) -> bool {
    if is_deleted(pod) {
        return false;
    }
    match observed.latest(&container.name) {
        None => true,
        Some(record) => match record.state {
            ContainerState::Running => false,
            // The runtime cannot say whether it runs: it is ended and started again.
            ContainerState::Unknown | ContainerState::Created => true,
            ContainerState::Exited => restarts_after(container, pod, record.exit_code),
        },
    }
}

/// By the container's rules, its own policy, the pod's policy, in this order.
pub fn restarts_after(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    if is_sidecar(container) {
        return true;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|&code| code == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches {
            return rule.action == "Restart";
        }
    }
    match container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the pod runs again what fails: decides on replacing a container that its probes found
/// dead.
pub fn restarts_on_failure(container: &Container, pod: &Pod) -> bool {
    container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) != "Never"
}

/// Whether a running container was made from another image than the pod asks for now. Only the
/// image of a running pod can be changed.
pub fn has_changed(container: &Container, record: &Record) -> bool {
    !record.hash.is_empty() && record.hash != hash(container)
}

/// Tells two specifications of a container apart: 16 hexadecimal digits over its name and image
/// (FNV-1a), stable between versions of this program so that an upgrade restarts nothing.
pub fn hash(container: &Container) -> String {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container.name.bytes().chain([0]).chain(container.image.as_deref().unwrap_or_default().bytes()) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{state:016x}")
}
