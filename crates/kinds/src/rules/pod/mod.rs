//! Pods, and the pod templates of other kinds.
//!
//! Where to look: `defaults` fills, `spec` checks the whole in Kubernetes' order and calls the
//! nouns (`containers`, `volumes`, `probes`, …), `update`, `status` and `subresources` check
//! changes, `warnings` warns without refusing.

pub mod template;

mod defaults;
mod prepare;
mod spec;

mod affinity;
mod annotations;
mod containers;
mod env;
mod ephemeral_volume;
mod mounts;
mod paths;
mod probes;
mod projected;
pub mod resources;
mod security;
pub mod tolerations;
mod volumes;
mod windows;

mod status;
mod subresources;
mod update;

mod diff;
pub mod go;
mod qos;
mod warnings;

use serde_json::Value;

use super::check::Errors;
use super::meta::{self, NAMESPACED};
use super::{Part, Rules};
use crate::cursor::Cursor;

pub use defaults::round_list;
pub use qos::qos_class;

pub static RULES: PodRules = PodRules;

pub struct PodRules;

impl Rules for PodRules {
    fn default(&self, object: &mut Value) {
        defaults::default_pod(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        prepare::prepare_create(object);
    }

    fn validate_create(&self, object: &Value) -> Errors {
        let pod = Cursor::root(object);
        let spec = pod.field("spec");
        let mut errors = validate_metadata_and_spec(object);
        if !spec.field("ephemeralContainers").is_empty() {
            errors.push(spec.field("ephemeralContainers").forbidden("cannot be set on create"));
        }
        if !spec.field("nodeName").str().is_empty() && !spec.field("schedulingGates").is_empty() {
            errors.push(spec.field("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
        }
        errors.extend(annotations::validate_match_with_fields(&pod.field("metadata").field("annotations"), &spec));
        errors
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, part: Part) {
        prepare::prepare_update(object, old, part);
    }

    fn validate_update(&self, object: &Value, old: &Value, part: Part) -> Errors {
        let mut errors = meta::validate_update_generally(object, old);
        errors.extend(match part {
            Part::Status => status::validate_update(object, old),
            Part::EphemeralContainers => subresources::validate_ephemeral_containers(object, old),
            Part::Resize => subresources::validate_resize(object, old),
            Part::Main | Part::Finalize | Part::Approval => update::validate(object, old),
        });
        errors
    }

    fn warnings_create(&self, object: &Value) -> Vec<String> {
        warnings::warnings_for_pod(object)
    }
}

/// What creating and updating a Pod have in common.
fn validate_metadata_and_spec(object: &Value) -> Errors {
    let pod = Cursor::root(object);
    let (metadata, spec) = (pod.field("metadata"), pod.field("spec"));
    let mut errors = meta::validate(object, NAMESPACED);
    errors.extend(annotations::validate(&metadata.field("annotations"), &spec));
    errors.extend(spec::validate(&spec, &volumes::Around { is_pod: true, pod_name: metadata.field("name").str() }));
    errors.extend(tokens_without_account(&spec));
    let containers = ["containers", "initContainers"].map(|name| spec.field(name));
    errors.extend(containers.iter().flat_map(Cursor::items).filter_map(|container| containers::image_whitespace(&container)));
    errors
}

fn tokens_without_account(spec: &Cursor<'_>) -> Errors {
    if !spec.field("serviceAccountName").str().is_empty() {
        return Vec::new();
    }
    let sources = spec.field("volumes").items().flat_map(|volume| volume.field("projected").field("sources").items());
    let tokens = sources.map(|source| source.field("serviceAccountToken")).filter(Cursor::exists);
    tokens.map(|token| token.forbidden("must not be specified when serviceAccountName is not set")).collect()
}

/// Init containers, regular ones, ephemeral ones: the order of Kubernetes' visitor.
fn all_containers<'a>(spec: &Cursor<'a>) -> impl Iterator<Item = Cursor<'a>> + use<'a> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].map(|name| spec.field(name));
    lists.into_iter().flat_map(|list| list.items())
}

#[cfg(test)]
mod tests;
