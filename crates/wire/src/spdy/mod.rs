//! The frames and header blocks of SPDY/3.1, as Kubernetes' clients and container runtimes speak
//! it. What is said in them is the business of those that use this: the node's endpoints serve
//! streams, the client of container runtimes opens some.

pub mod frame;
pub mod headers;

pub use frame::{Frame, FrameError};
pub use headers::{Headers, Packer, Unpacker};
