//! The methods of CRI that are called, each with how long it may take.

use std::time::Duration;

use super::grpc::Method;

/// As the kubelet waits for what is not known to take longer.
const CHANGE_SECONDS_MAX: u64 = 120;

/// A loaded node takes long to read thousands of containers from a database.
const READ_SECONDS_MAX: u64 = 30;

/// Networks are set up by programs that may ask others.
const SANDBOX_SECONDS_MAX: u64 = 240;

/// Layers may be gigabytes. Pulls that make no progress are ended by the runtime itself.
const PULL_SECONDS_MAX: u64 = 3600;

const fn read(name: &'static str) -> Method {
    Method { name, limit: Duration::from_secs(READ_SECONDS_MAX), is_read: true }
}

const fn change(name: &'static str, seconds_max: u64) -> Method {
    Method { name, limit: Duration::from_secs(seconds_max), is_read: false }
}

/// The method that may take that much longer: grace periods and timeouts of commands come on top of
/// what it takes itself.
pub fn longer(method: Method, by: Duration) -> Method {
    Method { limit: method.limit.saturating_add(by), ..method }
}

pub const VERSION: Method = read("runtime.v1.RuntimeService/Version");
pub const STATUS: Method = read("runtime.v1.RuntimeService/Status");

pub const RUN_SANDBOX: Method = change("runtime.v1.RuntimeService/RunPodSandbox", SANDBOX_SECONDS_MAX);
pub const STOP_SANDBOX: Method = change("runtime.v1.RuntimeService/StopPodSandbox", SANDBOX_SECONDS_MAX);
pub const REMOVE_SANDBOX: Method = change("runtime.v1.RuntimeService/RemovePodSandbox", CHANGE_SECONDS_MAX);
pub const SANDBOX_STATUS: Method = read("runtime.v1.RuntimeService/PodSandboxStatus");
pub const LIST_SANDBOXES: Method = read("runtime.v1.RuntimeService/ListPodSandbox");

pub const CREATE_CONTAINER: Method = change("runtime.v1.RuntimeService/CreateContainer", CHANGE_SECONDS_MAX);
pub const START_CONTAINER: Method = change("runtime.v1.RuntimeService/StartContainer", CHANGE_SECONDS_MAX);
pub const STOP_CONTAINER: Method = change("runtime.v1.RuntimeService/StopContainer", CHANGE_SECONDS_MAX);
pub const REMOVE_CONTAINER: Method = change("runtime.v1.RuntimeService/RemoveContainer", CHANGE_SECONDS_MAX);
pub const LIST_CONTAINERS: Method = read("runtime.v1.RuntimeService/ListContainers");
pub const CONTAINER_STATUS: Method = read("runtime.v1.RuntimeService/ContainerStatus");
pub const UPDATE_RESOURCES: Method = change("runtime.v1.RuntimeService/UpdateContainerResources", CHANGE_SECONDS_MAX);
pub const REOPEN_LOG: Method = change("runtime.v1.RuntimeService/ReopenContainerLog", CHANGE_SECONDS_MAX);

pub const EXEC_SYNC: Method = change("runtime.v1.RuntimeService/ExecSync", CHANGE_SECONDS_MAX);
pub const EXEC: Method = change("runtime.v1.RuntimeService/Exec", READ_SECONDS_MAX);
pub const ATTACH: Method = change("runtime.v1.RuntimeService/Attach", READ_SECONDS_MAX);
pub const PORT_FORWARD: Method = change("runtime.v1.RuntimeService/PortForward", READ_SECONDS_MAX);

pub const CONTAINER_STATS: Method = read("runtime.v1.RuntimeService/ListContainerStats");
pub const SANDBOX_STATS: Method = read("runtime.v1.RuntimeService/ListPodSandboxStats");

pub const LIST_IMAGES: Method = read("runtime.v1.ImageService/ListImages");
pub const IMAGE_STATUS: Method = read("runtime.v1.ImageService/ImageStatus");
pub const PULL_IMAGE: Method = change("runtime.v1.ImageService/PullImage", PULL_SECONDS_MAX);
pub const REMOVE_IMAGE: Method = change("runtime.v1.ImageService/RemoveImage", CHANGE_SECONDS_MAX);
pub const IMAGE_FS_INFO: Method = read("runtime.v1.ImageService/ImageFsInfo");
