//! An object as the caches keep it: its bytes, shared with store and answers, and what selectors ask for.

use bytes::Bytes;
use kinds::encode::type_prefix_len;
use kinds::table::{Kind, Selectable};
use serde_json::{Map, Value};

/// One version of an object.
#[derive(Debug)]
pub struct Object {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    pub name: String,
    pub revision: u64,
    /// The whole object as JSON, with `kind` and `apiVersion` first.
    pub bytes: Bytes,
    pub labels: Map<String, Value>,
    fields: Vec<(&'static str, String)>,
}

impl Object {
    /// Indexes `bytes`, which our own encoder made.
    pub fn parse(kind: &Kind, bytes: Bytes, revision: u64) -> Object {
        let mut value: Value = serde_json::from_slice(&bytes).expect("the store holds only what our encoder wrote");
        let fields = match kind.selectable {
            Selectable::MetadataOnly => Vec::new(),
            Selectable::Fields(names) => names.iter().filter_map(|&name| Some((name, kind.field_value(&value, name)?))).collect(),
        };
        let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let labels = match value["metadata"]["labels"].take() {
            Value::Object(labels) => labels,
            _ => Map::new(),
        };
        Object { namespace, name, revision, bytes, labels, fields }
    }

    /// What a field selector compares; empty for fields that the kind has no value for.
    pub fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            _ => self.fields.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value),
        }
    }

    /// The object's JSON without `kind` and `apiVersion`, as items of lists have it, less the opening brace.
    pub fn item_tail(&self, kind: &Kind) -> Bytes {
        self.bytes.slice(type_prefix_len(&kind.api_version(), kind.kind)..)
    }

    /// The same state under another resourceVersion.
    pub fn at_revision(&self, revision: u64) -> Object {
        let mut value = self.value();
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let text = |name: &str| value[name].as_str().unwrap_or_default();
        let bytes = kinds::encode::encode(text("apiVersion"), text("kind"), &value).into();
        Object {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            revision,
            bytes,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("the store holds only what our encoder wrote")
    }
}

/// The key of an object below its kind: `NAMESPACE/NAME`, or `NAME` for cluster-scoped ones.
pub fn local_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The key of an object in the store.
pub fn store_key(kind: &Kind, namespace: &str, name: &str) -> Bytes {
    Bytes::from(format!("{}/{}", kind.storage, local_key(namespace, name)))
}
