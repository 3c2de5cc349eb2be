//! Opening files: ours, newer, foreign, damaged, locked, forbidden; and the format checked in.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use store::file::{FileStore, Options};
use store::{Backend, Entry, OpenError, Revision, Template, Txn, Write, file};
use tempfile::TempDir;
use twox_hash::XxHash3_64;

use crate::support::{bytes, delete, put};

const META: TableDefinition<&str, u64> = TableDefinition::new("everynode.meta");
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("everynode.objects");

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().expect("a place for files");
        Place { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store.redb")
    }

    fn open(&self) -> Result<FileStore, OpenError> {
        file::open(self.path(), Options::default())
    }

    /// Opening fails with this text (DIR stands for the place) and leaves the file's bytes and
    /// times as they were.
    fn check_refused(&self, text: &str) {
        let before = fingerprint(&self.path());
        let error = self.open().err().expect("refused");
        let place = self.directory.path().to_str().expect("UTF-8");
        assert_eq!(error.to_string().replace(place, "DIR"), text);
        assert_eq!(fingerprint(&self.path()), before, "the file was touched");
    }
}

fn fingerprint(path: &Path) -> Option<(Vec<u8>, i64, i64, u64)> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let content = fs::read(path).unwrap_or_default();
    Some((content, metadata.mtime(), metadata.mtime_nsec(), metadata.ino()))
}

fn set_meta(path: &Path, name: &str, number: u64) {
    let database = Database::open(path).expect("opens");
    let transaction = database.begin_write().expect("begins");
    transaction.open_table(META).and_then(|mut table| Ok(table.insert(name, number).map(drop)?)).expect("inserts");
    transaction.commit().expect("commits");
}

#[test]
fn a_new_store_is_private_to_its_owner() {
    let place = Place::new();
    drop(place.open().expect("creates"));
    let mode = fs::metadata(place.path()).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.directory.path()).expect("reads").count(), 1);
}

#[test]
fn what_an_interrupted_creation_left_becomes_a_store() {
    let place = Place::new();
    fs::write(place.directory.path().join("store.redb.new"), b"half a sto").expect("writes");
    let store = place.open().expect("creates");
    store.commit(put("k", "v")).wait().expect("commits");
    drop(store);
    assert_eq!(place.open().expect("opens").revision(), Revision(2));
}

/// A new store is complete when it gets its name: what is empty was cut off, and starting anew
/// would lose a cluster without a word.
#[test]
fn an_empty_file_is_refused_and_untouched() {
    let place = Place::new();
    fs::write(place.path(), b"").expect("writes");
    place.check_refused(
        "DIR/store.redb is damaged (it is empty, and held a store before); it was left as it is: restore a backup, or save \
         what can be read with `everynode store repair`",
    );
}

#[test]
fn a_newer_format_is_refused_and_untouched() {
    let place = Place::new();
    drop(place.open().expect("creates"));
    set_meta(&place.path(), "format", 7);
    place.check_refused(
        "DIR/store.redb has store format 7, this program knows formats up to 2; use the newer everynode that wrote it \
         or restore a backup made with format 2; the file was left as it is",
    );
}

#[test]
fn a_newer_format_is_untouched_even_when_it_was_not_closed() {
    let place = Place::new();
    drop(place.open().expect("creates"));
    set_meta(&place.path(), "format", 3);
    // As a kill leaves it: redb sees that it has to repair.
    let database = Database::open(place.path()).expect("opens");
    let copy = fs::read(place.path()).expect("reads");
    drop(database);
    fs::write(place.path(), copy).expect("writes");
    place.check_refused(
        "DIR/store.redb has store format 3, this program knows formats up to 2; use the newer everynode that wrote it \
         or restore a backup made with format 2; the file was left as it is",
    );
}

#[test]
fn files_that_are_not_stores_are_refused_and_untouched() {
    let place = Place::new();
    fs::write(place.path(), b"apiVersion: v1\nkind: Pod\n").expect("writes");
    place.check_refused(
        "DIR/store.redb is not an everynode store (Not a redb database: magic number mismatch); it was left as it is, \
         give another path",
    );
    fs::write(place.path(), b"x").expect("writes");
    place.check_refused(
        "DIR/store.redb is not an everynode store (Not a redb database: magic number mismatch); it was left as it is, \
         give another path",
    );
    fs::remove_file(place.path()).expect("removes");
    drop(Database::create(place.path()).expect("creates"));
    place.check_refused(
        "DIR/store.redb is not an everynode store (a redb database, but Table 'everynode.meta' does not exist); it was \
         left as it is, give another path",
    );
}

#[test]
fn damage_is_named() {
    let place = Place::new();
    let store = place.open().expect("creates");
    store.commit(put("k", "v")).wait().expect("commits");
    drop(store);
    set_meta(&place.path(), "revision", 1);
    let error = place.open().err().expect("refused");
    let text = error.to_string();
    assert!(text.contains("is damaged (the checksum of table everynode.meta is wrong); it was left as it is"), "{text}");
}

#[test]
fn a_file_cut_short_is_refused() {
    let place = Place::new();
    drop(place.open().expect("creates"));
    let whole = fs::read(place.path()).expect("reads");
    for length in [9, 64, 320, 4_096, 5_000, whole.len() / 2] {
        fs::write(place.path(), &whole[..length]).expect("writes");
        let before = fingerprint(&place.path());
        let error = place.open().err().expect("refused");
        assert!(matches!(error, OpenError::Damaged { .. }), "{length} bytes: {error}");
        assert_eq!(fingerprint(&place.path()), before, "{length} bytes");
    }
}

#[test]
fn a_directory_a_missing_directory_and_a_device_are_named() {
    let place = Place::new();
    fs::create_dir(place.path()).expect("creates");
    place.check_refused("DIR/store.redb is a directory; give the path of the store's file, such as DIR/store.redb/store.redb");
    let missing = place.directory.path().join("missing/store.redb");
    let error = file::open(&missing, Options::default()).err().expect("refused");
    assert!(matches!(error, OpenError::NoDirectory { .. }), "{error}");
    let error = file::open("/dev/null", Options::default()).err().expect("refused");
    assert!(matches!(error, OpenError::NotAFile { .. }), "{error}");
}

#[test]
fn a_store_in_use_is_refused() {
    let place = Place::new();
    let first = place.open().expect("creates");
    let error = place.open().err().expect("refused");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    first.commit(put("k", "v")).wait().expect("goes on");
    drop(first);
    assert_eq!(place.open().expect("opens").revision(), Revision(2));
}

#[test]
fn a_store_that_another_process_is_making_is_refused() {
    let place = Place::new();
    let new = fs::File::create(place.directory.path().join("store.redb.new")).expect("creates");
    new.lock().expect("locks");
    let error = place.open().err().expect("refused");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    drop(new);
    assert!(place.open().is_ok());
}

#[test]
fn missing_permission_is_named() {
    let place = Place::new();
    drop(place.open().expect("creates"));
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o400)).expect("changes");
    // Root may do everything; runs of the tests without root check the rule then.
    if fs::OpenOptions::new().write(true).open(place.path()).is_err() {
        place.check_refused("no permission to open DIR/store.redb; run as its owner, or give its owner read and write access");
    }
}

/// What the checked-in files hold; made by [`write_fixture`].
const FIXTURE_1: &[u8] = include_bytes!("../fixtures/format-1.redb");
const FIXTURE_2: &[u8] = include_bytes!("../fixtures/format-2.redb");

fn write_fixture(path: &Path) {
    let store = file::open(path, Options::default()).expect("creates");
    let pod = Write::Put {
        key: bytes("pods/default/a"),
        value: Template { bytes: b"{\"metadata\":{\"resourceVersion\":\"\"}}".to_vec(), revision_at: Some(32) },
    };
    store.commit(Txn::one(None, pod)).wait().expect("commits");
    store.commit(put("pods/default/b", "first")).wait().expect("commits");
    store.commit(put("pods/default/b", "second")).wait().expect("commits");
    store.commit(put("gone", "x")).wait().expect("commits");
    store.commit(delete("gone")).wait().expect("commits");
    store.commit(put("binary/\u{0}\u{ff}", "")).wait().expect("commits");
}

fn check_fixture(path: &Path) {
    let store = file::open(path, Options::default()).expect("it opens");
    let page = store.range(b"", None, None).expect("works");
    let entry = |key: &str, value: &str, created, modified| {
        let entry = Entry { value: bytes(value), created: Revision(created), modified: Revision(modified) };
        (bytes(key), entry)
    };
    assert_eq!(page.revision, Revision(7));
    assert_eq!(
        page.entries,
        [
            entry("binary/\u{0}\u{ff}", "", 7, 7),
            entry("pods/default/a", "{\"metadata\":{\"resourceVersion\":\"2\"}}", 2, 2),
            entry("pods/default/b", "second", 3, 4),
        ]
    );
    let next = store.commit(put("k", "v")).wait().expect("commits");
    assert_eq!(next.revision, Revision(8));
}

#[test]
fn formats_as_checked_in_open() {
    for fixture in [FIXTURE_1, FIXTURE_2] {
        let place = Place::new();
        fs::write(place.path(), fixture).expect("writes");
        check_fixture(&place.path());
        // What was brought to the current format, too.
        assert_eq!(place.open().expect("opens again").revision(), Revision(8));
        assert_eq!(numbers(&place.path())[2], ("format".to_owned(), 2));
    }
}

/// A new format begins with a new file beside the others: EVERYNODE_WRITE_FIXTURE names it.
#[test]
fn what_is_written_today_is_format_2() {
    let place = Place::new();
    write_fixture(&place.path());
    if let Some(path) = std::env::var_os("EVERYNODE_WRITE_FIXTURE") {
        fs::copy(place.path(), path).expect("writes");
    }
    assert_eq!(numbers(&place.path()), numbers_of(FIXTURE_2));
    check_fixture(&place.path());
}

/// Table everynode.meta, read without the store.
fn numbers(path: &Path) -> Vec<(String, u64)> {
    let database = Database::open(path).expect("a redb file");
    let transaction = database.begin_read().expect("begins");
    let meta = transaction.open_table(META).expect("is there");
    let rows = meta.iter().expect("reads").map(|row| row.expect("reads"));
    rows.map(|(name, number)| (name.value().to_owned(), number.value())).collect()
}

fn numbers_of(fixture: &[u8]) -> Vec<(String, u64)> {
    let place = Place::new();
    fs::write(place.path(), fixture).expect("writes");
    numbers(&place.path())
}

/// Byte by byte as docs/store-format.md says, read without the store.
#[test]
fn the_bytes_are_as_specified() {
    let number = |name: &str, number: u64| (name.to_owned(), number);
    assert_eq!(numbers_of(FIXTURE_1), [number("format", 1), number("revision", 7)]);
    let [checksum, contents, format, records, revision] = numbers_of(FIXTURE_2).try_into().expect("five numbers");
    assert_eq!((format, records, revision), (number("format", 2), number("records", 3), number("revision", 7)));
    let hash = |parts: &[u64]| XxHash3_64::oneshot(&parts.iter().flat_map(|part| part.to_le_bytes()).collect::<Vec<u8>>());
    assert_eq!(checksum, number("checksum", hash(&[2, 7, 3, contents.1])));
    let rows = [("binary/\u{0}\u{ff}", ""), ("pods/default/a", "{\"metadata\":{\"resourceVersion\":\"2\"}}"), ("pods/default/b", "second")];
    let content =
        |(key, value): (&str, &str)| XxHash3_64::oneshot(&[&(key.len() as u64).to_le_bytes(), key.as_bytes(), value.as_bytes()].concat());
    assert_eq!(contents, number("contents", rows.map(content).into_iter().fold(0, u64::wrapping_add)));
    let checksum = hash(&[content(rows[2]), 3, 4]).to_le_bytes();
    let second = [b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0".as_slice(), &checksum, b"second"].concat();
    for (fixture, bytes) in [(FIXTURE_1, b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0second".to_vec()), (FIXTURE_2, second)] {
        let place = Place::new();
        fs::write(place.path(), fixture).expect("writes");
        let database = Database::open(place.path()).expect("a redb file");
        let transaction = database.begin_read().expect("begins");
        let objects = transaction.open_table(OBJECTS).expect("is there");
        let row = objects.get(b"pods/default/b".as_slice()).expect("reads").expect("is there");
        assert_eq!(row.value(), bytes);
    }
}
