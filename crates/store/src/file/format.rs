//! What is in the file: tables and their bytes, as docs/store-format.md specifies them.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

use crate::objects::Objects;
use crate::watch::{Batch, Change};
use crate::{Entry, OpenError, Revision};

/// The format this program reads and writes.
pub(super) const FORMAT: u64 = 1;

/// Numbers about the whole store. This table, its types and `format` in it stay as they are in all future formats, so
/// that every program can tell which format it meets.
const META: TableDefinition<&str, u64> = TableDefinition::new("everynode.meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";

/// The current objects: key to header and value.
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("everynode.objects");

/// Revision of creation, then of the last change, each as 8 bytes, little endian.
const HEADER_BYTES: usize = 16;

/// Makes an empty database a store at the first revision.
pub(super) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, Revision::FIRST.0)?;
        transaction.open_table(OBJECTS)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Makes the batches durable, all or none.
pub(super) fn write<'a>(database: &Database, batches: impl Iterator<Item = &'a Batch>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        let mut revision = None;
        for batch in batches {
            write_batch(&mut objects, batch)?;
            revision = Some(batch.revision);
        }
        if let Some(revision) = revision {
            transaction.open_table(META)?.insert(META_REVISION, revision.0)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn write_batch(objects: &mut Table<&[u8], &[u8]>, batch: &Batch) -> Result<(), redb::Error> {
    for event in &batch.events {
        match &event.change {
            Change::Put { value, created, .. } => {
                let mut bytes = objects.insert_reserve(event.key.as_ref(), HEADER_BYTES + value.len())?;
                let (header, body) = bytes.as_mut().split_at_mut(HEADER_BYTES);
                header[..8].copy_from_slice(&created.0.to_le_bytes());
                header[8..].copy_from_slice(&batch.revision.0.to_le_bytes());
                body.copy_from_slice(value);
            }
            Change::Delete { .. } => {
                objects.remove(event.key.as_ref())?;
            }
        }
    }
    Ok(())
}

/// Refuses what is not a store, or one of another format. To be called before anything is written.
pub(super) fn check(database: &Database, path: &Path) -> Result<(), OpenError> {
    let transaction = begin_read(database, path)?;
    let format = read_meta(&transaction, path, META_FORMAT)?;
    match format {
        FORMAT => Ok(()),
        0 => Err(damaged(path, "its format is 0, the first was 1")),
        found => Err(OpenError::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
    }
}

/// Reads the whole store into memory.
pub(super) fn load(database: &Database, path: &Path) -> Result<Objects, OpenError> {
    let transaction = begin_read(database, path)?;
    let revision = Revision(read_meta(&transaction, path, META_REVISION)?);
    let table = transaction.open_table(OBJECTS).map_err(|error| table_error(path, error))?;
    let rows = table.iter().map_err(|error| disk_error(path, error))?;
    // Rows come in key order, which lets the map be built in one go.
    let entries: BTreeMap<Bytes, Entry> = rows
        .map(|row| {
            let (key, bytes) = row.map_err(|error| disk_error(path, error))?;
            let entry = decode(path, key.value(), bytes.value(), revision)?;
            Ok((Bytes::copy_from_slice(key.value()), entry))
        })
        .collect::<Result<_, OpenError>>()?;
    Ok(Objects { revision, entries })
}

fn decode(path: &Path, key: &[u8], bytes: &[u8], latest: Revision) -> Result<Entry, OpenError> {
    let key = key.escape_ascii();
    let Some((header, value)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        let length = bytes.len();
        return Err(damaged(path, format!("the row of key {key} has {length} bytes, too few for its header")));
    };
    let header = u128::from_le_bytes(*header);
    let created = Revision(header as u64);
    let modified = Revision((header >> 64) as u64);
    if created > modified || modified > latest {
        return Err(damaged(path, format!("key {key} was created at {created} and modified at {modified} in a store at {latest}")));
    }
    Ok(Entry { value: Bytes::copy_from_slice(value), created, modified })
}

fn begin_read(database: &Database, path: &Path) -> Result<ReadTransaction, OpenError> {
    database.begin_read().map_err(|error| disk_error(path, error))
}

fn read_meta(transaction: &ReadTransaction, path: &Path, name: &str) -> Result<u64, OpenError> {
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

fn disk_error(path: &Path, error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Corrupted(reason) => damaged(path, reason),
        source => OpenError::Disk { path: path.to_owned(), operation: "read", source: Box::new(source) },
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), reason: reason.into() }
}
