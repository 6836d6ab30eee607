//! Steps as they are found.

use std::net::IpAddr;

use overlay_proto::Family;

use super::{Basis, Holder, Kernel, Step, Way};

/// Where steps are put, and whom the kernel's are asked of.
pub(super) struct Steps<'a> {
    pub(super) found: Vec<Step>,
    /// What may still stop the packet, because it was not followed.
    pub(super) unless: Vec<String>,
    kernel: Option<&'a mut dyn Kernel>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(kernel: Option<&'a mut dyn Kernel>) -> Self {
        Self { found: Vec::new(), unless: Vec::new(), kernel }
    }

    /// A step that the table and the data path's own code decide.
    pub(super) fn table(&mut self, what: &str, found: String) {
        self.push(what, found, Basis::Table);
    }

    /// A step that was not looked at.
    pub(super) fn assumed(&mut self, what: &str, found: String) {
        self.push(what, found, Basis::Assumed);
    }

    pub(super) fn kernel(&mut self, what: &str, found: String) {
        self.push(what, found, Basis::Kernel);
    }

    fn push(&mut self, what: &str, found: String, by: Basis) {
        self.found.push(Step { what: what.to_owned(), found, by });
    }

    /// Who has the address; none where there is nobody to ask.
    pub(super) fn holder(&mut self, address: IpAddr) -> Option<Option<Holder>> {
        let answer = self.kernel.as_mut()?.holder(address);
        let holder = self.answered("address", answer)?;
        match &holder {
            Some(Holder::Pod(name)) => self.kernel("pod", format!("{name} has {address}")),
            Some(Holder::Node) => self.kernel("node", format!("the node itself has {address}")),
            None => {}
        }
        Some(holder)
    }

    /// How the kernel routes the packet; none where there is nobody to ask.
    pub(super) fn route(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        incoming: Option<&str>,
    ) -> Option<Way> {
        let answer = self.kernel.as_mut()?.route(source, destination, incoming);
        self.answered("route", answer)
    }

    /// What of other programs' firewalls the packet would have to pass.
    pub(super) fn firewalls(&mut self, family: Family) {
        let Some(kernel) = self.kernel.as_mut() else { return };
        let answer = kernel.firewalls(family);
        for chain in self.answered("firewall", answer).unwrap_or_default() {
            let found =
                format!("{chain} drops what none of its rules accepts; they were not followed");
            self.kernel("firewall", found);
            self.unless.push(format!("{chain} drops it"));
        }
    }

    fn answered<T>(&mut self, what: &str, answer: Result<T, String>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(reason) => {
                self.assumed(what, format!("the kernel was asked in vain: {reason}"));
                None
            }
        }
    }
}
