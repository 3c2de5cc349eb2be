//! The embedded runtime on a real kernel. Needs root, namespaces and a static busybox.

mod confinement;
mod fixture;
mod leaks;
mod lives;
mod recovery;
mod sandboxes;
mod streams;
mod until;
mod users;
