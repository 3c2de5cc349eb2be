//! The pod network as the container runtime asks for it.

use std::net::IpAddr;
use std::path::Path;

use containers::{Error, PortMapping, Result};
use futures::future::BoxFuture;
use net::pods::PodNetwork;
use runtime::port::SandboxNetwork;

/// A node without a range for its pods: those in the node's own network run, others get the reason
/// why they cannot.
#[derive(Debug)]
pub struct NoNetwork;

impl SandboxNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a str, _: &'a Path, _: &'a [PortMapping]) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        let reason = "this node has no range of pod addresses (--pod-cidr): only pods with hostNetwork can run on it";
        Box::pin(async move { Err(Error::FailedPrecondition(reason.into())) })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Addresses from the node's range, over links between the sandbox and the node.
pub struct Routed(pub PodNetwork);

impl SandboxNetwork for Routed {
    fn attach<'a>(&'a self, sandbox_id: &'a str, namespace: &'a Path, ports: &'a [PortMapping]) -> BoxFuture<'a, Result<Vec<IpAddr>>> {
        Box::pin(async move { self.0.attach(sandbox_id, namespace, ports).await.map_err(failed) })
    }

    fn detach<'a>(&'a self, sandbox_id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.detach(sandbox_id).await.map_err(failed) })
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Failed(Box::new(error))
}
