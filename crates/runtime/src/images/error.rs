//! Why something with images failed, and how that reads to users.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::{BadDigest, Digest};
use crate::trees;
use containers::reference;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Reference(#[from] reference::Error),
    #[error(transparent)]
    Digest(#[from] BadDigest),
    #[error("image {0:?} not found")]
    NotFound(String),
    #[error("image {id} is in use by {}", holders.join(", "))]
    Held { id: Digest, holders: Vec<String> },
    #[error("{0:?} is not a name for a holder of an image (letters, digits, '.', '_' and '-')")]
    Holder(String),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tree(#[from] trees::Error),
    /// The file is left as it is: a person may still repair it, or remove it to start afresh.
    #[error("the index of the image store at {} is damaged (repair it, or stop the nodes and remove it to start with no images)", path.display())]
    Index {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the index of the image store at {} has format {format}, this version knows {known}", path.display())]
    IndexFormat { path: PathBuf, format: u32, known: u32 },
    #[error("{what} is not what it should be")]
    Json {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0}")]
    Unsupported(String),
    #[error("{what}: unexpected digest: expected {expected}, got {actual}")]
    Mismatch { what: String, expected: Digest, actual: Digest },
    #[error("{what} has {actual} entries where {expected} are expected")]
    Count { what: String, expected: usize, actual: usize },
    #[error("cannot unpack {path:?}: {why}")]
    Entry { path: String, why: String },
    #[error("cannot unpack {path:?}")]
    EntryIo {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the layer")]
    LayerRead(#[source] io::Error),
    #[error("failed to extract layer {diff_id}")]
    Layer {
        diff_id: Digest,
        #[source]
        source: Box<Error>,
    },
    #[error("cannot load {}", path.display())]
    Archive {
        path: PathBuf,
        #[source]
        source: Box<Error>,
    },
    #[error("{0}")]
    Archived(String),
    #[error("layers of the image went away while it was being stored")]
    LayersGone,
    #[error("no match for platform in manifest {0}: not found")]
    NoPlatform(String),
    #[error("failed to pull and unpack image {image:?}")]
    Pull {
        image: String,
        #[source]
        source: Box<Error>,
    },
    #[error("failed to resolve reference {image:?}")]
    Resolve {
        image: String,
        #[source]
        source: Box<Error>,
    },
    #[error("{0}: not found")]
    NoSuchImage(String),
    #[error("{0}")]
    Unauthorized(String),
    /// What went wrong on the way to or in the registry; may be gone at the next try.
    #[error("{0}")]
    Transport(String),
    /// The registry answered what no next try would change.
    #[error("{0}")]
    Registry(String),
    #[error("failed to copy")]
    Copy(#[source] Box<Error>),
}

impl Error {
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// With all its causes.
    pub fn chain(&self) -> String {
        containers::chain(self)
    }

    /// The first cause that is not merely where it happened.
    fn cause(&self) -> &Error {
        match self {
            Error::Pull { source, .. } | Error::Resolve { source, .. } | Error::Copy(source) | Error::Layer { source, .. } => {
                source.cause()
            }
            other => other,
        }
    }

    /// The disk is full, or a quota is used up.
    pub fn is_full_disk(&self) -> bool {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            }
            next = error.source();
        }
        false
    }
}

impl From<Error> for containers::Error {
    fn from(error: Error) -> containers::Error {
        let class = match error.cause() {
            Error::NotFound(id) => return containers::Error::NotFound { kind: "image", id: id.clone() },
            Error::Held { .. } => containers::Error::FailedPrecondition,
            Error::Reference(_) | Error::Holder(_) => containers::Error::Invalid,
            Error::Unauthorized(_) => containers::Error::Unauthorized,
            _ => containers::Error::Failed,
        };
        class(Box::new(error))
    }
}
