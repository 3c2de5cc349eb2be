//! Bodies of lists, made while they are sent.
//!
//! A list is a head, its items and a tail. The items are objects that the cache holds anyway; what is copied for an answer is one piece of
//! some kilobytes at a time, when the client has room for it. A client that does not read costs a piece, however long the list is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::registry::object::Object;

/// Items are put together until there are so many bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// How an item is written: appends it to what is there.
pub type WriteItem = Box<dyn Fn(&Object, &mut Vec<u8>) + Send>;

pub struct Pieces {
    /// Empty once it is sent.
    head: Vec<u8>,
    objects: std::vec::IntoIter<Arc<Object>>,
    write: WriteItem,
    is_first: bool,
    /// None when all is sent.
    tail: Option<&'static [u8]>,
    /// What is still to come, where that is known before it is made.
    left: Option<u64>,
}

impl Pieces {
    /// `size` is the length of all items without commas, where it is known.
    pub fn new(head: String, objects: Vec<Arc<Object>>, tail: &'static [u8], size: Option<usize>, write: WriteItem) -> Pieces {
        let commas = objects.len().saturating_sub(1);
        let left = size.map(|size| (head.len() + size + commas + tail.len()) as u64);
        Pieces { head: head.into_bytes(), objects: objects.into_iter(), write, is_first: true, tail: Some(tail), left }
    }

    fn next_piece(&mut self, bytes_max: usize) -> Option<Bytes> {
        let tail = self.tail?;
        let mut piece = std::mem::take(&mut self.head);
        while piece.len() < bytes_max {
            let Some(object) = self.objects.next() else {
                piece.extend_from_slice(tail);
                self.tail = None;
                break;
            };
            if !std::mem::replace(&mut self.is_first, false) {
                piece.push(b',');
            }
            (self.write)(&object, &mut piece);
        }
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        Some(piece.into())
    }

    /// The whole text, for those who make something else of it.
    pub fn whole(mut self) -> Bytes {
        self.next_piece(usize::MAX).unwrap_or_default()
    }
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

    use super::*;

    fn list(count: usize, item_bytes: usize) -> Pieces {
        let kind = kinds::table::by_resource("", "v1", "configmaps").unwrap();
        let object = Arc::new(Object::parse(kind, Bytes::from_static(br#"{"metadata":{"name":"a"}}"#), 1));
        let write = Box::new(move |_: &Object, piece: &mut Vec<u8>| piece.extend(std::iter::repeat_n(b'1', item_bytes)));
        Pieces::new("[".to_owned(), vec![object; count], b"]", Some(count * item_bytes), write)
    }

    #[tokio::test]
    async fn pieces_make_up_the_list_and_its_length_is_known() {
        for (count, item_bytes) in [(0, 1), (1, 1), (3, 5), (1000, 1000), (3, 100_000)] {
            let expected = format!("[{}]", vec!["1".repeat(item_bytes); count].join(","));
            let pieces = list(count, item_bytes);
            assert_eq!(pieces.size_hint().exact(), Some(expected.len() as u64));
            assert_eq!(pieces.collect().await.unwrap().to_bytes(), expected);
            assert_eq!(list(count, item_bytes).whole(), expected);
        }
    }

    #[test]
    fn a_piece_is_small_however_long_the_list_is() {
        let mut pieces = list(100_000, 1000);
        assert!(pieces.next_piece(PIECE_BYTES).unwrap().len() < PIECE_BYTES + 2000);
        assert!(!pieces.is_end_stream());
    }
}
