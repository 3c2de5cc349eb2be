//! Containers without anything else installed.
