//! The index: which images there are, and which names lead to them. One file, replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::disk;
use super::error::{Error, Result};

/// Counted up when a change makes older versions misread the file.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    format: u32,
    /// By id: the digest of the configuration, which is kept as a blob.
    pub images: BTreeMap<Digest, Record>,
    /// Full names with tags or digests; each leads to one of `images`.
    pub references: BTreeMap<String, Digest>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The lowest first.
    pub layers: Vec<Digest>,
    /// Manifests and indexes that led here, kept as blobs.
    pub manifests: BTreeSet<Digest>,
    /// As registries count: compressed.
    pub size_bytes: u64,
    /// The image's `User`.
    pub user: String,
    pub pinned: bool,
}

impl Default for Index {
    fn default() -> Index {
        Index { format: FORMAT, images: BTreeMap::new(), references: BTreeMap::new() }
    }
}

impl Index {
    /// An empty one when there is none yet. A damaged one is an error and stays.
    pub fn read(path: &Path) -> Result<Index> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|source| Error::Index { path: path.to_owned(), source })?;
        if index.format != FORMAT {
            return Err(Error::IndexFormat { path: path.to_owned(), format: index.format, known: FORMAT });
        }
        Ok(index)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("an index has only strings for keys");
        disk::write_atomically(path, &bytes)
    }

    /// Adds the image, or what is new of it, and points the names to it.
    pub fn insert(&mut self, id: &Digest, record: Record, names: &[String]) {
        let known = self.images.entry(id.clone()).or_insert_with(|| record.clone());
        known.manifests.extend(record.manifests);
        known.pinned |= record.pinned;
        for name in names {
            self.references.insert(name.clone(), id.clone());
        }
    }

    /// Takes the image and all its names away.
    pub fn remove(&mut self, id: &Digest) -> Option<Record> {
        self.references.retain(|_, target| target != id);
        self.images.remove(id)
    }

    pub fn names_of(&self, id: &Digest) -> Vec<String> {
        self.references.iter().filter(|(_, target)| *target == id).map(|(name, _)| name.clone()).collect()
    }

    pub fn uses_layer(&self, layer: &Digest) -> bool {
        self.images.values().any(|record| record.layers.contains(layer))
    }

    pub fn uses_blob(&self, blob: &Digest) -> bool {
        self.images.contains_key(blob) || self.images.values().any(|record| record.manifests.contains(blob))
    }
}
