//! Images, from registries and files to directories. Needs no network; some tests need root or the
//! program `docker-registry`.

mod archive;
mod escape;
mod overlay;
mod pull;
mod resume;
mod store;
mod support;
