//! Removes images, names, and what is no longer used.

use std::fs;
use std::io;
use std::time::Duration;

use super::{Store, find, parse_id};
use crate::images::digest::Digest;
use crate::images::disk::{self, Lock, Scratch};
use crate::images::error::{Error, Result};
use crate::images::index::{Index, Record};
use containers::reference;

impl Store {
    /// Removes the image of that id with all its names, or one name, and with the last tag the
    /// image. Gone already is fine.
    pub fn remove(&self, reference: &str) -> Result<()> {
        let lock = self.lock()?;
        let mut index = self.index()?;
        let Some(id) = find(&index, reference)? else { return Ok(()) };
        if parse_id(reference).is_none() && untag(&mut index, reference, &id)? {
            return self.write_index(&index);
        }
        let holders = self.holders(&id)?;
        if !holders.is_empty() {
            return Err(Error::Held { id, holders });
        }
        let record = index.remove(&id);
        self.write_index(&index)?;
        disk::remove_file_if_there(&self.directory.join("used").join(id.hex()))?;
        self.forget(&lock, &index, &id, record.as_ref())
    }

    /// Removes what only that image used; the index does not name it any more.
    pub(super) fn forget(&self, lock: &Lock, index: &Index, id: &Digest, record: Option<&Record>) -> Result<()> {
        let Some(record) = record else { return Ok(()) };
        for layer in record.layers.iter().filter(|layer| !index.uses_layer(layer)) {
            self.remove_layer(lock, layer)?;
        }
        for blob in record.manifests.iter().chain([id]).filter(|blob| !index.uses_blob(blob)) {
            disk::remove_file_if_there(&self.blob_path(blob))?;
        }
        self.sweep(lock)
    }

    /// Moved away first: half a layer is never found under its name.
    pub(super) fn remove_layer(&self, _lock: &Lock, layer: &Digest) -> Result<()> {
        let path = self.layer_path(layer);
        let scratch = Scratch::create(&self.path("tmp"))?;
        match fs::rename(&path, scratch.path().join("layer")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("move", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes blobs and layers that no image uses, unless a pull or load is bringing some.
    pub(super) fn sweep(&self, lock: &Lock) -> Result<()> {
        let Some(_alone) = disk::try_lock(&self.path("working"))? else { return Ok(()) };
        let index = self.index()?;
        for name in disk::names_in(&self.path("layers/sha256"))? {
            match Digest::from_hex(&name) {
                Ok(layer) if index.uses_layer(&layer) => {}
                Ok(layer) => self.remove_layer(lock, &layer)?,
                // Layers are named before they come here: this one belongs to another program.
                Err(_) => {}
            }
        }
        for name in disk::names_in(&self.path("blobs/sha256"))? {
            if Digest::from_hex(&name).is_ok_and(|blob| !index.uses_blob(&blob)) {
                disk::remove_file_if_there(&self.path("blobs/sha256").join(name))?;
            }
        }
        Ok(())
    }

    /// Removes what was brought for images that never were named. Problems are left for the next
    /// time the store is opened.
    pub fn tidy(&self) {
        if let Err(error) = self.lock().and_then(|lock| self.sweep(&lock)) {
            tracing::warn!(error = error.chain(), "cannot remove what a failed pull or load left");
        }
    }

    /// Gives back the space of interrupted downloads that no pull goes on with.
    pub(in crate::images) fn remove_partials(&self, age_min: Duration) -> Result<()> {
        for name in disk::names_in(&self.path("partial"))? {
            let path = self.path("partial").join(name);
            let age = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age >= age_min) && disk::try_lock(&path)?.is_some() {
                disk::remove_file_if_there(&path)?;
            }
        }
        Ok(())
    }
}

/// Takes one name away; true when the image stays because it has other tags.
fn untag(index: &mut Index, reference: &str, id: &Digest) -> Result<bool> {
    let name = reference::parse(reference)?.canonical();
    let is_tag = |name: &String| !name.contains('@');
    let others = index.names_of(id).into_iter().filter(|other| *other != name);
    let stays = others.filter(is_tag).count() > 0;
    if stays {
        index.references.remove(&name);
    }
    Ok(stays)
}
