//! Steps as they are found.

use std::net::{IpAddr, SocketAddr};

use super::kernel::Redirected;
use super::{Basis, Holder, Hurdle, Kernel, Passage, Question, Refused, Step, Underlay, Way};

/// Where steps are put, and whom the kernel's are asked of.
pub(super) struct Steps<'a> {
    pub(super) found: Vec<Step>,
    /// What may still stop the packet, because it was not followed.
    pub(super) unless: Vec<String>,
    /// The step that decides, if steps come behind it that only say what was not looked at.
    pub(super) decided_by: Option<usize>,
    kernel: Option<&'a mut dyn Kernel>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(kernel: Option<&'a mut dyn Kernel>) -> Self {
        Self { found: Vec::new(), unless: Vec::new(), decided_by: None, kernel }
    }

    /// A step that the table and the data path's own code decide.
    pub(super) fn table(&mut self, what: &str, found: String) {
        self.push(what, found, Basis::Table);
    }

    /// A step that was not looked at.
    pub(super) fn assumed(&mut self, what: &str, found: String) {
        self.push(what, found, Basis::Assumed);
    }

    /// What comes behind the last step, and was not looked at here.
    pub(super) fn beyond(&mut self, found: String) {
        self.decided_by = self.found.len().checked_sub(1);
        self.assumed("beyond", found);
    }

    /// That what a node sends is dropped here, if it is, and so this packet is too unless that is
    /// over. `what` says what is to be taken from that.
    pub(super) fn refused(&mut self, refused: Option<&Refused>, name: &str, what: &str) {
        let Some(Refused { reason, seconds_ago, .. }) = refused else { return };
        let reason = reason.as_str();
        self.table(
            "dropped",
            format!(
                "what {name} sends is dropped here: {reason}, the last {seconds_ago} s ago \
                 (culvert doctor says why)"
            ),
        );
        self.unless.push(format!("{what} ({reason}, {seconds_ago} s ago)"));
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
            Some(Holder::Pod { name, .. }) => self.kernel("pod", format!("{name} has {address}")),
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

    /// Where rules of other programs send the packet instead, if they do.
    pub(super) fn redirected(
        &mut self,
        question: &Question,
        incoming: Option<&str>,
    ) -> Option<Redirected> {
        let answer = self.kernel.as_mut()?.redirected(question, incoming);
        self.answered("service", answer)?
    }

    /// What rules of other programs do with the packet on a part of its way: whether one drops it.
    pub(super) fn is_stopped(&mut self, passage: &Passage<'_>) -> bool {
        let Some(kernel) = self.kernel.as_mut() else { return false };
        let answer = kernel.hurdles(passage);
        let hurdles = self.answered("firewall", answer).unwrap_or_default();
        let what = match passage {
            Passage::ToTunnel(_)
            | Passage::FromTunnel(_)
            | Passage::Bridged(_)
            | Passage::Arrives(_)
            | Passage::Routed(..) => "it",
            Passage::Sent { .. } => "the datagram",
            Passage::Received { .. } => "the datagram that it is in",
        };
        if let Some(Hurdle { by, .. }) = hurdles.iter().find(|hurdle| hurdle.is_sure) {
            self.kernel("firewall", format!("{by} drops {what}"));
            return true;
        }
        for Hurdle { by, .. } in hurdles {
            let found = format!("{by} may drop {what}: not all of it could be followed");
            self.kernel("firewall", found);
            let unless = format!("{by} drops it");
            if !self.unless.contains(&unless) {
                self.unless.push(unless);
            }
        }
        false
    }

    /// That the bridge delivers a packet which no rule has certainly dropped, and how far that was
    /// looked at.
    pub(super) fn delivered(&mut self, bridge: &str, is_ipv4: bool) {
        let found = format!("{bridge} delivers it");
        let answer = self.kernel.as_mut().map(|kernel| kernel.filters_frames(is_ipv4));
        let filters = answer.and_then(|answer| self.answered("bridge", answer));
        let is_asked = |step: &Step| step.what != "firewall" || step.by == Basis::Kernel;
        let Some(filters) = filters.filter(|_| self.found.iter().all(is_asked)) else {
            return self.assumed("delivery", found);
        };
        let why = match (self.unless.is_empty(), filters) {
            (true, true) => {
                ": no rule of the bridge drops it, nor one of IP, which see its frames too \
                 (br_netfilter)"
            }
            (true, false) => {
                ": no rule of the bridge drops it, and those of IP do not see its frames"
            }
            (false, _) => ", if those rules let it pass",
        };
        self.kernel("delivery", found + why);
    }

    /// Where the datagram to a peer goes; why it goes nowhere, if it does not.
    pub(super) fn underlay(&mut self, local: IpAddr, peer: SocketAddr) -> Result<(), String> {
        let Some(kernel) = self.kernel.as_mut() else { return Ok(()) };
        let answer = kernel.underlay(local, peer);
        let Some(Underlay { way, doubt }) = self.answered("underlay", answer) else {
            return Ok(());
        };
        let address = peer.ip();
        match way {
            Way::Out { device, gateway } => {
                let over = gateway.map_or_else(String::new, |gateway| format!(" over {gateway}"));
                self.kernel("underlay", format!("to {address} by {device}{over}"));
            }
            Way::Here => return Err(format!("{address} is this node's own, and no peer's")),
            Way::Refused(cause) => return Err(format!("no way to {address}: {cause}")),
        }
        if let Some(doubt) = doubt {
            self.kernel("neighbour", doubt.clone());
            self.unless.push(doubt);
        }
        Ok(())
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
