//! Security contexts: what containers may do, as which users they run, and in which namespaces.

use std::collections::BTreeSet;

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};

use super::{go, paths, windows};

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const APP_ARMOR_BYTES_MAX: usize = 4095;
const SYSCTL_BYTES_MAX: usize = 253;
/// Sysctls of the IPC namespace besides `kernel.msg*` and `fs.mqueue.*`.
const IPC_SYSCTLS: &[&str] = &["kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"];

pub fn validate_pod(spec: &Cursor<'_>) -> Errors {
    let context = spec.field("securityContext");
    let mut errors = ids(&context, &["fsGroup", "runAsUser", "runAsGroup"]);
    for group in context.field("supplementalGroups").items() {
        errors.extend(check::number_findings(&group, names::user_or_group_id(group.int_or_zero())));
    }
    // The field is one of the spec's; upstream keeps it in the context.
    let share = Cursor::at(spec.field("shareProcessNamespace").value(), context.path().child("shareProcessNamespace"));
    if share.is_true() && spec.field("hostPID").is_true() {
        errors.push(share.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    errors.extend(sysctls(&context.field("sysctls"), spec));
    errors.extend(check::one_of_if_set(&context.field("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]));
    errors.extend(seccomp_profile(&context.field("seccompProfile")));
    errors.extend(windows::validate_options(&context.field("windowsOptions")));
    errors.extend(app_armor_profile(&context.field("appArmorProfile")));
    errors.extend(check::one_of_if_set(&context.field("supplementalGroupsPolicy"), &["Merge", "Strict"]));
    errors.extend(check::one_of_if_set(&context.field("seLinuxChangePolicy"), &["MountOption", "Recursive"]));
    errors
}

pub fn validate_container(context: &Cursor<'_>, host_users: bool) -> Errors {
    let mut errors = ids(context, &["runAsUser", "runAsGroup"]);
    let proc_mount = context.field("procMount");
    errors.extend(check::one_of_if_set(&proc_mount, &["Default", "Unmasked"]));
    if host_users && proc_mount.str() == "Unmasked" {
        errors.push(proc_mount.invalid("`hostUsers` must be false to use `Unmasked`"));
    }
    errors.extend(seccomp_profile(&context.field("seccompProfile")));
    errors.extend(escalation(context));
    errors.extend(windows::validate_options(&context.field("windowsOptions")));
    errors.extend(app_armor_profile(&context.field("appArmorProfile")));
    errors
}

fn ids(context: &Cursor<'_>, fields: &[&'static str]) -> Errors {
    let set = fields.iter().map(|name| context.field(name)).filter(Cursor::exists);
    set.flat_map(|id| check::number_findings(&id, names::user_or_group_id(id.int_or_zero()))).collect()
}

/// Without escalation there is no use in privileges that amount to it.
fn escalation(context: &Cursor<'_>) -> Errors {
    if context.field("allowPrivilegeEscalation").bool() != Some(false) {
        return Vec::new();
    }
    let refuse = |detail: &str| context.invalid_value(go::print("SecurityContext", context.value()), detail);
    let mut errors = Vec::new();
    if context.field("privileged").is_true() {
        errors.push(refuse("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
    }
    let added = context.field("capabilities").field("add");
    let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
    errors.extend(added.strs().filter(|name| *name == "CAP_SYS_ADMIN").map(|_| refuse(detail)));
    errors
}

fn seccomp_profile(profile: &Cursor<'_>) -> Errors {
    let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
    if !profile.exists() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    match kind.str() {
        "" => errors.push(kind.required("type is required when seccompProfile is set")),
        known if PROFILE_TYPES.contains(&known) => {}
        _ => errors.push(kind.not_supported(PROFILE_TYPES)),
    }
    match (kind.str() == "Localhost", local.exists()) {
        (true, true) => errors.extend(paths::local_descending(&local)),
        (true, false) => errors.push(local.required("must be set when seccomp type is Localhost")),
        (false, true) => {
            let shown = go::print("SeccompProfile", profile.value());
            errors.push(local.invalid_value(shown, "can only be set when seccomp type is Localhost"));
        }
        (false, false) => {}
    }
    errors
}

fn app_armor_profile(profile: &Cursor<'_>) -> Errors {
    let (kind, local) = (profile.field("type"), profile.field("localhostProfile"));
    match kind.str() {
        _ if !profile.exists() => Vec::new(),
        "" => vec![kind.required("type is required when appArmorProfile is set")],
        "Localhost" => app_armor_localhost(&local),
        "RuntimeDefault" | "Unconfined" if local.exists() => {
            vec![local.invalid("can only be set when AppArmor type is Localhost")]
        }
        "RuntimeDefault" | "Unconfined" => Vec::new(),
        _ => vec![kind.not_supported(PROFILE_TYPES)],
    }
}

fn app_armor_localhost(local: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    if local.str().trim() != local.str() {
        errors.push(local.invalid("must not be padded with whitespace"));
    } else if local.str().is_empty() {
        errors.push(local.required("must be set when AppArmor type is Localhost"));
    }
    if local.str().len() > APP_ARMOR_BYTES_MAX {
        errors.push(local.too_long(APP_ARMOR_BYTES_MAX));
    }
    errors
}

fn sysctls(sysctls: &Cursor<'_>, spec: &Cursor<'_>) -> Errors {
    let mut errors = Vec::new();
    let mut taken = BTreeSet::new();
    for name in sysctls.items().map(|sysctl| sysctl.field("name")) {
        if name.str().is_empty() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.str()) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let regex = format!(r"^({segment}[\./])*{segment}$");
            errors.push(name.invalid(format!("must have at most {SYSCTL_BYTES_MAX} characters and match regex {regex}")));
        } else if taken.contains(name.str()) {
            errors.push(name.duplicate());
        }
        errors.extend(host_sysctl(&name, spec));
        taken.insert(name.str());
    }
    errors
}

fn is_sysctl(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_segment = |segment: &str| {
        segment.starts_with(is_edge) && segment.ends_with(is_edge) && segment.chars().all(|c| is_edge(c) || matches!(c, '-' | '_'))
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(is_segment)
}

/// Sysctls of a namespace that the pod shares with the host would be the host's.
fn host_sysctl(name: &Cursor<'_>, spec: &Cursor<'_>) -> Option<FieldError> {
    let dotted = with_dots(name.str());
    let is_net = dotted.starts_with("net.");
    let is_ipc = dotted.starts_with("fs.mqueue.") || dotted.starts_with("kernel.msg") || IPC_SYSCTLS.contains(&dotted.as_str());
    if is_net && spec.field("hostNetwork").is_true() {
        return Some(name.invalid_str("may not be specified when 'hostNetwork' is true"));
    }
    (is_ipc && spec.field("hostIPC").is_true()).then(|| name.invalid_str("may not be specified when 'hostIPC' is true"))
}

/// `net/ipv4/x` is another way to write `net.ipv4.x`.
fn with_dots(name: &str) -> String {
    let uses_slashes = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    if uses_slashes { name.chars().map(swap).collect() } else { name.to_owned() }
}

/// A pod with users of its own cannot share other namespaces with the host.
pub fn validate_host_users(spec: &Cursor<'_>) -> Errors {
    if spec.field("hostUsers").bool() != Some(false) {
        return Vec::new();
    }
    let shared = ["hostNetwork", "hostPID", "hostIPC"].map(|name| spec.field(name));
    shared.iter().filter(|field| field.is_true()).map(|field| field.forbidden("when `hostUsers` is false")).collect()
}
