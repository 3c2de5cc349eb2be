//! What `docker save` writes: a list of images in manifest.json, each with its configuration and
//! layers as files.

use serde::Deserialize;

use super::source::Source;
use super::{Found, FoundLayer};
use crate::images::digest::Digest;
use crate::images::error::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub fn find(source: &Source) -> Result<Vec<Found>> {
    let bytes = source.document("manifest.json")?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { what: "its manifest.json".to_owned(), source })?;
    entries.into_iter().map(|entry| read(source, entry)).collect()
}

fn read(source: &Source, entry: Entry) -> Result<Found> {
    let config = source.document(&entry.config)?;
    if let Some(expected) = digest_in(&entry.config) {
        let actual = Digest::of(&config);
        if actual != expected {
            return Err(Error::Mismatch { what: entry.config, expected, actual });
        }
    }
    // A layer's name is a digest in new files only, and of what differs between versions; its diff
    // id is what counts.
    let layers = entry.layers.into_iter().map(|path| FoundLayer { path, digest: None }).collect();
    Ok(Found { names: entry.repo_tags.unwrap_or_default(), documents: Vec::new(), config, layers })
}

/// `<hex>.json` or `blobs/sha256/<hex>`.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
}
