//! What tells a database from one that was restored or begun anew.

use serde::{Deserialize, Serialize};

/// A database as it was seen at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Database {
    pub(super) cluster: u64,
    pub(super) revision: i64,
    /// The revision at which the settings were written: a new database has its own.
    pub(super) settings: i64,
}

impl Database {
    /// Whether `found` can be what became of this one.
    pub(super) fn is_older_than(self, found: Self) -> bool {
        self.cluster == found.cluster
            && self.revision <= found.revision
            && (self.settings == found.settings || self.revision < found.settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_grows_and_one_that_does_not_is_another() {
        let database = |cluster, revision, settings| Database { cluster, revision, settings };
        let seen = database(1, 50, 2);
        for (found, grown) in [
            (database(1, 50, 2), true),
            (database(1, 70, 2), true),
            // Somebody has changed the settings since.
            (database(1, 70, 60), true),
            (database(1, 49, 2), false),
            (database(1, 70, 3), false),
            (database(2, 70, 2), false),
        ] {
            assert_eq!(seen.is_older_than(found), grown, "{found:?}");
        }
    }
}
