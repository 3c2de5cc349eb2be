//! The kinds that everynode serves: schema, defaults, validation, patches, tables. No I/O, no
//! clock, no randomness.

pub mod schema;

pub mod decode;
pub mod document;
pub mod encode;
pub mod outline;
pub mod protobuf;
pub mod yaml;

mod settle;

pub mod address_range;
pub mod cursor;
pub mod field;
pub mod names;
pub mod quantity;
pub mod quota;
pub mod selector;

pub mod status;
pub mod table;

pub mod columns;
pub mod patch;
pub mod pod_security;
pub mod rules;
