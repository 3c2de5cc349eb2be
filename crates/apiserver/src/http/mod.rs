//! The HTTP surface: paths, parameters and media types in, JSON and streams out. What requests mean
//! is `registry`'s.

pub mod server;
pub mod service;

pub mod decode;
pub mod negotiate;
pub mod options;
pub mod path;

mod audited;
pub mod discovery;
pub(crate) mod fairness;
mod finishing;
pub mod meta;
pub mod openapi;
mod openapi_protobuf;
pub mod patches;
pub mod resources;
mod route;
pub mod subresources;

pub mod answer;
mod pieces;
pub mod serve;
