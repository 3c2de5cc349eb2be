//! A revisioned key-value store with watches: durable before acknowledged, one global revision.
//!
//! In go transactions (guards and writes over byte keys), out come the current objects, the
//! revision of the last durable change, and watches that replay every change after a revision. The
//! crate knows nothing of Kubernetes, of JSON or of an async runtime; its futures run on any
//! executor and can be waited for without one.
//!
//! Reading order: [`Backend`] is the port everything else uses; `txn` says what can be asked and
//! answered; `sequencer` decides a transaction, `objects` holds the current state, `history` the
//! window of past changes, `watch` a cursor into it, `published` keeps these three in step; `queue`
//! is where transactions wait for a writer; `mem` and `file` are the two backends.
//!
//! Both backends keep current objects in memory and share each value's allocation with their
//! readers. The first change of an empty store gets revision 2 (as in etcd), so that 0 stays free
//! to mean "none".

mod backend;
mod change;
mod commit;
mod error;
pub mod file;
mod history;
mod lock;
pub mod mem;
mod objects;
mod published;
mod queue;
mod sequencer;
mod txn;
mod watch;

pub use backend::{Backend, Entry, Page, Revision};
pub use change::{Batch, Change, Event};
pub use commit::Commit;
pub use error::{CommitError, OpenError, StoreError, WatchError};
pub use history::WindowLimits;
pub use txn::{Committed, Expect, Guard, Template, Txn, Write};
pub use watch::Watch;
