//! The embedded runtime on a real kernel. Needs root, namespaces and a static busybox; says so and
//! passes when it has none of these.

mod confinement;
mod fixture;
mod leaks;
mod lives;
mod recovery;
mod sandboxes;
mod streams;
mod users;
