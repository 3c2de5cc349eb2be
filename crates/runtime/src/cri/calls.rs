//! The methods of CRI that are called, each with its messages and with how long it may take.

use std::time::Duration;

use super::grpc::Method;
use super::messages as cri;

/// As the kubelet waits for what is not known to take longer.
const CHANGE_SECONDS_MAX: u64 = 120;

/// A loaded node takes long to read thousands of containers from a database.
const READ_SECONDS_MAX: u64 = 30;

/// Networks are set up by programs that may ask others.
const SANDBOX_SECONDS_MAX: u64 = 240;

/// Layers may be gigabytes. Pulls that make no progress are ended by the runtime itself.
const PULL_SECONDS_MAX: u64 = 3600;

const fn read<Q, A>(name: &'static str) -> Method<Q, A> {
    Method::new(name, Duration::from_secs(READ_SECONDS_MAX), true)
}

const fn change<Q, A>(name: &'static str, seconds_max: u64) -> Method<Q, A> {
    Method::new(name, Duration::from_secs(seconds_max), false)
}

/// The method that may take that much longer: grace periods and timeouts of commands come on top of
/// what it takes itself.
pub fn longer<Q, A>(method: Method<Q, A>, by: Duration) -> Method<Q, A> {
    Method::new(method.name, method.limit.saturating_add(by), method.is_read)
}

pub const VERSION: Method<cri::VersionRequest, cri::VersionResponse> = read("runtime.v1.RuntimeService/Version");
pub const STATUS: Method<cri::StatusRequest, cri::StatusResponse> = read("runtime.v1.RuntimeService/Status");
pub const UPDATE_RUNTIME_CONFIG: Method<cri::UpdateRuntimeConfigRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/UpdateRuntimeConfig", CHANGE_SECONDS_MAX);

pub const RUN_SANDBOX: Method<cri::RunPodSandboxRequest, cri::RunPodSandboxResponse> =
    change("runtime.v1.RuntimeService/RunPodSandbox", SANDBOX_SECONDS_MAX);
pub const STOP_SANDBOX: Method<cri::PodSandboxRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/StopPodSandbox", SANDBOX_SECONDS_MAX);
pub const REMOVE_SANDBOX: Method<cri::PodSandboxRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/RemovePodSandbox", CHANGE_SECONDS_MAX);
pub const SANDBOX_STATUS: Method<cri::PodSandboxRequest, cri::PodSandboxStatusResponse> =
    read("runtime.v1.RuntimeService/PodSandboxStatus");
pub const LIST_SANDBOXES: Method<cri::Empty, cri::ListPodSandboxResponse> = read("runtime.v1.RuntimeService/ListPodSandbox");

pub const CREATE_CONTAINER: Method<cri::CreateContainerRequest, cri::CreateContainerResponse> =
    change("runtime.v1.RuntimeService/CreateContainer", CHANGE_SECONDS_MAX);
pub const START_CONTAINER: Method<cri::ContainerRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/StartContainer", CHANGE_SECONDS_MAX);
pub const STOP_CONTAINER: Method<cri::StopContainerRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/StopContainer", CHANGE_SECONDS_MAX);
pub const REMOVE_CONTAINER: Method<cri::ContainerRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/RemoveContainer", CHANGE_SECONDS_MAX);
pub const LIST_CONTAINERS: Method<cri::ListContainersRequest, cri::ListContainersResponse> =
    read("runtime.v1.RuntimeService/ListContainers");
pub const CONTAINER_STATUS: Method<cri::ContainerRequest, cri::ContainerStatusResponse> = read("runtime.v1.RuntimeService/ContainerStatus");
pub const UPDATE_RESOURCES: Method<cri::UpdateContainerResourcesRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/UpdateContainerResources", CHANGE_SECONDS_MAX);
pub const REOPEN_LOG: Method<cri::ContainerRequest, cri::Empty> =
    change("runtime.v1.RuntimeService/ReopenContainerLog", CHANGE_SECONDS_MAX);

pub const EXEC_SYNC: Method<cri::ExecSyncRequest, cri::ExecSyncResponse> = change("runtime.v1.RuntimeService/ExecSync", CHANGE_SECONDS_MAX);
pub const EXEC: Method<cri::ExecRequest, cri::StreamResponse> = change("runtime.v1.RuntimeService/Exec", READ_SECONDS_MAX);
pub const ATTACH: Method<cri::AttachRequest, cri::StreamResponse> = change("runtime.v1.RuntimeService/Attach", READ_SECONDS_MAX);
pub const PORT_FORWARD: Method<cri::PortForwardRequest, cri::StreamResponse> =
    change("runtime.v1.RuntimeService/PortForward", READ_SECONDS_MAX);

pub const CONTAINER_STATS: Method<cri::Empty, cri::ListContainerStatsResponse> = read("runtime.v1.RuntimeService/ListContainerStats");
pub const SANDBOX_STATS: Method<cri::Empty, cri::ListPodSandboxStatsResponse> = read("runtime.v1.RuntimeService/ListPodSandboxStats");

pub const LIST_IMAGES: Method<cri::Empty, cri::ListImagesResponse> = read("runtime.v1.ImageService/ListImages");
pub const IMAGE_STATUS: Method<cri::ImageRequest, cri::ImageStatusResponse> = read("runtime.v1.ImageService/ImageStatus");
pub const PULL_IMAGE: Method<cri::PullImageRequest, cri::PullImageResponse> = change("runtime.v1.ImageService/PullImage", PULL_SECONDS_MAX);
pub const REMOVE_IMAGE: Method<cri::ImageRequest, cri::Empty> = change("runtime.v1.ImageService/RemoveImage", CHANGE_SECONDS_MAX);
pub const IMAGE_FS_INFO: Method<cri::Empty, cri::ImageFsInfoResponse> = read("runtime.v1.ImageService/ImageFsInfo");
