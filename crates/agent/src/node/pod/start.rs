//! Starting one container: image, environment, mounts, creation, hook. Every failure has the reason
//! that `kubectl get` shows.

use std::collections::BTreeMap;

use brain::podsync::actions::{Kind, Start};
use brain::podsync::environment::{Environment, environment};
use brain::podsync::fields::Addresses;
use brain::podsync::{Sandbox, StartFailure, State, containers, ephemeral_containers, init_containers, is_host_network, security};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::port::{Image, Mount, Propagation};
use runtime::words::plain_text;

use super::worker::Worker;
use super::{config, end, hooks, id, images, message};
use crate::node::{Context, volumes};

/// The default of `terminationMessagePath`.
const MESSAGE_PATH: &str = "/dev/termination-log";

pub fn field_path(what: &Start) -> String {
    let field = match what.kind {
        Kind::Ephemeral => "ephemeralContainers",
        Kind::Init => "initContainers",
        Kind::Main => "containers",
    };
    format!("spec.{field}{{{}}}", what.name)
}

/// The container that is to be started, and the one it looks at.
fn container(pod: &Pod, what: &Start) -> Option<(Container, Option<String>)> {
    match what.kind {
        Kind::Ephemeral => ephemeral_containers(pod).get(what.index).cloned(),
        Kind::Init => init_containers(pod).get(what.index).map(|container| (container.clone(), None)),
        Kind::Main => containers(pod).get(what.index).map(|container| (container.clone(), None)),
    }
}

fn failure(reason: &str, message: impl Into<String>) -> StartFailure {
    StartFailure { reason: reason.to_owned(), message: plain_text(&message.into()) }
}

/// When an image that is not tried again yet is due.
pub fn pull_due(worker: &Worker, what: &Start) -> Option<Timestamp> {
    let (container, _) = container(&worker.pod, what)?;
    let key = brain::podsync::pull::backoff_key(&worker.pod, container.image.as_deref().unwrap_or_default());
    worker.memory.pulls.waiting_since_update(&key, Timestamp::now()).map(|waiting| waiting.until)
}

pub async fn start(worker: &mut Worker, sandbox: &Sandbox, what: &Start) -> Result<(), StartFailure> {
    let pod = worker.pod.clone();
    let Some((container, target)) = container(&pod, what) else { return Ok(()) };
    let path = field_path(what);
    let result = attempt(worker, &pod, sandbox, what, &container, target, &path).await;
    if let Err(failure) = &result {
        // What images failed with is told by its reason: the sentence was told before.
        let is_image = matches!(failure.reason.as_str(), "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName");
        let text = if is_image { failure.reason.clone() } else { failure.message.clone() };
        if failure.reason != "PostStartHookError" {
            worker.context.events.container(&pod, &path, true, "Failed", format!("Error: {text}"));
        }
    }
    result
}

async fn attempt(
    worker: &mut Worker,
    pod: &Pod,
    sandbox: &Sandbox,
    what: &Start,
    container: &Container,
    target: Option<String>,
    path: &str,
) -> Result<(), StartFailure> {
    let context = worker.context.clone();
    remove_unstarted(&context, pod, container).await?;
    let image = images::ensure(worker, container, path).await?;
    let mut mounted = BTreeMap::new();
    for (volume, reference, policy) in volumes::images(pod, container) {
        let wanted = Container { name: container.name.clone(), image: Some(reference), image_pull_policy: policy, ..Container::default() };
        mounted.insert(volume, images::ensure(worker, &wanted, path).await?.id);
    }
    let (environment, mounts) = prepare(&context, pod, sandbox, what, container, &image, &mounted).await.map_err(|error| {
        context.observer.forget_image_names();
        failure("CreateContainerConfigError", error)
    })?;
    for warning in &environment.warnings {
        context.events.pod(pod, true, "InvalidEnvironmentVariableNames", warning.clone());
    }
    let target = match target {
        None => None,
        Some(name) => Some(target_id(&context, pod, &name)?),
    };
    let parts = config::Parts { restarts: what.restarts, image_id: &image.id, environment: &environment, mounts, target };
    let config = config::container(&context, pod, container, parts);
    let made = config::sandbox(&context, pod, sandbox.attempt);
    let (sandbox_config, _) = made.map_err(|error| failure("CreateContainerConfigError", error))?;
    let (runtime, sandbox_id) = (context.runtime.clone(), sandbox.id.clone());
    let created = worker.calls.whole(async move { runtime.create_container(&sandbox_id, &sandbox_config, &config).await }).await;
    let container_id = created.map_err(|error| failure("CreateContainerError", error.to_string()))?;
    context.events.container(pod, path, false, "Created", "Container created");
    link_log(&context, pod, container, &container_id, what.restarts);
    let (runtime, started_id) = (context.runtime.clone(), container_id.clone());
    let started = worker.calls.whole(async move { runtime.start_container(&started_id).await }).await;
    started.map_err(|error| failure("RunContainerError", error.to_string()))?;
    context.events.container(pod, path, false, "Started", "Container started");
    remove_older(&context, pod, what).await;
    post_start(&context, pod, container, &container_id, path).await
}

/// An agent that was killed between making a container and starting it leaves one behind.
async fn remove_unstarted(context: &Context, pod: &Pod, container: &Container) -> Result<(), StartFailure> {
    let observed = context.observer.observed(super::uid(pod));
    let unstarted = observed.containers.iter().filter(|record| record.name == container.name && record.state == State::Created);
    for record in unstarted {
        let removed = end::remove_container(context, &id(pod), record).await;
        removed.map_err(|error| failure("CreateContainerError", error))?;
    }
    Ok(())
}

fn target_id(context: &Context, pod: &Pod, name: &str) -> Result<String, StartFailure> {
    let observed = context.observer.observed(super::uid(pod));
    let record = observed.latest(name).filter(|record| record.is_running());
    let record = record.ok_or_else(|| failure("CreateContainerError", format!("unable to find target container {name:?}")))?;
    Ok(context.observer.bare(&record.id).to_owned())
}

/// Environment and mounts; an error is the sentence that users see.
async fn prepare(
    context: &Context,
    pod: &Pod,
    sandbox: &Sandbox,
    what: &Start,
    container: &Container,
    image: &Image,
    mounted: &BTreeMap<String, String>,
) -> Result<(Environment, Vec<Mount>), String> {
    let wanted = security::effective(pod, container);
    security::check_non_root(&wanted, pod, container, image.uid, &image.username)?;
    security::check_seccomp(&wanted)?;
    let addresses = if is_host_network(pod) { context.node_addresses.clone() } else { sandbox.addresses.clone() };
    let mut sources = context.objects.for_container(pod, container).await?;
    sources.addresses = Addresses { pod: addresses.clone(), host: context.node_addresses.clone() };
    sources.allocatable = context.machine.capacity();
    volumes::add_env_files(context, pod, container, &mut sources).await?;
    let environment = environment(pod, container, &sources)?;
    let mut mounts = volumes::mounts(context, pod, container, &environment, mounted).await?;
    let is_mounted = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.container_path.as_os_str() == path);
    if !is_mounted(&mounts, "/etc/hosts") {
        let hosts = config::write_hosts(context, pod, &addresses).map_err(|error| format!("failed to write the hosts file: {error}"))?;
        mounts.push(Mount { read_only: wanted.read_only_root, ..bind(hosts, "/etc/hosts") });
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH);
    if !message_path.is_empty() && !is_mounted(&mounts, message_path) {
        let file = message::path(&context.settings.root_dir, super::uid(pod), &container.name, what.restarts);
        make_message_file(&file).map_err(|error| format!("failed to make the termination message file: {error}"))?;
        mounts.push(bind(file, message_path));
    }
    Ok((environment, mounts))
}

fn bind(host_path: std::path::PathBuf, container_path: &str) -> Mount {
    Mount {
        host_path,
        container_path: container_path.into(),
        read_only: false,
        recursive_read_only: false,
        image: None,
        propagation: Propagation::Private,
    }
}

/// Anybody may write it: the container's user is not known here.
fn make_message_file(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        crate::node::settings::make_closed_dir(parent)?;
    }
    std::fs::write(path, b"")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

/// The link that log collectors follow. One that cannot be made loses no log.
fn link_log(context: &Context, pod: &Pod, container: &Container, container_id: &str, restarts: u32) {
    let pod_id = id(pod);
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
    let observed = context.observer.observed(super::uid(pod));
    let ended = observed.containers.iter().filter(|record| record.name == started.name && record.restarts < started.restarts);
    for record in ended.skip(1) {
        if let Err(error) = end::remove_container(context, &id(pod), record).await {
            tracing::debug!(error, container = started.name, "cannot remove an old container; it is tried again");
        }
    }
}

async fn post_start(context: &Context, pod: &Pod, container: &Container, container_id: &str, path: &str) -> Result<(), StartFailure> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else { return Ok(()) };
    let Err(message) = hooks::run(context, pod, container, container_id, hook).await else { return Ok(()) };
    context.events.container(pod, path, true, "FailedPostStartHook", "PostStartHook failed");
    let _ = context.observer.refresh().await;
    let observed = context.observer.observed(super::uid(pod));
    if let Some(record) = observed.latest(&container.name) {
        let stop = end::Stop { message: "FailedPostStartHook".to_owned(), reason: None, ended: None };
        if let Err(error) = end::stop(context, pod, record, stop).await {
            tracing::warn!(error, container = container.name, "cannot end a container whose postStart hook failed");
        }
    }
    Err(failure("PostStartHookError", message))
}
