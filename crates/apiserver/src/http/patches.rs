//! PATCH: the four kinds of patches, applied to the current object and again when another writer
//! was faster.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use kinds::field::{FieldError, Path};
use kinds::patch::folded::unfolded;
use kinds::patch::{self, Findings, PatchError, Patched, Shown};
use kinds::rules::Part;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::Value;

use super::answer;
use super::decode::{Expected, other_type};
use super::options::WriteKind;
use super::resources::ResourceCall;
use crate::body::Body;
use crate::registry::update::Changed;
use crate::request::options::{FieldValidation, WriteOptions};

/// The media types of patches.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

fn patch_type(content_type: Option<&str>) -> Result<PatchType, Status> {
    match content_type.unwrap_or("").split(';').next().unwrap_or("").trim() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(Status::unsupported_media_type("415: Unsupported Media Type").with_details(Default::default())),
    }
}

pub(crate) async fn handle(request: &ResourceCall<'_>, part: Part, bytes: Bytes) -> Result<Response<Body>, Status> {
    let patch_type = patch_type(request.call.header(CONTENT_TYPE))?;
    let options = WriteOptions::parse(request.query(), WriteKind::Patch { apply: patch_type == PatchType::Apply })?;
    match patch_type {
        PatchType::Apply => apply(request, part, &options, &bytes).await,
        _ => merge(request, part, &options, patch_type, &bytes).await,
    }
}

/// JSON, merge and strategic merge patches.
async fn merge(
    request: &ResourceCall<'_>,
    part: Part,
    options: &WriteOptions,
    patch_type: PatchType,
    bytes: &Bytes,
) -> Result<Response<Body>, Status> {
    let write = request.write(part, options);
    let kind = request.kind;
    // The answer to a refused patch names its unknown fields too.
    let earned = Mutex::new(Vec::new());
    let change = |old: &Value| {
        let patch = |old: &Value| patched(kind, patch_type, options.field_validation, old, bytes).map_err(PatchError::into_status);
        let (mut object, warnings) = decode(kind, options.field_validation, old, patch)?;
        earned.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&warnings);
        check_names(request, &mut object)?;
        check_uid(request, &object, old)?;
        check_deletion_time(request, &object, old)?;
        if let Some(view) = kind.view {
            object = (view.to_stored)(object);
        }
        kind.rules.default(&mut object);
        insist_only_if_patched(old, &mut object);
        Ok(Changed { object, warnings, managed: false })
    };
    let written = match may_see_managers(patch_type, bytes) {
        true => request.registry().update(request.admission(), &write, change).await,
        false => request.registry().update_folded(request.admission(), &write, change).await,
    };
    match written {
        Ok(written) => request.written(written, Vec::new()),
        Err(status) => {
            let mut response = answer::status(&status);
            answer::warn(&mut response, &earned.into_inner().unwrap_or_else(PoisonError::into_inner));
            Ok(response)
        }
    }
}

/// Might the patch name metadata.managedFields, or something above it by another way than by its
/// fields?
fn may_see_managers(patch_type: PatchType, bytes: &[u8]) -> bool {
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    // A name can also be written with escapes.
    patch_type == PatchType::Json || has(b"managedFields") || has(b"\\u")
}

/// A patch has no precondition on the uid; Kubernetes finds the change twice when it validates.
fn check_uid(request: &ResourceCall<'_>, object: &Value, old: &Value) -> Result<(), Status> {
    match object["metadata"]["uid"].as_str().unwrap_or_default() {
        "" => Ok(()),
        uid if old["metadata"]["uid"] == uid => Ok(()),
        uid => {
            let error = FieldError::invalid(&Path::new("metadata").child("uid"), uid, "field is immutable");
            Err(Status::invalid(request.kind.group, request.kind.kind, &request.path.name, &[error.clone(), error]))
        }
    }
}

/// Nor on the time of its deletion, which only a deletion sets.
fn check_deletion_time(request: &ResourceCall<'_>, object: &Value, old: &Value) -> Result<(), Status> {
    let (new, old) = (&object["metadata"]["deletionTimestamp"], &old["metadata"]["deletionTimestamp"]);
    match new.as_str() {
        Some(time) if new != old => {
            let path = Path::new("metadata").child("deletionTimestamp");
            let error = FieldError::invalid(&path, time, "field is immutable");
            Err(Status::invalid(request.kind.group, request.kind.kind, &request.path.name, &[error.clone(), error]))
        }
        _ => Ok(()),
    }
}

fn patched(kind: &Kind, patch_type: PatchType, validation: FieldValidation, old: &Value, bytes: &[u8]) -> Result<Patched, PatchError> {
    let viewed = kind.view.map(|view| (view.from_stored)(old.clone()));
    let current = viewed.as_ref().unwrap_or(old);
    let findings = if validation == FieldValidation::Ignore { Findings::Ignored } else { Findings::Listed };
    match patch_type {
        PatchType::Json => patch::json::apply(current, bytes, findings),
        PatchType::Merge => patch::merge::apply(current, bytes, findings),
        PatchType::Strategic | PatchType::Apply => patch::strategic::apply(current, bytes, kind.type_id(), findings),
    }
}

/// The object that a patched document is, with warnings. Only a refusal shows the document, which
/// is then made once more.
fn decode(
    kind: &'static Kind,
    validation: FieldValidation,
    old: &Value,
    patch: impl Fn(&Value) -> Result<Patched, Status>,
) -> Result<(Value, Vec<String>), Status> {
    let type_id = kind.type_id();
    let Patched { document, mut findings, shown } = patch(old)?;
    // A strategic merge patch changes an object that has a type already; the others make a text of
    // which the type is read.
    let is_retyped = ["apiVersion", "kind"].iter().any(|name| document[name] != old[name]);
    if let (Shown::Document { .. }, true) = (shown, is_retyped)
        && let Some(why) = other_type(&Expected::of(kind), &document)
    {
        return Err(patch(&unfolded(old))?.unfit(&why, type_id));
    }
    // An empty list is more than none: it resets the managers. Decoding leaves empty lists out.
    let resets_managers = document["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty);
    let decoded = match kinds::decode::decode_tree(document, type_id) {
        Ok(decoded) => decoded,
        Err(e) => {
            let patched = patch(&unfolded(old))?;
            return Err(patched.unfit(&patched.misfit(&e.0, type_id), type_id));
        }
    };
    findings.extend(decoded.findings);
    let mut object = decoded.value;
    if resets_managers {
        crate::registry::metadata::metadata_mut(&mut object).insert("managedFields".to_owned(), serde_json::json!([{}]));
    }
    match validation {
        FieldValidation::Strict if !findings.is_empty() => {
            Err(patch(&unfolded(old))?.unfit(&format!("strict decoding error: {}", findings.join(", ")), type_id))
        }
        FieldValidation::Warn => Ok((object, findings)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((object, Vec::new())),
    }
}

/// The patched object carries the version it was made from; only a patch that changed it insists on
/// a version.
fn insist_only_if_patched(old: &Value, object: &mut Value) {
    if object["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] {
        crate::registry::metadata::metadata_mut(object).remove("resourceVersion");
    }
}

/// Name and namespace must be those of the path; a namespace may be left out.
fn check_names(request: &ResourceCall<'_>, object: &mut Value) -> Result<(), Status> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if namespace != request.namespace() {
        if !namespace.is_empty() && !request.namespace().is_empty() {
            return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
        }
        let metadata = crate::registry::metadata::metadata_mut(object);
        metadata.remove("namespace");
        if !request.namespace().is_empty() {
            metadata.insert("namespace".to_owned(), request.namespace().into());
        }
    }
    let (name, wanted) = (object["metadata"]["name"].as_str().unwrap_or_default(), &request.path.name);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(Status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({wanted})")));
    }
    Ok(())
}

/// Server-side apply: also creates what is not there.
async fn apply(request: &ResourceCall<'_>, part: Part, options: &WriteOptions, bytes: &Bytes) -> Result<Response<Body>, Status> {
    let write = request.write(part, options);
    let kind = request.kind;
    let config = patch::apply::parse_config(kind, bytes, Expected::of(kind).kind)?;
    let mut entry = write.manager_entry();
    entry.operation = patch::managers::Operation::Apply;
    let applied = |live: Option<&Value>| {
        let mut object = patch::apply::apply(kind, live, &config.object, &entry, options.force).map_err(PatchError::into_status)?;
        if options.field_validation == FieldValidation::Strict && !config.findings.is_empty() {
            return Err(Status::bad_request(format!("error strict decoding YAML: {}", config.findings.join(", "))));
        }
        check_names(request, &mut object)?;
        Ok(object)
    };
    let warnings = if options.field_validation == FieldValidation::Warn { config.findings.clone() } else { Vec::new() };
    if request.registry().entry(kind, request.namespace(), &request.path.name)?.is_none() {
        if part != Part::Main {
            return Err(Status::not_found(kind.resource(), &request.path.name));
        }
        match request.registry().create_applied(request.admission(), &write, created(request, applied(None)?)?).await {
            Err(status) if status.reason == "AlreadyExists" => {}
            result => return request.written(result?, warnings),
        }
    }
    let change = |old: &Value| {
        let mut object = applied(Some(old))?;
        kind.rules.default(&mut object);
        if config.object["metadata"]["resourceVersion"].is_null() {
            insist_only_if_patched(old, &mut object);
        }
        Ok(Changed { object, warnings: warnings.clone(), managed: true })
    };
    let written = request.registry().update(request.admission(), &write, change).await?;
    request.written(written, Vec::new())
}

/// A configuration that names an object's uid is not for a new object.
fn created(request: &ResourceCall<'_>, object: Value) -> Result<Value, Status> {
    match object["metadata"]["uid"].as_str() {
        None | Some("") => Ok(object),
        Some(uid) => {
            let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            Err(Status::conflict(request.kind.resource(), &request.path.name, &why))
        }
    }
}
