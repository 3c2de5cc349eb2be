//! What is in the file: tables and their bytes, as docs/store-format.md specifies them.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

use super::checksum::{self, Sum};
use crate::change::{Batch, Change};
use crate::objects::Objects;
use crate::{Entry, OpenError, Revision};

/// The format this program writes.
pub(super) const FORMAT: u64 = 2;

/// The first one, without checksums. It is read, and brought to the current one.
const FORMAT_WITHOUT_CHECKSUMS: u64 = 1;

/// Numbers about the whole store. This table, its types and `format` in it stay as they are in all
/// future formats, so that every program can tell which format it meets.
const META: TableDefinition<&str, u64> = TableDefinition::new("everynode.meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_RECORDS: &str = "records";
const META_CONTENTS: &str = "contents";
const META_CHECKSUM: &str = "checksum";

/// The current objects: key to header and value.
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("everynode.objects");

/// Revision of creation, then of the last change, then the checksum, each as 8 bytes, little
/// endian.
const HEADER_BYTES: usize = 24;

/// The header of format 1: without the checksum.
const OLD_HEADER_BYTES: usize = 16;

/// The numbers of a store, as its table of them has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) format: u64,
    pub(super) revision: Revision,
    pub(super) sum: Sum,
}

impl Meta {
    fn checksum(&self) -> u64 {
        checksum::numbers(&[self.format, self.revision.0, self.sum.records, self.sum.contents])
    }
}

/// What was read of a store.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) objects: Objects,
    pub(super) sum: Sum,
    format: u64,
}

/// Makes an empty database a store at the first revision.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    write_whole(database, &Objects::empty())
}

/// Makes the database a store of the current format with these objects, whatever it held.
pub(super) fn write_whole(database: &Database, objects: &Objects) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.delete_table(OBJECTS)?;
    {
        let mut table = transaction.open_table(OBJECTS)?;
        let mut sum = Sum::default();
        for (key, entry) in &objects.entries {
            sum.add(write_record(&mut table, key, &entry.value, entry.created, entry.modified)?);
        }
        write_meta(&mut transaction.open_table(META)?, &Meta { format: FORMAT, revision: objects.revision, sum })?;
    }
    transaction.commit()?;
    Ok(())
}

/// Brings a store of an older format to the current one, wholly or not at all.
pub(super) fn upgrade(database: &Database, loaded: &Loaded) -> Result<(), redb::Error> {
    if loaded.format == FORMAT { Ok(()) } else { write_whole(database, &loaded.objects) }
}

/// Makes the batches durable, all or none; `sum` is that of the store, before and after.
pub(super) fn write<'a>(database: &Database, batches: impl Iterator<Item = &'a Batch>, sum: &mut Sum) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        let mut revision = None;
        for batch in batches {
            write_batch(&mut objects, batch, sum)?;
            revision = Some(batch.revision);
        }
        if let Some(revision) = revision {
            write_meta(&mut transaction.open_table(META)?, &Meta { format: FORMAT, revision, sum: *sum })?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn write_batch(objects: &mut Table<&[u8], &[u8]>, batch: &Batch, sum: &mut Sum) -> Result<(), redb::Error> {
    for event in &batch.events {
        let key = event.key.as_ref();
        match &event.change {
            Change::Put { value, created, previous } => {
                if let Some(previous) = previous {
                    sum.remove(checksum::content(key, previous));
                }
                sum.add(write_record(objects, key, value, *created, batch.revision)?);
            }
            Change::Delete { previous, .. } => {
                sum.remove(checksum::content(key, previous));
                objects.remove(key)?;
            }
        }
    }
    Ok(())
}

/// Answers the checksum of the content.
fn write_record(
    objects: &mut Table<&[u8], &[u8]>,
    key: &[u8],
    value: &[u8],
    created: Revision,
    modified: Revision,
) -> Result<u64, redb::Error> {
    let content = checksum::content(key, value);
    let mut bytes = objects.insert_reserve(key, HEADER_BYTES + value.len())?;
    let (header, body) = bytes.as_mut().split_at_mut(HEADER_BYTES);
    header[..8].copy_from_slice(&created.0.to_le_bytes());
    header[8..16].copy_from_slice(&modified.0.to_le_bytes());
    header[16..].copy_from_slice(&checksum::record(content, created, modified).to_le_bytes());
    body.copy_from_slice(value);
    Ok(content)
}

fn write_meta(table: &mut Table<&str, u64>, meta: &Meta) -> Result<(), redb::Error> {
    table.insert(META_FORMAT, meta.format)?;
    table.insert(META_REVISION, meta.revision.0)?;
    table.insert(META_RECORDS, meta.sum.records)?;
    table.insert(META_CONTENTS, meta.sum.contents)?;
    table.insert(META_CHECKSUM, meta.checksum())?;
    Ok(())
}

/// Refuses what is not a store, or one of another format. To be called before anything is written.
pub(super) fn check(database: &Database, path: &Path) -> Result<u64, OpenError> {
    let transaction = begin_read(database, path)?;
    let format = read_number(&transaction, path, META_FORMAT)?;
    match format {
        FORMAT_WITHOUT_CHECKSUMS | FORMAT => Ok(format),
        0 => Err(damaged(path, "its format is 0, the first was 1")),
        found => Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
    }
}

/// The numbers of the store; those of format 1 have no checksum and say nothing of the records.
pub(super) fn read_meta(transaction: &ReadTransaction, path: &Path, format: u64) -> Result<Meta, OpenError> {
    let number = |name| read_number(transaction, path, name);
    let revision = Revision(number(META_REVISION)?);
    if format == FORMAT_WITHOUT_CHECKSUMS {
        return Ok(Meta { format, revision, sum: Sum::default() });
    }
    let sum = Sum { records: number(META_RECORDS)?, contents: number(META_CONTENTS)? };
    let meta = Meta { format, revision, sum };
    if number(META_CHECKSUM)? != meta.checksum() {
        return Err(damaged(path, "the checksum of table everynode.meta is wrong"));
    }
    Ok(meta)
}

/// Reads the whole store into memory, and checks every record.
pub(super) fn load(database: &Database, path: &Path) -> Result<Loaded, OpenError> {
    let format = check(database, path)?;
    let transaction = begin_read(database, path)?;
    let meta = read_meta(&transaction, path, format)?;
    let table = open_objects(&transaction, path)?;
    let rows = table.iter().map_err(|error| disk_error(path, error))?;
    let mut sum = Sum::default();
    // Rows come in key order, which lets the map be built in one go.
    let entries: BTreeMap<Bytes, Entry> = rows
        .map(|row| {
            let (key, bytes) = row.map_err(|error| disk_error(path, error))?;
            let (entry, content) = decode(key.value(), bytes.value(), &meta).map_err(|reason| damaged(path, reason))?;
            sum.add(content);
            Ok((Bytes::copy_from_slice(key.value()), entry))
        })
        .collect::<Result<_, OpenError>>()?;
    if format == FORMAT && sum != meta.sum {
        return Err(damaged(path, missing(&meta.sum, &sum)));
    }
    Ok(Loaded { objects: Objects { revision: meta.revision, entries }, sum, format })
}

pub(super) type ObjectTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(super) fn open_objects(transaction: &ReadTransaction, path: &Path) -> Result<ObjectTable, OpenError> {
    transaction.open_table(OBJECTS).map_err(|error| table_error(path, error))
}

pub(super) fn missing(wanted: &Sum, found: &Sum) -> String {
    if wanted.records == found.records {
        "its records are not all of the same moment".to_owned()
    } else {
        format!("it should hold {} records and holds {}", wanted.records, found.records)
    }
}

/// A row as an entry, with the checksum of its content; or what is wrong with it.
pub(super) fn decode(key: &[u8], bytes: &[u8], meta: &Meta) -> Result<(Entry, u64), String> {
    let name = key.escape_ascii();
    let header_bytes = if meta.format == FORMAT_WITHOUT_CHECKSUMS { OLD_HEADER_BYTES } else { HEADER_BYTES };
    let Some((header, value)) = bytes.split_at_checked(header_bytes) else {
        return Err(format!("the row of key {name} has {} bytes, too few for its header", bytes.len()));
    };
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes of a header that has them"));
    let (created, modified) = (Revision(number(0)), Revision(number(8)));
    let content = checksum::content(key, value);
    if meta.format != FORMAT_WITHOUT_CHECKSUMS && number(16) != checksum::record(content, created, modified) {
        return Err(format!("the checksum of key {name} is wrong"));
    }
    if created > modified || modified > meta.revision {
        return Err(format!("key {name} was created at {created} and modified at {modified} in a store at {}", meta.revision));
    }
    Ok((Entry { value: Bytes::copy_from_slice(value), created, modified }, content))
}

pub(super) fn begin_read(database: &Database, path: &Path) -> Result<ReadTransaction, OpenError> {
    database.begin_read().map_err(|error| disk_error(path, error))
}

fn read_number(transaction: &ReadTransaction, path: &Path, name: &str) -> Result<u64, OpenError> {
    let meta = transaction.open_table(META).map_err(|error| table_error(path, error))?;
    let number = meta.get(name).map_err(|error| disk_error(path, error))?;
    number.map(|number| number.value()).ok_or_else(|| damaged(path, format!("{name} is missing in table everynode.meta")))
}

fn table_error(path: &Path, error: TableError) -> OpenError {
    match error {
        TableError::Storage(error) => disk_error(path, error),
        error => OpenError::NotOurs { path: path.to_owned(), reason: format!("a redb database, but {error}") },
    }
}

pub(super) fn disk_error(path: &Path, error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Corrupted(reason) => damaged(path, reason),
        source => OpenError::Disk { path: path.to_owned(), operation: "read", source: Box::new(source) },
    }
}

pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), reason: reason.into() }
}
