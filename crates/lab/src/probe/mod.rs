//! Traffic from one namespace to another, and what became of it: echo requests, a TCP transfer, UDP
//! datagrams, hand-made packets.
//!
//! Owns the sockets of a probe and the judgement of what came back. Each call blocks its caller for
//! at most the time it is given. Sockets are opened inside the namespaces; nothing else runs there.

mod http;
mod icmp;
mod raw;
mod tcp;
mod udp;
mod wire;

pub use http::http_get;
pub use icmp::{Answer, Ping, ping};
pub use raw::{send_packet, send_packet_with_mark};
pub use tcp::{Transfer, TransferReport, transfer};
pub use udp::{UdpReport, udp_echo};
pub use wire::Wire;
