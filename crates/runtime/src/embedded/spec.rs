//! From a container's configuration and image to the OCI specification that the library carries
//! out. Pure but for looking at the node's devices and kernel; the caller has resolved user,
//! capabilities and sources of mounts.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capabilities, Spec};
use serde_json::{Value, json};

use super::devices;
use super::shim::stage;
use crate::cgroup;
use crate::images::Content;
use crate::masks;
use containers::{ContainerConfig, Mount, Propagation, User};

pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the sandbox decides for its containers. A namespace that is not listed is the node's.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The kernel's name (`network`, `ipc`, `uts`, `pid`) and the file to join; a new one when
    /// None.
    pub namespaces: BTreeMap<&'static str, Option<PathBuf>>,
    pub hostname: String,
    /// Files and directories that containers get unless they mount something there themselves.
    pub defaults: Vec<Mount>,
    pub cgroup: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a ContainerConfig,
    pub content: &'a Content,
    pub user: &'a User,
    pub home: &'a str,
    pub rootfs: &'a Path,
    pub surroundings: &'a Surroundings,
    /// Directories for the volumes that the image declares.
    pub volumes: &'a [Mount],
    /// What the specification grants: more than the container gets in the end when a filter is to
    /// be installed.
    pub capabilities: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no command specified")]
    NoCommand,
    #[error("working directory {0:?} is not absolute")]
    WorkingDir(String),
    #[error(transparent)]
    Device(#[from] devices::Error),
    #[error("specification is not valid")]
    Invalid(#[source] serde_json::Error),
}

pub fn build(inputs: &Inputs<'_>) -> Result<Spec, Error> {
    let security = &inputs.config.security;
    let devices = devices::for_container(inputs.config)?;
    let own_users = inputs.surroundings.namespaces.contains_key("user");
    let (masked, read_only) = if security.privileged || (security.unmasked_proc && own_users) {
        (Vec::new(), &[][..])
    } else {
        (masks::hidden(), &masks::READ_ONLY[..])
    };
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": inputs.rootfs, "readonly": security.read_only_root},
        "process": process(inputs)?,
        "mounts": mounts(inputs),
        "linux": {
            "namespaces": namespaces(inputs),
            "cgroupsPath": inputs.surroundings.cgroup,
            "resources": resources(inputs.config, &devices),
            "devices": devices.iter().map(devices::Node::to_json).collect::<Vec<_>>(),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "rootfsPropagation": root_propagation(inputs.config),
        },
    });
    serde_json::from_value(spec).map_err(Error::Invalid)
}

/// The image's words with the configuration's over them.
pub fn command(config: &ContainerConfig, content: &Content) -> Result<Vec<String>, Error> {
    let mut words = if config.command.is_empty() { content.entrypoint.clone() } else { config.command.clone() };
    if !config.args.is_empty() {
        words.extend(config.args.iter().cloned());
    } else if config.command.is_empty() {
        words.extend(content.cmd.iter().cloned());
    }
    if words.is_empty() { Err(Error::NoCommand) } else { Ok(words) }
}

pub fn working_dir(config: &ContainerConfig, content: &Content) -> Result<PathBuf, Error> {
    let named = config.working_dir.as_ref().unwrap_or(&content.working_dir);
    let dir = if named.is_empty() { "/" } else { named };
    if dir.starts_with('/') { Ok(PathBuf::from(dir)) } else { Err(Error::WorkingDir(dir.to_owned())) }
}

fn process(inputs: &Inputs<'_>) -> Result<Value, Error> {
    let names: Capabilities = serde_json::from_value(super::capabilities::names(inputs.capabilities).collect()).map_err(Error::Invalid)?;
    Ok(json!({
        "terminal": inputs.config.tty,
        "user": {
            "uid": inputs.user.uid,
            "gid": inputs.user.gid,
            "additionalGids": inputs.user.supplemental_groups,
        },
        "args": command(inputs.config, inputs.content)?,
        "env": environment(inputs),
        "cwd": working_dir(inputs.config, inputs.content)?,
        "capabilities": {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []},
        "noNewPrivileges": inputs.config.security.no_new_privileges,
    }))
}

/// Later values of a name replace earlier ones in place.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut variables: Vec<(&str, &str)> = Vec::new();
    // Where each name is: images and pods may bring any number of them.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut set = |name, value| match places.entry(name) {
        Entry::Occupied(place) => variables[*place.get()].1 = value,
        Entry::Vacant(place) => {
            place.insert(variables.len());
            variables.push((name, value));
        }
    };
    set("PATH", DEFAULT_PATH);
    if inputs.config.tty {
        set("TERM", "xterm");
    }
    set("HOSTNAME", &inputs.surroundings.hostname);
    for variable in &inputs.content.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for (name, value) in &inputs.config.env {
        set(name, value);
    }
    if !places.contains_key("HOME") {
        variables.push(("HOME", inputs.home));
    }
    variables.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    for (kind, path) in &inputs.surroundings.namespaces {
        list.push(match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
    }
    if cgroup::is_v2() && !inputs.config.security.privileged {
        list.push(json!({"type": "cgroup"}));
    }
    list
}

fn resources(config: &ContainerConfig, devices: &[devices::Node]) -> Value {
    let limits = &config.resources;
    let positive = |v: Option<i64>| v.filter(|v| *v != 0);
    let mut rules = vec![json!({"allow": config.security.privileged, "access": "rwm"})];
    if !config.security.privileged {
        rules.extend(devices.iter().map(devices::Node::to_rule));
    }
    let mut resources = json!({"devices": rules});
    if let Some(limit) = positive(limits.memory_limit_bytes) {
        resources["memory"] = json!({"limit": limit});
        // Kernels without accounting of swap do not have the file, and then setting it fails.
        if Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() || cgroup::is_v2() {
            resources["memory"]["swap"] = json!(limit);
        }
    }
    if let Some(limit) = positive(limits.pids_limit) {
        resources["pids"] = json!({"limit": limit});
    }
    let mut cpu = serde_json::Map::new();
    cpu.extend(limits.cpu_shares.filter(|v| *v > 0).map(|v| ("shares".to_owned(), json!(v))));
    cpu.extend(positive(limits.cpu_quota_us).map(|v| ("quota".to_owned(), json!(v))));
    cpu.extend(limits.cpu_period_us.filter(|v| *v > 0).map(|v| ("period".to_owned(), json!(v))));
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    resources
}

fn mounts(inputs: &Inputs<'_>) -> Vec<Value> {
    let privileged = inputs.config.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        kernel_mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        kernel_mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        kernel_mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        kernel_mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        kernel_mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    list.extend(cgroup_mounts(inputs, access));
    let from_outside = from_outside(inputs).into_iter().enumerate();
    list.extend(
        from_outside.map(|(n, mount)| bind(mount, &if is_staged(inputs, mount) { stage::source(n) } else { mount.host_path.clone() })),
    );
    list
}

/// Whether a mount is laid out before the library sees it: it shows files as other users', it is an
/// image, or it must not follow what the node mounts later, which the library's own mounts do.
pub fn is_staged(inputs: &Inputs<'_>, mount: &Mount) -> bool {
    let own_users = inputs.surroundings.namespaces.contains_key("user");
    own_users || mount.image.is_some() || (is_private(inputs.config, mount) && mount.host_path.is_dir())
}

/// Not beside mounts that the node is to see: these containers are made where the node's mounts
/// are.
pub fn is_private(config: &ContainerConfig, mount: &Mount) -> bool {
    let shares = config.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional);
    mount.propagation == Propagation::Private && !shares && config.mounts.contains(mount)
}

/// What the container sees of the node and of images, in the order of the specification.
pub fn from_outside<'a>(inputs: &Inputs<'a>) -> Vec<&'a Mount> {
    let own = &inputs.config.mounts;
    let taken: BTreeSet<&Path> = own.iter().map(|mount| mount.container_path.as_path()).collect();
    let defaults = inputs.surroundings.defaults.iter().chain(inputs.volumes);
    let mut list: Vec<&Mount> = defaults.filter(|mount| !taken.contains(mount.container_path.as_path())).collect();
    // A mount below another one must come after it, whatever the order in the configuration.
    let mut sorted: Vec<&Mount> = own.iter().collect();
    sorted.sort_by_key(|m| m.container_path.components().count());
    list.extend(sorted);
    list
}

fn kernel_mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// v1: the library's own mount can be written to by the container, which could lift its limits;
/// binding each directory read-only holds.
fn cgroup_mounts(inputs: &Inputs<'_>, access: &str) -> Vec<Value> {
    const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
    if cgroup::is_v2() {
        return vec![kernel_mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])];
    }
    let mut list = vec![kernel_mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "mode=755"])];
    let group = cgroup::Cgroup::new(&inputs.surroundings.cgroup.to_string_lossy());
    for controller in CONTROLLERS.into_iter().filter(|c| Path::new("/sys/fs/cgroup").join(c).join("cgroup.procs").exists()) {
        let destination = format!("/sys/fs/cgroup/{controller}");
        let source = if inputs.config.security.privileged { PathBuf::from(&destination) } else { group.dir(controller) };
        let options = ["bind", "nosuid", "noexec", "nodev", "rprivate", access];
        list.push(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
    }
    list
}

fn bind(mount: &Mount, source: &Path) -> Value {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation];
    options.push(match (mount.read_only || mount.image.is_some(), mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    });
    json!({"destination": mount.container_path, "type": "bind", "source": source, "options": options})
}

fn root_propagation(config: &ContainerConfig) -> &'static str {
    if config.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional) { "shared" } else { "slave" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn commands_follow_the_rules_of_kubernetes() {
        let content = Content { entrypoint: words(&["e"]), cmd: words(&["c"]), ..Default::default() };
        let run = |command: &[&str], args: &[&str]| {
            let config = ContainerConfig { command: words(command), args: words(args), ..Default::default() };
            super::command(&config, &content).unwrap().join(" ")
        };
        assert_eq!([run(&[], &[]), run(&["x"], &[]), run(&[], &["y"]), run(&["x"], &["y"])], ["e c", "x", "e y", "x y"]);
        assert!(matches!(super::command(&ContainerConfig::default(), &Content::default()), Err(Error::NoCommand)));
    }

    #[test]
    fn variables_replace_each_other() {
        let content = Content { env: words(&["PATH=/bin", "A=1"]), ..Default::default() };
        let config = ContainerConfig { env: vec![("A".into(), "2".into()), ("B".into(), "x=y".into())], tty: true, ..Default::default() };
        let surroundings = Surroundings { hostname: "pod".into(), ..Default::default() };
        let user = User { uid: 0, gid: 0, supplemental_groups: vec![] };
        let inputs = Inputs {
            config: &config,
            content: &content,
            user: &user,
            home: "/root",
            rootfs: Path::new("/r"),
            surroundings: &surroundings,
            volumes: &[],
            capabilities: 1,
        };
        // The time of many would never end if each looked at all others.
        let many = Content { env: (0..1 << 20).map(|n| format!("V{n}=x")).collect(), ..Default::default() };
        assert_eq!(environment(&Inputs { content: &many, ..inputs }).len(), (1 << 20) + 6);
        assert_eq!(environment(&inputs), words(&["PATH=/bin", "TERM=xterm", "HOSTNAME=pod", "A=2", "B=x=y", "HOME=/root"]));
    }
}
