//! Asking links who has addresses (RFC 5227).

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::time::Duration;

use culvert_dataplane::platform::clock;
use overlay_proto::Mac;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};

/// `ETH_P_ARP`, `ETH_P_IP` and `ETH_P_ALL`.
const ARP: u16 = 0x0806;
const IPV4: [u8; 2] = [0x08, 0x00];
const ALL: u16 = 0x0003;

/// Lets ARP through and nothing else: load the EtherType (`SKF_AD_PROTOCOL`), compare, return.
///
/// kernel: a socket for ARP alone does not see what a bridge takes from its ports; one for
/// everything does.
const FILTER: [SockFilter; 4] = [
    SockFilter::new(0x28, 0, 0, libc::SKF_AD_OFF.cast_unsigned()),
    SockFilter::new(0x15, 0, 1, ARP as u32),
    SockFilter::new(0x06, 0, 0, u32::MAX),
    SockFilter::new(0x06, 0, 0, 0),
];

/// Bytes of a question or an answer about IPv4 over Ethernet.
const LEN: usize = 28;

/// Claims that are taken at most, and messages after each question: who floods a link tells nothing
/// more.
const MOST: usize = 4096;
const AT_ONCE: usize = 64;

/// One question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArpQuestion {
    /// Index of the Ethernet device that it goes out by.
    pub(crate) link: u32,
    /// That device's own hardware address.
    pub(crate) own: Mac,
    /// The address that is asked about.
    pub(crate) address: Ipv4Addr,
}

/// Somebody who says that he has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Index of the device that the answer came in by. What comes in by a bridge's port comes in by
    /// the port first, also if the bridge then refuses it.
    pub(crate) link: u32,
    /// The hardware address that he gives.
    pub(crate) mac: Mac,
}

/// Asks the questions and waits for `patience`: everybody who says that he has one of the
/// addresses, each once.
///
/// A question has no sender address, so that nobody learns anything from it.
///
/// # Errors
///
/// No right to it (`CAP_NET_RAW`), or a device is down.
pub(crate) fn claims(questions: &[ArpQuestion], patience: Duration) -> io::Result<Vec<Claim>> {
    // It gets nothing before it is bound.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.attach_filter(&FILTER)?;
    // kernel: index 0 is every device.
    socket.bind(&place(0, ALL, [0; 6])?)?;
    let mut found = Vec::new();
    let mut take = |flags: libc::c_int| -> io::Result<bool> {
        let mut answer = [mem::MaybeUninit::new(0_u8); LEN];
        let (len, from) = match socket.recv_from_with_flags(&mut answer, flags) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        // SAFETY: what the kernel has not written is still the zero that it began as.
        let answer = answer.map(|byte| unsafe { byte.assume_init() });
        let claim = (len == LEN).then(|| claim(&answer, link_of(&from)?)).flatten();
        let is_asked = |claim: &Claim| questions.iter().any(|it| it.address == claim.address);
        if let Some(claim) = claim.filter(is_asked)
            && !found.contains(&claim)
            && found.len() < MOST
        {
            found.push(claim);
        }
        Ok(true)
    };
    for question in questions {
        socket.send_to(&question.bytes(), &place(question.link, ARP, [0xff; 6])?)?;
        // The socket has room for the answers to some only.
        for _ in 0..AT_ONCE {
            if !take(libc::MSG_DONTWAIT)? {
                break;
            }
        }
    }
    let end = clock::now() + patience;
    loop {
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        take(0)?;
    }
    found.sort_unstable();
    Ok(found)
}

impl ArpQuestion {
    fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        // Ethernet, IPv4, lengths of both, a request.
        bytes[..8].copy_from_slice(&[0, 1, IPV4[0], IPV4[1], 6, 4, 0, 1]);
        bytes[8..14].copy_from_slice(&self.own.octets());
        bytes[24..].copy_from_slice(&self.address.octets());
        bytes
    }
}

/// Who says in this message that he has which address.
fn claim(message: &[u8; LEN], link: u32) -> Option<Claim> {
    let is_answer = message[..8] == [0, 1, IPV4[0], IPV4[1], 6, 4, 0, 2];
    let mac: [u8; 6] = message[8..14].try_into().ok()?;
    let address: [u8; 4] = message[14..18].try_into().ok()?;
    is_answer.then(|| Claim { address: address.into(), link, mac: Mac::new(mac) })
}

/// The device that a message came in by; none of one that goes out.
fn link_of(from: &SockAddr) -> Option<u32> {
    let is_whole = from.family() == libc::AF_PACKET as libc::sa_family_t
        && from.len() as usize >= mem::offset_of!(libc::sockaddr_ll, sll_addr);
    // SAFETY: it is of this family, and the storage behind it has room for every kind of address.
    let place = is_whole.then(|| unsafe { &*from.as_ptr().cast::<libc::sockaddr_ll>() })?;
    (place.sll_pkttype != libc::PACKET_OUTGOING).then_some(place.sll_ifindex)?.try_into().ok()
}

/// A place on the link: the device, a protocol, and a hardware address on it.
fn place(link: u32, protocol: u16, mac: [u8; 6]) -> io::Result<SockAddr> {
    let index = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: all-zero bytes are a `sockaddr_ll` of no family.
    let mut place: libc::sockaddr_ll = unsafe { mem::zeroed() };
    place.sll_family = libc::AF_PACKET as libc::sa_family_t;
    place.sll_protocol = protocol.to_be();
    place.sll_ifindex = index;
    place.sll_halen = 6;
    place.sll_addr[..6].copy_from_slice(&mac);
    // SAFETY: the closure writes a whole `sockaddr_ll` of the length that it reports, and the
    // storage has room for every kind of address.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            storage.cast::<libc::sockaddr_ll>().write(place);
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);

    fn question(address: Ipv4Addr) -> [u8; LEN] {
        ArpQuestion { link: 2, own: Mac::new([2, 0, 0, 0, 0, 1]), address }.bytes()
    }

    #[test]
    fn question_has_no_sender_address() {
        let bytes = question(ADDRESS);
        assert_eq!(bytes[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(bytes[8..18], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[18..], [0, 0, 0, 0, 0, 0, 192, 168, 1, 11]);
    }

    #[test]
    fn only_an_answer_claims_an_address() {
        let mut answer = question(Ipv4Addr::UNSPECIFIED);
        answer[14..18].copy_from_slice(&ADDRESS.octets());
        assert_eq!(claim(&answer, 7), None, "it is a question");
        answer[7] = 2;
        let mac = Mac::new([2, 0, 0, 0, 0, 1]);
        assert_eq!(claim(&answer, 7), Some(Claim { address: ADDRESS, link: 7, mac }));
    }

    #[test]
    fn device_of_a_message_is_read() {
        assert_eq!(link_of(&place(7, ARP, [0; 6]).unwrap()), Some(7));
        let other: std::net::SocketAddr = (ADDRESS, 1).into();
        assert_eq!(link_of(&other.into()), None);
    }
}
