//! Faults that strike a verb exactly between two of its steps, for tests.
//!
//! A test names a step in the environment, and what is to happen when the plugin has done it. It
//! may kill itself, which shows what a dead plugin leaves behind, or hold there while the test
//! changes the world around it. Only a development build looks: in a release build there is never a
//! fault, and the rest of this module has nothing to do.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::environment::Variables;

/// The variable that says what happens after which step: `kill:veth-created`, or
/// `hold:devices-removed:/tmp/held`, which makes the file and goes on when somebody has removed it.
pub const VARIABLE: &str = "CULVERT_CNI_FAULT";

/// How often a plugin that holds looks whether it may go on.
const HOLD_PAUSE: Duration = Duration::from_millis(2);

/// A step of ADD, DEL or GC after which a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// ADD has read and checked everything and changed nothing.
    Checked,
    /// ADD has the addresses.
    AddressesAllocated,
    /// ADD has made the veth pair.
    VethCreated,
    /// ADD has noted on the port what the pod may send from, and has had the kernel check that.
    SourceChecked,
    /// ADD has written down which ports of the node are to lead to the pod, if any are.
    HostPortsNoted,
    /// ADD has had the kernel lead these ports to the pod.
    HostPortsOpened,
    /// ADD has configured the bridge port and switched it on.
    PortStarted,
    /// ADD has configured the pod's end.
    PodConfigured,
    /// ADD has seen the bridge forward the port's frames.
    PortRunning,
    /// ADD has announced the pod and not answered yet.
    Announced,
    /// An ADD that failed has removed its devices and still has the addresses.
    DevicesUndone,
    /// The process that is to be left behind has begun and has not asked the kernel for anything.
    LeftBehind,
    /// The process that was left behind has had the kernel's acknowledgement.
    Lingered,
    /// DEL or GC has removed devices and not yet freed their addresses.
    DevicesRemoved,
    /// DEL or GC has freed the addresses and not answered yet.
    AddressesReleased,
}

impl Step {
    /// Every step, in the order of verbs and of the work.
    pub const ALL: [Self; 15] = [
        Self::Checked,
        Self::AddressesAllocated,
        Self::VethCreated,
        Self::SourceChecked,
        Self::HostPortsNoted,
        Self::HostPortsOpened,
        Self::PortStarted,
        Self::PodConfigured,
        Self::PortRunning,
        Self::Announced,
        Self::DevicesUndone,
        Self::LeftBehind,
        Self::Lingered,
        Self::DevicesRemoved,
        Self::AddressesReleased,
    ];

    /// The word for the step in [`VARIABLE`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::AddressesAllocated => "addresses-allocated",
            Self::VethCreated => "veth-created",
            Self::SourceChecked => "source-checked",
            Self::HostPortsNoted => "host-ports-noted",
            Self::HostPortsOpened => "host-ports-opened",
            Self::PortStarted => "port-started",
            Self::PodConfigured => "pod-configured",
            Self::PortRunning => "port-running",
            Self::Announced => "announced",
            Self::DevicesUndone => "devices-undone",
            Self::LeftBehind => "left-behind",
            Self::Lingered => "lingered",
            Self::DevicesRemoved => "devices-removed",
            Self::AddressesReleased => "addresses-released",
        }
    }
}

/// What happens, and the step after which it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InjectedFault {
    step: Step,
    /// The file to hold by; none to be killed.
    held_by: Option<PathBuf>,
}

impl InjectedFault {
    /// The fault that the environment asks for: none in a release build, or when it makes no sense.
    pub(crate) fn read(variables: Variables<'_>) -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let text = variables(VARIABLE)?.into_string().ok()?;
        let mut words = text.splitn(3, ':');
        let (kind, step, path) = (words.next()?, words.next()?, words.next());
        let held_by = match (kind, path) {
            ("kill", None) => None,
            ("hold", Some(path)) => Some(PathBuf::from(path)),
            _ => return None,
        };
        let step = Step::ALL.into_iter().find(|known| known.as_str() == step)?;
        Some(Self { step, held_by })
    }

    /// Strikes, if `step` is the one.
    pub(crate) fn strike(&self, step: Step) {
        if step != self.step {
            return;
        }
        match &self.held_by {
            // A process may always signal itself.
            None => drop(kill_process(getpid(), Signal::KILL)),
            Some(path) => {
                let made = File::create(path);
                while made.is_ok() && fs::exists(path).unwrap_or(false) {
                    thread::sleep(HOLD_PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    #[test]
    fn kind_and_step_are_read_and_anything_else_is_no_fault() {
        let read = |text: &str| {
            let text = OsString::from(text);
            InjectedFault::read(&|name| (name == VARIABLE).then(|| text.clone()))
        };
        for step in Step::ALL {
            let fault = read(&format!("kill:{}", step.as_str())).unwrap();
            assert_eq!(fault, InjectedFault { step, held_by: None });
            let fault = read(&format!("hold:{}:/a:b", step.as_str())).unwrap();
            assert_eq!(fault, InjectedFault { step, held_by: Some("/a:b".into()) });
        }
        for text in ["", "kill", "kill:", "stop:checked", "kill:checked:", "hold:checked"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
