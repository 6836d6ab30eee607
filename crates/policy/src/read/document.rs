//! What is read: a value of JSON or YAML whose texts stay where they were written.
//!
//! Objects are sorted lists. Of what a large cluster tells, nearly everything is read once and let
//! go, for which a map of texts of its own would take longer than reading.

use std::borrow::Cow;
use std::ops::Index;

use serde_json::{Number, Value};

/// A value; of an object the fields are sorted by their names, and each is there once.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Document<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Document<'a> {
    /// An object of these fields; of those that come twice the last one counts.
    pub(super) fn object(mut fields: Vec<(Cow<'a, str>, Self)>) -> Self {
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields.dedup_by(|(later, value), (earlier, counts)| {
            let is_again = later == earlier;
            if is_again {
                std::mem::swap(value, counts);
            }
            is_again
        });
        Self::Object(fields)
    }

    /// The same with texts of its own.
    pub(super) fn into_owned(self) -> Document<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Document::Null,
            Self::Bool(value) => Document::Bool(value),
            Self::Number(number) => Document::Number(number),
            Self::Text(text) => Document::Text(owned(text)),
            Self::List(items) => Document::List(items.into_iter().map(Self::into_owned).collect()),
            Self::Object(fields) => {
                let fields = fields.into_iter();
                Document::Object(fields.map(|(name, it)| (owned(name), it.into_owned())).collect())
            }
        }
    }

    /// What stands in the field `name`; none if it is no object, or has no such field.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let fields = self.fields()?;
        let at = fields.binary_search_by(|(field, _)| field.as_ref().cmp(name)).ok()?;
        Some(&fields[at].1)
    }

    pub(super) fn fields(&self) -> Option<&[(Cow<'a, str>, Self)]> {
        if let Self::Object(fields) = self { Some(fields) } else { None }
    }

    /// The values of a list; none of whatever else it is.
    pub(super) fn items(&self) -> &[Self] {
        if let Self::List(items) = self { items } else { &[] }
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) const fn bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    pub(super) fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { number.as_u64() } else { None }
    }

    pub(super) const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl<'a> Index<&str> for Document<'a> {
    type Output = Self;

    /// What stands in the field `name`; nothing if there is no such field.
    fn index(&self, name: &str) -> &Self {
        self.get(name).unwrap_or(&Document::Null)
    }
}

impl<'a> From<&'a Value> for Document<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(fields) => {
                let borrowed =
                    fields.iter().map(|(name, value)| (Cow::Borrowed(&**name), value.into()));
                Self::object(borrowed.collect())
            }
        }
    }
}

impl From<&Document<'_>> for Value {
    fn from(document: &Document<'_>) -> Self {
        match document {
            Document::Null => Self::Null,
            Document::Bool(value) => Self::Bool(*value),
            Document::Number(number) => Self::Number(number.clone()),
            Document::Text(text) => Self::String(text.clone().into_owned()),
            Document::List(items) => items.iter().map(Self::from).collect(),
            Document::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone().into_owned(), Self::from(value)))
                .collect(),
        }
    }
}
