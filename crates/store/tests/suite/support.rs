//! Short forms for the tests.

use bytes::Bytes;
use store::{Expect, Template, Txn, Write};

pub fn bytes(text: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref())
}

pub fn write(key: &str, value: &str) -> Write {
    Write::Put { key: bytes(key), value: Template::plain(value) }
}

pub fn erase(key: &str) -> Write {
    Write::Delete { key: bytes(key), last: None }
}

pub fn put(key: &str, value: &str) -> Txn {
    Txn::one(None, write(key, value))
}

pub fn put_if(expect: Expect, key: &str, value: &str) -> Txn {
    Txn::one(Some(expect), write(key, value))
}

pub fn delete(key: &str) -> Txn {
    Txn::one(None, erase(key))
}

/// SplitMix64: small, good enough, and the same on every machine.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
