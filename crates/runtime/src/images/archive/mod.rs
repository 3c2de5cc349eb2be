//! Images from files: what `docker save` writes, and OCI layouts, as a tar (compressed or not) or a
//! directory.
//!
//! All images of a file are stored or, when anything is wrong with it, none.

mod docker;
mod layout;
mod source;

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;

use super::digest::{Digest, HashingReader};
use super::error::{Error, Result};
use super::index::Record;
use super::manifest::ConfigFile;
use super::stop::Stop;
use super::store::{Prepared, Store};
use containers::reference;
use source::Source;

/// How often layers are brought again that a removal of another image took away.
const COMMITS_MAX: usize = 3;

/// An image as a file has it.
struct Found {
    /// As the file spells them.
    names: Vec<String>,
    /// Manifests and indexes on the way to the image, from the outermost.
    documents: Vec<Vec<u8>>,
    config: Vec<u8>,
    layers: Vec<FoundLayer>,
}

struct FoundLayer {
    path: String,
    /// What the file says about it as it is there.
    digest: Option<Digest>,
}

/// Stores the images of the file under its own names, or its only one under the given name. Answers
/// the names, or ids of those without.
pub fn load(store: &Store, path: &Path, name: Option<&str>) -> Result<Vec<String>> {
    load_from(store, path, name).map_err(|source| Error::Archive { path: path.to_owned(), source: Box::new(source) })
}

fn load_from(store: &Store, path: &Path, name: Option<&str>) -> Result<Vec<String>> {
    let source = Source::open(store, path)?;
    let mut images = find_images(&source)?;
    if let Some(name) = name {
        let [only] = images.as_mut_slice() else {
            let count = images.len();
            return Err(Error::Archived(format!("it holds {count} images, a name can be given to one only")));
        };
        only.names = vec![name.to_owned()];
    }
    let prepared = images.iter().map(prepare).collect::<Result<Vec<Prepared>>>()?;
    let working = store.working()?;
    let stored = store_images(store, &source, &images, &prepared);
    drop(working);
    if stored.is_err() {
        store.tidy();
    }
    stored.map(|()| prepared.iter().flat_map(answer).collect())
}

fn find_images(source: &Source) -> Result<Vec<Found>> {
    // Newer versions of Docker write both; only the older list has full names.
    let images = if source.has("manifest.json") {
        docker::find(source)?
    } else if source.has("index.json") {
        layout::find(source)?
    } else {
        let why = "it has neither a manifest.json (docker save) nor an index.json (OCI layout): it is not an image";
        return Err(Error::Archived(why.to_owned()));
    };
    if images.is_empty() { Err(Error::Archived("it holds no images".to_owned())) } else { Ok(images) }
}

fn answer(prepared: &Prepared) -> Vec<String> {
    let tags: Vec<String> = prepared.names.iter().filter(|name| !name.contains('@')).cloned().collect();
    if tags.is_empty() { vec![prepared.id.to_string()] } else { tags }
}

fn prepare(found: &Found) -> Result<Prepared> {
    let config = ConfigFile::parse(&found.config, "the configuration of an image")?;
    config.check_platform()?;
    let (expected, actual) = (found.layers.len(), config.rootfs.diff_ids.len());
    if expected != actual {
        return Err(Error::Count { what: "the configuration's list of layers".to_owned(), expected, actual });
    }
    let record = Record {
        layers: config.rootfs.diff_ids.clone(),
        manifests: found.documents.iter().map(|document| Digest::of(document)).collect(),
        size_bytes: 0, // Known when the layers have been read.
        user: config.user().to_owned(),
        pinned: false,
    };
    Ok(Prepared { id: Digest::of(&found.config), record, names: full_names(found)? })
}

/// With the digest of the manifest, where there is one, for each repository.
fn full_names(found: &Found) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for name in &found.names {
        let reference = reference::parse(name)?;
        names.insert(reference.canonical());
        if let Some(top) = found.documents.first() {
            names.insert(reference.with_digest(Digest::of(top).as_str()));
        }
    }
    Ok(names.into_iter().collect())
}

fn store_images(store: &Store, source: &Source, images: &[Found], prepared: &[Prepared]) -> Result<()> {
    let mut tries = 1;
    loop {
        let mut sized = prepared.to_vec();
        for (found, prepared) in images.iter().zip(&mut sized) {
            prepared.record.size_bytes = store_image(store, source, found, prepared)?;
        }
        match store.commit(&sized) {
            Err(Error::LayersGone) if tries < COMMITS_MAX => tries += 1,
            other => return other,
        }
    }
}

/// Answers what the image takes in the file.
fn store_image(store: &Store, source: &Source, found: &Found, prepared: &Prepared) -> Result<u64> {
    let mut size = 0;
    for blob in found.documents.iter().chain([&found.config]) {
        store.put_blob(blob)?;
        size += blob.len() as u64;
    }
    for (layer, diff_id) in found.layers.iter().zip(&prepared.record.layers) {
        size += source.size(&layer.path)?;
        if !store.has_layer(diff_id) {
            store_layer(store, source, layer, diff_id)?;
        }
    }
    Ok(size)
}

fn store_layer(store: &Store, source: &Source, layer: &FoundLayer, diff_id: &Digest) -> Result<()> {
    let mut reader = HashingReader::new(source.reader(&layer.path)?);
    store.put_layer(diff_id, BufReader::new(&mut reader), &Stop::default())?;
    let (actual, _) = reader.finish().map_err(Error::LayerRead)?;
    match &layer.digest {
        Some(expected) if *expected != actual => Err(Error::Mismatch { what: layer.path.clone(), expected: expected.clone(), actual }),
        _ => Ok(()),
    }
}
