//! The client of CRI against a containerd that each test starts for itself. Needs root, containerd,
//! runc and the CNI plugins.

mod fixture;
mod image;
mod images;
mod lives;
mod restart;
mod security;
mod streams;

#[path = "../embedded/until.rs"]
mod until;

/// The registry of the images' tests.
#[path = "../images/support.rs"]
#[expect(dead_code, reason = "the rest is for tests of the store")]
mod registry;
