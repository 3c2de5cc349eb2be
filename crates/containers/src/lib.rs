//! What is asked of a container runtime and what it answers, as data: sandboxes, containers,
//! images, figures, errors. Shaped like CRI (`k8s.io/cri-api`, v1).
//!
//! The node's deciders (`brain::podsync`) make these from pods, the agent carries them, and
//! `runtime` and `net` act on them. So it is with the ports of Services (`brain::proxy`)
//! and with the other nodes (`brain::pod_network`). A pod is
//! one sandbox (its namespaces, its address) and containers in it. Knows no pod objects, no I/O, no
//! clock.

mod sandbox;

mod container;

mod service;

mod peer;

mod image;
pub mod reference;

mod process;

mod stats;

mod error;

pub use container::{
    ContainerConfig, ContainerState, ContainerStatus, Device, ImageMount, Mount, Propagation, Resources, Seccomp, SecurityContext, User,
};
pub use error::{Cause, Error, Result, chain};
pub use image::{Credentials, Image, UnusedImage};
pub use peer::{Peer, PodRange, Way, WireGuardKey};
pub use process::{ExecOutput, StreamRequest, TerminalSize, Version};
pub use sandbox::{DnsConfig, HostNamespaces, PodId, PortMapping, Protocol, SandboxConfig, SandboxState, SandboxStatus, UserNamespace};
pub use service::{Backend, Backends, ServicePort, ServicePortName, SourceRanges};
pub use stats::{ContainerStats, FilesystemUsage, SandboxStats};
