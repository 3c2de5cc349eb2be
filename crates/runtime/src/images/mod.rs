//! Images: pulled, loaded, stored, unpacked.
//!
//! [`Service`] is what the agent and the runtime talk to. [`store`] keeps images on the disk,
//! [`pull`] brings them from registries, [`archive`] from files, `unpack` makes directories of
//! layers. Nothing here decides which images are to be here.

pub mod archive;
pub mod builtin;
pub mod digest;
mod disk;
pub mod error;
mod index;
mod manifest;
pub mod pull;
pub mod registries;
mod service;
mod stop;
pub mod store;
mod unpack;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use error::Error;
pub use registries::Registries;
pub use service::Service;
pub use store::Store;

/// What a container needs of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub id: String,
    /// Unpacked layers for overlayfs, the topmost first. Shared between containers and nodes: never
    /// written to.
    pub layers: Vec<PathBuf>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, ...; empty for root.
    pub user: String,
    /// `SIGTERM`, `15`; empty for the default.
    pub stop_signal: String,
    /// Volumes that the image declares: each gets an empty directory of the container's own.
    pub volumes: Vec<String>,
}

/// Where the runtime finds what it runs. The store of this crate is the one in use; tests have
/// smaller ones.
pub trait Contents: Send + Sync {
    /// The image with that id, unpacked.
    fn content(&self, image_id: &str) -> containers::Result<Content>;
    /// The image may not be removed while a container holds it. `holder` is a container's id.
    fn hold(&self, image_id: &str, holder: &str) -> containers::Result<()>;
    fn release(&self, image_id: &str, holder: &str) -> containers::Result<()>;
}
