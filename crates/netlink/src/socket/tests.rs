//! The socket against something that answers like the kernel, or does not.

use std::os::fd::OwnedFd;
use std::thread;

use netlink_packet_core::{NLM_F_MULTIPART, NetlinkBuffer};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::protocol::Rtnetlink;

const SHORT: Duration = Duration::from_millis(50);

fn pair(patience: Duration) -> (Socket<Rtnetlink>, OwnedFd) {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    (Socket::over(ours, patience).unwrap(), theirs)
}

fn links() -> Request<RouteNetlinkMessage> {
    let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
    Request::new("list", "devices", 0, message)
}

/// One message as the kernel would send it.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

fn new_link(sequence: u32, flags: u16) -> Vec<u8> {
    message(16, NLM_F_MULTIPART | flags, sequence, &[0; 16])
}

fn done(sequence: u32, flags: u16) -> Vec<u8> {
    message(3, NLM_F_MULTIPART | flags, sequence, &0_i32.to_ne_bytes())
}

/// Answers each request with what `answers` makes of its sequence number.
fn serve(
    theirs: OwnedFd,
    mut answers: impl FnMut(u32) -> Vec<Vec<u8>> + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((_, length)) = recv(&theirs, &mut buffer[..], RecvFlags::empty()) {
            if length == 0 {
                return;
            }
            let sequence = NetlinkBuffer::new(&buffer[..length]).sequence_number();
            for answer in answers(sequence) {
                send(&theirs, &answer, SendFlags::empty()).unwrap();
            }
        }
    })
}

#[test]
fn kernel_that_does_not_answer_holds_nobody_up() {
    let (mut socket, _silent) = pair(SHORT);
    let before = now();
    let listed = socket.dump(&links()).unwrap_err();
    let asked = socket.query(&links()).unwrap_err();
    let changed = socket.execute(links()).unwrap_err();
    assert!(before.elapsed() < 20 * SHORT);
    for error in [listed, asked, changed] {
        assert!(error.is_interrupted(), "{error}");
        assert_eq!(error.to_string(), "cannot list devices: the kernel did not answer within 50ms");
    }
}

#[test]
fn answers_to_earlier_requests_hold_nobody_up() {
    let (mut socket, theirs) = pair(SHORT);
    let before = now();
    let flood = thread::spawn(move || {
        // Until the other end is closed, or has taken it for too long.
        let old = new_link(u32::MAX, 0);
        while before.elapsed() < 40 * SHORT && send(&theirs, &old, SendFlags::NOSIGNAL).is_ok() {}
    });
    assert!(socket.dump(&links()).unwrap_err().is_interrupted());
    assert!(before.elapsed() < 20 * SHORT);
    drop(socket);
    flood.join().unwrap();
}

#[test]
fn answers_to_other_requests_are_not_taken_for_ours() {
    let (mut socket, theirs) = pair(PATIENCE);
    let prepared = socket.prepare(&links(), 0);
    let others = message(2, 0, prepared.sequence + 1, &[0; 20]);
    send(&theirs, &others, SendFlags::empty()).unwrap();
    assert!(!socket.is_answered(&links(), &prepared).unwrap());
    let server = serve(theirs, |sequence| {
        let other = sequence + 7;
        let others = [new_link(other, 0), new_link(other, 0), done(other, 0)];
        [&others[..], &[new_link(sequence, 0), done(sequence, 0)]].concat()
    });
    assert_eq!(socket.dump(&links()).unwrap().len(), 1);
    drop(socket);
    server.join().unwrap();
}

#[test]
fn interrupted_dump_is_started_over() {
    let (mut socket, theirs) = pair(PATIENCE);
    let mut attempt = 0;
    let server = serve(theirs, move |sequence| {
        attempt += 1;
        match attempt {
            // The mark on a message in between, and on the last one alone.
            1 => vec![new_link(sequence, NLM_F_DUMP_INTR), done(sequence, 0)],
            2 => vec![new_link(sequence, 0), done(sequence, NLM_F_DUMP_INTR)],
            _ => vec![new_link(sequence, 0), new_link(sequence, 0), done(sequence, 0)],
        }
    });
    assert_eq!(socket.dump(&links()).unwrap().len(), 2);
    drop(socket);
    server.join().unwrap();
}

/// kernel: what finds no room in the receive buffer is lost, and the next call is told.
#[test]
fn listing_is_started_over_when_answers_were_lost() {
    let mut socket = Socket::<Rtnetlink>::open().unwrap();
    sockopt::set_socket_recv_buffer_size(&socket.kernel, 1).unwrap();
    let question = socket.prepare(&crate::link_by_name("no/such"), NLM_F_ACK);
    for _ in 0..10 {
        socket.send(&question).unwrap();
    }
    sockopt::set_socket_recv_buffer_size(&socket.kernel, 1 << 17).unwrap();
    assert!(!socket.dump(&links()).unwrap().is_empty());
}

#[test]
fn objects_that_never_rest_are_an_interruption() {
    let (mut socket, theirs) = pair(PATIENCE);
    let server = serve(theirs, |sequence| vec![done(sequence, NLM_F_DUMP_INTR)]);
    let error = socket.dump(&links()).unwrap_err();
    assert!(error.is_interrupted());
    let text = "cannot list devices: they changed during each of 20 attempts to list them";
    assert_eq!(error.to_string(), text);
    drop(socket);
    server.join().unwrap();
}

/// What is missing might be what was asked for.
#[test]
fn answer_that_has_no_room_is_a_failure() {
    let (mut socket, theirs) = pair(SHORT);
    let first_sequence = 1;
    let objects = new_link(first_sequence, 0).repeat(BUFFER_BYTES / 32 + 1);
    send(&theirs, &objects, SendFlags::empty()).unwrap();
    let text = socket.dump(&links()).unwrap_err().to_string();
    let expected = "cannot list devices: the kernel's answer has 32800 bytes, more than the 32768 \
                    there is room for";
    assert_eq!(text, expected);
}

#[test]
fn object_that_cannot_be_decoded_hides_no_other() {
    let (mut socket, theirs) = pair(PATIENCE);
    let server = serve(theirs, |sequence| {
        let broken = message(16, NLM_F_MULTIPART, sequence, &[0; 3]);
        vec![broken, new_link(sequence, 0), done(sequence, 0)]
    });
    assert_eq!(socket.dump(&links()).unwrap().len(), 1);
    drop(socket);
    server.join().unwrap();
}

#[test]
fn refusal_carries_the_kernels_words() {
    let (mut socket, theirs) = pair(PATIENCE);
    let server = serve(theirs, |sequence| {
        let mut payload = (-22_i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        payload.extend([8, 0, 1, 0, b'n', b'o', b'!', 0]);
        vec![message(2, 0, sequence, &payload)]
    });
    let text = socket.execute(links()).unwrap_err().to_string();
    assert_eq!(text, "cannot list devices: Invalid argument (os error 22) (kernel: no!)");
    drop(socket);
    server.join().unwrap();
}

#[test]
fn kernel_is_asked_for_many_things_at_once() {
    let mut socket = Socket::<Rtnetlink>::open().unwrap();
    // Loopback has index 1 in every namespace; nothing has a name with a slash.
    let requests: Vec<_> = (0..100)
        .map(|number| crate::link_by_name(if number % 3 == 0 { "no/such" } else { "lo" }))
        .collect();
    let answers = socket.query_all(&requests).unwrap();
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_err(), number % 3 == 0, "{number}: {answer:?}");
    }
    assert_eq!(socket.link("lo").unwrap().map(|link| link.index), Some(1));
    assert_eq!(socket.link("no/such").unwrap(), None);
    assert!(socket.links().unwrap().iter().any(|link| link.loopback));
    assert!(matches!(
        socket.look_up_routes([crate::Flow::to("127.0.0.1".parse().unwrap())]).unwrap()[..],
        [crate::RouteAnswer::Local]
    ));
}
