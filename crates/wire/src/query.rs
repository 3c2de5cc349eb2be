//! Query parameters and escaped parts of paths.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decoded parameters in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Query {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Query(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Kubernetes' reading of a flag: present and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }
}

/// Decodes a part of a path or the name of a header: `+` stays, and what is no escape stays as it
/// is.
pub fn decode_path(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Decodes a name or a value of a query, where `+` is a space.
pub fn decode(text: &str) -> String {
    let text: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    decode_path(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_what_is_none_stays() {
        let query = Query::parse(Some("a=1&&b=x%20y+z&c&d=%zz%&e=a=b&%66=%C3%A4&a=2"));
        let told: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|name| query.get(name).unwrap_or("-")).into();
        assert_eq!(told, ["1", "x y z", "", "%zz%", "a=b", "ä"]);
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert!(query.flag("c") && !query.flag("missing") && query.has("c"));
        assert_eq!((decode("a+b%2B").as_str(), decode_path("a+b%2B%ff").as_str()), ("a b+", "a+b+\u{fffd}"));
    }
}
