//! A page of an API server's list, each object read as it comes: of a large cluster, never all is
//! in memory as it was told.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Read;
use super::part::Fields;
use crate::object::Kind;

/// What a page says of the list that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The version that the list is of.
    #[serde(default)]
    pub resource_version: String,
    /// By what the next page is asked for; none or an empty text on the last one.
    #[serde(default)]
    pub r#continue: Option<String>,
}

/// Reads a page of a list of objects of `kind`; `take` gets each.
///
/// # Errors
///
/// It is no such page.
// Not generic, so that it is compiled here, optimized.
pub fn page(
    kind: Kind,
    text: &[u8],
    take: &mut dyn FnMut(Read),
) -> Result<Page, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let page = deserializer.deserialize_map(List { kind, take })?;
    deserializer.end()?;
    Ok(page)
}

struct List<'t> {
    kind: Kind,
    take: &'t mut dyn FnMut(Read),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Field {
    Metadata,
    Items,
    #[serde(other)]
    Other,
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Page;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Page, A::Error> {
        let mut page = None;
        while let Some(field) = map.next_key()? {
            match field {
                Field::Metadata => page = Some(map.next_value()?),
                Field::Items => map.next_value_seed(Items(&mut self))?,
                Field::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        page.ok_or_else(|| A::Error::missing_field("metadata"))
    }
}

struct Items<'l, 't>(&'l mut List<'t>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let List { kind, take } = self.0;
        while let Some(document) = list.next_element_seed(Fields::of(*kind))? {
            take(Read::of(*kind, &document));
        }
        Ok(())
    }

    /// Lists of some kinds have none instead of an empty one.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Page, usize), String> {
        let mut objects = 0;
        let page = page(Kind::Pod, text.as_bytes(), &mut |read| objects += read.objects.len());
        page.map(|page| (page, objects)).map_err(|error| error.to_string())
    }

    fn answer(version: &str, next: Option<&str>) -> Page {
        Page { resource_version: version.to_owned(), r#continue: next.map(str::to_owned) }
    }

    #[test]
    fn page_has_its_objects_and_says_what_comes_next_in_any_order() {
        let pods = r#"[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}},{}]"#;
        let metadata = r#"{"resourceVersion":"7","continue":"b","remainingItemCount":1}"#;
        let two = Ok((answer("7", Some("b")), 2));
        assert_eq!(read(&format!(r#"{{"kind":"x","metadata":{metadata},"items":{pods}}}"#)), two);
        assert_eq!(read(&format!(r#"{{"items":{pods},"metadata":{metadata},"z":[{{}}]}}"#)), two);
    }

    #[test]
    fn list_without_objects_is_a_list() {
        let none = Ok((answer("7", None), 0));
        for items in ["", r#","items":[]"#, r#","items":null"#] {
            assert_eq!(read(&format!(r#"{{"metadata":{{"resourceVersion":"7"}}{items}}}"#)), none);
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "[]", "{}", r#"{"items":[]}"#, r#"{"metadata":{}}x"#, r#"{"metadata":{}"#]
        {
            assert!(read(text).is_err(), "{text}");
        }
        let error = read(r#"{"metadata":{},"items":7}"#).unwrap_err();
        assert!(error.contains("expected objects"), "{error}");
    }
}
