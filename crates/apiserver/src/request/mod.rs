//! What a request asks for, by whom and how: data that all other parts share.
//!
//! Nothing here reads a request or acts on it. `http` makes this data of paths, parameters and
//! bodies; `auth`, `admission`, `registry` and `audit` look at it.

mod attributes;
pub mod options;
mod percent;
mod user;
mod write;

pub use attributes::{Attributes, What};
pub use percent::{decode, decode_path};
pub use user::{MASTERS, User};
pub use write::WriteRequest;
