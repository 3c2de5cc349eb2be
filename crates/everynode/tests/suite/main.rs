//! The binary from outside: every test starts servers of its own, with everything they write in a
//! temporary folder.

mod support;

mod auth;
mod bad_input;
mod controllers;
mod daemonsets;
mod docs;
mod durability;
mod golden;
mod kubectl;
mod nodes;
mod plugin;
mod restart;
mod store_command;
mod tutorials;
mod up_down;
mod why_plan;
