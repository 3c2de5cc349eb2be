//! What only concerns Windows pods, which everynode never runs but whose templates it stores, and
//! the `os` field.

use crate::cursor::Cursor;
use crate::field::FieldError;
use crate::names;
use crate::rules::check::{self, Errors};

use super::all_containers;

const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 104;

pub fn validate_options(options: &Cursor<'_>) -> Errors {
    let (name, spec, user) = (options.field("gmsaCredentialSpecName"), options.field("gmsaCredentialSpec"), options.field("runAsUserName"));
    let mut errors = Vec::new();
    if name.exists() {
        errors.extend(check::named(&name, names::dns1123_subdomain));
    }
    if spec.exists() && spec.str().is_empty() {
        errors.push(spec.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if spec.str().len() > CREDENTIAL_SPEC_KIB_MAX * 1024 {
        errors.push(spec.invalid(format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB")));
    }
    if user.exists() {
        errors.extend(user_name(user.str()).into_iter().map(|finding| user.invalid(format!("runAsUserName{finding}"))));
    }
    errors
}

/// `DOMAIN\USER` or `USER`.
fn user_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec![" cannot be an empty string".into()];
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return vec![" cannot contain control characters".into()];
    }
    let (domain, user) = match text.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec![" cannot contain more than one backslash".into()],
    };
    let mut findings = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES_MAX) {
        findings.push(format!("'s Domain length must be under {DOMAIN_BYTES_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        findings.push("'s Domain doesn't match the NetBios nor the DNS format".into());
    }
    if user.is_empty() {
        findings.push("'s User cannot be empty".into());
    } else if user.len() > USER_BYTES_MAX {
        findings.push(format!("'s User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        findings.push("'s User cannot contain only periods or spaces".into());
    }
    if user.contains(|c| r#""/\:;|=,+*?<>@[]"#.contains(c)) {
        findings.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.into());
    }
    findings
}

fn is_netbios(domain: &str) -> bool {
    let is_bad = |c: char| r#"\/:*?"<>|"#.contains(c);
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(is_bad)
}

fn is_dns(domain: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    domain.split('.').all(|label| {
        let is_inner = label.chars().all(|c| is_edge(c) || c == '-');
        (1..=63).contains(&label.len()) && label.starts_with(is_edge) && label.ends_with(is_edge) && is_inner
    })
}

fn host_process<'a>(owner: &Cursor<'a>) -> Cursor<'a> {
    owner.field("securityContext").field("windowsOptions").field("hostProcess")
}

/// Pods whose containers run as processes of the host: all or none, and on the host's network.
pub fn validate_host_process(spec: &Cursor<'_>) -> Errors {
    let of_pod = host_process(spec).bool();
    let (mut all, mut hosted) = (0, 0);
    let mut errors = Vec::new();
    for container in all_containers(spec) {
        let own = host_process(&container);
        if let (Some(of_pod), Some(of_container)) = (of_pod, own.bool())
            && of_pod != of_container
        {
            errors.push(own.invalid(format!("pod hostProcess value must be identical if both are specified, was {of_pod}")));
        }
        all += 1;
        hosted += i32::from(own.bool().or(of_pod) == Some(true));
    }
    if hosted > 0 && hosted != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(spec.invalid_value("", detail));
    }
    if hosted > 0 && !spec.field("hostNetwork").is_true() {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(spec.field("hostNetwork").invalid_value(false, detail));
    }
    errors
}

pub fn validate_os(spec: &Cursor<'_>) -> Errors {
    let os = spec.field("os");
    match os.field("name").str() {
        _ if !os.exists() => Vec::new(),
        "" => vec![os.field("name").required("cannot be empty")],
        "linux" => forbid_windows_options(spec),
        "windows" => forbid_linux_fields(spec),
        other => vec![FieldError::not_supported(os.path(), other, &["linux", "windows"])],
    }
}

fn forbid_windows_options(spec: &Cursor<'_>) -> Errors {
    let owners = std::iter::once(spec.clone()).chain(all_containers(spec));
    let options = owners.map(|owner| owner.field("securityContext").field("windowsOptions")).filter(Cursor::exists);
    options.map(|options| options.forbidden("windows options cannot be set for a linux pod")).collect()
}

/// Where a field of a pod is.
enum Place {
    Context(&'static str),
    Spec(&'static str),
}
use Place::{Context, Spec};

/// Fields that mean nothing on Windows, in the order of Kubernetes' checks.
const POD_FIELDS: &[Place] = &[
    Context("appArmorProfile"),
    Context("seLinuxOptions"),
    Spec("hostUsers"),
    Spec("hostPID"),
    Spec("hostIPC"),
    Context("seccompProfile"),
    Context("fsGroup"),
    Context("fsGroupChangePolicy"),
    Context("sysctls"),
    Spec("shareProcessNamespace"),
    Context("runAsUser"),
    Context("runAsGroup"),
    Context("supplementalGroups"),
    Context("supplementalGroupsPolicy"),
    Context("seLinuxChangePolicy"),
];
const CONTAINER_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn forbid_linux_fields(spec: &Cursor<'_>) -> Errors {
    let context = spec.field("securityContext");
    let of_pod = POD_FIELDS.iter().map(|place| match place {
        Context(name) => context.field(name),
        Spec(name) => spec.field(name),
    });
    let of_containers = all_containers(spec).flat_map(|container| {
        let context = container.field("securityContext");
        CONTAINER_FIELDS.iter().map(move |name| context.field(name))
    });
    let set = of_pod.chain(of_containers).filter(Cursor::exists);
    set.map(|field| field.forbidden("cannot be set for a windows pod")).collect()
}
