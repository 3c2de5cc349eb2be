//! What one layer may take: bytes, entries, memory and steps. Layers come from anywhere, and ten
//! kilobytes may stand for terabytes.
//!
//! Everything that an archive makes the node do is charged to one of the figures: what is kept,
//! what is skipped, what is remembered while the layer is unpacked, and each folder that a path
//! leads through.

use std::io::{self, Read};
use std::os::fd::AsFd;

use super::Problem;
use crate::images::stop::Stop;

/// More than any image has; those that need more are not made of layers.
const BYTES_MAX: u64 = 128 * 1024 * 1024 * 1024;
const ENTRIES_MAX: u64 = 2_000_000;

/// As Linux has it, for paths and for targets of links.
const PATH_BYTES_MAX: usize = 4096;

/// Paths are remembered while a layer is unpacked, each with what holds it.
const REMEMBERED_BYTES_MAX: u64 = 256 * 1024 * 1024;
const REMEMBERED_OVERHEAD_BYTES: u64 = 64;

/// Folders that are opened on the way to entries. Links multiply them: a path of 4 KiB may stand
/// for 80,000 steps. Two million entries in twenty folders each take less than half.
const STEPS_MAX: u64 = 100_000_000;

/// What a layer leaves free at least: a twentieth of the file system, and of a large one this much.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;
const RESERVE_INODES: u64 = 10_000;
const RESERVE_SHARE: u64 = 20;

/// Others write, too: after so many bytes the file system is asked again.
const LOOK_BYTES: u64 = 16 * 1024 * 1024;
const LOOK_ENTRIES: u64 = 1000;

/// What is left to a layer.
#[derive(Debug)]
pub struct Limits {
    /// Of the archive, unpacked: headers, padding and what follows its end count, too.
    pub archive_bytes: u64,
    /// Of files, holes, attributes and targets of links, kept or skipped.
    pub bytes: u64,
    /// Of the archive's, of folders that only paths name, and of attributes.
    pub entries: u64,
    pub remembered_bytes: u64,
    pub steps: u64,
    pub stop: Stop,
    pub bytes_until_look: u64,
    pub entries_until_look: u64,
}

impl Limits {
    pub fn new(stop: Stop) -> Limits {
        Limits {
            archive_bytes: BYTES_MAX,
            bytes: BYTES_MAX,
            entries: ENTRIES_MAX,
            remembered_bytes: REMEMBERED_BYTES_MAX,
            steps: STEPS_MAX,
            stop,
            bytes_until_look: 0,
            entries_until_look: 0,
        }
    }

    /// Another entry of the archive, of that size.
    pub fn take_entry(&mut self, path: &[u8], bytes: u64, file_system: impl AsFd) -> Result<(), Problem> {
        self.stop.check()?;
        check_path(path, "its path")?;
        // Known before anything is written; what is written is counted all the same.
        if bytes > self.bytes {
            return Err(too_large());
        }
        if bytes > self.bytes_until_look {
            check(&free(&file_system)?, bytes)?;
        }
        self.take_inodes(1, file_system)
    }

    /// Names on the file system that the archive does not list itself, or does not list as entries.
    pub fn take_inodes(&mut self, count: u64, file_system: impl AsFd) -> Result<(), Problem> {
        let too_many = || Problem::Refused(format!("the layer has more than {ENTRIES_MAX} entries"));
        self.entries = self.entries.checked_sub(count).ok_or_else(too_many)?;
        if self.entries_until_look < count {
            self.entries_until_look = LOOK_ENTRIES.max(count);
            check(&free(file_system)?, 0)?;
        }
        self.entries_until_look -= count;
        Ok(())
    }

    /// Bytes of a file, written, skipped or left out as a hole; of attributes and targets of links.
    pub fn take_bytes(&mut self, bytes: u64, file_system: impl AsFd) -> Result<(), Problem> {
        self.stop.check()?;
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_large)?;
        if bytes > self.bytes_until_look {
            check(&free(file_system)?, bytes)?;
            self.bytes_until_look = LOOK_BYTES;
        }
        self.bytes_until_look = self.bytes_until_look.saturating_sub(bytes);
        Ok(())
    }

    /// A path that is kept in memory until the layer is unpacked.
    pub fn take_remembered(&mut self, path_bytes: usize) -> Result<(), Problem> {
        let too_long = || Problem::Refused("the layer has too many long paths".to_owned());
        let taken = path_bytes as u64 + REMEMBERED_OVERHEAD_BYTES;
        self.remembered_bytes = self.remembered_bytes.checked_sub(taken).ok_or_else(too_long)?;
        Ok(())
    }

    /// A folder on the way to an entry; `path_bytes`: of where it leads, without links.
    pub fn take_step(&mut self, path_bytes: usize) -> Result<(), Problem> {
        if path_bytes > PATH_BYTES_MAX {
            return Err(Problem::Refused(format!("its path leads through links to one of more than {PATH_BYTES_MAX} bytes")));
        }
        let too_many = || Problem::Refused("the layer's paths lead through too many folders".to_owned());
        self.steps = self.steps.checked_sub(1).ok_or_else(too_many)?;
        Ok(())
    }
}

/// `what`: whose path it is, for the error.
pub fn check_path(path: &[u8], what: &str) -> Result<(), Problem> {
    let length = path.len();
    if length <= PATH_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::Refused(format!("{what} has {length} bytes, more than {PATH_BYTES_MAX}")))
}

/// An archive that ends with an error after so many bytes, or when it is stopped.
pub struct Bounded<R> {
    inner: R,
    left: u64,
    stop: Stop,
}

impl<R: Read> Bounded<R> {
    pub fn new(inner: R, limits: &Limits) -> Bounded<R> {
        Bounded { inner, left: limits.archive_bytes, stop: limits.stop.clone() }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        let n = self.inner.read(buffer)?;
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, format!("its archive has more than {BYTES_MAX} bytes"));
        self.left = self.left.checked_sub(n as u64).ok_or_else(too_long)?;
        Ok(n)
    }
}

#[derive(Debug)]
struct Free {
    bytes: u64,
    reserve_bytes: u64,
    inodes: u64,
    reserve_inodes: u64,
}

fn free(file_system: impl AsFd) -> io::Result<Free> {
    let figures = rustix::fs::fstatvfs(file_system)?;
    let share = |all: u64, most: u64| (all / RESERVE_SHARE).min(most);
    Ok(Free {
        bytes: figures.f_bavail.saturating_mul(figures.f_frsize),
        reserve_bytes: share(figures.f_blocks.saturating_mul(figures.f_frsize), RESERVE_BYTES),
        // File systems that make inodes as they are needed say that there are none.
        inodes: if figures.f_files == 0 { u64::MAX } else { figures.f_favail },
        reserve_inodes: share(figures.f_files, RESERVE_INODES),
    })
}

fn check(free: &Free, bytes: u64) -> Result<(), Problem> {
    let full = |text: String| Problem::Io(io::Error::new(io::ErrorKind::StorageFull, format!("No space left on device: {text}")));
    if free.bytes < free.reserve_bytes.saturating_add(bytes) {
        let (free, kept) = (free.bytes, free.reserve_bytes);
        return Err(full(format!("{bytes} bytes do not fit: {free} bytes of the disk are free, and {kept} stay so")));
    }
    if free.inodes < free.reserve_inodes {
        return Err(full(format!("only {} inodes of the disk are free", free.inodes)));
    }
    Ok(())
}

fn too_large() -> Problem {
    Problem::Refused(format!("the layer has more than {BYTES_MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(result: Result<(), Problem>) -> String {
        match result {
            Err(Problem::Refused(why)) => why,
            Err(Problem::Io(error)) => error.to_string(),
            Ok(()) => "nothing".to_owned(),
        }
    }

    #[test]
    fn each_limit_has_an_end_and_says_so() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let new = || Limits::new(Stop::default());
        let mut limits = Limits { entries: 2, bytes: 100, ..new() };
        assert!(limits.take_entry(b"abc", 10, &dir).is_ok());
        assert!(limits.take_bytes(60, &dir).is_ok());
        assert!(why(limits.take_bytes(60, &dir)).contains("more than"));
        assert!(why(limits.take_entry(b"d", 41, &dir)).contains("more than"), "known before it is written");
        assert!(limits.take_entry(b"e", 0, &dir).is_ok());
        assert!(limits.take_entry(b"f", 0, &dir).is_err(), "the third entry");
        assert!(why(new().take_entry(&[b'x'; 4097], 0, &dir)).contains("its path has 4097 bytes"));
        let mut long = Limits { remembered_bytes: REMEMBERED_OVERHEAD_BYTES + 3, ..new() };
        assert!(long.take_remembered(4).is_err() && long.take_remembered(3).is_ok() && long.take_remembered(0).is_err());
        let mut steps = Limits { steps: 1, ..new() };
        assert!(steps.take_step(4097).is_err() && steps.take_step(4096).is_ok() && steps.take_step(1).is_err());
    }

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_before_it_is_written() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let available = free(&dir).unwrap().bytes;
        let said = why(Limits { bytes: u64::MAX, ..Limits::new(Stop::default()) }.take_entry(b"large", available, &dir));
        assert!(said.starts_with("No space left on device: "), "{said}");
    }
}
