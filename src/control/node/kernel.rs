//! The reconciler on a thread of its own, as the control runtime asks it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use culvert_netlink::{Flow, Link};
use ipnet::IpNet;
use overlay_proto::Vni;

use super::events::Changes;
use super::path_mtu::PathMtu;
use super::report::{Failure, Report};
use super::{NodeSpec, Reconciler, TunOwner};
use crate::control::worker::Worker;
use crate::platform::sysctl::Sysctls;

/// How long a request may take. A look takes milliseconds, the set-up of a node with hundreds of
/// pods a second; on a machine on which all pods start at once the kernel's lock may be waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a look that told nothing is repeated, and after which pause.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The way to the thread that reconciles.
pub(crate) struct Kernel(Worker<Reconciler>);

impl Kernel {
    /// Starts the thread, in this thread's network namespace, with kernel parameters where
    /// `sysctls` has them, and the plugin's files about ports of the node where `run_dir` has them.
    ///
    /// # Errors
    ///
    /// The kernel refuses a socket or a thread.
    pub(crate) fn start(sysctls: Sysctls, run_dir: PathBuf) -> anyhow::Result<Self> {
        let reconciler = Reconciler::open()?.with_sysctls(sysctls).with_run_dir(run_dir);
        let worker = Worker::start("kernel", reconciler, PATIENCE);
        Ok(Self(worker.context("starting the thread that talks to the kernel")?))
    }

    /// As [`Reconciler::reconcile`].
    ///
    /// # Errors
    ///
    /// As there, and [`Failure::Unknown`] when there is no answer in time; what was begun is then
    /// finished, so that the next call has less to do.
    pub(crate) async fn reconcile(
        &self,
        spec: NodeSpec,
        tun: impl TunOwner + 'static,
        changes: Changes,
    ) -> Result<Report, Failure> {
        let job = move |reconciler: &mut Reconciler| {
            let outcome = reconciler.reconcile(&spec, &tun, changes);
            if outcome.is_err() {
                // The way to the kernel may be what is broken.
                reconciler.reopen();
            }
            outcome
        };
        self.0.ask(job).await.unwrap_or_else(|no_answer| Err(Failure::Unknown(no_answer.into())))
    }

    /// As [`Reconciler::preflight`].
    ///
    /// # Errors
    ///
    /// As there, and when there is no answer in time.
    pub(crate) async fn preflight(
        &self,
        spec: NodeSpec,
        service_networks: Vec<IpNet>,
        node_addresses: Vec<IpAddr>,
    ) -> anyhow::Result<()> {
        let look = move |reconciler: &mut Reconciler| {
            reconciler.preflight(&spec, &service_networks, &node_addresses)
        };
        self.look(look).await
    }

    /// As [`Reconciler::path_mtu`].
    ///
    /// # Errors
    ///
    /// As there, and when there is no answer in time.
    pub(crate) async fn path_mtu(&self, flows: Vec<Flow>) -> anyhow::Result<Option<PathMtu>> {
        self.look(move |reconciler: &mut Reconciler| reconciler.path_mtu(&flows)).await
    }

    /// As [`Reconciler::flannel_device`].
    ///
    /// # Errors
    ///
    /// As there, and when there is no answer in time.
    pub(crate) async fn flannel_device(&self, vni: Vni) -> anyhow::Result<Option<Link>> {
        self.look(move |reconciler: &mut Reconciler| reconciler.flannel_device(vni)).await
    }

    /// As [`Reconciler::set_device`].
    ///
    /// # Errors
    ///
    /// As there, and when there is no answer in time.
    pub(crate) async fn set_device(&self, device: Link, up: bool) -> anyhow::Result<()> {
        self.0.ask(move |reconciler: &mut Reconciler| reconciler.set_device(&device, up)).await?
    }

    /// Looks at something, and again if the look was interrupted.
    async fn look<T: Send + 'static>(
        &self,
        look: impl Fn(&mut Reconciler) -> anyhow::Result<T> + Clone + Send + 'static,
    ) -> anyhow::Result<T> {
        for _interrupted in 1..LOOKS {
            match self.0.ask(look.clone()).await?.map_err(Failure::of_look) {
                Err(Failure::Unknown(_)) => tokio::time::sleep(PAUSE).await,
                Err(Failure::Broken(error)) => return Err(error),
                Ok(found) => return Ok(found),
            }
        }
        self.0.ask(look).await?
    }
}
