//! Tells work on a thread of its own that its result is not wanted any more: the pod was deleted,
//! or the node stops. Such a thread cannot be ended from outside; it looks at this between two
//! blocks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once it is set.
    pub fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other("it was stopped: its result is not wanted any more")) } else { Ok(()) }
    }
}

/// Kept by the caller; sets what it gave out when it is dropped.
#[derive(Debug, Default)]
pub struct Waiting(Stop);

impl Waiting {
    pub fn stop(&self) -> Stop {
        self.0.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
