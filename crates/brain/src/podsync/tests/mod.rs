//! `podsync` against a pretended runtime: examples for each rule, and properties over random lives.

mod examples;
mod lives;
mod parts;
mod pretended;
mod resize;
