//! The nodes that a proposal has, or in an operator's words why they are none.

use culvert_claims::Proposal;
use culvert_dataplane::engine::{Membership, Overlay, Rejected, TableError};

use crate::config::Complaint;
use crate::control::table_file::complaint;

/// Why no table can be made of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// By what a database has.
    #[error("{value} {0}; {remedy}", value = .0.value, remedy = .0.remedy())]
    Entry(TableError),
    /// By what a table file has, with its line.
    #[error(transparent)]
    File(Complaint),
}

/// The nodes of `proposal`, checked, and those that were left out.
///
/// # Errors
///
/// The node `local` is not among them, or is one that would be left out; or any would be, and they
/// stand in one file.
pub fn members(
    proposal: &Proposal,
    overlay: &Overlay,
    local: &str,
) -> Result<(Membership, Vec<Rejected>), Unsound> {
    proposal.members(overlay, local).map_err(|error| match proposal.file() {
        Some(file) => Unsound::File(complaint(file, &error)),
        None => Unsound::Entry(error),
    })
}
