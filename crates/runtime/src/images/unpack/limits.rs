//! What one layer may take: bytes, entries and the length of their paths. Layers come from anywhere, and ten kilobytes may stand for terabytes.

use std::io;
use std::os::fd::AsFd;

use super::Problem;

/// More than any image has; those that need more are not made of layers.
const BYTES_MAX: u64 = 128 * 1024 * 1024 * 1024;
const ENTRIES_MAX: u64 = 2_000_000;

/// As Linux has it.
const PATH_BYTES_MAX: usize = 4096;

/// Paths are remembered while a layer is unpacked.
const ALL_PATHS_BYTES_MAX: u64 = 256 * 1024 * 1024;

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
    bytes: u64,
    entries: u64,
    path_bytes: u64,
    bytes_until_look: u64,
    entries_until_look: u64,
}

impl Limits {
    pub fn new() -> Limits {
        Limits { bytes: BYTES_MAX, entries: ENTRIES_MAX, path_bytes: ALL_PATHS_BYTES_MAX, bytes_until_look: 0, entries_until_look: 0 }
    }

    /// Another entry, of that size.
    pub fn take_entry(&mut self, path: &[u8], bytes: u64, file_system: impl AsFd) -> Result<(), Problem> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Problem::Refused(format!("its path has {} bytes, more than {PATH_BYTES_MAX}", path.len())));
        }
        let (entries, path_bytes) = (self.entries.checked_sub(1), self.path_bytes.checked_sub(path.len() as u64));
        let (Some(entries), Some(path_bytes)) = (entries, path_bytes) else {
            return Err(Problem::Refused(format!("the layer has more than {ENTRIES_MAX} entries, or too many long paths")));
        };
        (self.entries, self.path_bytes) = (entries, path_bytes);
        // Known before anything is written; what is written is counted all the same.
        if bytes > self.bytes {
            return Err(too_large());
        }
        let free = if self.entries_until_look == 0 || bytes > self.bytes_until_look { Some(free(file_system)?) } else { None };
        if let Some(free) = free {
            self.entries_until_look = LOOK_ENTRIES;
            check(&free, bytes)?;
        }
        self.entries_until_look -= 1;
        Ok(())
    }

    /// Bytes of a file, written or left out as a hole.
    pub fn take_bytes(&mut self, bytes: u64, file_system: impl AsFd) -> Result<(), Problem> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_large)?;
        if bytes > self.bytes_until_look {
            check(&free(file_system)?, bytes)?;
            self.bytes_until_look = LOOK_BYTES;
        }
        self.bytes_until_look = self.bytes_until_look.saturating_sub(bytes);
        Ok(())
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
        let mut limits = Limits { entries: 2, path_bytes: 6, bytes: 100, ..Limits::new() };
        assert!(limits.take_entry(b"abc", 10, &dir).is_ok());
        assert!(limits.take_bytes(60, &dir).is_ok());
        assert!(why(limits.take_bytes(60, &dir)).contains("more than"));
        assert!(why(limits.take_entry(b"d", 41, &dir)).contains("more than"), "known before it is written");
        assert!(limits.take_entry(b"e", 0, &dir).is_err(), "the third entry");
        assert!(why(Limits::new().take_entry(&[b'x'; 4097], 0, &dir)).contains("its path has 4097 bytes"));
        let mut long = Limits { path_bytes: 3, ..Limits::new() };
        assert!(long.take_entry(b"four", 0, &dir).is_err());
    }

    #[test]
    fn what_does_not_fit_on_the_disk_is_refused_before_it_is_written() {
        let dir = std::fs::File::open(std::env::temp_dir()).unwrap();
        let available = free(&dir).unwrap().bytes;
        let said = why(Limits { bytes: u64::MAX, ..Limits::new() }.take_entry(b"large", available, &dir));
        assert!(said.starts_with("No space left on device: "), "{said}");
    }
}
