//! OCI layouts: index.json leads to manifests or further indexes, everything by digest under
//! blobs/.

use std::collections::BTreeMap;

use super::source::Source;
use super::{Found, FoundLayer};
use crate::images::digest::Digest;
use crate::images::error::{Error, Result};
use crate::images::manifest::{self, Descriptor, Document, Manifest, Platform};
use containers::reference;

/// Full names, written by containerd and by Docker.
const FULL_NAME: &str = "io.containerd.image.name";
/// A name or, with some tools, a tag only.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const NESTED_INDEXES_MAX: usize = 4;

pub fn find(source: &Source) -> Result<Vec<Found>> {
    let bytes = source.document("index.json")?;
    let Document::Index(entries) = Document::parse(&bytes, "its index.json")? else {
        return Err(Error::Archived("its index.json is not an index".to_owned()));
    };
    let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        by_name.entry(name_of(&entry)).or_default().push(entry);
    }
    by_name.into_iter().map(|(name, entries)| read(source, name, &entries)).collect()
}

fn name_of(entry: &Descriptor) -> Option<String> {
    let annotations = entry.annotations.as_ref()?;
    let names = [FULL_NAME, REF_NAME].into_iter().filter_map(|key| annotations.get(key));
    names.into_iter().find(|name| reference::parse(name).is_ok()).cloned()
}

/// Entries with one name are one image for different platforms.
fn read(source: &Source, name: Option<String>, entries: &[Descriptor]) -> Result<Found> {
    let entry = match entries {
        [only] => only,
        several => choose(several, "its index.json")?,
    };
    let (documents, manifest) = descend(source, entry)?;
    let config = blob(source, &manifest.config)?;
    let layers = manifest.layers.into_iter().map(|layer| FoundLayer { path: path_of(&layer.digest), digest: Some(layer.digest) });
    Ok(Found { names: name.into_iter().collect(), documents, config, layers: layers.collect() })
}

fn choose<'a>(entries: &'a [Descriptor], what: &str) -> Result<&'a Descriptor> {
    manifest::choose(entries, &Platform::current()).ok_or_else(|| Error::NoPlatform(what.to_owned()))
}

fn descend(source: &Source, entry: &Descriptor) -> Result<(Vec<Vec<u8>>, Manifest)> {
    let mut documents = Vec::new();
    let mut entry = entry.clone();
    for _ in 0..NESTED_INDEXES_MAX {
        let bytes = blob(source, &entry)?;
        let document = Document::parse(&bytes, &format!("manifest {}", entry.digest))?;
        documents.push(bytes);
        match document {
            Document::Image(manifest) => return Ok((documents, manifest)),
            Document::Index(entries) => entry = choose(&entries, entry.digest.as_str())?.clone(),
        }
    }
    Err(Error::Archived(format!("its index.json leads through more than {NESTED_INDEXES_MAX} indexes")))
}

fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let path = path_of(&descriptor.digest);
    let bytes = source.document(&path)?;
    let actual = Digest::of(&bytes);
    if actual == descriptor.digest { Ok(bytes) } else { Err(Error::Mismatch { what: path, expected: descriptor.digest.clone(), actual }) }
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
