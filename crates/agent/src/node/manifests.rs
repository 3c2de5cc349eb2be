//! Static pods: manifests in a folder of this node, run whether there is an API server or not.
//!
//! Each gets the node's name as a suffix, and a mirror pod in the API server, by which it can be
//! seen there. Its file is what counts: a mirror pod that is deleted comes back, a file that is
//! removed ends the pod.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use brain::podsync::is_deleted;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use super::Context;
use super::pods::Pods;
use crate::send::is_overtaken;
use crate::tree::Tree;
use brain::podsync::{CONFIG_MIRROR, CONFIG_SOURCE, is_mirror, uid};

/// The folder is looked at this often; the kubelet's default is 20 s.
const PERIOD: Duration = Duration::from_secs(2);

const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";

/// What a pod gets that does not say how long it may take to end.
const GRACE_SECONDS: i64 = 30;

/// Why a file is no static pod.
#[derive(Debug, thiserror::Error)]
enum ManifestError {
    #[error("cannot read the file: {0}")]
    Read(#[source] std::io::Error),
    #[error("it is no YAML: {0}")]
    Parse(#[source] kinds::document::SyntaxError),
    #[error("its kind is {0}, not Pod")]
    Kind(serde_json::Value),
    #[error("it is no Pod: {0}")]
    Decode(#[source] serde_json::Error),
    #[error("it has no spec")]
    NoSpec,
    #[error("it has no name")]
    NoName,
}

/// Follows the folder until dropped; forever idle without one.
pub async fn run(context: &Context, pods: &Pods) {
    let Some(dir) = context.settings.manifest_dir.clone() else { return std::future::pending().await };
    context.registration.registered().await;
    let mut known: BTreeMap<String, Pod> = BTreeMap::new();
    loop {
        let found = read(&dir, &context.settings.name);
        for (uid, pod) in &found {
            // A new mirror knows nothing of how the pod is: its worker begins to tell anew.
            if mirror(context, pod).await || !known.contains_key(uid) {
                pods.apply(pod.clone()).await;
            }
        }
        for (uid, pod) in known.iter().filter(|(uid, _)| !found.contains_key(*uid)) {
            tracing::info!(uid, "the manifest of a static pod is gone");
            pods.apply(deleted(pod)).await;
        }
        known = found;
        tokio::time::sleep(PERIOD).await;
    }
}

/// All pods of the folder by uid. A file that cannot be read as a pod is reported and left out.
fn read(dir: &Path, node: &str) -> BTreeMap<String, Pod> {
    let mut pods = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let is_hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if is_hidden || !path.is_file() {
            continue;
        }
        match parse(&path, node) {
            Ok(pod) => drop(pods.insert(uid(&pod).to_owned(), pod)),
            Err(error) => tracing::warn!(%error, path = %path.display(), "not a static pod"),
        }
    }
    pods
}

fn parse(path: &Path, node: &str) -> Result<Pod, ManifestError> {
    let text = std::fs::read_to_string(path).map_err(ManifestError::Read)?;
    let (document, _) = kinds::yaml::parse(&text).map_err(ManifestError::Parse)?;
    let mut value = document.into_value();
    if value["kind"] != "Pod" {
        return Err(ManifestError::Kind(value["kind"].take()));
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(ManifestError::Decode)?;
    complete(&mut pod, node, &identity(&text, node, path))?;
    Ok(pod)
}

/// Stable while the file and the node's name are: 32 hexadecimal digits (FNV-1a, forwards and
/// backwards).
fn identity(text: &str, node: &str, path: &Path) -> String {
    let all: Vec<u8> = text.bytes().chain([0]).chain(node.bytes()).chain([0]).chain(path.to_string_lossy().bytes()).collect();
    let fnv = |bytes: &mut dyn Iterator<Item = &u8>| {
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}", fnv(&mut all.iter()), fnv(&mut all.iter().rev()))
}

fn complete(pod: &mut Pod, node: &str, identity: &str) -> Result<(), ManifestError> {
    let spec = pod.spec.as_mut().ok_or(ManifestError::NoSpec)?;
    let name = pod.metadata.name.as_ref().filter(|name| !name.is_empty()).ok_or(ManifestError::NoName)?;
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(identity.to_owned());
    pod.metadata.generation = Some(1);
    pod.metadata.creation_timestamp = Some(Time(Timestamp::now()));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.to_owned(), identity.to_owned());
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(SEEN.to_owned(), Timestamp::now().to_string());
    spec.node_name = Some(node.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    // No taint evicts a pod that the node's owner put there.
    let stays = Toleration { operator: Some("Exists".to_owned()), effect: Some("NoExecute".to_owned()), ..Toleration::default() };
    spec.tolerations.get_or_insert_default().push(stays);
    pod.status = Some(PodStatus { phase: Some("Pending".to_owned()), ..PodStatus::default() });
    Ok(())
}

fn deleted(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod
}

/// Makes the mirror pod if it is not there; replaces one of an older file, or one that a user
/// deletes. Answers whether it was made.
async fn mirror(context: &Context, pod: &Pod) -> bool {
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else { return false };
    let api: Api<Tree<Pod>> = Api::namespaced(context.client.clone(), namespace);
    let hash = pod.annotations().get(HASH);
    match api.get_opt(name).await {
        Ok(Some(there)) if there.annotations().get(CONFIG_MIRROR) == hash && !is_deleted(&there) => return false,
        Ok(Some(there)) if is_mirror(&there) => {
            if let Err(error) = super::pod::publish::delete(&context.client, &there).await {
                tracing::warn!(%error, name, "cannot replace an old mirror pod; trying again");
                return false;
            }
        }
        Ok(Some(_)) => {
            tracing::warn!(name, "another pod has the name of a static pod: it cannot be seen in the API server");
            return false;
        }
        Ok(None) => {}
        // A node sees only pods that are on it: there is none of that name here.
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        // Without an API server the pod runs all the same.
        Err(_) => return false,
    }
    match api.create(&PostParams::default(), &Tree(mirror_of(context, pod))).await {
        Ok(_) => true,
        Err(error) => {
            if !is_overtaken(&error) {
                tracing::warn!(%error, name, "cannot make a mirror pod; trying again");
            }
            false
        }
    }
}

fn mirror_of(context: &Context, pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.creation_timestamp = None;
    mirror.metadata.generation = None;
    mirror.status = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(CONFIG_MIRROR.to_owned(), hash);
    if let Some(node) = context.registration.node() {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.name_any(),
            uid: node.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
    }
    mirror
}
