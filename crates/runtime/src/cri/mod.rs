//! Containers by another container runtime: containerd, CRI-O, or whatever else serves CRI v1 on a
//! unix socket.
//!
//! [`Client`] implements both ports. It keeps nothing that is not also with the runtime, but for
//! two caches: statuses of containers, and when images were last used.
//!
//! ```text
//! port -> configs (words of CRI) -> grpc -> the runtime's socket -> statuses (words of the port)
//! streams: a URL from the socket -> spdy over TCP to the runtime's streaming server
//! ```
//!
//! Of the runtime it is assumed that it uses the cgroupfs driver (the pod's cgroup is named by a
//! path, and made and limited here) and serves its streams without TLS on this machine, which are
//! the defaults of containerd.

mod calls;
mod changes;
mod configs;
mod containers;
mod errors;
mod grpc;
mod images;
mod messages;
mod sandboxes;
mod spdy;
mod stats;
mod statuses;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use self::errors::Failure;
use crate::port::{self, Reader, Session, Writer};
use ::containers::{
    ContainerConfig, ContainerStats, ContainerStatus, Credentials, ExecOutput, FilesystemUsage, Image, PodRange, Resources, Result,
    SandboxConfig, SandboxStats, SandboxStatus, StreamRequest, UnusedImage, Version,
};

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    channel: grpc::Channel,
    statuses: containers::Statuses,
    image_use: images::ImageUse,
    changes: watch::Sender<u64>,
}

impl Client {
    /// Of an endpoint like `unix:///run/containerd/containerd.sock`, or the path alone. Fails when
    /// nothing answers there; once there was an answer, the runtime may come and go.
    pub async fn connect(endpoint: &str) -> Result<Self> {
        let path = parse_endpoint(endpoint)?;
        let shared = Arc::new(Shared {
            channel: grpc::Channel::new(&path),
            statuses: containers::Statuses::default(),
            image_use: images::ImageUse::default(),
            changes: watch::Sender::new(0),
        });
        let client = Self { shared };
        client.ask_version().await?;
        tokio::spawn(changes::watch(Arc::downgrade(&client.shared)));
        Ok(client)
    }
}

fn parse_endpoint(endpoint: &str) -> Result<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(Failure::Endpoint(endpoint.to_owned()).into());
    }
    Ok(path.into())
}

/// File system calls belong on threads that may wait.
async fn blocking<T: Send + 'static>(task: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(task).await.unwrap_or_else(|e| Err(Failure::from(e).into()))
}

impl port::Runtime for Client {
    fn version(&self) -> BoxFuture<'_, Result<Version>> {
        self.ask_version().boxed()
    }

    fn network_problem(&self) -> BoxFuture<'_, Result<Option<String>>> {
        self.ask_network_problem().boxed()
    }

    fn use_pod_range<'a>(&'a self, range: &'a PodRange) -> BoxFuture<'a, Result<()>> {
        self.tell_pod_range(range).boxed()
    }

    fn run_sandbox<'a>(&'a self, config: &'a SandboxConfig) -> BoxFuture<'a, Result<String>> {
        self.make_sandbox(config).boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.end_sandbox(id).boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.unmake_sandbox(id).boxed()
    }

    fn sandboxes(&self) -> BoxFuture<'_, Result<Vec<SandboxStatus>>> {
        self.list_sandboxes().boxed()
    }

    fn update_sandbox_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        self.limit_sandbox(id, resources).boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        sandbox: &'a SandboxConfig,
        config: &'a ContainerConfig,
    ) -> BoxFuture<'a, Result<String>> {
        self.create(sandbox_id, sandbox, config).boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.start(id).boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, Result<()>> {
        self.stop(id, grace).boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove(id).boxed()
    }

    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>>> {
        self.list_containers().boxed()
    }

    fn container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerStatus>> {
        self.find_container(id).boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.reopen(id).boxed()
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> BoxFuture<'a, Result<()>> {
        self.update(id, resources).boxed()
    }

    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], timeout: Option<Duration>) -> BoxFuture<'a, Result<ExecOutput>> {
        self.exec_to_end(id, command, timeout).boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>> {
        self.exec_session(id, request).boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, request: &'a StreamRequest) -> BoxFuture<'a, Result<Session>> {
        self.attach_session(id, request).boxed()
    }

    fn port_forward<'a>(&'a self, sandbox_id: &'a str, port: u16) -> BoxFuture<'a, Result<(Reader, Writer)>> {
        self.forward(sandbox_id, port).boxed()
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<ContainerStats>>> {
        self.measure_containers().boxed()
    }

    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<SandboxStats>>> {
        self.measure_sandboxes().boxed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl port::Images for Client {
    fn list(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        self.list_images().boxed()
    }

    fn status<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        self.find_image(reference).boxed()
    }

    fn pull<'a>(&'a self, reference: &'a str, credentials: &'a [Credentials]) -> BoxFuture<'a, Result<String>> {
        self.pull_image(reference, credentials).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.remove_image(id).boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<FilesystemUsage>> {
        self.measure_images().boxed()
    }

    fn unused(&self) -> BoxFuture<'_, Result<Vec<UnusedImage>>> {
        self.unused_images().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(parse_endpoint("unix:///run/a.sock"), Ok(PathBuf::from("/run/a.sock")));
        assert_eq!(parse_endpoint("/run/a.sock"), Ok(PathBuf::from("/run/a.sock")));
        assert!(parse_endpoint("tcp://127.0.0.1:1").is_err());
    }
}
