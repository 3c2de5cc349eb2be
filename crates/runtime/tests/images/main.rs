//! Images, from registries and files to directories. Needs no network; some tests want root or the
//! program `docker-registry` and say so when they are left out.

mod archive;
mod escape;
mod overlay;
mod pull;
mod resume;
mod store;
mod support;
