//! JSON that commands print: with the number of its form.

use serde::Serialize;

/// A value with the number of its form, which grows when a program that reads it would have to
/// change. `docs/schemas/` has the forms.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl<'a, T: Serialize> Document<'a, T> {
    /// The first form of `value`, which is an object.
    pub(crate) fn first(value: &'a T) -> Self {
        Self { schema: 1, value }
    }

    /// The text, for people too.
    ///
    /// # Errors
    ///
    /// The value is no object.
    pub(crate) fn text(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}
