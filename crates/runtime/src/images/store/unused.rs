//! What could go and what it would free; how much there is. Whether it goes is decided elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::{LayerFile, Store, describe};
use crate::images::digest::Digest;
use crate::images::disk;
use crate::images::error::{Error, Result};
use crate::images::index::{Index, Record};

/// The answer to "how full" may be that old.
const USAGE_AGE_MAX: Duration = Duration::from_secs(10);

impl Store {
    /// Images that no container holds and that may go, the one that was not used for longest first.
    pub fn unused(&self) -> Result<Vec<containers::UnusedImage>> {
        let index = self.index()?;
        let mut unused = Vec::new();
        for (id, record) in index.images.iter().filter(|(_, record)| !record.pinned) {
            if self.holders(id)?.is_empty() {
                let image = describe(&index, id, record);
                let last_used = jiff::Timestamp::try_from(self.last_used(id)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
                unused.push(containers::UnusedImage { image, last_used, frees_bytes: self.own_bytes(&index, id, record) });
            }
        }
        unused.sort_by(|a, b| (a.last_used, &a.image.id).cmp(&(b.last_used, &b.image.id)));
        Ok(unused)
    }

    pub(super) fn own_bytes(&self, index: &Index, id: &Digest, record: &Record) -> u64 {
        let elsewhere: BTreeSet<&Digest> =
            index.images.iter().filter(|(other, _)| *other != id).flat_map(|(_, record)| &record.layers).collect();
        let own: BTreeSet<&Digest> = record.layers.iter().filter(|layer| !elsewhere.contains(layer)).collect();
        own.into_iter().map(|layer| self.layer_file(layer).used_bytes).sum()
    }

    /// What the store takes on the disk. Layers were measured when they were unpacked.
    pub fn usage(&self) -> Result<containers::FilesystemUsage> {
        let mut cached = self.usage.lock().expect("nothing panics while holding it");
        if let Some((at, usage)) = *cached
            && at.elapsed() < USAGE_AGE_MAX
        {
            return Ok(usage);
        }
        let usage = self.measure()?;
        *cached = Some((Instant::now(), usage));
        Ok(usage)
    }

    pub(super) fn measure(&self) -> Result<containers::FilesystemUsage> {
        let mut usage = containers::FilesystemUsage::default();
        for name in ["blobs", "partial", "holders", "used"] {
            let path = self.path(name);
            let (bytes, inodes) = disk::measure(&path).map_err(Error::io("measure", &path))?;
            usage.used_bytes += bytes;
            usage.inodes_used += inodes;
        }
        for name in disk::names_in(&self.path("layers/sha256"))? {
            let Ok(layer) = Digest::from_hex(&name) else { continue };
            let file = self.layer_file(&layer);
            usage.used_bytes += file.used_bytes;
            usage.inodes_used += file.inodes_used;
        }
        Ok(usage)
    }
    pub(super) fn layer_file(&self, layer: &Digest) -> LayerFile {
        let bytes = fs::read(self.layer_path(layer).join("layer.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}
