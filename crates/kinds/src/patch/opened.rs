//! The objects that a patch went through: error texts show those with sorted fields, all others in
//! the order of Go's structs.

use std::collections::BTreeMap;

/// An object or list, whether the patch went through it, and the ones in it that lead to such.
///
/// A tree costs no more than the texts of its paths; a list of paths would cost the square of a
/// path's length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opened {
    is_opened: bool,
    inside: BTreeMap<String, Opened>,
}

impl Opened {
    /// The document's root, which every patch goes through.
    pub fn root() -> Opened {
        Opened { is_opened: true, inside: BTreeMap::new() }
    }

    pub fn is_opened(&self) -> bool {
        self.is_opened
    }

    /// What is at a key or index of this.
    pub fn at(&self, key: &str) -> Option<&Opened> {
        self.inside.get(key)
    }

    /// Adds what is at a key of this, opened.
    pub fn open(&mut self, key: &str) -> &mut Opened {
        let inside = self.inside.entry(key.to_owned()).or_default();
        inside.is_opened = true;
        inside
    }
}
