//! Owners, modes, extended attributes and times of what a layer holds.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::rooted::Place;

const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// What overlayfs believes of its lower directories: an image must not say where its files come
/// from.
const OVERLAY_PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];

#[derive(Debug)]
pub struct Metadata {
    uid: u32,
    gid: u32,
    mode: u32,
    modified: Modified,
    attributes: Vec<(String, Vec<u8>)>,
}

/// The one time that archives have.
#[derive(Debug, Clone, Copy)]
pub struct Modified(Timespec);

impl Metadata {
    pub fn of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Metadata> {
        let mut modified = None;
        let mut attributes = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            if key == "mtime" {
                modified = extension.value().ok().and_then(parse_time);
            } else if let Some(name) = key.strip_prefix(XATTR_PREFIX)
                && !OVERLAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            {
                attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        Ok(Metadata {
            uid: id(number(&header.as_old().uid, header.uid())?)?,
            gid: id(number(&header.as_old().gid, header.gid())?)?,
            mode: header.mode()? & 0o7777,
            modified: Modified(modified.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 })),
            attributes,
        })
    }

    /// In this order: a change of owner clears the setuid bit and the capabilities.
    pub fn apply(&self, place: &Place, kind: FileType) -> io::Result<()> {
        // Without privileges everything belongs to the user who unpacks, as in tar; only tests do
        // that.
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(place.parent.as_fd(), &place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind != FileType::Symlink {
            // The name is known not to be a link: there is no way to ask chmod for that.
            rustix::fs::chmodat(place.parent.as_fd(), &place.name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        for (name, value) in &self.attributes {
            set_image_attribute(place, name, value)?;
        }
        self.modified.apply(place)
    }

    pub fn modified(&self) -> Modified {
        self.modified
    }

    /// How many extended attributes there are, and the bytes of their names and values.
    pub fn attributes(&self) -> (u64, u64) {
        let bytes = self.attributes.iter().map(|(name, value)| name.len() as u64 + value.len() as u64);
        (self.attributes.len() as u64, bytes.sum())
    }
}

impl Modified {
    pub fn apply(self, place: &Place) -> io::Result<()> {
        let times = Timestamps { last_access: self.0, last_modification: self.0 };
        Ok(rustix::fs::utimensat(place.parent.as_fd(), &place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// An attribute that the file system does not know is left out: images carry labels of other
/// systems.
fn set_image_attribute(place: &Place, name: &str, value: &[u8]) -> io::Result<()> {
    match set_attribute(place, name, value) {
        Err(error) if error.raw_os_error() == Some(Errno::NOTSUP.raw_os_error()) => {
            tracing::debug!(path = %place.path.display(), name, "the file system does not take this attribute");
            Ok(())
        }
        other => other,
    }
}

pub fn set_attribute(place: &Place, name: &str, value: &[u8]) -> io::Result<()> {
    // There is no call that takes a directory and a name; the way through /proc follows no link but
    // its own.
    let mut path = format!("/proc/self/fd/{}/", place.parent.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(place.name.as_bytes());
    Ok(rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// A field of blanks is 0, as other readers of archives have it.
fn number(field: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parsed }
}

fn id(number: u64) -> io::Result<u32> {
    // The last one means "leave it" to the kernel.
    let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{number} is not a user or group")))
}

/// Seconds with a fraction, perhaps negative: `1700000000.123456789`.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some(Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds });
    }
    Some(Timespec { tv_sec: seconds, tv_nsec: nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_before_1970_have_fractions_too() {
        let show = |text: &str| parse_time(text).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(show("1700000000.5"), Some((1_700_000_000, 500_000_000)));
        assert_eq!(show("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(show("-9223372036854775808"), Some((i64::MIN, 0)));
        assert_eq!(show("-9223372036854775808.5"), None, "before the beginning");
    }
}
