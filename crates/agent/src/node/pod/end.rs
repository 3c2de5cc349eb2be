//! Ending containers and whole pods, and removing what is left of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use brain::podsync::actions::{Kill, KillReason};
use brain::podsync::{Ended, Observed, Record, containers, ephemeral_containers, init_containers, termination, uid};
use brain::request::EventType;
use containers::ContainerState;
use containers::PodId;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::trees;

use super::hooks;
use crate::node::Context;

/// Why a pod or a container cannot be ended, or what is left of it not be removed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    #[error(transparent)]
    Runtime(#[from] containers::Error),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<EndError>),
    #[error(transparent)]
    Tree(#[from] std::io::Error),
}

/// Ends all containers in their order, then the sandboxes.
pub async fn kill(context: &Context, pod: &Pod, observed: &Observed, ended: Option<&Ended>) -> Result<(), EndError> {
    let alive = |name: &String| {
        let records = observed.containers.iter().filter(move |record| &record.name == name);
        records
            .filter(|record| matches!(record.state, ContainerState::Running | ContainerState::Unknown | ContainerState::Created))
            .collect::<Vec<_>>()
    };
    let known: Vec<String> = termination::order(pod).into_iter().flatten().collect();
    let strangers: Vec<String> =
        observed.containers.iter().map(|record| record.name.clone()).filter(|name| !known.contains(name)).collect();
    let mut failures = Vec::new();
    for together in termination::order(pod).into_iter().chain([strangers]) {
        let records: Vec<&Record> = together.iter().flat_map(alive).collect();
        let endings = records.iter().map(|record| {
            let message = termination::stopping_message(&record.name);
            stop(context, pod, record, Stop { message, reason: None, ended })
        });
        failures.extend(join_all(endings).await.into_iter().filter_map(Result::err));
    }
    for sandbox in &observed.sandboxes {
        if let Err(error) = context.runtime.stop_sandbox(&sandbox.id).await {
            failures.push(error.into());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(EndError::Several(failures)) }
}

/// Ends one container of a pod that goes on.
pub async fn kill_one(context: &Context, pod: &Pod, kill: &Kill) -> Result<(), EndError> {
    let observed = context.observer.observed(uid(pod));
    let Some(record) = observed.containers.iter().find(|record| record.id == kill.container_id) else { return Ok(()) };
    stop(context, pod, record, Stop { message: kill.message.clone(), reason: Some(kill.reason), ended: None }).await
}

pub struct Stop<'a> {
    /// The text of the event.
    pub message: String,
    pub reason: Option<KillReason>,
    pub ended: Option<&'a Ended>,
}

pub async fn stop(context: &Context, pod: &Pod, record: &Record, stop: Stop<'_>) -> Result<(), EndError> {
    let found = find(pod, &record.name);
    let fallback = Container { name: record.name.clone(), ..Container::default() };
    let (container, path) = found.as_ref().map_or((&fallback, String::new()), |(container, path)| (container, path.clone()));
    let grace = termination::grace(pod, container, stop.reason, stop.ended);
    context.events.container(pod, &path, EventType::Normal, "Killing", stop.message);
    let begun = Instant::now();
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(hook) = hook.filter(|_| record.is_running() && !grace.is_zero()) {
        let run = hooks::run(context, pod, container, &record.id, hook);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, container = container.name, "a preStop hook failed");
                context.events.container(pod, &path, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => {
                context.events.container(pod, &path, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
        }
    }
    let left = if hook.is_some() { termination::grace_after_hook(grace, begun.elapsed()) } else { grace };
    context.runtime.stop_container(context.observer.bare(&record.id), left).await.map_err(EndError::from)
}

/// A container of the pod by name, and its path for events.
pub fn find(pod: &Pod, name: &str) -> Option<(Container, String)> {
    let of = |list: &[Container], field: &str| {
        list.iter().find(|container| container.name == name).map(|container| (container.clone(), format!("spec.{field}{{{name}}}")))
    };
    let ephemeral: Vec<Container> = ephemeral_containers(pod).into_iter().map(|(container, _)| container).collect();
    of(containers(pod), "containers")
        .or_else(|| of(init_containers(pod), "initContainers"))
        .or_else(|| of(&ephemeral, "ephemeralContainers"))
}

/// Removes sandboxes, containers, logs and folders of a pod of which nothing runs.
pub async fn remove(context: &Context, pod: &PodId) -> Result<(), EndError> {
    let observed = context.observer.observed(&pod.uid);
    for container in &observed.containers {
        remove_container(context, pod, container).await?;
    }
    for sandbox in &observed.sandboxes {
        context.runtime.remove_sandbox(&sandbox.id).await?;
    }
    let _ = context.observer.refresh().await;
    context.objects.forget(&pod.uid);
    let (settings, log_dir) = (&context.settings, context.settings.pod_log_dir(&pod.namespace, &pod.name, &pod.uid));
    if let Err(error) = remove_tree(settings.pod_logs_dir(), log_dir.file_name().unwrap_or_default().to_owned()).await {
        // Its pod is gone, and nothing else will have that name.
        tracing::warn!(%error, "cannot remove the logs of a pod");
    }
    remove_tree(settings.pods_dir(), OsString::from(&pod.uid)).await?;
    // Not before: what is left of its files belongs to its users.
    context.user_ids.release(&pod.uid);
    Ok(())
}

/// Containers make these trees as large as they like: they are removed on a thread of their own.
pub async fn remove_tree(folder: PathBuf, name: OsString) -> Result<(), EndError> {
    let removed = tokio::task::spawn_blocking(move || trees::remove(&folder, &name).map_err(std::io::Error::from));
    Ok(removed.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))?)
}

/// Removes a container that has ended, its logs and the link to them.
pub async fn remove_container(context: &Context, pod: &PodId, record: &Record) -> Result<(), EndError> {
    let id = context.observer.bare(&record.id);
    context.runtime.remove_container(id).await?;
    let _ = std::fs::remove_file(log_link(context, pod, &record.name, id));
    let dir = context.settings.pod_log_dir(&pod.namespace, &pod.name, &pod.uid).join(&record.name);
    let prefix = format!("{}.log", record.restarts);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`.
pub fn log_link(context: &Context, pod: &PodId, container: &str, id: &str) -> std::path::PathBuf {
    context.settings.log_links_dir().join(format!("{}_{}_{container}-{id}.log", pod.name, pod.namespace))
}
