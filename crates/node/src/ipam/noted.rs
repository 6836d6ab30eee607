//! What the notes on pods' ports hold, while the store gives something away.
//!
//! Owns the rule that nothing is given away that a note holds. A store that is known to be the one
//! that was changed last has every pod ([`stamp`](super::stamp)), and the kernel need not be asked.
//! Any other is completed first, inside the transaction: no pod comes or goes in the store
//! meanwhile, so that the look is exact.

use overlay_proto::Mac;

use super::Error;
use super::change::{Change, Holder};
use super::ports::{Ports, Survey};
use super::range::Range;

/// What the notes hold.
pub(super) struct Noted<'a> {
    survey: &'a mut dyn Survey,
    ports: Option<Ports>,
}

impl<'a> Noted<'a> {
    pub(super) fn new(survey: &'a mut dyn Survey) -> Self {
        Self { survey, ports: None }
    }

    /// The network namespace whose notes count, and the boot.
    pub(super) fn place(&self) -> (u64, String) {
        self.survey.place()
    }

    /// Makes sure that the store has all that the notes hold.
    pub(super) fn complete(&mut self, change: &Change<'_>) -> Result<(), Error> {
        if !change.is_complete() {
            let ports = self.survey.look()?;
            change.adopt_notes(&ports)?;
            change.set_complete();
            self.ports = Some(ports);
        }
        Ok(())
    }

    /// The device of this node that has `mac`, or the pod whose note says so.
    pub(super) fn holder_of_mac(&mut self, mac: Mac) -> Result<Option<String>, Error> {
        let ports = match self.ports.take() {
            Some(ports) => ports,
            None => self.survey.look()?,
        };
        let pod = ports.pod_with(mac).map(|pod| pod.owner().to_string());
        let device = || Some(format!("device {} of this node", ports.device_with(mac)?));
        let holder = pod.or_else(device);
        self.ports = Some(ports);
        Ok(holder)
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
