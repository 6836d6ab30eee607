//! Packets: reading, deciding through the engine, writing; whole batches at a time.
//!
//! Owns the workers, each a thread with one TUN queue and receiving sockets that no other thread
//! reads. Control speaks to workers by publishing a table and by a short queue of commands that
//! they look at when woken; nothing that control does can delay a packet. Never allocates, locks or
//! logs per packet; a full queue of the kernel's costs the packet, which is counted.

mod busy_poll;
mod capture;
mod counters;
mod egress;
pub mod engine;
mod flows;
mod ingress;
mod io_error;
mod memory;
pub mod offload;
mod opening;
mod outbox;
mod outer;
mod outlet;
mod path_claim;
mod plane;
pub mod platform;
mod port;
mod probe;
mod rehearsal;
mod round;
mod sealed;
mod tap;
mod train;
mod underlay;
mod worker;

pub use capture::{Capture, CaptureFilter, CaptureRecord, CaptureSide, CaptureVerdict};
pub use counters::WorkerCounters;
pub use egress::Egress;
pub use flows::{
    EACH_A_SECOND, FlowCount, FlowKey, FlowTap, FlowVerdict, FlowWatch, Flows, Tuple,
    open as open_flows,
};
pub use ingress::Ingress;
pub use memory::{MemoryTrain, MemoryTun, MemoryUnderlay};
pub use outer::{MAX_OUTER_LEN, Outer};
pub use path_claim::PathClaim;
pub use plane::{DataPlane, DataPlaneOptions, Ends, Listening, ReceiveDrops};
pub use port::{Spoken, TunPort, UnderlayPort};
pub use probe::{Ask, ProbeArrival, Probes, Unsent, What};
pub use rehearsal::Rehearsal;
pub use round::{Env, Notice, Notices, Round};
pub use sealed::{HandshakeTimes, Keeper, SealedCounters, SealedOptions, SealedWorker};
pub use tap::{Decision, Observation, Tap};
pub use train::super_packet_limit;
pub use underlay::{SENDERS, Underlay, bucket};

#[cfg(test)]
mod tests;
