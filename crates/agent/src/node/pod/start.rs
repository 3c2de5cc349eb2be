//! Starting one container: image, environment, mounts, creation, hook.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brain::podsync::actions::Start;
use brain::podsync::config::Parts;
use brain::podsync::environment::{Environment, environment};
use brain::podsync::failure::StartFailure;
use brain::podsync::fields::Addresses;
use brain::podsync::{Sandbox, is_host_network, pod_id, security, uid};
use brain::request::EventType;
use containers::{ContainerState, Image, Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::words::plain_text;

use super::calls::Calls;
use super::images::Pulls;
use super::{config, end, hooks, message};
use crate::node::{Context, volumes};

/// The default of `terminationMessagePath`.
const MESSAGE_PATH: &str = "/dev/termination-log";

/// Starts it, and reports the result by events.
pub async fn start(mut pulls: Pulls<'_>, calls: &Calls, sandbox: &Sandbox, what: &Start) -> Result<(), StartFailure> {
    let Some((container, target)) = what.container(pulls.pod) else { return Ok(()) };
    let (context, pod) = (pulls.context, pulls.pod);
    let wanted = Wanted { sandbox, what, container: &container, target };
    let result = attempt(&mut pulls, calls, wanted).await;
    if let Err(failure) = &result {
        tell(context, pod, what, failure);
    }
    result
}

/// The events of a failed start.
pub fn tell(context: &Context, pod: &Pod, what: &Start, failure: &StartFailure) {
    for event in failure.events() {
        context.events.container(pod, &what.field_path(), event.event_type, event.reason, event.message);
    }
}

/// The container to start.
struct Wanted<'a> {
    sandbox: &'a Sandbox,
    what: &'a Start,
    container: &'a Container,
    /// The name of the container that it looks at.
    target: Option<String>,
}

async fn attempt(pulls: &mut Pulls<'_>, calls: &Calls, wanted: Wanted<'_>) -> Result<(), StartFailure> {
    let (context, pod) = (pulls.context.clone(), pulls.pod.clone());
    let Wanted { sandbox, what, container, target } = wanted;
    let (pod, path) = (pod.as_ref(), what.field_path());
    let path = path.as_str();
    remove_unstarted(&context, pod, container).await?;
    let image = pulls.ensure(container, path).await?;
    let mut mounted = BTreeMap::new();
    for (volume, reference, policy) in volumes::images(pod, container) {
        let wanted = Container { name: container.name.clone(), image: Some(reference), image_pull_policy: policy, ..Container::default() };
        mounted.insert(volume, pulls.ensure(&wanted, path).await?.id);
    }
    let (environment, mounts) =
        prepare(&context, pod, sandbox, what, container, &image, &mounted).await.inspect_err(|_| context.observer.forget_image_names())?;
    for warning in &environment.warnings {
        context.events.pod(pod, EventType::Warning, "InvalidEnvironmentVariableNames", warning.clone());
    }
    let target = match target {
        None => None,
        Some(name) => Some(target_id(&context, pod, &name)?),
    };
    let parts = Parts { restarts: what.restarts, image_id: &image.id, environment: &environment, mounts, target };
    let config = config::container(&context, pod, container, parts);
    let sandbox_config = config::sandbox(&context, pod, sandbox.attempt).map_err(config_failure)?;
    let (runtime, sandbox_id) = (context.runtime.clone(), sandbox.id.clone());
    let created = calls.whole(async move { runtime.create_container(&sandbox_id, &sandbox_config, &config).await }).await;
    let container_id = created.map_err(create_failure)?;
    context.events.container(pod, path, EventType::Normal, "Created", "Container created");
    link_log(&context, pod, container, &container_id, what.restarts);
    let (runtime, started_id) = (context.runtime.clone(), container_id.clone());
    let started = calls.whole(async move { runtime.start_container(&started_id).await }).await;
    started.map_err(|error| StartFailure::Run { cause: plain_text(&error.to_string()) })?;
    context.events.container(pod, path, EventType::Normal, "Started", "Container started");
    remove_older(&context, pod, what).await;
    post_start(&context, pod, container, &container_id, path).await
}

fn config_failure(error: impl std::fmt::Display) -> StartFailure {
    StartFailure::Config { cause: plain_text(&error.to_string()) }
}

fn create_failure(error: impl std::fmt::Display) -> StartFailure {
    StartFailure::Create { cause: plain_text(&error.to_string()) }
}

/// An agent that was killed between making a container and starting it leaves one behind.
async fn remove_unstarted(context: &Context, pod: &Pod, container: &Container) -> Result<(), StartFailure> {
    let observed = context.observer.observed(uid(pod));
    let unstarted = observed.containers.iter().filter(|record| record.name == container.name && record.state == ContainerState::Created);
    for record in unstarted {
        let removed = end::remove_container(context, &pod_id(pod), record).await;
        removed.map_err(create_failure)?;
    }
    Ok(())
}

fn target_id(context: &Context, pod: &Pod, name: &str) -> Result<String, StartFailure> {
    let observed = context.observer.observed(uid(pod));
    let record = observed.latest(name).filter(|record| record.is_running());
    let record = record.ok_or_else(|| create_failure(format!("unable to find target container {name:?}")))?;
    Ok(context.observer.bare(&record.id).to_owned())
}

/// Environment and mounts.
async fn prepare(
    context: &Context,
    pod: &Pod,
    sandbox: &Sandbox,
    what: &Start,
    container: &Container,
    image: &Image,
    mounted: &BTreeMap<String, String>,
) -> Result<(Environment, Vec<Mount>), StartFailure> {
    let wanted = security::effective(pod, container);
    security::check(&wanted, pod, container, image).map_err(config_failure)?;
    let addresses = if is_host_network(pod) { context.node_addresses.clone() } else { sandbox.addresses.clone() };
    let mut sources = context.objects.for_container(pod, container).await.map_err(config_failure)?;
    sources.addresses = Addresses { pod: addresses.clone(), host: context.node_addresses.clone() };
    sources.allocatable = context.machine.capacity();
    volumes::add_env_files(context, pod, container, &mut sources).await.map_err(config_failure)?;
    let environment = environment(pod, container, &sources).map_err(config_failure)?;
    let mut mounts = volumes::mounts(context, pod, container, &environment, mounted).await.map_err(config_failure)?;
    let is_mounted = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.container_path.as_os_str() == path);
    if !is_mounted(&mounts, "/etc/hosts") {
        let hosts = config::write_hosts(context, pod, &addresses)
            .map_err(|error| config_failure(format!("failed to write the hosts file: {error}")))?;
        mounts.push(Mount { read_only: wanted.read_only_root, ..bind(hosts, "/etc/hosts") });
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH);
    if !message_path.is_empty() && !is_mounted(&mounts, message_path) {
        let file = message::path(&context.settings.root_dir, uid(pod), &container.name, what.restarts);
        make_message_file(&file).map_err(|error| config_failure(format!("failed to make the termination message file: {error}")))?;
        mounts.push(bind(file, message_path));
    }
    Ok((environment, mounts))
}

fn bind(host_path: PathBuf, container_path: &str) -> Mount {
    Mount {
        host_path,
        container_path: container_path.into(),
        read_only: false,
        recursive_read_only: false,
        image: None,
        propagation: Propagation::Private,
    }
}

/// Any user may write it: the container's user is not known here.
fn make_message_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        crate::node::settings::make_closed_dir(parent)?;
    }
    std::fs::write(path, b"")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// The link that log collectors follow. One that cannot be made loses no log.
fn link_log(context: &Context, pod: &Pod, container: &Container, container_id: &str, restarts: u32) {
    let pod_id = pod_id(pod);
    let log =
        context.settings.pod_log_dir(&pod_id.namespace, &pod_id.name, &pod_id.uid).join(&container.name).join(format!("{restarts}.log"));
    let link = end::log_link(context, &pod_id, &container.name, container_id);
    if let Err(error) = std::os::unix::fs::symlink(&log, &link)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::warn!(%error, link = %link.display(), "cannot link a log");
    }
}

/// Of the containers that ended, the last one of each name is kept: for its status and its log.
async fn remove_older(context: &Context, pod: &Pod, started: &Start) {
    let observed = context.observer.observed(uid(pod));
    let ended = observed.containers.iter().filter(|record| record.name == started.name && record.restarts < started.restarts);
    for record in ended.skip(1) {
        if let Err(error) = end::remove_container(context, &pod_id(pod), record).await {
            tracing::debug!(%error, container = started.name, "cannot remove an old container; it is tried again");
        }
    }
}

async fn post_start(context: &Context, pod: &Pod, container: &Container, container_id: &str, path: &str) -> Result<(), StartFailure> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else { return Ok(()) };
    let Err(error) = hooks::run(context, pod, container, container_id, hook).await else { return Ok(()) };
    context.events.container(pod, path, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
    let _ = context.observer.refresh().await;
    let observed = context.observer.observed(uid(pod));
    if let Some(record) = observed.latest(&container.name) {
        let stop = end::Stop { message: "FailedPostStartHook".to_owned(), reason: None, ended: None };
        if let Err(error) = end::stop(context, pod, record, stop).await {
            tracing::warn!(%error, container = container.name, "cannot end a container whose postStart hook failed");
        }
    }
    Err(StartFailure::PostStartHook { cause: plain_text(&error.to_string()) })
}
