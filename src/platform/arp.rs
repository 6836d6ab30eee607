//! Asking the link whether somebody else has an address of this machine (RFC 5227).

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::time::Duration;

use culvert_dataplane::platform::clock;
use overlay_proto::Mac;
use socket2::{Domain, SockAddr, Socket, Type};

/// `ETH_P_ARP` and `ETH_P_IP`.
const ARP: u16 = 0x0806;
const IPV4: [u8; 2] = [0x08, 0x00];

/// Bytes of a question or an answer about IPv4 over Ethernet.
const LEN: usize = 28;

/// Asks on the Ethernet device with index `link`, whose own hardware address is `own`, who has
/// `address`, and waits for `patience`; the hardware address of the first other machine that says
/// it has.
///
/// The question has no sender address, so that nobody learns anything from it.
///
/// # Errors
///
/// No right to it (`CAP_NET_RAW`), or the device is down.
pub(crate) fn who_else_has(
    address: Ipv4Addr,
    link: u32,
    own: Mac,
    patience: Duration,
) -> io::Result<Option<Mac>> {
    let protocol = i32::from(ARP.to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol.into()))?;
    socket.bind(&place(link, [0; 6])?)?;
    socket.send_to(&question(address, own), &place(link, [0xff; 6])?)?;
    let end = clock::now() + patience;
    loop {
        let left = end.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let mut answer = [0_u8; LEN];
        match io::Read::read(&mut &socket, &mut answer) {
            Ok(_) => {
                if let Some(other) = holder(&answer, address).filter(|holder| *holder != own) {
                    return Ok(Some(other));
                }
            }
            Err(error)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) =>
            {
                return Ok(None);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn question(address: Ipv4Addr, own: Mac) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    // Ethernet, IPv4, lengths of both, a request.
    bytes[..8].copy_from_slice(&[0, 1, IPV4[0], IPV4[1], 6, 4, 0, 1]);
    bytes[8..14].copy_from_slice(&own.octets());
    bytes[24..].copy_from_slice(&address.octets());
    bytes
}

/// Who says in this message that he has the address.
fn holder(message: &[u8; LEN], address: Ipv4Addr) -> Option<Mac> {
    let is_answer = message[..8] == [0, 1, IPV4[0], IPV4[1], 6, 4, 0, 2];
    let is_about = message[14..18] == address.octets();
    let mac: [u8; 6] = message[8..14].try_into().ok()?;
    (is_answer && is_about).then(|| Mac::new(mac))
}

/// A place on the link: the device, and a hardware address on it.
fn place(link: u32, mac: [u8; 6]) -> io::Result<SockAddr> {
    let index = i32::try_from(link).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: all-zero bytes are a `sockaddr_ll` of no family.
    let mut place: libc::sockaddr_ll = unsafe { mem::zeroed() };
    place.sll_family = libc::AF_PACKET as libc::sa_family_t;
    place.sll_protocol = ARP.to_be();
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

    #[test]
    fn question_has_no_sender_address() {
        let bytes = question(ADDRESS, Mac::new([2, 0, 0, 0, 0, 1]));
        assert_eq!(bytes[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(bytes[8..18], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[18..], [0, 0, 0, 0, 0, 0, 192, 168, 1, 11]);
    }

    #[test]
    fn only_an_answer_about_the_address_names_a_holder() {
        let mut answer = question(Ipv4Addr::UNSPECIFIED, Mac::new([2, 0, 0, 0, 0, 9]));
        answer[14..18].copy_from_slice(&ADDRESS.octets());
        assert_eq!(holder(&answer, ADDRESS), None, "it is a question");
        answer[7] = 2;
        assert_eq!(holder(&answer, ADDRESS), Some(Mac::new([2, 0, 0, 0, 0, 9])));
        assert_eq!(holder(&answer, Ipv4Addr::new(192, 168, 1, 12)), None);
    }
}
