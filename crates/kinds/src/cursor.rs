//! A value together with its place in the object, so that a rule reads like a sentence and an error
//! names its field.
//!
//! Absent is Go's zero value: `str()` of an absent field is `""`, `items()` is empty. A rule that
//! must tell absent from zero asks `exists()`. Null counts as absent. Wrong types cannot occur
//! (decoding refused them) and read as absent.

use serde_json::Value;

use crate::field::{BadValue, FieldError, Path};

#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    value: Option<&'a Value>,
    path: Path,
}

impl<'a> Cursor<'a> {
    /// At the object itself.
    pub fn root(object: &'a Value) -> Cursor<'a> {
        Cursor::at(Some(object), Path::root())
    }

    pub fn at(value: Option<&'a Value>, path: Path) -> Cursor<'a> {
        Cursor { value: value.filter(|value| !value.is_null()), path }
    }

    pub fn field(&self, name: &'static str) -> Cursor<'a> {
        Cursor::at(self.value.and_then(|value| value.get(name)), self.path.child(name))
    }

    /// A value of a map with free keys.
    pub fn key(&self, key: &str) -> Cursor<'a> {
        Cursor::at(self.value.and_then(|value| value.get(key)), self.path.key(key))
    }

    /// The elements of a list.
    pub fn items(&self) -> impl Iterator<Item = Cursor<'a>> + use<'a> {
        let path = self.path.clone();
        self.list().iter().enumerate().map(move |(i, item)| Cursor::at(Some(item), path.index(i)))
    }

    /// The keys and values of a map with free keys.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Cursor<'a>)> + use<'a> {
        let path = self.path.clone();
        let map = self.value.and_then(Value::as_object);
        map.into_iter().flatten().map(move |(key, value)| (key.as_str(), Cursor::at(Some(value), path.key(key))))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    pub fn list(&self) -> &'a [Value] {
        self.value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many elements or entries.
    pub fn len(&self) -> usize {
        match self.value {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn str(&self) -> &'a str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }

    pub fn strs(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.list().iter().filter_map(Value::as_str)
    }

    /// The number, if there is one (Go's pointer to an integer).
    pub fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// The number, or zero (Go's plain integer).
    pub fn int_or_zero(&self) -> i64 {
        self.int().unwrap_or_default()
    }

    /// The truth value, if there is one (Go's pointer to a bool).
    pub fn bool(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }

    pub fn is_true(&self) -> bool {
        self.bool() == Some(true)
    }

    pub fn required(&self, detail: &str) -> FieldError {
        FieldError::required(&self.path, detail)
    }

    /// Refuses the value that is here. An absent value prints as `null`; see
    /// [`Cursor::invalid_str`].
    pub fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, self.value, detail)
    }

    /// Refuses the string that is here; an absent one prints as `""`.
    pub fn invalid_str(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, self.str(), detail)
    }

    /// Refuses something computed from what is here.
    pub fn invalid_value(&self, value: impl Into<BadValue>, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path, value, detail)
    }

    /// Refuses the string that is here, naming the supported ones in the order given.
    pub fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(&self.path, self.str(), supported)
    }

    pub fn duplicate(&self) -> FieldError {
        FieldError::duplicate(&self.path, self.value)
    }

    pub fn not_found(&self) -> FieldError {
        FieldError::not_found(&self.path, self.value)
    }

    pub fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path, detail)
    }

    pub fn too_long(&self, bytes_max: usize) -> FieldError {
        FieldError::too_long(&self.path, bytes_max)
    }

    pub fn too_many(&self, items_max: usize) -> FieldError {
        FieldError::too_many(&self.path, self.len(), items_max)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn value_and_path_travel_together() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "B"}], "nodeSelector": {"x/y": "z"}}});
        let spec = Cursor::root(&pod).field("spec");
        let second = spec.field("containers").items().nth(1).unwrap().field("name");
        expect![[r#"spec.containers[1].name: Invalid value: "B": must be lower case"#]]
            .assert_eq(&second.invalid("must be lower case").to_string());
        let (key, value) = spec.field("nodeSelector").entries().next().unwrap();
        expect![[r#"x/y spec.nodeSelector[x/y]: Duplicate value: "z""#]].assert_eq(&format!("{key} {}", value.duplicate()));
        assert!(!spec.field("hostNetwork").is_true());
        assert_eq!(spec.field("volumes").items().count(), 0);
    }
}
