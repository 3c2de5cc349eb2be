//! The checks of both levels, one function each, with Kubernetes' reasons and details.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Check, Pod, Violation};

pub(super) const BASELINE: &[Check] = &[
    check("appArmorProfile", 0, app_armor_profile),
    check("capabilities_baseline", 0, capabilities_baseline),
    check("hostNamespaces", 0, host_namespaces),
    check("hostPathVolumes", 0, host_path_volumes),
    check("hostPorts", 0, host_ports),
    check("hostProbesAndHostLifecycle", 34, host_probes_and_host_lifecycle),
    check("privileged", 0, privileged),
    check("procMount", 0, proc_mount),
    check("procMount", 35, |pod| if pod.has_users_of_its_own() { None } else { proc_mount(pod) }),
    check("seLinuxOptions", 0, |pod| se_linux_options(pod, &SE_LINUX_TYPES[..3])),
    check("seLinuxOptions", 31, |pod| se_linux_options(pod, &SE_LINUX_TYPES)),
    check("seccompProfile_baseline", 0, seccomp_annotations),
    check("seccompProfile_baseline", 19, |pod| seccomp_profile(pod).0),
    check("sysctls", 0, |pod| sysctls(pod, &SYSCTLS[..5])),
    check("sysctls", 27, |pod| sysctls(pod, &SYSCTLS[..6])),
    check("sysctls", 29, |pod| sysctls(pod, &SYSCTLS[..10])),
    check("sysctls", 32, |pod| sysctls(pod, &SYSCTLS)),
    check("windowsHostProcess", 0, windows_host_process),
];

pub(super) const RESTRICTED: &[Check] = &[
    check("allowPrivilegeEscalation", 8, allow_privilege_escalation),
    check("allowPrivilegeEscalation", 25, |pod| if pod.is_windows() { None } else { allow_privilege_escalation(pod) }),
    Check { replaces: "capabilities_baseline", ..check("capabilities_restricted", 22, capabilities_restricted) },
    Check {
        replaces: "capabilities_baseline",
        ..check("capabilities_restricted", 25, |pod| if pod.is_windows() { None } else { capabilities_restricted(pod) })
    },
    Check { replaces: "procMount", ..check("procMount_restricted", 35, proc_mount) },
    Check { replaces: "hostPathVolumes", ..check("restrictedVolumes", 0, restricted_volumes) },
    check("runAsNonRoot", 0, run_as_non_root),
    check("runAsNonRoot", 35, |pod| if pod.has_users_of_its_own() { None } else { run_as_non_root(pod) }),
    check("runAsUser", 23, run_as_user),
    check("runAsUser", 35, |pod| if pod.has_users_of_its_own() { None } else { run_as_user(pod) }),
    Check { replaces: "seccompProfile_baseline", ..check("seccompProfile_restricted", 19, seccomp_restricted) },
    Check {
        replaces: "seccompProfile_baseline",
        ..check("seccompProfile_restricted", 25, |pod| if pod.is_windows() { None } else { seccomp_restricted(pod) })
    },
];

const fn check(id: &'static str, since: u32, run: fn(&Pod<'_>) -> Option<Violation>) -> Check {
    Check { id, since, run, replaces: "" }
}

/// In the order in which they were allowed.
const SE_LINUX_TYPES: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Volumes whose sources the level restricted allows, and names of the others.
const FREE_VOLUMES: [&str; 9] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"];

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| self.spec[list].as_array());
        lists.into_iter().flatten().flatten()
    }

    fn context(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// `hostUsers: false`: root inside is no root outside.
    fn has_users_of_its_own(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// The names of containers of which something is so.
    fn containers_with(&self, is_so: impl FnMut(&&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(is_so).map(name).collect()
    }
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural<'a>(one: &'a str, several: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { several }
}

/// `container "a"`, `containers "a", "b"`
fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`; None when neither is at fault.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    let of_containers = (!containers.is_empty()).then(|| containers_named(containers));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(of_containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

fn app_armor_profile(pod: &Pod<'_>) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut is_bad = |context: &Value| {
        let Some(kind) = context["appArmorProfile"].get("type").map(|kind| kind.as_str().unwrap_or_default()) else { return false };
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let of_pod = is_bad(pod.context());
    let containers = pod.containers_with(|container| is_bad(&container["securityContext"]));
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let forbidden: BTreeSet<String> = annotations
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| !value.is_empty() && *value != "runtime/default" && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let of_annotations = (!forbidden.is_empty()).then(|| plural("annotation", "annotations", forbidden.len()).to_owned());
    let all: Vec<String> = setters(of_pod, &containers).into_iter().chain(of_annotations).collect();
    if all.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(forbidden).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", all.join(" and "), quoted(values)))
}

/// The names in a list of capabilities.
fn capabilities<'a>(container: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    container["securityContext"]["capabilities"][list].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Containers that add others than the allowed ones, and which.
fn forbidden_capabilities<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut forbidden = BTreeSet::new();
    let containers = pod.containers_with(|container| {
        let before: Vec<&str> = capabilities(container, "add").filter(|added| !allowed.contains(added)).collect();
        forbidden.extend(before.iter().copied());
        !before.is_empty()
    });
    (containers, forbidden)
}

fn capabilities_baseline(pod: &Pod<'_>) -> Option<Violation> {
    let (containers, forbidden) = forbidden_capabilities(pod, &CAPABILITIES);
    if containers.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", containers_named(&containers), quoted(forbidden));
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let keeping = pod.containers_with(|container| !capabilities(container, "drop").any(|dropped| dropped == "ALL"));
    let (adding, forbidden) = forbidden_capabilities(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers_named(&keeping)));
    }
    if !adding.is_empty() {
        let forbidden = quoted(forbidden);
        details.push(format!("{} must not include {forbidden} in securityContext.capabilities.add", containers_named(&adding)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let volumes: Vec<&str> = pod.volumes().filter(|volume| !volume["hostPath"].is_null()).map(name).collect();
    if volumes.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", volumes.len()), quoted(&volumes)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let containers = pod.containers_with(|container| {
        let own = container["ports"].as_array().into_iter().flatten().filter_map(|port| port["hostPort"].as_i64());
        let own: Vec<String> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let uses = !own.is_empty();
        ports.extend(own);
        uses
    });
    if containers.is_empty() {
        return None;
    }
    let (verb, what) = (plural("uses", "use", containers.len()), plural("hostPort", "hostPorts", ports.len()));
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{} {verb} {what} {ports}", containers_named(&containers)))
}

fn host_probes_and_host_lifecycle(pod: &Pod<'_>) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut containers = BTreeSet::new();
    for container in pod.containers() {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
        for handler in probes.into_iter().chain(hooks) {
            let named = ["httpGet", "tcpSocket"].into_iter().filter_map(|how| handler[how]["host"].as_str());
            for host in named.filter(|host| !host.is_empty()) {
                hosts.insert(host);
                containers.insert(name(container));
            }
        }
    }
    if containers.is_empty() {
        return None;
    }
    let verb = plural("uses", "use", containers.len());
    let what = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    let containers: Vec<&str> = containers.into_iter().collect();
    violation("probe or lifecycle host", format!("{} {verb} {what} {}", containers_named(&containers), quoted(hosts)))
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_with(|container| container["securityContext"]["privileged"] == true);
    let setters = setters(false, &containers)?;
    violation("privileged", format!("{setters} must not set securityContext.privileged=true"))
}

fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let containers = pod.containers_with(|container| {
        let kind = container["securityContext"]["procMount"].as_str().filter(|kind| *kind != "Default");
        kinds.extend(kind);
        kind.is_some()
    });
    let setters = setters(false, &containers)?;
    violation("procMount", format!("{setters} must not set securityContext.procMount to {}", quoted(kinds)))
}

fn se_linux_options(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut sets_user, mut sets_role) = (false, false);
    let mut is_bad = |context: &Value| {
        let text = |field: &str| context["seLinuxOptions"][field].as_str().unwrap_or_default();
        let bad_type = !text("type").is_empty() && !allowed.contains(&text("type"));
        if bad_type {
            types.insert(text("type").to_owned());
        }
        let (user, role) = (!text("user").is_empty(), !text("role").is_empty());
        sets_user |= user;
        sets_role |= role;
        bad_type || user || role
    };
    let of_pod = is_bad(pod.context());
    let containers = pod.containers_with(|container| is_bad(&container["securityContext"]));
    let setters = setters(of_pod, &containers)?;
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    data.extend(sets_user.then(|| "user may not be set".to_owned()));
    data.extend(sets_role.then(|| "role may not be set".to_owned()));
    violation("seLinuxOptions", format!("{setters} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let keys = std::iter::once(OF_POD.to_owned()).chain(pod.containers().map(|container| format!("{OF_CONTAINER}{}", name(container))));
    let is_allowed = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| Some((pod.metadata["annotations"][&key].as_str()?, key)))
        .filter(|(value, _)| !is_allowed(value))
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", forbidden.len());
    violation("seccompProfile", format!("forbidden {what} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

/// What is set wrongly; else the containers for which nothing is set, neither by them nor by the
/// pod.
fn seccomp_profile<'a>(pod: &Pod<'a>) -> (Option<Violation>, Vec<&'a str>) {
    let mut values = BTreeSet::new();
    let kind = |context: &'a Value| context["seccompProfile"].get("type").map(|kind| kind.as_str().unwrap_or_default());
    let mut is_bad = |context: &'a Value| {
        let bad = kind(context).filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost"));
        values.extend(bad);
        bad.is_some()
    };
    let of_pod = is_bad(pod.context());
    let containers = pod.containers_with(|container| is_bad(&container["securityContext"]));
    if let Some(setters) = setters(of_pod, &containers) {
        let detail = format!("{setters} must not set securityContext.seccompProfile.type to {}", quoted(values));
        return (violation("seccompProfile", detail), Vec::new());
    }
    if kind(pod.context()).is_some() {
        return (None, Vec::new());
    }
    (None, pod.containers_with(|container| kind(&container["securityContext"]).is_none()))
}

fn seccomp_restricted(pod: &Pod<'_>) -> Option<Violation> {
    let (wrong, unset) = seccomp_profile(pod);
    if wrong.is_some() || unset.is_empty() {
        return wrong;
    }
    let containers = containers_named(&unset);
    let wanted = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    violation("seccompProfile", format!("pod or {containers} {wanted}"))
}

fn sysctls(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let set = pod.context()["sysctls"].as_array().into_iter().flatten().map(name);
    let forbidden: Vec<&str> = set.filter(|sysctl| !allowed.contains(sysctl)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let is_so = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let containers = pod.containers_with(|container| is_so(&container["securityContext"]));
    let setters = setters(is_so(pod.context()), &containers)?;
    violation("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn allow_privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_with(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    let setters = setters(false, &containers)?;
    violation("allowPrivilegeEscalation != false", format!("{setters} must set securityContext.allowPrivilegeEscalation=false"))
}

fn restricted_volumes(pod: &Pod<'_>) -> Option<Violation> {
    let is_free = |volume: &&Value| FREE_VOLUMES.iter().any(|source| !volume[*source].is_null());
    let volumes: Vec<&Value> = pod.volumes().filter(|volume| !is_free(volume)).collect();
    if volumes.is_empty() {
        return None;
    }
    let source = |volume: &Value| {
        let fields = volume.as_object().into_iter().flatten();
        fields.filter(|(field, value)| *field != "name" && !value.is_null()).map(|(field, _)| field.clone()).next()
    };
    let sources: BTreeSet<String> = volumes.iter().map(|volume| source(volume).unwrap_or_else(|| "unknown".to_owned())).collect();
    let names: Vec<&str> = volumes.into_iter().map(name).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", sources.len()),
        quoted(sources)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    let of_pod = pod.context()["runAsNonRoot"].as_bool();
    let own = |container: &Value| container["securityContext"]["runAsNonRoot"].as_bool();
    let explicit = pod.containers_with(|container| own(container) == Some(false));
    if let Some(setters) = setters(of_pod == Some(false), &explicit) {
        return violation(REASON, format!("{setters} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.containers_with(|container| own(container).is_none() && of_pod != Some(true));
    if implicit.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&implicit)))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    let is_root = |context: &Value| context["runAsUser"] == 0;
    let containers = pod.containers_with(|container| is_root(&container["securityContext"]));
    let setters = setters(is_root(pod.context()), &containers)?;
    violation("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}
