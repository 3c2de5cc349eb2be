//! Files whose bytes changed: they open with every record as it was, or are refused and stay as
//! they are. Nothing in between, and no panic.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use store::file::{self, Options};
use store::{Backend, Entry, Revision};

use crate::support::{Rng, delete, put};

/// EVERYNODE_DAMAGES asks for more.
const DAMAGES: u64 = 60;

type Content = (Revision, Vec<(Bytes, Entry)>);

/// A store after some life, closed or as a kill leaves it; and what it may hold: after a kill the
/// last commit may be one that was never acknowledged, so one that is damaged is left out, as redb
/// cannot tell them apart.
fn lived(path: &Path, is_closed: bool) -> (Vec<u8>, Vec<Content>) {
    let store = file::open(path, Options::default()).expect("creates");
    for round in 0..4u32 {
        for n in 0..60u32 {
            let key = format!("/registry/pods/default/pod-{n}");
            let length = (n * 37 % 11 * 300 + round * 10) as usize;
            let txn = if (n + round) % 7 == 6 { delete(&key) } else { put(&key, &format!("{round}{}", "x".repeat(length))) };
            // Deleting what is not there is refused, which is fine here.
            let _ = store.commit(txn).wait();
        }
    }
    let before = content(&store);
    store.commit(put("/registry/pods/default/pod-0", "the last")).wait().expect("commits");
    let last = content(&store);
    if !is_closed {
        return (fs::read(path).expect("reads"), vec![last, before]);
    }
    drop(store);
    (fs::read(path).expect("reads"), vec![last])
}

fn content(store: &impl Backend) -> Content {
    let page = store.range(b"", None, None).expect("works");
    (page.revision, page.entries)
}

struct Random(Rng);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0.below(limit as u64) as usize
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) -> String {
        match self.below(10) {
            0 => {
                bytes.truncate(self.below(bytes.len()));
                format!("cut to {} bytes", bytes.len())
            }
            1 => {
                let at = self.below(bytes.len() / 512) * 512;
                bytes[at..at + 512].fill(0);
                format!("zeros at {at}")
            }
            2 => {
                let (from, to) = (self.below(bytes.len() / 4096) * 4096, self.below(bytes.len() / 4096) * 4096);
                bytes.copy_within(from..from + 4096, to);
                format!("page {from} copied to {to}")
            }
            // Also close to the start, where everything hangs on.
            kind => {
                let within = if kind < 6 { bytes.len() } else { bytes.len().min(64 * 1024) };
                let flips: Vec<usize> = (0..=self.below(4)).map(|_| self.below(within * 8)).collect();
                flips.iter().for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
                format!("bits {flips:?} flipped")
            }
        }
    }
}

#[test]
fn damaged_files_open_whole_or_are_refused_and_untouched() {
    let damages = std::env::var("EVERYNODE_DAMAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(DAMAGES);
    let seed = std::env::var("EVERYNODE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    let place = tempfile::tempdir().expect("a place for files");
    let path = place.path().join("store.redb");
    let images = [true, false].map(|is_closed| {
        let _ = fs::remove_file(&path);
        lived(&path, is_closed)
    });
    let (mut opened, mut refused, mut salvaged) = (0, 0, 0);
    for number in 0..damages {
        let mut random = Random(Rng(seed + number));
        let (image, expected) = &images[random.below(images.len())];
        let mut bytes = image.clone();
        let what = format!("EVERYNODE_SEED={} EVERYNODE_DAMAGES=1: {}", seed + number, random.damage(&mut bytes));
        fs::write(&path, &bytes).expect("writes");
        match file::open(&path, Options::default()) {
            Ok(store) => {
                let found = content(&store);
                assert!(expected.contains(&found), "{what}: opened with other content");
                store.commit(put("after", "x")).wait().unwrap_or_else(|error| panic!("{what}: {error}"));
                drop(store);
                let again = file::open(&path, Options::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(again.revision(), found.0.next(), "{what}");
                opened += 1;
            }
            Err(error) => {
                assert!(fs::read(&path).expect("reads") == bytes, "{what}: refused and changed");
                let text = error.to_string();
                assert!(text.contains("left as it is") && !text.contains("os error"), "{what}: {text}");
                salvaged += usize::from(check_repair(&path, &bytes, expected, &what));
                refused += 1;
            }
        }
    }
    println!("{damages} damaged files: {opened} opened whole, {refused} refused, {salvaged} of these repaired");
}

/// What a repair keeps is as it was, the damaged file stays, and the repaired one opens. False:
/// nothing could be read.
fn check_repair(path: &Path, bytes: &[u8], expected: &[Content], what: &str) -> bool {
    let Ok(Some(repaired)) = file::repair(path) else {
        assert!(fs::read(path).expect("reads") == bytes, "{what}: not repaired and changed");
        return false;
    };
    assert!(fs::read(&repaired.kept_as).expect("reads") == bytes, "{what}: the damaged file was changed");
    fs::remove_file(&repaired.kept_as).expect("removes");
    let store = file::open(path, Options::default()).unwrap_or_else(|error| panic!("{what}: the repaired file: {error}"));
    let (_, entries) = content(&store);
    assert!(!repaired.survey.problems.is_empty() && entries == repaired.survey.records, "{what}");
    // An old page in the place of a newer one brings back what was true once: it is one of the four
    // values that the key had.
    let is_written = |entry: &(Bytes, Entry)| expected[0].1.contains(entry) || entry.1.value.iter().skip(1).all(|&byte| byte == b'x');
    assert!(entries.iter().all(is_written), "{what}: a record is not what was written");
    true
}

/// Of a store that was killed, one page that held the root of the index lost everything; the
/// checksum of every record identifies it.
#[test]
fn a_page_that_is_lost_loses_what_was_on_it() {
    let place = tempfile::tempdir().expect("a place for files");
    let path = place.path().join("store.redb");
    for is_closed in [true, false] {
        let _ = fs::remove_file(&path);
        let (image, expected) = lived(&path, is_closed);
        let all = expected[0].1.len();
        let mut repaired = 0;
        for page in 1..image.len() / 4096 {
            let mut bytes = image.clone();
            bytes[page * 4096..(page + 1) * 4096].fill(0);
            fs::write(&path, &bytes).expect("writes");
            if file::open(&path, Options::default()).is_ok() {
                continue;
            }
            let what = format!("page {page}, closed: {is_closed}");
            assert!(check_repair(&path, &bytes, &expected, &what), "{what}: nothing was saved");
            let left = content(&file::open(&path, Options::default()).expect("it was repaired")).1.len();
            assert!(left * 2 > all, "{what}: {left} of {all} were saved");
            repaired += 1;
        }
        assert!(repaired > 3, "{repaired} pages mattered");
    }
}
