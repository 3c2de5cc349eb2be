//! From a request to a container on disk: everything that can be found wrong before a process
//! exists is found here. Blocks.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::capabilities;
use super::failure::Failure;
use super::layers;
use super::paths::Layout;
use super::record::{self, ContainerRecord, Launch, OwnUsers, SandboxRecord, Source, Staged, WorkingDirPlace};
use super::sandbox::{self, Inhabitant};
use super::seccomp::Profile;
use super::shim::stage;
use super::signals;
use super::spec::{self, Inputs};
use super::user::{self, Databases, Identity};
use crate::images::{Content, Contents};
use crate::words::failed;
use containers::{ContainerConfig, Mount, Propagation, SandboxConfig, Seccomp, User, UserNamespace};

/// The largest profiles of the field have 100 KiB.
const PROFILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub struct Request<'a> {
    pub id: &'a str,
    pub sandbox: &'a SandboxRecord,
    /// As the caller has it now: log directory and names may be newer than the record.
    pub sandbox_config: &'a SandboxConfig,
    pub config: &'a ContainerConfig,
    pub content: &'a Content,
    /// For images that are mounted.
    pub contents: &'a dyn Contents,
    /// The process whose namespace to join.
    pub target: Option<i32>,
}

/// Writes the container's directories. The record comes last: without it the rest is rubbish.
pub fn prepare(layout: &Layout, request: &Request<'_>) -> containers::Result<ContainerRecord> {
    let config = request.config;
    let identity = identity(request)?;
    let users = request.sandbox.config.user_namespace;
    check_users(users, request, &identity.user)?;
    let capabilities = capabilities::for_container(&config.security, capabilities::available()).map_err(Failure::from)?;
    let seccomp = profile(config)?;
    let dir = layout.container(request.id);
    let writable = layout.container_writable(request.id);
    let rootfs = if users.is_some() { stage::rootfs() } else { dir.rootfs() };
    for dir in [&rootfs, &dir.bundle()] {
        fs::create_dir_all(dir).map_err(failed("make container directories"))?;
    }
    make_writable(&writable, users.map(|users| users.first)).map_err(failed("make container directories"))?;
    let volumes = make_volumes(&writable, &request.content.volumes).map_err(failed("make image volumes"))?;
    sandbox::write_files(layout, request.sandbox).map_err(failed("write the sandbox's files"))?;
    let inhabitant = Inhabitant { id: request.id, target: request.target, is_read_only: config.security.read_only_root };
    let surroundings = sandbox::surroundings(layout, request.sandbox, inhabitant);
    let inputs = Inputs {
        config,
        content: request.content,
        user: &identity.user,
        home: &identity.home,
        rootfs: &rootfs,
        surroundings: &surroundings,
        volumes: &volumes,
        capabilities: granted(capabilities, seccomp.is_some(), config.security.no_new_privileges),
    };
    let spec = spec::build(&inputs).map_err(Failure::from)?;
    spec.save(dir.spec()).map_err(Failure::WriteSpecification)?;
    let working_dir = spec::working_dir(config, request.content).map_err(Failure::from)?;
    let log_path = request.sandbox_config.log_dir.join(&config.log_path);
    let launch = Launch {
        id: request.id.to_owned(),
        layers: request.content.layers.clone(),
        writable,
        working_dir_place: working_dir_place(&spec::from_outside(&inputs), working_dir),
        cgroup: surroundings.cgroup.to_string_lossy().into_owned(),
        log_path: log_path.clone(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        oom_score_adj: config.resources.oom_score_adj,
        stop_signal: stop_signal(config, request.content)?,
        shared_mounts: config.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional),
        own_pid_namespace: matches!(surroundings.namespaces.get("pid"), Some(None)),
        seccomp,
        capabilities,
        no_new_privileges: config.security.no_new_privileges,
        users: users.map(|users| OwnUsers { first: users.first, namespaces: layout.sandbox(&request.sandbox.id).namespaces() }),
        staged: staged(&inputs, request.contents)?,
    };
    let record = ContainerRecord {
        id: request.id.to_owned(),
        sandbox_id: request.sandbox.id.clone(),
        pod: request.sandbox.config.pod.clone(),
        config: config.clone(),
        created_at: Timestamp::now(),
        log_path,
        user: identity.user,
        launch,
    };
    record::write(&dir.record(), &record).map_err(failed("write container record"))?;
    Ok(record)
}

/// What is to be mounted must be there. Looks into file systems that any user may provide: it
/// may hang.
pub fn check_mounts(config: &ContainerConfig) -> Result<(), Failure> {
    let shares = config.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional);
    for mount in &config.mounts {
        if mount.image.is_some() {
            if shares {
                return Err(Failure::ImageBesideShared);
            }
            continue;
        }
        if let Err(e) = fs::metadata(&mount.host_path) {
            return Err(Failure::Mount { path: mount.host_path.clone(), source: e.into() });
        }
        if mount.propagation == Propagation::Bidirectional && !config.security.privileged {
            return Err(Failure::SharedUnprivileged);
        }
    }
    Ok(())
}

fn identity(request: &Request<'_>) -> Result<Identity, Failure> {
    let read = |database| {
        let text = layers::read(&request.content.layers, Path::new(database)).map(Option::unwrap_or_default);
        text.map_err(|e| Failure::Database { database, source: e.into() })
    };
    let (passwd, group) = (read("etc/passwd")?, read("etc/group")?);
    let files = Databases { passwd: &passwd, group: &group };
    Ok(user::resolve(files, &request.content.user, &request.config.security)?)
}

/// What needs the node's users is refused to those of a sandbox's own.
fn check_users(users: Option<UserNamespace>, request: &Request<'_>, user: &User) -> Result<(), Failure> {
    let Some(users) = users else { return Ok(()) };
    let ids = user.supplemental_groups.iter().chain([&user.uid, &user.gid]);
    if let Some(id) = ids.into_iter().find(|id| **id >= i64::from(users.length)) {
        return Err(Failure::ForeignId { id: *id, last: users.length - 1 });
    }
    if request.config.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        return Err(Failure::SharedWithUsers);
    }
    if request.config.security.privileged {
        return Err(Failure::PrivilegedWithUsers);
    }
    Ok(())
}

fn profile(config: &ContainerConfig) -> Result<Option<Profile>, Failure> {
    match &config.security.seccomp {
        // Privileged containers are never filtered.
        _ if config.security.privileged => Ok(None),
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(Profile::runtime_default())),
        Seccomp::Localhost(path) => {
            let refused = |source| Failure::Profile { path: path.clone(), source };
            let text = read_profile(path).map_err(|e| refused(Box::new(failed(format!("open {}", path.display()))(e))))?;
            let profile = Profile::parse(&text).map_err(|e| refused(Box::new(e)))?;
            profile.compile(0).map_err(|e| refused(Box::new(e)))?;
            Ok(Some(profile))
        }
    }
}

/// A pipe in the place of a profile would hold everything up.
fn read_profile(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > PROFILE_BYTES_MAX {
        return Err(io::Error::other("is not a file of a profile's size"));
    }
    fs::read_to_string(path)
}

/// Installing a filter without no_new_privs takes capabilities that the program is not to have: the
/// executor takes them from its bounding set before.
fn granted(wanted: u64, filtered: bool, no_new_privileges: bool) -> u64 {
    if filtered && !no_new_privileges { wanted | capabilities::SYS_ADMIN | capabilities::SETPCAP } else { wanted }
}

/// `owner`: the node's id of the container's root.
fn make_writable(writable: &Path, owner: Option<u32>) -> io::Result<()> {
    for name in ["upper", "work"] {
        fs::create_dir_all(writable.join(name))?;
    }
    // The upper directory is the container's root: its mode is what `ls -ld /` shows.
    fs::set_permissions(writable.join("upper"), fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::chown(writable.join("upper"), owner, owner)?;
    // Files of containers may have any owner and mode: no other user on the node is to reach them.
    fs::set_permissions(writable, fs::Permissions::from_mode(0o700))
}

fn staged(inputs: &Inputs<'_>, contents: &dyn Contents) -> containers::Result<Vec<Staged>> {
    let all = spec::from_outside(inputs).into_iter().enumerate().filter(|(_, mount)| spec::is_staged(inputs, mount));
    let stage = |(number, mount): (usize, &Mount)| {
        let source = match &mount.image {
            Some(image) => Source::Image(contents.content(&image.id)?.layers, image.sub_path.clone()),
            None => Source::Node(mount.host_path.clone()),
        };
        Ok(Staged { number, source, private: mount.propagation == Propagation::Private })
    };
    all.map(stage).collect()
}

fn make_volumes(writable: &Path, declared: &[String]) -> io::Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for (n, container_path) in declared.iter().enumerate() {
        let host_path = writable.join("volumes").join(n.to_string());
        fs::create_dir_all(&host_path)?;
        mounts.push(Mount {
            host_path,
            container_path: PathBuf::from(container_path),
            read_only: false,
            recursive_read_only: false,
            image: None,
            propagation: Propagation::Private,
        });
    }
    Ok(mounts)
}

/// Where a working directory that is missing is to be made: where the container would see it.
/// Nothing is made behind a read-only mount or in an image: a container that wants its directory
/// there does not start, as with other runtimes.
fn working_dir_place(mounts: &[&Mount], dir: PathBuf) -> WorkingDirPlace {
    let covering = mounts.iter().filter(|mount| dir.starts_with(&mount.container_path));
    // Of those as deep as each other the last one hides the others.
    match covering.max_by_key(|mount| mount.container_path.components().count()) {
        None => WorkingDirPlace::Root(dir),
        Some(mount) if mount.read_only || mount.image.is_some() => WorkingDirPlace::Nowhere,
        Some(mount) => {
            let rest = dir.strip_prefix(&mount.container_path).expect("it was found by that beginning");
            WorkingDirPlace::Mount(mount.host_path.clone(), rest.to_owned())
        }
    }
}

fn stop_signal(config: &ContainerConfig, content: &Content) -> Result<i32, Failure> {
    let named = config.stop_signal.as_deref().unwrap_or(&content.stop_signal);
    if named.is_empty() {
        return Ok(libc::SIGTERM);
    }
    signals::parse(named).ok_or_else(|| Failure::Signal(named.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_directories_are_made_where_the_container_may_write() {
        let mount = |host: &str, container: &str, read_only: bool| Mount {
            host_path: host.into(),
            container_path: container.into(),
            read_only,
            ..Mount::default()
        };
        let image = Mount { image: Some(containers::ImageMount { id: "i".into(), sub_path: None }), ..mount("", "/image", false) };
        let mounts = [
            mount("/h1", "/data", false),
            mount("/h2", "/data/inner", false),
            mount("/h3", "/data/fixed", true),
            image,
            mount("/h4", "/data/inner", false),
        ];
        let find = |dir: &str| working_dir_place(&mounts.iter().collect::<Vec<_>>(), dir.into());
        assert_eq!(find("/data/inner/x/y"), WorkingDirPlace::Mount("/h4".into(), "x/y".into()));
        assert_eq!(find("/data/x"), WorkingDirPlace::Mount("/h1".into(), "x".into()));
        assert_eq!(find("/datax"), WorkingDirPlace::Root("/datax".into()));
        for dir in ["/data/fixed", "/data/fixed/x", "/image/x"] {
            assert_eq!(find(dir), WorkingDirPlace::Nowhere, "{dir}");
        }
    }
}
