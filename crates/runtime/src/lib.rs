//! Containers on this node.
//!
//! [`port`] is what the agent asks for, shaped like Kubernetes' container runtime interface (CRI).
//! [`embedded`] does it with nothing else installed; [`cri`] asks another runtime on the node.
//! [`images`] pulls, loads, stores and unpacks images. Knows nothing of Kubernetes' objects.
//! [`trees`] removes trees of files for the whole program, [`below`] resolves paths below a root.

pub mod below;
mod cgroup;
pub mod cri;
pub mod embedded;
pub mod images;
mod masks;
mod netdev;
pub mod port;
pub mod trees;
pub mod words;
