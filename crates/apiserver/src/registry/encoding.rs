//! Objects from and to the bytes of the store and of answers.

use bytes::Bytes;
use kinds::document::{STORED_DEPTH_MAX, nesting};
use kinds::encode::Encoded;
use kinds::status::Status;
use kinds::table::Kind;
use serde_json::Value;
use store::{Entry, Template};

/// The largest object that is stored: etcd's default limit of a request.
const OBJECT_BYTES_MAX: usize = 3 * 512 * 1024;

/// The tree of a stored object.
pub fn parse_stored(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("the store holds only what our encoder wrote")
}

/// Same, folded: for writes that do not see managedFields.
pub fn parse_folded(bytes: &[u8]) -> Value {
    kinds::patch::folded::parse(bytes).expect("the store holds only what our encoder wrote")
}

/// A part of a stored object, read without building its tree.
pub fn read_stored<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).expect("the store holds only what our encoder wrote, and the part fits the schema")
}

/// Brings an object into the form in which decoding would give it, after rules and plugins worked
/// on it.
pub(super) fn normalized(kind: &'static Kind, object: Value) -> Result<Value, Status> {
    kinds::decode::normalize(object, kind.stored().type_id()).map_err(|e| Status::internal(e.0))
}

/// What a dry run answers: the object as JSON, with the resourceVersion it carries, if any.
pub(super) fn dry_run_answer(kind: &'static Kind, object: &Value) -> Bytes {
    kinds::encode::encode(&kind.stored().api_version(), kind.stored().kind, object).into()
}

/// What the deletion of an object answers, with a place for the version of its commit.
pub(super) fn deletion_answer(kind: &'static Kind, object: &Value) -> Encoded {
    kinds::encode::encode_answer(&kind.stored().api_version(), kind.stored().kind, object)
}

/// An object as the store takes it. One that is too large is refused as etcd would refuse it.
pub(super) fn to_store(kind: &'static Kind, object: &Value) -> Result<Template, Status> {
    let encoded = kinds::encode::encode_to_store(&kind.stored().api_version(), kind.stored().kind, object);
    if encoded.bytes.len() > OBJECT_BYTES_MAX {
        return Err(Status::unclassified("etcdserver: request is too large"));
    }
    if nesting(&encoded.bytes) > STORED_DEPTH_MAX {
        return Err(Status::bad_request("the object is nested too deep to be read again"));
    }
    Ok(Template { bytes: encoded.bytes, revision_at: Some(encoded.revision_at) })
}

/// A stored object as the store takes it again, for another revision.
pub(super) fn to_store_again(kind: &'static Kind, entry: &Entry) -> Result<Template, Status> {
    match kinds::encode::without_revision(&kind.stored().api_version(), kind.stored().kind, &entry.value) {
        Some(encoded) => Ok(Template { bytes: encoded.bytes, revision_at: Some(encoded.revision_at) }),
        None => to_store(kind, &parse_stored(&entry.value)),
    }
}
