//! The store: images on this machine's disk, shared by the nodes that run on it.
//!
//! ```text
//! index.json                    images and names, replaced as a whole
//! lock                          held for every change of what is below
//! working                       held (shared) by pulls that bring layers that no image uses yet
//! blobs/sha256/<hex>            manifests and configurations
//! layers/sha256/<hex>/diff      a layer, unpacked, by the digest of its archive (its diff id)
//! layers/sha256/<hex>/layer.json
//! holders/<image hex>/<holder>  who may not lose the image; empty files
//! used/<image hex>              empty; its time is when the image was last held or released
//! partial/<hex>                 compressed layers on their way, each locked by its pull
//! tmp/                          scratch directories, each locked by its maker
//! ```
//!
//! What the index names is complete: blobs and layers are there before their image is, and go after
//! it. After a crash there may be more files than the index needs, never fewer; the next
//! [`Store::open`] removes them.

mod holders;
mod removal;
mod unused;

use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::images::digest::Digest;
use crate::images::disk::{self, Lock, Scratch};
use crate::images::error::{Error, Result};
use crate::images::index::{Index, Record};
use crate::images::manifest::ConfigFile;
use crate::images::stop::Stop;
use crate::images::{Content, unpack};
use containers::reference;

/// Interrupted downloads are kept that long for another try.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// As containerd has its folders.
const CLOSED_MODE: u32 = 0o700;

#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    usage: Mutex<Option<(Instant, containers::FilesystemUsage)>>,
}

/// An image that is ready to be named in the index: its blobs and layers are there.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub id: Digest,
    pub record: Record,
    pub names: Vec<String>,
}

/// Bytes and inodes of an unpacked layer, as measured once.
#[derive(Debug, Default, Serialize, Deserialize)]
struct LayerFile {
    used_bytes: u64,
    inodes_used: u64,
}

/// While one lives, layers that no image uses yet are left alone.
#[derive(Debug)]
pub struct Working {
    _lock: Lock,
}

impl Store {
    /// Opens the store, making it if it is not there, and removes what crashed processes left.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Store> {
        let store = Store { directory: directory.into(), usage: Mutex::new(None) };
        let is_new_or_ours = !store.directory.exists() || store.path("layers/sha256").exists();
        for name in ["", "blobs/sha256", "layers/sha256", "holders", "used", "partial", "tmp"] {
            let path = store.directory.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        // Local users could run what is in images with the rights of its owner. (A folder that was
        // something else before stays open, and only what is ours in it is closed.)
        for name in is_new_or_ours.then_some("").into_iter().chain(["blobs", "layers", "partial"]) {
            set_mode(&store.directory.join(name), CLOSED_MODE)?;
        }
        let lock = store.lock()?;
        store.index()?;
        disk::remove_abandoned(&store.path("tmp"))?;
        store.remove_partials(PARTIAL_AGE_MAX)?;
        store.sweep(&lock)?;
        Ok(store)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn lock(&self) -> Result<Lock> {
        disk::lock(&self.path("lock"))
    }

    fn index_path(&self) -> PathBuf {
        self.path("index.json")
    }

    pub(super) fn index(&self) -> Result<Index> {
        Index::read(&self.index_path())
    }

    fn write_index(&self, index: &Index) -> Result<()> {
        index.write(&self.index_path())?;
        *self.usage.lock().expect("nothing panics while holding it") = None;
        Ok(())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("partial").join(digest.hex())
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join("layers/sha256").join(diff_id.hex())
    }

    pub(super) fn working(&self) -> Result<Working> {
        Ok(Working { _lock: disk::lock_shared(&self.path("working"))? })
    }

    pub(super) fn scratch(&self) -> Result<Scratch> {
        let _lock = self.lock()?;
        Scratch::create(&self.path("tmp"))
    }

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).join("layer.json").exists()
    }

    /// Keeps a manifest or configuration.
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            disk::write_atomically(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Checked again whenever it is read: disks forget.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(Error::Mismatch { what: path.display().to_string(), expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Unpacks a layer unless it is here. Its archive must have that digest; nothing stays
    /// otherwise, nor when it is stopped.
    pub(super) fn put_layer(&self, diff_id: &Digest, archive: impl BufRead, stop: &Stop) -> Result<()> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let layer_error = |source| Error::Layer { diff_id: diff_id.clone(), source: Box::new(source) };
        let scratch = self.scratch()?;
        let diff = scratch.path().join("diff");
        fs::create_dir(&diff).map_err(Error::io("make", &diff))?;
        set_mode(&diff, 0o755)?;
        let (actual, _) = unpack::unpack(archive, &diff, stop).map_err(layer_error)?;
        if actual != *diff_id {
            let what = "its archive".to_owned();
            return Err(layer_error(Error::Mismatch { what, expected: diff_id.clone(), actual }));
        }
        self.finish_layer(diff_id, &scratch)
    }

    /// Makes the scratch directory with a finished `diff` the layer of that name.
    pub(super) fn finish_layer(&self, diff_id: &Digest, scratch: &Scratch) -> Result<()> {
        let finished = scratch.path().join("layer");
        let make = |path: &Path| fs::create_dir(path).map_err(Error::io("make", path));
        make(&finished)?;
        let diff = finished.join("diff");
        fs::rename(scratch.path().join("diff"), &diff).map_err(Error::io("move", &diff))?;
        let (used_bytes, inodes_used) = disk::measure(&diff).map_err(Error::io("measure", &diff))?;
        let measured = serde_json::to_vec(&LayerFile { used_bytes, inodes_used }).expect("numbers always become JSON");
        disk::write_atomically(&finished.join("layer.json"), &measured)?;
        sync_file_system(&finished)?;
        let _lock = self.lock()?;
        let path = self.layer_path(diff_id);
        if self.has_layer(diff_id) {
            return Ok(());
        }
        fs::rename(&finished, &path).map_err(Error::io("move", &path))?;
        disk::sync_directory(&self.path("layers/sha256")).map_err(Error::io("write", &path))
    }

    /// Names images in the index, all or none. Fails with [`Error::LayersGone`] when a layer was
    /// removed meanwhile; the caller brings it again.
    pub(super) fn commit(&self, images: &[Prepared]) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        for Prepared { id, record, names } in images {
            let blobs_there = record.manifests.iter().chain([id]).all(|blob| self.blob_path(blob).exists());
            if !blobs_there || !record.layers.iter().all(|layer| self.has_layer(layer)) {
                return Err(Error::LayersGone);
            }
            index.insert(id, record.clone(), names);
        }
        self.write_index(&index)?;
        images.iter().try_for_each(|image| self.touch(&image.id))
    }

    /// Lets the image be collected.
    pub(super) fn unpin(&self, image_id: &str) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let (id, _) = lookup(&index, image_id)?;
        index.images.entry(id).and_modify(|record| record.pinned = false);
        self.write_index(&index)
    }

    pub fn list(&self) -> Result<Vec<containers::Image>> {
        let index = self.index()?;
        Ok(index.images.iter().map(|(id, record)| describe(&index, id, record)).collect())
    }

    /// By a reference as users write it, or by an id with or without its algorithm.
    pub fn status(&self, reference: &str) -> Result<Option<containers::Image>> {
        let index = self.index()?;
        let id = find(&index, reference)?;
        Ok(id.and_then(|id| index.images.get(&id).map(|record| describe(&index, &id, record))))
    }

    pub fn content(&self, image_id: &str) -> Result<Content> {
        let index = self.index()?;
        let (id, record) = lookup(&index, image_id)?;
        let config = ConfigFile::parse(&self.blob(&id)?, "the configuration of the image")?.config.unwrap_or_default();
        let layers = record.layers.iter().rev().map(|layer| self.layer_path(layer).join("diff")).collect();
        Ok(Content {
            id: id.to_string(),
            layers,
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        })
    }
}

fn parse_id(text: &str) -> Option<Digest> {
    text.parse().or_else(|_| Digest::from_hex(text)).ok()
}

fn find(index: &Index, reference: &str) -> Result<Option<Digest>> {
    if let Some(id) = parse_id(reference) {
        return Ok(index.images.contains_key(&id).then_some(id));
    }
    Ok(index.references.get(&reference::parse(reference)?.canonical()).cloned())
}

fn lookup<'a>(index: &'a Index, image_id: &str) -> Result<(Digest, &'a Record)> {
    let missing = || Error::NotFound(image_id.to_owned());
    let id = parse_id(image_id).ok_or_else(missing)?;
    let record = index.images.get(&id).ok_or_else(missing)?;
    Ok((id, record))
}

fn describe(index: &Index, id: &Digest, record: &Record) -> containers::Image {
    let (digests, tags) = index.names_of(id).into_iter().partition(|name| name.contains('@'));
    let user = record.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok();
    let username = if uid.is_none() { user.to_owned() } else { String::new() };
    containers::Image { id: id.to_string(), tags, digests, size_bytes: record.size_bytes, uid, username, pinned: record.pinned }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("change", path))
}

/// One call for all files of a layer; syncing them one by one takes many times as long.
fn sync_file_system(path: &Path) -> Result<()> {
    let handle = fs::File::open(path).map_err(Error::io("open", path))?;
    rustix::fs::syncfs(handle).map_err(|error| Error::io("write", path)(error.into()))
}
