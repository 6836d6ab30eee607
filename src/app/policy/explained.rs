//! What policies say of a packet that somebody asks about.

use culvert_policy::judge::{Packet, Traffic};
use overlay_proto::Protocol as Transport;

use crate::control::enforce::{Judged, PolicyThread};
use crate::explain::{Judgement, Protocol, Question};

/// What the policies of both ends say to the packet of `question`.
///
/// # Errors
///
/// The thread that knows them does not answer in time.
pub(in crate::app) async fn judgements(
    thread: &PolicyThread,
    question: &Question,
) -> anyhow::Result<Vec<Judgement>> {
    let port = question.destination_port;
    let traffic = match question.protocol {
        Protocol::Tcp => Traffic::Port(Transport::Tcp, port),
        Protocol::Udp => Traffic::Port(Transport::Udp, port),
        Protocol::Icmp => Traffic::Other,
    };
    let packet = Packet { source: question.source, destination: question.destination, traffic };
    let judged = thread.ask(move |policies| policies.judge(packet)).await?;
    Ok(judged.into_iter().map(judgement).collect())
}

fn judgement(judged: Judged) -> Judgement {
    let Judged { direction, found, near_misses, is_allowed, is_here } = judged;
    Judgement { what: format!("{direction} policy"), found, near_misses, is_allowed, is_here }
}
