//! A storage that holds writes back until the file is known to be a store this program may write
//! to.
//!
//! redb writes on opening: it marks the file as in use, and repairs it after a crash. A file that
//! then turns out to belong to another program, or to be of a newer format, would be changed by
//! merely looking at it. So operations are kept in a log that reads look through, and are carried
//! out in their order, syncs included, on [`Release::release`]. Opening writes little, so the log
//! stays short; what is never released is never written.

use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redb::{BackendError, StorageBackend};

use crate::lock::lock;

#[derive(Debug)]
pub(super) struct HeldBack(Arc<Gate>);

/// Lets the writes of its [`HeldBack`] through.
pub(super) struct Release(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    storage: Box<dyn StorageBackend>,
    /// Changes once, from true to false, while `log` is locked.
    holding: AtomicBool,
    log: Mutex<Vec<Operation>>,
}

#[derive(Debug)]
enum Operation {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
    Sync,
}

impl HeldBack {
    pub(super) fn new(storage: Box<dyn StorageBackend>) -> (HeldBack, Release) {
        let gate = Arc::new(Gate { storage, holding: AtomicBool::new(true), log: Mutex::new(Vec::new()) });
        (HeldBack(Arc::clone(&gate)), Release(gate))
    }
}

impl Release {
    pub(super) fn release(self) -> io::Result<()> {
        let mut log = lock(&self.0.log);
        for operation in log.drain(..) {
            match operation {
                Operation::Write { offset, data } => self.0.storage.write(offset, &data)?,
                Operation::SetLen(len) => self.0.storage.set_len(len)?,
                Operation::Sync => self.0.storage.sync_data()?,
            }
        }
        self.0.holding.store(false, Ordering::Release);
        Ok(())
    }
}

impl Gate {
    /// Runs one on the log while holding, the other on the storage afterwards.
    fn either<T>(
        &self,
        held: impl FnOnce(&mut Vec<Operation>) -> io::Result<T>,
        released: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.holding.load(Ordering::Acquire) {
            let mut log = lock(&self.log);
            if self.holding.load(Ordering::Acquire) {
                return held(&mut log);
            }
        }
        released()
    }

    fn len_held(&self, log: &[Operation]) -> io::Result<u64> {
        log.iter().try_fold(self.storage.len()?, |len, operation| {
            Ok(match operation {
                Operation::Write { offset, data } => len.max(offset + data.len() as u64),
                Operation::SetLen(len) => *len,
                Operation::Sync => len,
            })
        })
    }

    fn read_held(&self, log: &[Operation], offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.len_held(log)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let on_disk = self.storage.len()?.clamp(offset, end) - offset;
        let (stored, beyond) = out.split_at_mut(on_disk as usize);
        self.storage.read(offset, stored)?;
        beyond.fill(0);
        for operation in log {
            match operation {
                Operation::Write { offset: at, data } => overlay(out, offset, data, *at),
                Operation::SetLen(len) => {
                    let kept = len.clamp(&offset, &end) - offset;
                    out[kept as usize..].fill(0);
                }
                Operation::Sync => {}
            }
        }
        Ok(())
    }
}

/// Copies the part of `data` (which starts at `at`) that lies in `out` (which starts at `offset`).
fn overlay(out: &mut [u8], offset: u64, data: &[u8], at: u64) {
    let start = offset.max(at);
    let end = (offset + out.len() as u64).min(at + data.len() as u64);
    if start < end {
        let from = &data[(start - at) as usize..(end - at) as usize];
        out[(start - offset) as usize..(end - offset) as usize].copy_from_slice(from);
    }
}

impl StorageBackend for HeldBack {
    fn len(&self) -> io::Result<u64> {
        let gate = &self.0;
        gate.either(|log| gate.len_held(log), || gate.storage.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let gate = &self.0;
        if gate.holding.load(Ordering::Acquire) {
            let log = lock(&gate.log);
            if gate.holding.load(Ordering::Acquire) {
                return gate.read_held(&log, offset, out);
            }
        }
        gate.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let gate = &self.0;
        let hold = |log: &mut Vec<Operation>| {
            log.push(Operation::SetLen(len));
            Ok(())
        };
        gate.either(hold, || gate.storage.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let gate = &self.0;
        let hold = |log: &mut Vec<Operation>| {
            log.push(Operation::Sync);
            Ok(())
        };
        gate.either(hold, || gate.storage.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let gate = &self.0;
        let hold = |log: &mut Vec<Operation>| {
            let data = data.to_vec();
            log.push(Operation::Write { offset, data });
            Ok(())
        };
        gate.either(hold, || gate.storage.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.0.storage.close()
    }

    // Locks change nothing in the file and are passed on at once.

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.storage.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.storage.query_lock_range(start, end)
    }
}
