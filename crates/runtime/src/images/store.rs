//! The store: images on this machine's disk, shared by the nodes that run on it.
//!
//! ```text
//! index.json                    images and names, replaced as a whole
//! lock                          held for every change of what is below
//! working                       held (shared) by whoever brings layers that no image uses yet
//! blobs/sha256/<hex>            manifests and configurations
//! layers/sha256/<hex>/diff      a layer, unpacked, by the digest of its archive (its diff id)
//! layers/sha256/<hex>/layer.json
//! holders/<image hex>/<holder>  who may not lose the image; empty files
//! used/<image hex>              empty; its time is when the image was last held or released
//! partial/<hex>                 compressed layers on their way, locked by whoever brings them
//! tmp/                          scratch directories, each locked by its maker
//! ```
//!
//! What the index names is complete: blobs and layers are there before their image is, and go after it. After a crash there may be more
//! files than the index needs, never fewer; the next [`Store::open`] removes them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::disk::{self, Lock, Scratch};
use super::error::{Error, Result};
use super::index::{Index, Record};
use super::manifest::ConfigFile;
use super::reference;
use super::{Content, unpack};
use crate::port;

/// Interrupted downloads are kept that long for another try.
const PARTIAL_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The answer to "how full" may be that old.
const USAGE_AGE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    usage: Mutex<Option<(Instant, port::FilesystemUsage)>>,
}

/// An image that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    pub image: port::Image,
    pub last_used: SystemTime,
    /// What its removal would free on the disk: layers that no other image has.
    pub frees_bytes: u64,
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
        for name in ["", "blobs/sha256", "layers/sha256", "holders", "used", "partial", "tmp"] {
            let path = store.directory.join(name);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        let lock = store.lock()?;
        store.index()?;
        disk::remove_abandoned(&store.path("tmp"))?;
        store.remove_old_partials()?;
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

    // Blobs and layers.

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

    /// Unpacks a layer unless it is here. Its archive must have that digest; nothing stays otherwise.
    pub(super) fn put_layer(&self, diff_id: &Digest, archive: impl BufRead) -> Result<()> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let layer_error = |source| Error::Layer { diff_id: diff_id.clone(), source: Box::new(source) };
        let scratch = self.scratch()?;
        let diff = scratch.path().join("diff");
        fs::create_dir(&diff).map_err(Error::io("make", &diff))?;
        set_mode(&diff, 0o755)?;
        let (actual, _) = unpack::unpack(archive, &diff).map_err(layer_error)?;
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

    /// Names images in the index, all or none. Fails with [`Error::LayersGone`] when a layer was removed meanwhile; the caller brings it
    /// again.
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

    // What others ask.

    pub fn list(&self) -> Result<Vec<port::Image>> {
        let index = self.index()?;
        Ok(index.images.iter().map(|(id, record)| describe(&index, id, record)).collect())
    }

    /// By a reference as users write it, or by an id with or without its algorithm.
    pub fn status(&self, reference: &str) -> Result<Option<port::Image>> {
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

    // Holders.

    fn holders_path(&self, id: &Digest) -> PathBuf {
        self.directory.join("holders").join(id.hex())
    }

    pub fn hold(&self, image_id: &str, holder: &str) -> Result<()> {
        check_holder(holder)?;
        let _lock = self.lock()?;
        let index = self.index()?;
        let (id, _) = lookup(&index, image_id)?;
        let directory = self.holders_path(&id);
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        disk::write_atomically(&directory.join(holder), b"")?;
        self.touch(&id)
    }

    pub fn release(&self, image_id: &str, holder: &str) -> Result<()> {
        check_holder(holder)?;
        let _lock = self.lock()?;
        let id = parse_id(image_id).ok_or_else(|| Error::NotFound(image_id.to_owned()))?;
        self.drop_holder(&id, holder)
    }

    /// Releases whatever holders with that start hold: those of a node that is gone for good.
    pub fn release_all(&self, prefix: &str) -> Result<()> {
        let _lock = self.lock()?;
        for name in disk::names_in(&self.path("holders"))? {
            let id = Digest::from_hex(&name)?;
            let holders = self.holders(&id)?;
            holders.iter().filter(|holder| holder.starts_with(prefix)).try_for_each(|holder| self.drop_holder(&id, holder))?;
        }
        Ok(())
    }

    /// Who holds the image, sorted.
    pub fn holders(&self, id: &Digest) -> Result<Vec<String>> {
        // A file that was being written when its writer crashed starts with a dot.
        Ok(disk::names_in(&self.holders_path(id))?.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    fn drop_holder(&self, id: &Digest, holder: &str) -> Result<()> {
        let directory = self.holders_path(id);
        let path = directory.join(holder);
        if !path.exists() {
            return Ok(());
        }
        disk::remove_file_if_there(&path)?;
        // Fails while there are others, which is right.
        let _ = fs::remove_dir(&directory);
        self.touch(id)
    }

    fn touch(&self, id: &Digest) -> Result<()> {
        let path = self.directory.join("used").join(id.hex());
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("open", &path))?;
        file.set_modified(SystemTime::now()).map_err(Error::io("write", &path))
    }

    fn last_used(&self, id: &Digest) -> SystemTime {
        let path = self.directory.join("used").join(id.hex());
        fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    // Removal.

    /// Removes the image of that id with all its names, or one name, and with the last tag the image. Gone already is fine.
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
    fn forget(&self, lock: &Lock, index: &Index, id: &Digest, record: Option<&Record>) -> Result<()> {
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
    fn remove_layer(&self, _lock: &Lock, layer: &Digest) -> Result<()> {
        let path = self.layer_path(layer);
        let scratch = Scratch::create(&self.path("tmp"))?;
        match fs::rename(&path, scratch.path().join("layer")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("move", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes blobs and layers that no image uses, unless somebody is just bringing some.
    fn sweep(&self, lock: &Lock) -> Result<()> {
        let Some(_alone) = disk::try_lock(&self.path("working"))? else { return Ok(()) };
        let index = self.index()?;
        for name in disk::names_in(&self.path("layers/sha256"))? {
            match Digest::from_hex(&name) {
                Ok(layer) if index.uses_layer(&layer) => {}
                Ok(layer) => self.remove_layer(lock, &layer)?,
                Err(_) => disk::remove_directory_if_there(&self.path("layers/sha256").join(name))?,
            }
        }
        for name in disk::names_in(&self.path("blobs/sha256"))? {
            if !Digest::from_hex(&name).is_ok_and(|blob| index.uses_blob(&blob)) {
                disk::remove_file_if_there(&self.path("blobs/sha256").join(name))?;
            }
        }
        Ok(())
    }

    /// After a failure: what was brought for an image that will not be. Problems are for the next time the store is opened.
    pub(super) fn tidy(&self) {
        if let Err(error) = self.lock().and_then(|lock| self.sweep(&lock)) {
            tracing::warn!(error = error.chain(), "cannot remove what a failed pull or load left");
        }
    }

    fn remove_old_partials(&self) -> Result<()> {
        for name in disk::names_in(&self.path("partial"))? {
            let path = self.path("partial").join(name);
            let age = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > PARTIAL_AGE_MAX) && disk::try_lock(&path)?.is_some() {
                disk::remove_file_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Images that nobody holds and that may go, the one that was not used for longest first.
    pub fn unused(&self) -> Result<Vec<Unused>> {
        let index = self.index()?;
        let mut unused = Vec::new();
        for (id, record) in index.images.iter().filter(|(_, record)| !record.pinned) {
            if self.holders(id)?.is_empty() {
                let image = describe(&index, id, record);
                unused.push(Unused { image, last_used: self.last_used(id), frees_bytes: self.own_bytes(&index, id, record) });
            }
        }
        unused.sort_by(|a, b| (a.last_used, &a.image.id).cmp(&(b.last_used, &b.image.id)));
        Ok(unused)
    }

    fn own_bytes(&self, index: &Index, id: &Digest, record: &Record) -> u64 {
        let elsewhere: BTreeSet<&Digest> =
            index.images.iter().filter(|(other, _)| *other != id).flat_map(|(_, record)| &record.layers).collect();
        let own: BTreeSet<&Digest> = record.layers.iter().filter(|layer| !elsewhere.contains(layer)).collect();
        own.into_iter().map(|layer| self.layer_file(layer).used_bytes).sum()
    }

    fn layer_file(&self, layer: &Digest) -> LayerFile {
        let bytes = fs::read(self.layer_path(layer).join("layer.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// What the store takes on the disk. Layers were measured when they were unpacked.
    pub fn usage(&self) -> Result<port::FilesystemUsage> {
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

    fn measure(&self) -> Result<port::FilesystemUsage> {
        let mut usage = port::FilesystemUsage::default();
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

fn describe(index: &Index, id: &Digest, record: &Record) -> port::Image {
    let (digests, tags) = index.names_of(id).into_iter().partition(|name| name.contains('@'));
    let user = record.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok();
    let username = if uid.is_none() { user.to_owned() } else { String::new() };
    port::Image { id: id.to_string(), tags, digests, size_bytes: record.size_bytes, uid, username, pinned: record.pinned }
}

/// Holders are file names.
fn check_holder(holder: &str) -> Result<()> {
    let fits = holder.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let named = !holder.is_empty() && !holder.starts_with('.') && holder.len() <= 200;
    if fits && named { Ok(()) } else { Err(Error::Holder(holder.to_owned())) }
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
