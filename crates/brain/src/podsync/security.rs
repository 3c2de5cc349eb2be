//! Who a container runs as and what it may do: the pod's and the container's security contexts
//! together.

use containers::Image;
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use super::full_name;

/// A filter of system calls, as the pod names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    Unconfined,
    RuntimeDefault,
    /// A file below the node's folder of profiles.
    Localhost(String),
}

/// Why a container must not start with what its pod asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("seccomp profile {0:?} is not below the node's folder of profiles: write a relative path without '..'")]
    ProfileOutside(String),
    #[error("container's runAsUser breaks non-root policy {place}")]
    RootAsked { place: String },
    #[error("container has runAsNonRoot and image will run as root {place}")]
    RootOfImage { place: String },
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}")]
    NamedUser { user: String, place: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    pub privileged: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub run_as_non_root: bool,
    pub supplemental_groups: Vec<i64>,
    pub strict_supplemental_groups: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub seccomp: Profile,
    /// Only with users of its own: root of the node could change the node through /proc.
    pub unmasked_proc: bool,
}

/// The container's own settings win over the pod's.
pub fn effective(pod: &Pod, container: &Container) -> Security {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    let mut groups: Vec<i64> = of_pod.and_then(|context| context.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(of_pod.and_then(|context| context.fs_group));
    let profile = own.and_then(|own| own.seccomp_profile.as_ref()).or(of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    Security {
        privileged: own.and_then(|own| own.privileged).unwrap_or(false),
        add_capabilities: capabilities.and_then(|capabilities| capabilities.add.clone()).unwrap_or_default(),
        drop_capabilities: capabilities.and_then(|capabilities| capabilities.drop.clone()).unwrap_or_default(),
        run_as_user: own.and_then(|own| own.run_as_user).or(of_pod.and_then(|context| context.run_as_user)),
        run_as_group: own.and_then(|own| own.run_as_group).or(of_pod.and_then(|context| context.run_as_group)),
        run_as_non_root: own.and_then(|own| own.run_as_non_root).or(of_pod.and_then(|context| context.run_as_non_root)).unwrap_or(false),
        supplemental_groups: groups,
        strict_supplemental_groups: of_pod.and_then(|context| context.supplemental_groups_policy.as_deref()) == Some("Strict"),
        read_only_root: own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        seccomp: profile.map(seccomp).unwrap_or_default(),
        unmasked_proc: own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked") && has_own_users(pod),
    }
}

/// A profile is a file below the node's folder of profiles, whatever the API server let through.
fn check_profile(security: &Security) -> Result<(), Forbidden> {
    match &security.seccomp {
        Profile::Localhost(name) if name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            Err(Forbidden::ProfileOutside(name.clone()))
        }
        _ => Ok(()),
    }
}

/// `hostUsers: false`.
pub fn has_own_users(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

fn seccomp(profile: &SeccompProfile) -> Profile {
    match profile.type_.as_str() {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

/// Whether a container may start with that image.
pub fn check(security: &Security, pod: &Pod, container: &Container, image: &Image) -> Result<(), Forbidden> {
    check_non_root(security, pod, container, image)?;
    check_profile(security)
}

/// Whether `runAsNonRoot` holds.
fn check_non_root(security: &Security, pod: &Pod, container: &Container, image: &Image) -> Result<(), Forbidden> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", full_name(pod), container.name);
    match (security.run_as_user, image.uid) {
        (Some(0), _) => Err(Forbidden::RootAsked { place }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(Forbidden::RootOfImage { place }),
        (None, Some(_)) => Ok(()),
        (None, None) if image.username.is_empty() => Err(Forbidden::RootOfImage { place }),
        (None, None) => Err(Forbidden::NamedUser { user: image.username.clone(), place }),
    }
}
