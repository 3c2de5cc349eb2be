//! A disk in memory that can fail, can hold syncs back, and keeps a journal from which power cuts
//! are made.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use redb::StorageBackend;

/// Cloning gives another handle on the same disk, so an image outlives the store on it.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<DiskState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DiskState {
    image: Vec<u8>,
    journal: Option<Vec<Operation>>,
    operations: u64,
    fault: Option<Fault>,
    syncs_held: bool,
    syncs_waiting: usize,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

/// Changing operations from number `from` (exclusive of `until`) fail, counted from when the fault
/// was set.
#[derive(Copy, Clone, Debug)]
pub struct Fault {
    pub from: u64,
    pub until: u64,
}

impl Operation {
    pub fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Operation::Write { offset, data } => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(data);
            }
            Operation::SetLen(len) => image.resize(*len, 0),
            Operation::Sync => {}
        }
    }
}

impl Disk {
    pub fn with_image(image: Vec<u8>) -> Disk {
        let disk = Disk::default();
        disk.state().image = image;
        disk
    }

    pub fn image(&self) -> Vec<u8> {
        self.state().image.clone()
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.operations = 0;
        state.fault = fault;
    }

    pub fn record(&self) {
        self.state().journal = Some(Vec::new());
    }

    pub fn recorded(&self) -> usize {
        self.state().journal.as_ref().map_or(0, Vec::len)
    }

    pub fn take_journal(&self) -> Vec<Operation> {
        self.state().journal.take().unwrap_or_default()
    }

    /// Lets no sync finish until the guard is dropped, also by a failing test: a store that closes
    /// waits for its syncs.
    #[must_use]
    pub fn hold_syncs(&self) -> SyncsHeld {
        self.state().syncs_held = true;
        SyncsHeld(self.clone())
    }

    /// Blocks until a thread waits in a sync.
    pub fn wait_for_sync(&self) {
        let mut state = self.state();
        while state.syncs_waiting == 0 {
            state = self.0.changed.wait(state).expect("not poisoned");
        }
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.state.lock().expect("not poisoned")
    }

    fn change(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        if state.fault.is_some_and(|fault| (fault.from..fault.until).contains(&number)) {
            return Err(io::Error::other("the disk was told to fail"));
        }
        operation.apply(&mut state.image);
        if let Some(journal) = &mut state.journal {
            journal.push(operation);
        }
        Ok(())
    }
}

pub struct SyncsHeld(Disk);

impl SyncsHeld {
    pub fn release(self) {}
}

impl Drop for SyncsHeld {
    fn drop(&mut self) {
        self.0.state().syncs_held = false;
        self.0.0.changed.notify_all();
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let start = offset as usize;
        let stored = state.image.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(stored);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.syncs_waiting += 1;
        self.0.changed.notify_all();
        while state.syncs_held {
            state = self.0.changed.wait(state).expect("not poisoned");
        }
        state.syncs_waiting -= 1;
        drop(state);
        self.change(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        let data = data.to_vec();
        self.change(Operation::Write { offset, data })
    }
}
