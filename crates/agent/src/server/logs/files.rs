//! The files of one container's log: the current one, those that were rotated away, and the place
//! where the last lines begin.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::line::{HEAD_BYTES_MAX, is_whole};

/// What is read at once while searching backwards.
const BLOCK_BYTES: usize = 64 * 1024;

/// The log of one container: `DIR/N.log`, with `DIR/N.log.TIME` for what was rotated.
#[derive(Debug, Clone)]
pub struct Log {
    pub dir: PathBuf,
    /// The container's number among those of its name.
    pub restarts: u32,
}

/// A place to begin at: a file and an offset, and the newer files after it.
#[derive(Debug)]
pub struct Start {
    pub file: File,
    pub offset: u64,
    /// The oldest first.
    pub newer: Vec<File>,
}

impl Log {
    pub fn current(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.restarts))
    }

    /// The rotated files that can be read, the oldest first; compressed ones are left out.
    fn rotated(&self) -> Vec<PathBuf> {
        let prefix = format!("{}.log.", self.restarts);
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // The times in their names sort as texts do.
        let mut names: Vec<String> =
            names.filter(|name| name.strip_prefix(&prefix).is_some_and(|rest| !rest.ends_with(".gz") && !rest.ends_with(".tmp"))).collect();
        names.sort();
        names.into_iter().map(|name| self.dir.join(name)).collect()
    }

    /// All files that are there, the oldest first. Opened at once: a rotation meanwhile loses none.
    fn open_all(&self) -> io::Result<Vec<File>> {
        let mut files: Vec<File> = Vec::new();
        for path in self.rotated().into_iter().chain([self.current()]) {
            match File::open(&path) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Where to begin; None when nothing was written yet.
    pub fn start(&self, tail_lines: Option<u64>) -> io::Result<Option<Start>> {
        let mut files = self.open_all()?;
        let Some(mut wanted) = tail_lines else {
            return Ok((!files.is_empty()).then(|| Start { file: files.remove(0), offset: 0, newer: files }));
        };
        let mut newer: Vec<File> = Vec::new();
        while let Some(file) = files.pop() {
            let tail = tail(&file, wanted)?;
            if tail.lines >= wanted || files.is_empty() {
                return Ok(Some(Start { file, offset: tail.offset, newer }));
            }
            wanted -= tail.lines;
            newer.insert(0, file);
        }
        Ok(None)
    }

    /// The current file, if it is another one than that.
    pub fn successor(&self, of: &File) -> io::Result<Option<File>> {
        let same = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        match File::open(self.current()) {
            Ok(file) if same(&file.metadata()?, &of.metadata()?) => Ok(None),
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Tail {
    pub offset: u64,
    /// How many lines there are from there on.
    pub lines: u64,
}

/// Where the last `wanted` lines of a file begin, found from its end. Lines of the file that are
/// parts of one line count as one.
pub fn tail(file: &File, wanted: u64) -> io::Result<Tail> {
    let size = file.metadata()?.len();
    let mut found = Tail { offset: last_line_end(file, size)?, lines: 0 };
    let mut block = vec![0; BLOCK_BYTES];
    // The feed that ends the last line begins no other one.
    let mut end = found.offset.saturating_sub(1);
    while found.offset > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES as u64);
        let bytes = &mut block[..usize::try_from(end - begin).unwrap_or(0)];
        file.read_exact_at(bytes, begin)?;
        let feeds = bytes.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| begin + at as u64 + 1);
        for line in feeds.chain((begin == 0).then_some(0)) {
            let whole = is_whole_at(file, line)?;
            if whole && found.lines == wanted {
                return Ok(found);
            }
            found.lines += u64::from(whole);
            found.offset = line;
        }
        end = begin;
    }
    Ok(found)
}

fn is_whole_at(file: &File, offset: u64) -> io::Result<bool> {
    let mut head = [0; HEAD_BYTES_MAX];
    let read = file.read_at(&mut head, offset)?;
    Ok(is_whole(&head[..read]))
}

/// The place after the last line feed: a line that is still being written does not count.
fn last_line_end(file: &File, size: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = size;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES as u64);
        let bytes = &mut block[..usize::try_from(end - begin).unwrap_or(0)];
        file.read_exact_at(bytes, begin)?;
        if let Some(at) = bytes.iter().rposition(|&byte| byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}
