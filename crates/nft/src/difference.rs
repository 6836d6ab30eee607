//! What has to change for a table to be what it should be.

use std::collections::BTreeSet;

use crate::batch::Batch;
use crate::listing::Listing;
use crate::table::Table;

impl Batch {
    /// What makes the kernel's table, `actual`, that of `wanted`; none, if it is.
    ///
    /// Where only elements differ, only these change: the table goes on with all others. `accepted`
    /// is how the kernel lists the table without elements, where that is not how we do.
    #[must_use]
    pub fn difference(
        wanted: &Table,
        actual: Option<&Listing>,
        accepted: Option<&Listing>,
    ) -> Option<Self> {
        let listing = Listing::of(wanted);
        let mut batch = Self::new(wanted.family);
        let bare = actual.map(|actual| actual.clone().without_elements());
        let is_right =
            |bare: &Listing| *bare == listing.clone().without_elements() || Some(bare) == accepted;
        let Some(actual) = actual.filter(|_actual| bare.as_ref().is_some_and(is_right)) else {
            batch.replace(wanted);
            return Some(batch);
        };
        for (set, wanted_set) in &listing.sets {
            let none = BTreeSet::new();
            let actual = actual.sets.get(set).map_or(&none, |actual| &actual.elements);
            let missing: Vec<_> = wanted_set.elements.difference(actual).cloned().collect();
            let stale: Vec<_> = actual.difference(&wanted_set.elements).cloned().collect();
            batch.add_elements(wanted.name, set, &missing);
            batch.remove_elements(wanted.name, set, &stale);
        }
        (!batch.is_empty()).then_some(batch)
    }
}
