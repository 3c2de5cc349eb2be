//! The frames and header blocks of SPDY/3.1, as Kubernetes' clients and container runtimes speak
//! it. The users of this module decide what they say in them: the node's endpoints serve streams,
//! the client of container runtimes opens some.

pub mod frame;
pub mod headers;

pub use frame::{Frame, FrameError};
pub use headers::{Headers, Packer, Unpacker};
