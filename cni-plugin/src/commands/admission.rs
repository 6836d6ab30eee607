//! Asking the daemon about a pod, where network policies are enforced.
//!
//! ADD waits for the answer before the port goes up, so that the pod's first packet passes the
//! rules that are for it. DEL only tells, and waits for nothing that matters.

use std::net::IpAddr;
use std::time::Duration;

use culvert_node::pod_admission::{Answer, PATIENCE, Request, SOCKET_NAME, ask};

use super::Call;
use crate::error::Error;

/// How long the daemon may take to hear that a pod has left. It may be stopped, and the pod goes
/// all the same.
const FAREWELL: Duration = Duration::from_secs(1);

impl Call<'_> {
    /// Has the daemon make the rules for the pod that gets `addresses`.
    ///
    /// # Errors
    ///
    /// The daemon does not answer, or refuses the pod.
    pub(super) fn admit(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        let run_dir = &self.config.run_dir;
        let request = Request::Admit { pod: self.args.pod.clone(), addresses: addresses.to_vec() };
        match ask(run_dir, &request, PATIENCE) {
            Ok(Answer::Admitted) => Ok(()),
            Ok(Answer::Refused { why }) => Err(Error::PolicyRefused { why }),
            Err(source) => Err(Error::PolicyUnanswered { path: run_dir.join(SOCKET_NAME), source }),
        }
    }

    /// Tells the daemon that nobody has `addresses` any more, if there is one that cares.
    pub(super) fn tell_of_leaving(&self, addresses: &[IpAddr]) {
        if addresses.is_empty() || !self.config.run_dir.join(SOCKET_NAME).exists() {
            return;
        }
        let request = Request::Left { addresses: addresses.to_vec() };
        // Whoever gets the addresses next begins with nothing of theirs, whether or not it has
        // heard.
        let _unheard = ask(&self.config.run_dir, &request, FAREWELL);
    }
}
