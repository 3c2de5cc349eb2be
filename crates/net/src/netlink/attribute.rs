//! Netlink attributes: length, kind, value, padded to four bytes; values may be lists of attributes
//! again.

/// The flag of kinds whose value is a list of attributes.
const NESTED: u16 = 0x8000;
/// Takes the flags off a kind.
const KIND_MASK: u16 = 0x3fff;

/// A list of attributes being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    /// For values that start with a structure before their attributes.
    pub fn after_header(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("no attribute written here comes near 64 KiB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// In the machine's byte order, as the route family has it.
    pub fn native_u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as the netfilter family has it.
    pub fn network_u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nested(self, kind: u16, value: Attributes) -> Self {
        self.bytes(kind | NESTED, &value.0)
    }

    pub fn optional(self, add: Option<impl FnOnce(Self) -> Self>) -> Self {
        match add {
            Some(add) => add(self),
            None => self,
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An attribute that was read.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub fn native_u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value.try_into().ok()?))
    }

    pub fn native_u16(&self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.value.try_into().ok()?))
    }

    pub fn network_u32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.value.try_into().ok()?))
    }

    pub fn network_u16(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.value.try_into().ok()?))
    }

    pub fn ipv4(&self) -> Option<std::net::Ipv4Addr> {
        Some(<[u8; 4]>::try_from(self.value).ok()?.into())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.strip_suffix(&[0]).unwrap_or(self.value)).into_owned()
    }

    pub fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }

    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.nested().find(|attribute| attribute.kind == kind)
    }
}

/// Reads a list of attributes; ends at the first malformed one.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let written = Attributes::new().text(1, "ab").nested(2, Attributes::new().network_u32(3, 7)).native_u32(4, 9);
        let read: Vec<Attribute> = attributes(written.as_bytes()).collect();
        assert_eq!(read.iter().map(|attribute| attribute.kind).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(read[0].text(), "ab");
        assert_eq!(read[1].find(3).and_then(|inner| inner.network_u32()), Some(7));
        assert_eq!(read[2].native_u32(), Some(9));
    }

    #[test]
    fn malformed_input_ends_the_list() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
