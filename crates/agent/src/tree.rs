//! Types of the API that are read and written through a JSON tree.
//!
//! `kube` reads a type from text, and once more from what it buffers of a watch's event; it writes
//! text, and patches write trees. Each of these is code of its own for every field of every type
//! below a pod. With a tree between there are one reader and one writer of each type. Reading takes
//! longer, which a node that reads its own pods does not notice.

use std::borrow::Cow;
use std::ops::Deref;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object that `kube` sees as a tree.
#[derive(Debug, Clone)]
pub struct Tree<T>(pub T);

impl<T> Deref for Tree<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Tree<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree<T>, D::Error> {
        let tree = Value::deserialize(deserializer)?;
        serde_json::from_value(tree).map(Tree).map_err(D::Error::custom)
    }
}

impl<T: Serialize> Serialize for Tree<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_value(&self.0).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<T: kube::Resource> kube::Resource for Tree<T> {
    type DynamicType = T::DynamicType;
    type Scope = T::Scope;

    fn kind(of: &T::DynamicType) -> Cow<'_, str> {
        T::kind(of)
    }

    fn group(of: &T::DynamicType) -> Cow<'_, str> {
        T::group(of)
    }

    fn version(of: &T::DynamicType) -> Cow<'_, str> {
        T::version(of)
    }

    fn plural(of: &T::DynamicType) -> Cow<'_, str> {
        T::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}
