//! What a file still holds, whatever happened to it: for checking, exporting and repairing. Nothing
//! here writes to the file itself.

use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::Database;
use redb::backends::FileBackend;

use super::checksum::Sum;
use super::format::{self, Meta, ObjectTable};
use super::guard::guarded;
use super::held_back::HeldBack;
use super::{open, scan};
use crate::objects::Objects;
use crate::{Entry, OpenError, Revision};

/// So many problems are listed.
const PROBLEMS_MAX: usize = 100;

/// What was found in a file.
#[derive(Debug)]
pub struct Survey {
    /// The revision of the store, or the latest of what was found if its own number is damaged.
    pub revision: Revision,
    /// What could be read and is as it was written, in key order.
    pub records: Vec<(Bytes, Entry)>,
    /// What is wrong; empty when nothing is.
    pub problems: Vec<String>,
}

/// What a repair did.
#[derive(Debug)]
pub struct Repaired {
    /// Of the damaged file.
    pub survey: Survey,
    /// Where the damaged file is now.
    pub kept_as: PathBuf,
}

/// Reads everything that can be read and checks it. Fails when nothing can, or when the file is in
/// use or none of ours.
pub fn survey(path: &Path) -> Result<Survey, OpenError> {
    let mut survey = Survey { revision: Revision(0), records: Vec::new(), problems: Vec::new() };
    match guarded(|| open_held_back(path).and_then(|database| Ok((format::check(&database, path)?, database)))) {
        Some(Ok((format, database))) => {
            read(&database, path, format, &mut survey);
            // Closing a damaged database may panic, too.
            guarded(|| drop(database));
        }
        Some(Err(error)) => return scanned(path, error),
        None => return scanned(path, format::damaged(path, open::CONTRADICTION)),
    }
    if survey.records.is_empty() && !survey.problems.is_empty() {
        let all = survey.problems.join("; ");
        return scanned(path, format::damaged(path, all)).or(Ok(survey));
    }
    match guarded(|| open::check_pages(open_held_back(path)?, path).map(drop)) {
        Some(Ok(())) => {}
        Some(Err(error)) => survey.note(reason(error)),
        None => survey.note(open::CONTRADICTION.to_owned()),
    }
    Ok(survey)
}

/// What the pages of a file hold whose index cannot be read. `error` says why not; it is what comes
/// of it when there are no records.
fn scanned(path: &Path, error: OpenError) -> Result<Survey, OpenError> {
    let reason = match &error {
        OpenError::Damaged { reason, .. } | OpenError::NotOurs { reason, .. } => reason.clone(),
        _ => return Err(error),
    };
    let file = fs::read(path).map_err(|source| OpenError::Io { path: path.to_owned(), operation: "read", source })?;
    let records: Vec<(Bytes, Entry)> = scan::records(&file).into_iter().collect();
    let Some(latest) = records.iter().map(|(_, entry)| entry.modified).max() else { return Err(error) };
    let found = "the records were found page by page; some that were deleted may be among them";
    Ok(Survey { revision: latest, records, problems: vec![format!("{reason}: {found}")] })
}

/// Writes what can be read of a damaged file to a new one in its place, and keeps the damaged one
/// beside it. None: nothing is damaged.
pub fn repair(path: &Path) -> Result<Option<Repaired>, OpenError> {
    let survey = survey(path)?;
    if survey.problems.is_empty() {
        return Ok(None);
    }
    let io = |operation| move |source| OpenError::Io { path: path.to_owned(), operation, source };
    let new = beside(path, "repaired");
    let file = open::open_new(&new).and_then(|file| file.set_len(0).map(|()| file)).map_err(io("write beside"))?;
    let database = open::database(&new, FileBackend::new(file).map_err(|error| open::database_error(&new, error))?)?;
    let objects = Objects { revision: survey.revision, entries: survey.records.iter().cloned().collect() };
    let written = format::write_whole(&database, &objects);
    written.map_err(|source| OpenError::Disk { path: new.clone(), operation: "write to", source: Box::new(source) })?;
    drop(database);
    let kept_as = beside(path, "damaged");
    fs::rename(path, &kept_as).map_err(io("move"))?;
    fs::rename(&new, path).map_err(io("replace"))?;
    open::sync_directory(open::directory_of(path)).map_err(io("sync the directory of"))?;
    Ok(Some(Repaired { survey, kept_as }))
}

/// `store.redb.WORD`, with a number if there is one already.
fn beside(path: &Path, word: &str) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { format!(".{word}") } else { format!(".{word}-{number}") });
        PathBuf::from(name)
    };
    (0..u32::MAX).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(u32::MAX))
}

/// All writes that opening brings stay in memory.
fn open_held_back(path: &Path) -> Result<Database, OpenError> {
    let missing = || OpenError::Io { path: path.to_owned(), operation: "open", source: std::io::ErrorKind::NotFound.into() };
    let file = open::find(path)?.ok_or_else(missing)?;
    let storage = FileBackend::new(file).map_err(|error| open::database_error(path, error))?;
    let (held_back, _never) = HeldBack::new(Box::new(storage));
    open::database(path, held_back)
}

fn read(database: &Database, path: &Path, format: u64, survey: &mut Survey) {
    let opened = guarded(|| {
        let transaction = format::begin_read(database, path)?;
        let meta = format::read_meta(&transaction, path, format);
        Ok((meta, format::open_objects(&transaction, path)?))
    });
    let (meta, table) = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(error)) => return survey.note(reason(error)),
        None => return survey.note(open::CONTRADICTION.to_owned()),
    };
    let known = match meta {
        Ok(meta) => Some(meta),
        Err(error) => {
            survey.note(reason(error));
            None
        }
    };
    // Without the store's own numbers no revision is too high.
    let meta = known.unwrap_or(Meta { format, revision: Revision(u64::MAX), sum: Sum::default() });
    let sum = read_records(&table, path, &meta, survey);
    let latest = survey.records.iter().map(|(_, entry)| entry.modified).max().unwrap_or(Revision::FIRST);
    survey.revision = known.map_or(latest, |meta| meta.revision).max(latest);
    if let Some(meta) = known.filter(|meta| meta.format == format::FORMAT && meta.sum != sum) {
        survey.note(format::missing(&meta.sum, &sum));
    }
}

/// From the first record on, and where that ends too early from the last one back.
fn read_records(table: &ObjectTable, path: &Path, meta: &Meta, survey: &mut Survey) -> Sum {
    let mut sum = Sum::default();
    let mut from_start = Vec::new();
    let ended = walk(table, path, meta, Walk { is_backward: false, until: None }, &mut from_start, &mut sum, survey);
    survey.records = from_start;
    if !ended {
        let until = survey.records.last().map(|(key, _)| key.clone());
        let mut from_end = Vec::new();
        walk(table, path, meta, Walk { is_backward: true, until }, &mut from_end, &mut sum, survey);
        survey.records.extend(from_end.into_iter().rev());
    }
    sum
}

struct Walk {
    is_backward: bool,
    /// The last key that the walk from the other end found.
    until: Option<Bytes>,
}

/// Whether it came to the end.
fn walk(
    table: &ObjectTable,
    path: &Path,
    meta: &Meta,
    walk: Walk,
    records: &mut Vec<(Bytes, Entry)>,
    sum: &mut Sum,
    survey: &mut Survey,
) -> bool {
    let mut is_whole = true;
    let done = guarded(|| {
        let start = walk.until.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = match table.range::<&[u8]>((start, Bound::Unbounded)) {
            Ok(rows) => rows,
            Err(error) => return Some(reason(format::disk_error(path, error))),
        };
        loop {
            let (key, bytes) = match if walk.is_backward { rows.next_back() } else { rows.next() } {
                None => return None,
                Some(Ok(row)) => row,
                Some(Err(error)) => return Some(reason(format::disk_error(path, error))),
            };
            match format::decode(key.value(), bytes.value(), meta) {
                Ok((entry, content)) => {
                    sum.add(content);
                    records.push((Bytes::copy_from_slice(key.value()), entry));
                }
                Err(problem) => survey.note(problem),
            }
        }
    });
    match done {
        Some(None) => {}
        Some(Some(problem)) => {
            is_whole = false;
            survey.note(problem);
        }
        None => {
            is_whole = false;
            survey.note(open::CONTRADICTION.to_owned());
        }
    }
    is_whole
}

impl Survey {
    fn note(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

/// What is wrong, without what to do about it.
fn reason(error: OpenError) -> String {
    match error {
        OpenError::Damaged { reason, .. } => reason,
        error => error.to_string(),
    }
}
