//! Bodies of lists, made while they are sent.
//!
//! A list is a head, its items and a tail. The items are objects that the cache holds anyway; what
//! is copied for an answer is one piece of some kilobytes at a time, when the client has room for
//! it. A client that does not read costs a piece, however long the list is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use kinds::document::indented_bytes;
use kinds::yaml;
use serde_json::Value;

use crate::registry::encoding::parse_stored;
use crate::registry::object::Object;

/// Items are put together until there are so many bytes.
/// Smaller ones made a list of 67 MB a third slower: each costs a turn of two tasks.
const PIECE_BYTES: usize = 256 * 1024;

/// Room in a piece for the item that makes it full, so that it rarely has to grow.
const LAST_ITEM_BYTES: usize = 16 * 1024;

/// How an item is written: appends it to what is there.
pub type WriteItem = Box<dyn Fn(&Object, &mut Vec<u8>) + Send>;

/// What is around the items of a list.
pub struct Around {
    /// Names and values in Kubernetes' order.
    pub fields: Vec<(&'static str, Value)>,
    /// The name of the field that has the items.
    pub items: &'static str,
}

pub struct Pieces {
    /// Empty once it is sent.
    head: Vec<u8>,
    objects: std::vec::IntoIter<Arc<Object>>,
    write: WriteItem,
    separator: &'static [u8],
    is_first: bool,
    /// None when all is sent.
    tail: Option<Vec<u8>>,
    /// What is still to come, where that is known before it is made.
    left: Option<u64>,
}

impl Pieces {
    /// Compact JSON. `write` appends an item as such, and `size` is the length of all of them
    /// without commas, where it is known.
    pub fn json(around: &Around, objects: Vec<Arc<Object>>, size: Option<usize>, write: WriteItem) -> Pieces {
        let fields: String = around.fields.iter().map(|(name, value)| format!("\"{name}\":{value},")).collect();
        let head = format!("{{{fields}\"{}\":[", around.items).into_bytes();
        let tail = b"]}".to_vec();
        let commas = objects.len().saturating_sub(1);
        let left = size.map(|size| (head.len() + size + commas + tail.len()) as u64);
        Pieces { left, ..Pieces::new(head, objects, b",", tail, write) }
    }

    /// JSON for people, with the fields of every object sorted. `write` appends an item as compact
    /// JSON.
    pub fn pretty(around: &Around, objects: Vec<Arc<Object>>, write: WriteItem) -> Pieces {
        let (before, after) = around.sorted();
        let mut head = "{".to_owned();
        for (name, value) in before {
            head.push_str(&format!("\n  \"{name}\": {},", indented(value, 2)));
        }
        head.push_str(&format!("\n  \"{}\": [", around.items));
        let mut tail = if objects.is_empty() { "]".to_owned() } else { "\n  ]".to_owned() };
        for (name, value) in after {
            tail.push_str(&format!(",\n  \"{name}\": {}", indented(value, 2)));
        }
        tail.push_str("\n}\n");
        let write = written_as(write, ["\n    ", ""], |item| format!("\n    {}", indented(item, 4)));
        Pieces::new(head.into_bytes(), objects, b",", tail.into_bytes(), write)
    }

    /// YAML, likewise.
    pub fn yaml(around: &Around, objects: Vec<Arc<Object>>, write: WriteItem) -> Pieces {
        let (before, after) = around.sorted();
        let written = |fields: Vec<Named<'_>>| match fields.is_empty() {
            true => String::new(),
            false => yaml::write(&fields.into_iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()),
        };
        let head = format!("{}{}:{}\n", written(before), around.items, if objects.is_empty() { " []" } else { "" });
        let write = written_as(write, ["- ", "\n"], |item| yaml::write(&Value::Array(vec![item.clone()])));
        Pieces::new(head.into_bytes(), objects, b"", written(after).into_bytes(), write)
    }

    fn new(head: Vec<u8>, objects: Vec<Arc<Object>>, separator: &'static [u8], tail: Vec<u8>, write: WriteItem) -> Pieces {
        Pieces { head, objects: objects.into_iter(), write, separator, is_first: true, tail: Some(tail), left: None }
    }

    /// For the next piece; none in advance where the length of what comes is not known.
    fn room(&self, bytes_max: usize) -> usize {
        let left = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or_default();
        left.min(bytes_max + LAST_ITEM_BYTES)
    }

    fn next_piece(&mut self, bytes_max: usize) -> Option<Bytes> {
        self.tail.as_ref()?;
        let mut piece = Vec::with_capacity(self.room(bytes_max));
        piece.append(&mut self.head);
        while piece.len() < bytes_max {
            let Some(object) = self.objects.next() else {
                piece.append(&mut self.tail.take().unwrap_or_default());
                break;
            };
            if !std::mem::replace(&mut self.is_first, false) {
                piece.extend_from_slice(self.separator);
            }
            (self.write)(&object, &mut piece);
        }
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        Some(piece.into())
    }
}

/// A field and its value.
type Named<'a> = (&'static str, &'a Value);

impl Around {
    /// The fields that sort before the items, and those behind.
    fn sorted(&self) -> (Vec<Named<'_>>, Vec<Named<'_>>) {
        let mut fields: Vec<Named<'_>> = self.fields.iter().map(|(name, value)| (*name, value)).collect();
        fields.sort_by_key(|(name, _)| *name);
        fields.into_iter().partition(|(name, _)| *name < self.items)
    }
}

/// Pretty JSON whose lines but the first begin with so many more spaces. No text in JSON has a line
/// end of its own.
fn indented(value: &Value, spaces: usize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.replace('\n', &format!("\n{}", " ".repeat(spaces)))
}

/// Indenting may make this many times a value's compact JSON of it, and a few lines more.
const INDENTED_TIMES_MAX: usize = 4;
const INDENTED_BYTES_FREE: usize = 64 * 1024;

/// Whether a value is so deep and full that indenting makes far more of it: a megabyte of brackets
/// would be a hundred. Such values are shown as they are.
pub fn grows_by_indenting(json: &[u8]) -> bool {
    indented_bytes(json) > INDENTED_TIMES_MAX * json.len() + INDENTED_BYTES_FREE
}

/// Makes something else of items that are written as compact JSON. What would grow too much stays
/// as it is, between the two texts.
fn written_as(write: WriteItem, around: [&'static str; 2], form: fn(&Value) -> String) -> WriteItem {
    Box::new(move |object, piece| {
        let mut json = Vec::new();
        write(object, &mut json);
        if grows_by_indenting(&json) {
            piece.extend_from_slice(around[0].as_bytes());
            piece.append(&mut json);
            piece.extend_from_slice(around[1].as_bytes());
        } else {
            piece.extend_from_slice(form(&parse_stored(&json)).as_bytes());
        }
    })
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().next_piece(PIECE_BYTES).map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.tail.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    fn objects(count: usize) -> Vec<Arc<Object>> {
        let kind = kinds::table::by_resource("", "v1", "configmaps").unwrap();
        let object = Arc::new(Object::parse(kind, Bytes::from_static(br#"{"metadata":{"name":"a"}}"#), 1));
        vec![object; count]
    }

    fn around() -> Around {
        let metadata = json!({"resourceVersion": "7"});
        Around { fields: vec![("kind", json!("List")), ("apiVersion", json!("v1")), ("metadata", metadata)], items: "items" }
    }

    fn list(count: usize, item_bytes: usize) -> Pieces {
        let write = Box::new(move |_: &Object, piece: &mut Vec<u8>| piece.extend(std::iter::repeat_n(b'1', item_bytes)));
        Pieces::json(&around(), objects(count), Some(count * item_bytes), write)
    }

    #[tokio::test]
    async fn pieces_make_up_the_list_and_its_length_is_known() {
        for (count, item_bytes) in [(0, 1), (1, 1), (3, 5), (1000, 1000), (3, 100_000)] {
            let items = vec!["1".repeat(item_bytes); count].join(",");
            let expected = format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"7"}},"items":[{items}]}}"#);
            let pieces = list(count, item_bytes);
            assert_eq!(pieces.size_hint().exact(), Some(expected.len() as u64));
            assert_eq!(pieces.collect().await.unwrap().to_bytes(), expected);
        }
    }

    /// 1.4 MB of brackets and zeros were 140 MB of spaces.
    #[tokio::test]
    async fn indenting_makes_little_more_of_an_item() {
        let item = format!("{}{}0{}", "[".repeat(90), "0,".repeat(50_000), "]".repeat(90));
        assert!(grows_by_indenting(item.as_bytes()));
        let value: Value = serde_json::from_str(&item).unwrap();
        for make in [Pieces::pretty, Pieces::yaml] {
            let item = item.clone();
            let write: WriteItem = Box::new(move |_, piece| piece.extend_from_slice(item.as_bytes()));
            let list = make(&around(), objects(2), write).collect().await.unwrap().to_bytes();
            assert!(list.len() < 300_000, "{} bytes", list.len());
            let (read, _) = yaml::parse(std::str::from_utf8(&list).unwrap()).unwrap();
            assert_eq!(read.into_value()["items"], json!([value, value]));
        }
        let usual = format!("{{\"data\":{{{}}}}}", (0..1000).map(|key| format!("\"k{key}\":\"v\"")).collect::<Vec<_>>().join(","));
        assert!(!grows_by_indenting(usual.as_bytes()));
    }

    const ITEM: &str = r#"{"b":{"c":"x\ny","d":[]},"a":[1,{"e":2}]}"#;

    fn item() -> WriteItem {
        Box::new(|_, piece| piece.extend_from_slice(ITEM.as_bytes()))
    }

    /// As if the whole list were a tree that is written.
    #[tokio::test]
    async fn pretty_json_and_yaml_are_those_of_the_whole_list() {
        for count in [0, 1, 3] {
            let items = vec![serde_json::from_str::<Value>(ITEM).unwrap(); count];
            let whole = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items});
            let pretty = Pieces::pretty(&around(), objects(count), item()).collect().await.unwrap().to_bytes();
            assert_eq!(pretty, format!("{}\n", serde_json::to_string_pretty(&whole).unwrap()));
            let yaml = Pieces::yaml(&around(), objects(count), item()).collect().await.unwrap().to_bytes();
            assert_eq!(yaml, yaml::write(&whole));
        }
    }

    #[test]
    fn a_piece_is_small_however_long_the_list_is() {
        let lists =
            [list(100_000, 40), Pieces::pretty(&around(), objects(100_000), item()), Pieces::yaml(&around(), objects(100_000), item())];
        for mut pieces in lists {
            assert!(pieces.next_piece(PIECE_BYTES).unwrap().len() < PIECE_BYTES + 2000);
            assert!(!pieces.is_end_stream());
        }
    }
}
