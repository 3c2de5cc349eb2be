//! What is particular to a kind: its defaults, the fields it manages itself, what it refuses.
//!
//! In Kubernetes' order a write is decoded, defaulted, prepared, (admitted), validated. Decoding
//! and admission are not here. One file per kind exports `pub static RULES`; a kind with several
//! nouns is a folder.
//!
//! To add a kind: a file with a unit struct implementing [`Rules`], its metadata checked through
//! [`meta`] with the kind's name rule, its fields with [`Cursor`](crate::cursor::Cursor).

pub mod check;
pub mod configmap;
pub mod controllerrevision;
pub mod csr;
pub mod daemonset;
pub mod endpoints;
pub mod endpointslice;
pub mod event;
pub mod ip_address;
pub mod lease;
pub mod limitrange;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod pdb;
pub mod pod;
pub mod priorityclass;
pub mod rbac;
pub mod resourcequota;
pub mod review;
pub mod runtimeclass;
pub mod secret;
pub mod service;
pub mod service_cidr;
pub mod serviceaccount;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::field::FieldError;

/// Which part of the object a write is about: the object itself or one of its subresources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// pods/ephemeralcontainers
    EphemeralContainers,
    /// pods/resize
    Resize,
    /// namespaces/finalize
    Finalize,
    /// certificatesigningrequests/approval
    Approval,
}

pub trait Rules: Sync {
    /// Fills the fields that Kubernetes' versioned API fills (`SetDefaults_*`).
    fn default(&self, object: &mut Value);

    /// Resets what a creator may not say (strategy `PrepareForCreate`).
    fn prepare_create(&self, _object: &mut Value) {}

    /// Everything wrong with a new object, metadata included, in Kubernetes' order.
    fn validate_create(&self, object: &Value) -> Vec<FieldError>;

    /// Keeps from `old` what a write of this part may not change, and counts generations (strategy
    /// `PrepareForUpdate`).
    fn prepare_update(&self, _object: &mut Value, _old: &Value, _part: Part) {}

    /// Everything wrong with the change, metadata included, in Kubernetes' order.
    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Vec<FieldError>;

    /// Brings an accepted object into its stored form (strategy `Canonicalize`).
    fn canonicalize(&self, _object: &mut Value) {}

    /// Texts of the `Warning` headers that answer a create.
    fn warnings_create(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Texts of the `Warning` headers that answer an update.
    fn warnings_update(&self, _object: &Value, _old: &Value) -> Vec<String> {
        Vec::new()
    }
}
