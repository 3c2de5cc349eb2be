//! An object as the caches keep it: its bytes, shared with store and answers, and what selectors
//! ask for.

use bytes::Bytes;
use kinds::encode::type_prefix_len;
use kinds::outline::Outline;
use kinds::table::Kind;
use serde_json::Value;

/// One version of an object.
#[derive(Debug)]
pub struct Object {
    pub revision: u64,
    /// The whole object as JSON, with `kind` and `apiVersion` first.
    pub bytes: Bytes,
    kind: &'static Kind,
    /// Where in the bytes things are.
    outline: Outline,
}

impl Object {
    /// Indexes `bytes`, which our own encoder made.
    pub fn parse(kind: &'static Kind, bytes: Bytes, revision: u64) -> Object {
        let outline = Outline::of(kind, &bytes).expect("the store holds only what our encoder wrote");
        Object { revision, bytes, kind, outline }
    }

    pub fn name(&self) -> &str {
        self.outline.name.of(&self.bytes)
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.outline.namespace.of(&self.bytes)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = self.outline.labels.iter();
        labels.map(|(own, value)| (own.of(&self.bytes), value)).find(|(own, _)| *own == key).map(|(_, value)| value.of(&self.bytes))
    }

    /// What a field selector compares; empty for fields that the kind has no value for.
    pub fn field(&self, name: &str) -> &str {
        self.outline.field(self.kind, name, &self.bytes)
    }

    /// The object's JSON without `kind` and `apiVersion`, as items of lists have it, less the
    /// opening brace.
    pub fn item_tail(&self, kind: &Kind) -> Bytes {
        self.bytes.slice(type_prefix_len(&kind.api_version(), kind.kind)..)
    }

    /// The same state under another resourceVersion.
    pub fn at_revision(&self, revision: u64) -> Object {
        let mut value = self.value();
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let text = |name: &str| value[name].as_str().unwrap_or_default();
        let bytes = kinds::encode::encode(text("apiVersion"), text("kind"), &value).into();
        Object::parse(self.kind, bytes, revision)
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
