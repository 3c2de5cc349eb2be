//! The volumes of pods: set up below the agent's folder, mounted into containers, removed with the
//! pod.
//!
//! The folders are where Kubernetes has them (`pods/UID/volumes/kubernetes.io~configmap/NAME`):
//! agents of the field look there.

mod empty_dir;
mod env_file;
mod host_path;
mod ownership;
mod payload;
mod sub_path;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use brain::podsync::env_file::EnvFileError;
use brain::podsync::environment::{self, Environment, EnvironmentError, Sources};
use brain::podsync::payload::PayloadError;
use containers::{ImageMount, Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use runtime::trees;

use super::objects::ObjectError;
use super::{Context, hanging};
use brain::podsync::uid;
use host_path::HostPathError;
use sub_path::SubPathError;

/// Why a volume cannot be set up or mounted.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The text of the event FailedMount.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    SetUp { volume: String, cause: Box<VolumeError> },
    #[error("this kind of volume is not supported here: hostPath, emptyDir, configMap, secret, downwardAPI, projected and image are")]
    Unsupported,
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A `subPathExpr` has no value.
    #[error(transparent)]
    Expression(#[from] EnvironmentError),
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Hangs(#[from] hanging::Error),
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoKeyVolume(String),
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume { volume: String, container: String },
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {cause}")]
    SubPath { volume: String, container: String, cause: Box<VolumeError> },
    #[error(transparent)]
    Part(#[from] SubPathError),
}

/// Where parts of volumes are bound, below the pod's folder.
const SUB_PATHS: &str = "volume-subpaths";

/// Where volumes are, below the pod's folder.
const VOLUMES: &str = "volumes";

/// What a volume is, and the folder of its kind.
enum Kind<'a> {
    HostPath(&'a k8s_openapi::api::core::v1::HostPathVolumeSource),
    EmptyDir(&'a k8s_openapi::api::core::v1::EmptyDirVolumeSource),
    /// Files made from objects.
    Payload(&'static str),
    /// Mounted by the runtime alone.
    Image,
    Unsupported,
}

fn kind(volume: &Volume) -> Kind<'_> {
    if let Some(source) = &volume.host_path {
        Kind::HostPath(source)
    } else if let Some(source) = &volume.empty_dir {
        Kind::EmptyDir(source)
    } else if volume.config_map.is_some() {
        Kind::Payload("configmap")
    } else if volume.secret.is_some() {
        Kind::Payload("secret")
    } else if volume.downward_api.is_some() {
        Kind::Payload("downward-api")
    } else if volume.projected.is_some() {
        Kind::Payload("projected")
    } else if volume.image.is_some() {
        Kind::Image
    } else {
        Kind::Unsupported
    }
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// Where a volume lies; a hostPath is the node's own.
fn place(context: &Context, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
    let below =
        |kind: &str| Some(context.settings.pod_dir(uid(pod)).join(VOLUMES).join(format!("kubernetes.io~{kind}")).join(&volume.name));
    match kind(volume) {
        Kind::HostPath(source) => Some(PathBuf::from(&source.path)),
        Kind::EmptyDir(_) => below("empty-dir"),
        Kind::Payload(kind) => below(kind),
        Kind::Image | Kind::Unsupported => None,
    }
}

/// Makes all volumes of a pod, or brings those made from objects up to date.
pub async fn set_up(context: &Context, pod: &Pod) -> Result<(), VolumeError> {
    let group = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.fs_group);
    for volume in volumes(pod) {
        set_up_one(context, pod, volume, group)
            .await
            .map_err(|cause| VolumeError::SetUp { volume: volume.name.clone(), cause: Box::new(cause) })?;
    }
    Ok(())
}

async fn set_up_one(context: &Context, pod: &Pod, volume: &Volume, group: Option<i64>) -> Result<(), VolumeError> {
    if matches!(kind(volume), Kind::Image) {
        return Ok(());
    }
    let Some(place) = place(context, pod, volume) else {
        return Err(VolumeError::Unsupported);
    };
    match kind(volume) {
        Kind::HostPath(source) => {
            let wanted = source.type_.clone().unwrap_or_default();
            call(context, pod, move || Ok(host_path::set_up(&place, &wanted)?)).await
        }
        Kind::EmptyDir(source) => {
            let source = source.clone();
            call(context, pod, move || Ok(empty_dir::set_up(&place, &source, group)?)).await
        }
        Kind::Payload(kind) => {
            let (mut sources, tokens) = context.objects.for_volume(pod, volume).await?;
            sources.addresses.host = context.node_addresses.clone();
            let observed = context.observer.observed(uid(pod));
            sources.addresses.pod = observed.sandbox().map(|sandbox| sandbox.addresses.clone()).unwrap_or_default();
            sources.allocatable = context.machine.capacity();
            let files = brain::podsync::payload::files(pod, volume, &sources, &tokens).unwrap_or_else(|| Ok(Default::default()));
            let files = files?;
            let in_memory = kind != "configmap";
            call(context, pod, move || Ok(payload::write(&place, in_memory, &files, group)?)).await
        }
        Kind::Image | Kind::Unsupported => Ok(()),
    }
}

/// Looks into a volume, or where one is to be, on a thread that may hang: containers mount there,
/// and hostPaths lie on any file system.
async fn call<T: Send + 'static>(
    context: &Context,
    pod: &Pod,
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    context.volume_calls.run(uid(pod), work).await?
}

/// Adds the files of a pod's volumes from which the container's variables are read.
pub async fn add_env_files(context: &Context, pod: &Pod, container: &Container, sources: &mut Sources) -> Result<(), VolumeError> {
    let references = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.file_key_ref.as_ref());
    for reference in references {
        let volume = volumes(pod).iter().find(|volume| volume.name == reference.volume_name);
        let place = volume.and_then(|volume| place(context, pod, volume));
        let place = place.ok_or_else(|| VolumeError::NoKeyVolume(reference.volume_name.clone()))?;
        let path = reference.path.clone();
        let read = call(context, pod, move || Ok(env_file::read(&place, &path))).await?;
        let text = read.map_err(|error| {
            tracing::debug!(%error, pod = uid(pod), path = reference.path, "cannot read a file of variables");
            EnvFileError::Unreadable
        });
        if let Some(text) = text.transpose() {
            sources.env_files.insert((reference.volume_name.clone(), reference.path.clone()), text);
        }
    }
    Ok(())
}

/// The images that a container mounts: names of volumes, references and pull policies.
pub fn images(pod: &Pod, container: &Container) -> Vec<(String, String, Option<String>)> {
    let mounted = container.volume_mounts.iter().flatten().filter_map(|mount| volumes(pod).iter().find(|volume| volume.name == mount.name));
    let image = |volume: &Volume| {
        let image = volume.image.as_ref()?;
        Some((volume.name.clone(), image.reference.clone().unwrap_or_default(), image.pull_policy.clone()))
    };
    mounted.filter_map(image).collect()
}

/// What a container sees of its pod's volumes. `images`: the ids of those that are images, by the
/// volume's name.
pub async fn mounts(
    context: &Context,
    pod: &Pod,
    container: &Container,
    environment: &Environment,
    images: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for (at, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if let Some(id) = images.get(&mount.name) {
            let image = ImageMount { id: id.clone(), sub_path: sub_path(mount, environment)?.map(PathBuf::from) };
            mounts.push(Mount { image: Some(image), read_only: true, ..bind(mount, PathBuf::new(), false) });
            continue;
        }
        let volume = volumes(pod).iter().find(|volume| volume.name == mount.name);
        let place = volume.and_then(|volume| self::place(context, pod, volume));
        let place = place.ok_or_else(|| VolumeError::NoVolume { volume: mount.name.clone(), container: container.name.clone() })?;
        let host_path = match sub_path(mount, environment)? {
            None => place,
            Some(sub) => {
                let part = context.settings.pod_dir(uid(pod)).join(SUB_PATHS).join(&mount.name).join(&container.name).join(at.to_string());
                let to = part.clone();
                let bound = call(context, pod, move || Ok(sub_path::bind(&place, &sub, &to)?)).await;
                bound.map_err(|cause| VolumeError::SubPath {
                    volume: mount.name.clone(),
                    container: container.name.clone(),
                    cause: Box::new(cause),
                })?;
                part
            }
        };
        mounts.push(bind(mount, host_path, volume.is_some_and(|volume| matches!(kind(volume), Kind::Payload(_)))));
    }
    Ok(mounts)
}

fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, VolumeError> {
    if let Some(expression) = mount.sub_path_expr.as_ref().filter(|expression| !expression.is_empty()) {
        return Ok(Some(environment::expand_strictly(expression, environment)?));
    }
    Ok(mount.sub_path.clone().filter(|path| !path.is_empty()))
}

/// Volumes made from objects are read-only, whatever the pod says: the agent follows the links in
/// them when it brings them up to date.
fn bind(mount: &VolumeMount, host_path: PathBuf, is_payload: bool) -> Mount {
    Mount {
        host_path,
        container_path: Path::new("/").join(&mount.mount_path),
        read_only: mount.read_only.unwrap_or(false) || is_payload,
        recursive_read_only: matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        image: None,
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    }
}

/// Unmounts everything below a pod's folder, then removes its volumes; what lies behind a hostPath
/// is not touched.
///
/// Containers mount, too: what one with Bidirectional propagation mounted inside a volume is here,
/// and may be a folder of the node. While anything is mounted, nothing is removed.
pub async fn tear_down(context: &Context, uid: &str) -> std::io::Result<()> {
    let (pods, uid) = (context.settings.pods_dir(), PathBuf::from(uid));
    let work = move || {
        let Some(pods) = trees::Folder::open(&pods)? else { return Ok(()) };
        pods.detach(&uid)?;
        pods.remove(&uid.join(SUB_PATHS))?;
        Ok(pods.remove(&uid.join(VOLUMES))?)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// A folder on another file system than its parent.
fn is_mount_point(path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        meta => meta?,
    };
    let parent = path.parent().map(std::fs::symlink_metadata).transpose()?;
    Ok(parent.is_some_and(|parent| parent.dev() != meta.dev()))
}
