//! Node agents: they register nodes, keep them alive and run the pods bound to them.
//!
//! Today there are simulated nodes, which run pods without containers. Knows nothing of the store.

pub mod simulated;
