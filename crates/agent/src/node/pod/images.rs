//! Having a container's image here before it starts.

use std::time::Instant;

use brain::podsync::StartFailure;
use brain::podsync::pull::{self, Decision};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use runtime::images::reference;
use runtime::port::{Credentials, Image};

use super::worker::Worker;
use crate::node::Context;

/// The image, fetched if its policy says so.
pub async fn ensure(worker: &mut Worker, container: &Container, path: &str) -> Result<Image, StartFailure> {
    let context = worker.context.clone();
    let pod = worker.pod.clone();
    let name = container.image.clone().unwrap_or_default();
    if let Err(error) = reference::parse(&name) {
        let message = format!("Failed to apply default image tag \"{name}\": {error}");
        context.events.container(&pod, path, true, "InspectFailed", message.clone());
        return Err(StartFailure { reason: "InvalidImageName".to_owned(), message });
    }
    let present = context.images.status(&name).await.map_err(|error| inspect_failed(&context, &pod, path, &name, &error.to_string()))?;
    match pull::decide(container, present.is_some()) {
        Decision::Refuse(failure) => {
            context.events.container(&pod, path, true, "ErrImageNeverPull", failure.message.clone());
            Err(failure)
        }
        Decision::Use => {
            context.events.container(&pod, path, false, "Pulled", pull::present_message(&name));
            present.ok_or_else(|| StartFailure { reason: "ErrImagePull".to_owned(), message: format!("image {name} is gone") })
        }
        Decision::Pull => fetch(worker, &pod, container, &name, path).await,
    }
}

fn inspect_failed(context: &Context, pod: &Pod, path: &str, name: &str, error: &str) -> StartFailure {
    let message = format!("Failed to inspect image \"{name}\": {error}");
    context.events.container(pod, path, true, "InspectFailed", message.clone());
    StartFailure { reason: "ImageInspectError".to_owned(), message }
}

async fn fetch(worker: &mut Worker, pod: &Pod, container: &Container, name: &str, path: &str) -> Result<Image, StartFailure> {
    let context = worker.context.clone();
    let key = pull::backoff_key(pod, name);
    if worker.memory.pulls.waiting_since_update(&key, Timestamp::now()).is_some() {
        context.events.container(pod, path, false, "BackOff", pull::backoff_message(name));
        return Err(pull::backoff_failure(name, worker.memory.start_failures.get(&container.name)));
    }
    context.events.container(pod, path, false, "Pulling", pull::pulling_message(name));
    let credentials = credentials(&context, pod, name).await;
    let waited = Instant::now();
    let permit = context.pulls.acquire().await;
    let begun = Instant::now();
    let pulled = context.images.pull(name, &credentials).await;
    drop(permit);
    context.observer.forget_image_names();
    let image = match pulled {
        Ok(id) => context.images.status(&id).await.ok().flatten(),
        Err(error) => {
            worker.memory.pulls.next(&key, Timestamp::now(), Timestamp::now());
            context.events.container(pod, path, true, "Failed", pull::failed_message(name, &error.to_string()));
            return Err(StartFailure { reason: "ErrImagePull".to_owned(), message: error.to_string() });
        }
    };
    let image = image.ok_or_else(|| StartFailure {
        reason: "ErrImagePull".to_owned(),
        message: format!("image {name} was removed right after it was pulled"),
    })?;
    worker.memory.pulls.forget(&key);
    let message = pull::pulled_message(name, begun.elapsed(), waited.elapsed(), image.size_bytes);
    context.events.container(pod, path, false, "Pulled", message);
    Ok(image)
}

/// What the pod's pull secrets say about the image's registry. Secrets that are missing or
/// malformed are left out, as the kubelet does.
async fn credentials(context: &Context, pod: &Pod, image: &str) -> Vec<Credentials> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match context.objects.secret(namespace, &reference.name).await {
            Ok(Some(secret)) => found.extend(from_secret(&secret, image)),
            Ok(None) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                context.events.pod(pod, true, "FailedToRetrieveImagePullSecret", message);
            }
            Err(error) => tracing::warn!(error, secret = reference.name, "cannot get a pull secret"),
        }
    }
    found
}

/// `.dockerconfigjson` or `.dockercfg`: the entries whose key is the image's registry, or registry
/// and path.
fn from_secret(secret: &Secret, image: &str) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let parse =
        |key: &str| data.and_then(|data| data.get(key)).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    let auths = match parse(".dockerconfigjson") {
        Some(config) => config["auths"].clone(),
        None => parse(".dockercfg").unwrap_or_default(),
    };
    let Ok(reference) = reference::parse(image) else { return Vec::new() };
    let full = format!("{}/{}", reference.registry, reference.repository);
    let mut entries: Vec<(String, &serde_json::Value)> = auths
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, entry)| (normal_key(key), entry))
        .filter(|(key, _)| covers(key, &full))
        .collect();
    // The longest key says the most about the image.
    entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    entries.into_iter().filter_map(|(_, entry)| of_entry(entry)).collect()
}

/// Without scheme and version path; Docker Hub has several names.
fn normal_key(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.trim_end_matches("/v1").trim_end_matches("/v2");
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        key => key.to_owned(),
    }
}

/// `*.example.com` covers one more label; a path covers what lies below it.
fn covers(key: &str, full: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = full.split_once('/').unwrap_or((full, ""));
    let (key_labels, labels): (Vec<&str>, Vec<&str>) = (key_host.split('.').collect(), host.split('.').collect());
    let hosts_match = key_labels.len() == labels.len() && key_labels.iter().zip(&labels).all(|(k, l)| *k == "*" || k == l);
    hosts_match && (key_path.is_empty() || path == key_path || path.strip_prefix(key_path).is_some_and(|rest| rest.starts_with('/')))
}

fn of_entry(entry: &serde_json::Value) -> Option<Credentials> {
    use base64::Engine as _;
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials::Basic { username, password });
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let pair = String::from_utf8(bytes).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some(Credentials::Basic { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}
