//! What selectors ask of an object, read from its JSON without building a tree.
//!
//! In: the bytes that our own encoder made. Out: name, namespace, labels and the kind's selectable
//! fields, as places in those bytes: caches keep thousands of objects and share their bytes, so
//! that another copy of every label would cost more than the rest of the index.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::table::{Kind, Selectable};

/// A text within the JSON of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// As it stands there.
    At { start: u32, len: u32 },
    /// One that is escaped there, or that is not there literally.
    Own(Box<str>),
}

impl Text {
    const EMPTY: Text = Text::At { start: 0, len: 0 };

    /// The text, given the bytes it was found in.
    pub fn of<'a>(&'a self, json: &'a [u8]) -> &'a str {
        match self {
            Text::At { start, len } => {
                let bytes = &json[*start as usize..(*start + *len) as usize];
                std::str::from_utf8(bytes).expect("a place in JSON that was parsed is text")
            }
            Text::Own(text) => text,
        }
    }
}

/// What selectors ask of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    pub name: Text,
    /// Empty for cluster-scoped objects.
    pub namespace: Text,
    pub labels: Box<[(Text, Text)]>,
    /// In the order of the kind's row in the table; empty where the object has no value.
    fields: Box<[Text]>,
}

/// Fields that are texts for selectors and truth values in objects; most are false, which needs no
/// place.
const FLAGS: [&str; 2] = ["spec.unschedulable", "spec.hostNetwork"];

/// Places that every kind is asked for; the selectable fields follow.
const COMMON: [&str; 2] = ["metadata.name", "metadata.namespace"];
const LABELS: &str = "metadata.labels";

/// More places than any kind has; each has a bit of a number.
const PLACES_MAX: usize = 32;

impl Outline {
    /// None for bytes that are no JSON object.
    pub fn of(kind: &Kind, json: &[u8]) -> Option<Outline> {
        let fields = match kind.selectable {
            Selectable::MetadataOnly => &[][..],
            Selectable::Fields(fields) => fields,
        };
        let mut search = Search::new(json, fields);
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let all = (1u64 << search.places.len()) - 1;
        Below { search: &mut search, open: all as u32, depth: 0 }.deserialize(&mut deserializer).ok()?;
        let [name, namespace] = [0, 1].map(|at| search.text(at));
        let fields = fields.iter().enumerate().map(|(at, field)| search.selected(COMMON.len() + at, field)).collect();
        Some(Outline { name, namespace, labels: search.labels.into(), fields })
    }

    /// The text that selectors compare a field of the kind with; empty for fields that the object
    /// or the kind has no value for.
    pub fn field<'a>(&'a self, kind: &Kind, name: &str, json: &'a [u8]) -> &'a str {
        match name {
            "metadata.name" => return self.name.of(json),
            "metadata.namespace" => return self.namespace.of(json),
            _ => {}
        }
        let Selectable::Fields(names) = kind.selectable else { return "" };
        let text = names.iter().position(|own| *own == name).map(|at| self.fields[at].of(json));
        match text {
            Some("") if FLAGS.contains(&name) => "false",
            text => text.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Found {
    Nothing,
    Text(Text),
    Bool(bool),
}

struct Search<'j> {
    json: &'j [u8],
    places: Vec<&'static str>,
    found: Vec<Found>,
    labels: Vec<(Text, Text)>,
}

impl<'j> Search<'j> {
    fn new(json: &'j [u8], fields: &[&'static str]) -> Search<'j> {
        let mut places = Vec::with_capacity(PLACES_MAX);
        places.extend(COMMON);
        // A field named after a struct stands for a field of that struct.
        places.extend(fields.iter().map(|&field| if field == "source" { "source.component" } else { field }));
        places.push(LABELS);
        assert!(places.len() < PLACES_MAX, "the kinds of the table have fewer selectable fields");
        Search { json, found: vec![Found::Nothing; places.len()], places, labels: Vec::new() }
    }

    /// Where a borrowed text stands in the JSON; parsing shares its memory.
    fn place(&self, text: &str) -> Text {
        let start = text.as_ptr() as usize - self.json.as_ptr() as usize;
        match (u32::try_from(start), u32::try_from(text.len())) {
            (Ok(start), Ok(len)) => Text::At { start, len },
            _ => Text::Own(text.into()),
        }
    }

    fn text(&self, at: usize) -> Text {
        match &self.found[at] {
            Found::Text(text) => text.clone(),
            Found::Nothing | Found::Bool(_) => Text::EMPTY,
        }
    }

    /// The text that selectors compare a field with, as Kubernetes' field sets have it.
    fn selected(&self, at: usize, field: &str) -> Text {
        match field {
            // Kubernetes knows the name and has no value for it.
            "status.podIPs" => Text::EMPTY,
            "source" if self.found[at] == Found::Nothing => {
                self.places.iter().position(|place| *place == "reportingComponent").map_or(Text::EMPTY, |at| self.text(at))
            }
            flag if FLAGS.contains(&flag) => match self.found[at] {
                Found::Bool(true) => Text::Own("true".into()),
                _ => Text::EMPTY,
            },
            _ => self.text(at),
        }
    }
}

/// A value above some of the places; `open` has the bits of those that lie below, all with the same
/// first `depth` bytes.
struct Below<'s, 'j> {
    search: &'s mut Search<'j>,
    open: u32,
    depth: usize,
}

impl<'s, 'de> DeserializeSeed<'de> for Below<'s, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'s, 'de> Visitor<'de> for Below<'s, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(TextSeed(self.search))? {
            let Some(key) = key else { return Err(serde::de::Error::custom("a key is a text")) };
            let key_text = key.of(self.search.json);
            let (mut below, mut here) = (0, None);
            for (at, place) in self.search.places.iter().enumerate().filter(|(at, _)| self.open & (1 << at) != 0) {
                match place[self.depth..].strip_prefix(key_text) {
                    Some("") => here = Some(at),
                    Some(rest) if rest.starts_with('.') => below |= 1 << at,
                    _ => {}
                }
            }
            let depth = self.depth + key_text.len() + 1;
            match here {
                Some(at) if self.search.places[at] == LABELS => map.next_value_seed(Labels(self.search))?,
                Some(at) => self.search.found[at] = map.next_value_seed(Scalar(self.search))?,
                None if below != 0 => map.next_value_seed(Below { search: self.search, open: below, depth })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

struct Labels<'s, 'j>(&'s mut Search<'j>);

impl<'s, 'de> DeserializeSeed<'de> for Labels<'s, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'s, 'de> Visitor<'de> for Labels<'s, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(TextSeed(self.0))? {
            let value = map.next_value_seed(Scalar(self.0))?;
            if let (Some(key), Found::Text(value)) = (key, value) {
                self.0.labels.push((key, value));
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A text; None for anything else.
struct TextSeed<'s, 'j>(&'s Search<'j>);

impl<'s, 'de> DeserializeSeed<'de> for TextSeed<'s, 'de> {
    type Value = Option<Text>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Text>, D::Error> {
        Ok(match deserializer.deserialize_any(Scalar(self.0))? {
            Found::Text(text) => Some(text),
            Found::Nothing | Found::Bool(_) => None,
        })
    }
}

/// A text or a truth value.
struct Scalar<'s, 'j>(&'s Search<'j>);

impl<'s, 'de> DeserializeSeed<'de> for Scalar<'s, 'de> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'s, 'de> Visitor<'de> for Scalar<'s, 'de> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Found, E> {
        Ok(Found::Text(self.0.place(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(Text::Own(text.into())))
    }

    fn visit_bool<E>(self, on: bool) -> Result<Found, E> {
        Ok(Found::Bool(on))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    fn show(kind: &str, json: &str) -> String {
        let kind = table::by_kind("", kind).unwrap();
        let Selectable::Fields(names) = kind.selectable else { panic!("a kind with fields") };
        let outline = Outline::of(kind, json.as_bytes()).unwrap();
        let text = |text: &Text| text.of(json.as_bytes()).to_owned();
        let labels: Vec<String> = outline.labels.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect();
        let fields = names.iter().map(|name| format!("{name}={}", outline.field(kind, name, json.as_bytes())));
        let fields: Vec<String> = fields.filter(|field| !field.ends_with('=')).collect();
        format!("{}/{} {} {}", text(&outline.namespace), text(&outline.name), labels.join(","), fields.join(","))
    }

    #[test]
    fn a_pod_is_read_without_its_tree() {
        let pod = r#"{"kind":"Pod","metadata":{"name":"a","labels":{"x/y":"1","z":""},"namespace":"d"},
            "spec":{"hostNetwork":true,"nodeName":"n","nodeSelector":{"nodeName":"no"}},"status":{"podIPs":[{"ip":"1"}],"podIP":"1"}}"#;
        assert_eq!(show("Pod", pod), "d/a x/y=1,z= spec.nodeName=n,spec.hostNetwork=true,status.podIP=1");
        assert_eq!(show("Pod", r#"{"metadata":{"name":"a"},"spec":null}"#), "/a  spec.hostNetwork=false");
    }

    #[test]
    fn escaped_texts_and_stand_ins_are_found() {
        let event = r#"{"metadata":{"name":"e"},"involvedObject":{"name":"p\"q","kind":"Pod"},"reason":"é","reportingComponent":"c"}"#;
        let expected = "/e  involvedObject.kind=Pod,involvedObject.name=p\"q,reason=é,reportingComponent=c,source=c";
        assert_eq!(show("Event", event), expected);
        assert!(show("Event", r#"{"metadata":{"name":"e"},"source":{"component":"s"},"reportingComponent":"c"}"#).ends_with("source=s"));
    }
}
