//! Who may not lose an image: small files, one for each holder. What was held or released last is
//! what was used last.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use super::{Store, lookup, parse_id};
use crate::images::digest::Digest;
use crate::images::disk;
use crate::images::error::{Error, Result};

impl Store {
    pub(super) fn holders_path(&self, id: &Digest) -> PathBuf {
        self.directory.join("holders").join(id.hex())
    }

    pub fn hold(&self, image_id: &str, holder: &str) -> Result<()> {
        check_holder(holder)?;
        let _lock = self.lock()?;
        let index = self.index()?;
        let (id, _) = lookup(&index, image_id)?;
        let directory = self.holders_path(&id);
        fs::create_dir_all(&directory).map_err(Error::io("make", &directory))?;
        // Not synced: no container survives what would lose it.
        let path = directory.join(holder);
        fs::File::create(&path).map_err(Error::io("make", &path))?;
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
        disk::names_in(&self.holders_path(id))
    }

    pub(super) fn drop_holder(&self, id: &Digest, holder: &str) -> Result<()> {
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

    pub(super) fn touch(&self, id: &Digest) -> Result<()> {
        let path = self.directory.join("used").join(id.hex());
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("open", &path))?;
        file.set_modified(SystemTime::now()).map_err(Error::io("write", &path))
    }

    pub(super) fn last_used(&self, id: &Digest) -> SystemTime {
        let path = self.directory.join("used").join(id.hex());
        fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Holders are file names.
fn check_holder(holder: &str) -> Result<()> {
    let fits = holder.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let named = !holder.is_empty() && !holder.starts_with('.') && holder.len() <= 200;
    if fits && named { Ok(()) } else { Err(Error::Holder(holder.to_owned())) }
}
