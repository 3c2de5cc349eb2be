//! A limit for what is read between two points, set while other code holds the reader.

use std::cell::Cell;
use std::io::{self, Read};

/// Bytes that may still be read.
pub struct Budget(Cell<u64>);

impl Budget {
    pub fn new(bytes: u64) -> Budget {
        Budget(Cell::new(bytes))
    }

    pub fn set(&self, bytes: u64) {
        self.0.set(bytes);
    }
}

pub struct Metered<'a, R> {
    inner: R,
    budget: &'a Budget,
}

impl<'a, R: Read> Metered<'a, R> {
    pub fn new(inner: R, budget: &'a Budget) -> Metered<'a, R> {
        Metered { inner, budget }
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.0.get();
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the headers of an entry are too large"));
        }
        let n = self.inner.read(&mut buffer[..wanted])?;
        self.budget.0.set(left - n as u64);
        Ok(n)
    }
}
