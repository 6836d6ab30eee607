//! Netlink attributes: `{u16 length, u16 type}` in host order, then the value, padded to four
//! bytes.

/// Bytes of an attribute's header.
const HEADER_BYTES: usize = 4;

/// Bits of the type field that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;

/// Attributes being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(pub(crate) Vec<u8>);

impl Attributes {
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        // Nothing here comes near 64 KiB: long lists of elements are cut into messages.
        let length = u16::try_from(HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A number, in network order as all of nf_tables.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text, terminated by zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Attributes inside an attribute.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inside = Self::default();
        fill(&mut inside);
        self.bytes(kind, &inside.0);
    }
}

/// The attributes in `bytes`, as type and value; whatever follows a broken one is left out.
pub(crate) fn parse(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    parse(bytes).find(|(found, _value)| *found == kind).map(|(_kind, value)| value)
}

/// The number in an attribute.
pub(crate) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// The text in an attribute.
pub(crate) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = find(bytes, kind)?;
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let mut attributes = Attributes(Vec::new());
        attributes.text(3, "ab");
        attributes.nested(4, |inside| inside.number(1, 0x0102));
        let mut expected = Vec::new();
        expected.extend(7_u16.to_ne_bytes());
        expected.extend(3_u16.to_ne_bytes());
        expected.extend(*b"ab\0\0");
        expected.extend(12_u16.to_ne_bytes());
        expected.extend(4_u16.to_ne_bytes());
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(1_u16.to_ne_bytes());
        expected.extend([0, 0, 1, 2]);
        assert_eq!(attributes.0, expected);
        assert_eq!(text(&attributes.0, 3).as_deref(), Some("ab"));
        assert_eq!(number(find(&attributes.0, 4).unwrap(), 1), Some(0x0102));
    }

    #[test]
    fn broken_attribute_ends_the_list() {
        for bytes in [&[][..], &[4], &[0, 0, 0, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 9]] {
            assert_eq!(parse(bytes).count(), 0, "{bytes:?}");
        }
    }
}
