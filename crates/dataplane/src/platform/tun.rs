//! TUN queues: opening them, their offload flags, reading and writing whole packets.
//!
//! A packet crosses a queue behind a virtio-net header of [`VNET_HEADER_LEN`] bytes, whatever the
//! offloads; without offloads that header is all zeros. Queues are non-blocking and belong to one
//! thread each.

use std::fs::OpenOptions;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, IntoRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use serde::{Deserialize, Serialize};

use crate::platform::{Error, Result};

/// Bytes of the virtio-net header in front of each packet: the kernel's default size, which has no
/// field for merged receive buffers.
pub const VNET_HEADER_LEN: usize = 10;

/// Longest packet with its header that a queue delivers or takes.
pub const MAX_READ_LEN: usize = VNET_HEADER_LEN + u16::MAX as usize;

/// Longest device name (`IFNAMSIZ` less the terminating zero).
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// The user with this number.
const ROOT: i32 = 0;

const CLONE_DEVICE: &str = "/dev/net/tun";

/// What the kernel may leave undone in packets that it hands us, and what we may in ours.
///
/// Flags of `TUNSETOFFLOAD` in `include/uapi/linux/if_tun.h`. The kernel takes a set whole or
/// refuses it whole, so they are asked for from most to least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offload {
    /// Complete packets of at most one MTU.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Partial checksums, and TCP super-packets of both families.
    #[serde(rename = "tcp")]
    Tcp,
    /// The same, and UDP super-packets (Linux 6.2).
    #[serde(rename = "tcp+udp")]
    TcpUdp,
}

impl Offload {
    /// From most to least.
    pub const ALL: [Self; 3] = [Self::TcpUdp, Self::Tcp, Self::None];

    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::TcpUdp => "tcp+udp",
        }
    }

    fn flags(self) -> libc::c_uint {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        match self {
            Self::None => 0,
            Self::Tcp => tcp,
            Self::TcpUdp => tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6,
        }
    }
}

/// One queue of a multi-queue TUN device.
pub struct TunQueue {
    device: tun::Device,
    name: String,
}

impl TunQueue {
    /// Opens one more queue of the device `name`, which is created if it does not exist.
    ///
    /// The device is made persistent, so that its addresses and routes outlive this process, and
    /// root's: a queue of a device without an owner may be opened by everybody.
    ///
    /// # Errors
    ///
    /// The kernel's refusal: no such module, not permitted, the name is taken by another kind of
    /// device, or all queues are open.
    pub fn open(name: &str) -> Result<Self> {
        let clone = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(CLONE_DEVICE)
            .map_err(|source| Error::new("open", CLONE_DEVICE, source))?;
        attach(clone.as_fd(), name)
            .map_err(|source| Error::new("attach a queue to TUN device", name, source))?;

        let fail = |op| move |source: tun::Error| Error::new(op, name, source);
        let mut config = tun::Configuration::default();
        // The file descriptor is the crate's from here on, also when it refuses it.
        config.raw_fd(clone.into_raw_fd()).close_fd_on_drop(true).tun_name(name);
        let mut device = tun::Device::new(&config).map_err(fail("adopt TUN device"))?;
        device.user(ROOT).map_err(fail("make root the owner of TUN device"))?;
        device.persist().map_err(fail("make TUN device persistent"))?;
        device
            .set_nonblock()
            .map_err(|source| Error::new("make TUN device non-blocking", name, source))?;
        Ok(Self { device, name: name.to_owned() })
    }

    /// Asks the kernel for `wanted`, and for less where it knows less; returns what it granted.
    ///
    /// # Errors
    ///
    /// Only if the kernel refuses even [`Offload::None`], which no kernel should.
    pub fn set_offload(&self, wanted: Offload) -> Result<Offload> {
        let mut refusal = io::Error::from(io::ErrorKind::InvalidInput);
        for offload in Offload::ALL.into_iter().skip_while(|offload| *offload != wanted) {
            // SAFETY: TUNSETOFFLOAD takes its flags by value and touches no memory of ours.
            let result = unsafe {
                libc::ioctl(self.device.as_raw_fd(), libc::TUNSETOFFLOAD, offload.flags())
            };
            if result == 0 {
                return Ok(offload);
            }
            refusal = io::Error::last_os_error();
        }
        Err(Error::new("set the offloads of TUN device", &self.name, refusal))
    }

    /// Whether the queue still belongs to a device; false once somebody has deleted it.
    pub fn is_attached(&self) -> bool {
        // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // SAFETY: TUNGETIFF writes one ifreq, which `request` is, and it outlives the call.
        unsafe { libc::ioctl(self.device.as_raw_fd(), libc::TUNGETIFF, &raw mut request) == 0 }
    }

    /// Reads one packet behind its virtio-net header; `WouldBlock` when there is none.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EBADFD` once the device has been deleted.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.as_fd(), buffer)?)
    }

    /// Writes one packet, gathered from `parts`, of which the first bytes are its virtio-net
    /// header.
    ///
    /// # Errors
    ///
    /// What the kernel says: `EINVAL` for a header that it does not believe, `EIO` while the device
    /// is down, `ENOBUFS` without memory.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(self.as_fd(), parts)?;
        Ok(())
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the device owns the descriptor and lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }
}

fn attach(clone: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > MAX_NAME_LEN || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a device name has 1 to {MAX_NAME_LEN} bytes"),
        ));
    }
    // SAFETY: an all-zero ifreq is a valid value of that plain C structure.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and it outlives the call.
    match unsafe { libc::ioctl(clone.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
