//! What transactions changed, as watches yield it.

use bytes::Bytes;

use crate::Revision;

/// What one transaction changed under the watched prefix: never split, never merged with another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    pub revision: Revision,
    /// In the order of the transaction's writes; never empty.
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub revision: Revision,
    pub key: Bytes,
    pub change: Change,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    Put {
        value: Bytes,
        created: Revision,
        /// The value it replaced; `None` when the key was absent.
        previous: Option<Bytes>,
    },
    Delete {
        previous: Bytes,
        /// The final state the deleting transaction gave for watchers.
        last: Option<Bytes>,
    },
}
