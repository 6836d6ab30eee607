//! What the notes on pods' ports hold, while the store gives something away.
//!
//! Owns the rule that nothing is given away that a note holds. The first look is from before the
//! transaction, so that in the usual case, when the store knows of every pod, nobody waits for the
//! kernel while all wait for the store. Only when that look contradicts the store is there another
//! one, inside the transaction, which is exact: no pod comes or goes in the store meanwhile. What
//! the store lacks by then is written down.

use std::net::IpAddr;

use overlay_proto::Mac;

use super::Error;
use super::change::{Change, Holder};
use super::ports::{Ports, Survey};
use super::range::Range;

/// What the notes hold.
pub(super) struct Noted<'a> {
    survey: &'a mut dyn Survey,
    ports: Ports,
    is_fresh: bool,
}

impl<'a> Noted<'a> {
    /// Looks at the notes, before the transaction.
    pub(super) fn look(survey: &'a mut dyn Survey) -> Result<Self, Error> {
        let ports = survey.look()?;
        Ok(Self { survey, ports, is_fresh: false })
    }

    /// What was found by the last look.
    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Whether a note holds `address`, which the store does not.
    pub(super) fn holds(&mut self, change: &Change<'_>, address: IpAddr) -> Result<bool, Error> {
        if self.ports.holder(address).is_some() {
            self.refresh(change)?;
        }
        Ok(self.ports.holder(address).is_some())
    }

    /// Who has `mac`, which nobody has in the store.
    pub(super) fn holder_of_mac(
        &mut self,
        change: &Change<'_>,
        mac: Mac,
    ) -> Result<Option<String>, Error> {
        if self.ports.has_mac(mac) {
            self.refresh(change)?;
        }
        let pod = self.ports.pod_with(mac).map(|pod| pod.owner().to_string());
        let device = || Some(format!("device {} of this node", self.ports.device_with(mac)?));
        Ok(pod.or_else(device))
    }

    fn refresh(&mut self, change: &Change<'_>) -> Result<(), Error> {
        if !self.is_fresh {
            self.ports = self.survey.look()?;
            self.is_fresh = true;
            change.adopt_notes(&self.ports)?;
        }
        Ok(())
    }
}

impl Change<'_> {
    /// Writes down every address that a note holds and the store does not; says how many there
    /// were.
    ///
    /// Of two notes with one address the first by the device's name counts, since the store has one
    /// holder for each address.
    pub(super) fn adopt_notes(&self, ports: &Ports) -> Result<usize, Error> {
        let mut adopted = 0;
        for (pod, address) in ports.addresses() {
            if self.holder(address.addr())?.is_none() {
                let owner = pod.owner();
                let holder = Holder {
                    host_device: pod.device.clone(),
                    host_netns: ports.netns,
                    mac: Some(pod.mac),
                    boot: ports.boot.clone(),
                    ..Holder::of(&owner)
                };
                self.record(&Range::around(address), address.addr(), &holder)?;
                adopted += 1;
            }
        }
        Ok(adopted)
    }
}
