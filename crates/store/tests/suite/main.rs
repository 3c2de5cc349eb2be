//! The tests of the store, in one binary: against a model, over faulty disks, through power cuts
//! and kills.
//!
//! `model` and `disk` and `promises` are the tools (a reference store, a disk that fails, the
//! judges of watches), the other files are tests.

mod damage;
mod disk;
mod model;
mod promises;
mod support;

mod against_model;
mod commits;
mod concurrency;
mod faults;
mod kills;
mod opening;
mod power_cuts;
mod watches;
