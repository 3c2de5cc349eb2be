//! Power cuts at every operation of a workload, with unsynced writes lost, torn or kept.
//!
//! The workload runs once and is recorded. Each cut is then built from the journal: what was synced
//! stays, each later write independently arrives whole, in part or not at all.

use std::collections::BTreeMap;

use bytes::Bytes;
use store::file::{FileStore, Options};
use store::{Backend, Entry, Revision, Txn, file};

use crate::disk::{Disk, Operation};
use crate::model::Model;
use crate::support::{Rng, erase, put, write};

/// What disks write as a unit.
const SECTOR_BYTES: usize = 512;

/// A recorded workload: what went to the disk, and what was promised when.
struct Recording {
    image: Vec<u8>,
    journal: Vec<Operation>,
    /// (operations done, revision acknowledged by then), ascending.
    acknowledged: Vec<(usize, Revision)>,
    /// The right content at every revision.
    states: BTreeMap<Revision, BTreeMap<Bytes, Entry>>,
}

fn open(disk: &Disk) -> FileStore {
    file::open_storage(disk.clone(), Options::default()).expect("opens after any power cut")
}

fn random_txn(rng: &mut Rng) -> Txn {
    let count = 1 + rng.below(3);
    let first = rng.below(10);
    let writes = (first..first + count)
        .map(|n| match rng.below(4) {
            0 => erase(&format!("k{n}")),
            // Some values span pages, so that they can be torn.
            1 => write(&format!("k{n}"), &"v".repeat(rng.below(9_000) as usize)),
            _ => write(&format!("k{n}"), &rng.next().to_string()),
        })
        .collect();
    let guards = vec![];
    Txn { guards, writes }
}

/// Groups of one to four commits in flight, opening and closing included.
fn record(seed: u64, groups: usize) -> Recording {
    let mut rng = Rng(seed);
    let disk = Disk::default();
    drop(open(&disk));
    let image = disk.image();
    disk.record();
    let mut model = Model::unbounded();
    let mut acknowledged = vec![(0, model.revision)];
    let mut states = BTreeMap::from([(model.revision, model.entries.clone())]);
    let store = open(&disk);
    for _ in 0..groups {
        let txns: Vec<Txn> = (0..1 + rng.below(4)).map(|_| random_txn(&mut rng)).collect();
        let commits: Vec<_> = txns.iter().map(|txn| store.commit(txn.clone())).collect();
        for txn in &txns {
            model.commit(txn).expect("no guards");
            states.insert(model.revision, model.entries.clone());
        }
        for commit in commits {
            let committed = commit.wait().expect("commits");
            acknowledged.push((disk.recorded(), committed.revision));
        }
    }
    drop(store);
    let journal = disk.take_journal();
    Recording { image, journal, acknowledged, states }
}

/// What happens to writes that were not synced.
#[derive(Copy, Clone, Debug)]
enum Fate {
    Lost,
    Kept,
    /// Each on its own, by this seed.
    Torn(u64),
}

fn cut(durable: &[u8], unsynced: &[Operation], fate: Fate) -> Vec<u8> {
    let mut image = durable.to_vec();
    match fate {
        Fate::Lost => {}
        Fate::Kept => unsynced.iter().for_each(|operation| operation.apply(&mut image)),
        Fate::Torn(seed) => {
            let mut rng = Rng(seed);
            for operation in unsynced {
                tear(&mut image, operation, &mut rng);
            }
        }
    }
    image
}

fn tear(image: &mut Vec<u8>, operation: &Operation, rng: &mut Rng) {
    match (rng.below(3), operation) {
        (0, _) => {}
        (1, Operation::Write { offset, data }) => {
            for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                if rng.below(2) == 0 {
                    let part = Operation::Write { offset: offset + index * SECTOR_BYTES, data: sector.to_vec() };
                    part.apply(image);
                }
            }
        }
        _ => operation.apply(image),
    }
}

impl Recording {
    fn check(&self, image: Vec<u8>, operations: usize, context: &str) -> Disk {
        let disk = Disk::with_image(image);
        let store = open(&disk);
        let revision = store.revision();
        let index = self.acknowledged.partition_point(|(done, _)| *done <= operations);
        let (_, acknowledged) = self.acknowledged[index - 1];
        assert!(revision >= acknowledged, "{context}: lost an acknowledged commit");
        let state = self.states.get(&revision);
        let page = store.range(b"", None, None).expect("works");
        let content: BTreeMap<Bytes, Entry> = page.entries.into_iter().collect();
        assert_eq!(Some(&content), state, "{context}: content of {revision}");
        // And it goes on from there.
        let next = store.commit(put("after", "cut")).wait().expect("commits");
        assert_eq!(next.revision, Revision(revision.0 + 1), "{context}");
        drop(store);
        disk
    }

    fn sweep(&self, seeds: u64, name: &str) -> usize {
        let mut durable = self.image.clone();
        let mut synced = 0;
        let mut cuts = 0;
        for operations in 0..=self.journal.len() {
            let unsynced = &self.journal[synced..operations];
            let torn = (0..seeds).map(|seed| Fate::Torn(operations as u64 * 1_000 + seed));
            // One lost image stands for all cuts between two syncs.
            let lost = unsynced.is_empty().then_some(Fate::Lost);
            let kept = (!unsynced.is_empty()).then_some(Fate::Kept);
            let torn = torn.take(if unsynced.is_empty() { 0 } else { usize::MAX });
            for fate in lost.into_iter().chain(kept).chain(torn) {
                let context = format!("{name}, cut after {operations} operations, {fate:?}");
                self.check(cut(&durable, unsynced, fate), operations, &context);
                cuts += 1;
            }
            if matches!(self.journal.get(operations), Some(Operation::Sync)) {
                for operation in &self.journal[synced..operations] {
                    operation.apply(&mut durable);
                }
                synced = operations + 1;
            }
        }
        cuts
    }
}

#[test]
fn every_power_cut_leaves_a_whole_state_no_older_than_the_last_answer() {
    for seed in 1..=2 {
        let recording = record(seed, 12);
        let cuts = recording.sweep(2, &format!("workload {seed}"));
        assert!(cuts > 100, "only {cuts} cuts");
    }
}

/// Opening repairs, and repairing writes: a second power cut in the middle of it must not matter
/// either.
#[test]
fn a_power_cut_during_the_repair_after_a_power_cut_is_no_worse() {
    let recording = record(3, 8);
    for fraction in [3, 5, 8] {
        let operations = recording.journal.len() * fraction / 9;
        let mut image = recording.image.clone();
        for operation in &recording.journal[..operations] {
            operation.apply(&mut image);
        }
        let disk = Disk::with_image(image.clone());
        disk.record();
        let store = open(&disk);
        let revision = store.revision();
        drop(store);
        let repair = Recording { image, journal: disk.take_journal(), acknowledged: vec![(0, revision)], states: recording.states.clone() };
        repair.sweep(2, &format!("repair of a cut after {operations}"));
    }
}
