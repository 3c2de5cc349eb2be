//! One pod: its worker, and what the worker does.

pub mod calls;
pub mod config;
pub mod end;
pub mod hooks;
pub mod http_get;
pub mod images;
pub mod message;
pub mod prober;
pub mod probes;
pub mod publish;
pub mod resize;
pub mod start;
pub mod worker;
