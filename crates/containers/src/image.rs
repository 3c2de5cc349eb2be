//! Images of a node, and what registries want to know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An image on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration: `sha256:...`.
    pub id: String,
    /// Full names with tags: `docker.io/library/busybox:1.36`.
    pub tags: Vec<String>,
    /// Full names with the digests of manifests: `docker.io/library/busybox@sha256:...`.
    pub digests: Vec<String>,
    /// What its layers take, compressed, as registries count.
    pub size_bytes: u64,
    /// Of the image's `User`, when it is a number.
    pub uid: Option<i64>,
    /// Of the image's `User`, when it is a name.
    pub username: String,
    /// Never collected.
    pub pinned: bool,
}

/// An image that no container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedImage {
    pub image: Image,
    pub last_used: Timestamp,
    /// What its removal would free: layers that others use stay.
    pub frees_bytes: u64,
}

/// What a registry wants to know before it gives an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A token that is sent as it is.
    Bearer(String),
}
