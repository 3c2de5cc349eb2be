//! Transactions: what is asked of the store, and what it answers.

use bytes::Bytes;

use crate::Revision;

/// A value to be stored, with the place where the store writes the revision it gets.
///
/// Objects carry their own resourceVersion. Since only the store knows the revision, and since
/// store, caches and answers are to share one allocation, the store completes the bytes itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Template {
    pub bytes: Vec<u8>,
    /// Offset at which the decimal digits of the revision are inserted (nothing is overwritten).
    pub revision_at: Option<usize>,
}

impl Template {
    /// Bytes that are stored as they are.
    pub fn plain(bytes: impl Into<Vec<u8>>) -> Template {
        Template { bytes: bytes.into(), revision_at: None }
    }
}

/// What must be true of a key for a transaction to take place.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Expect {
    Absent,
    Present,
    /// Present and last modified at exactly this revision.
    Modified(Revision),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guard {
    pub key: Bytes,
    pub expect: Expect,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    Put {
        key: Bytes,
        value: Template,
    },
    /// Deleting an absent key has no effect; add a guard where that should be a conflict.
    Delete {
        key: Bytes,
        /// The final state to show watchers, with the revision of the deletion in it.
        last: Option<Template>,
    },
}

impl Write {
    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put { key, .. } | Write::Delete { key, .. } => key,
        }
    }

    pub(crate) fn template(&self) -> Option<&Template> {
        match self {
            Write::Put { value, .. } => Some(value),
            Write::Delete { last, .. } => last.as_ref(),
        }
    }
}

/// All writes take place at one revision if all guards hold, else none does. A key may be written
/// once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Txn {
    pub guards: Vec<Guard>,
    pub writes: Vec<Write>,
}

impl Txn {
    /// A transaction of one guarded write, by far the commonest.
    pub fn one(expect: Option<Expect>, write: Write) -> Txn {
        let guards = expect.map(|expect| Guard { key: write.key().clone(), expect }).into_iter().collect();
        Txn { guards, writes: vec![write] }
    }
}

/// The answer to a transaction that took place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Committed {
    /// The revision of the change; of the state the guards held in, when no write had an effect.
    pub revision: Revision,
    /// Per write the bytes as stored (put) or as shown to watchers (effective delete with `last`).
    pub values: Vec<Option<Bytes>>,
}
