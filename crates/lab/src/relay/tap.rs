//! One end of a cable that a program holds: a TAP device, frame by frame.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::ioctl::{self, Opcode, Updater};

/// The device whose descriptors become ends.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// `TUNSETIFF`, with `IFF_TAP` and `IFF_NO_PI`: nothing in front of a frame.
const TUNSETIFF: Opcode = 0x4004_54ca;
const TAP_WITHOUT_HEADER: i16 = 0x0002 | 0x1000;

/// `IFNAMSIZ`, and the rest of a `struct ifreq`.
const NAME_BYTES: usize = 16;
const REST_BYTES: usize = 22;

/// A `struct ifreq` that holds flags.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: i16,
    rest: [u8; REST_BYTES],
}

/// A TAP device that is there.
pub(super) struct Tap(File);

impl Tap {
    /// Opens the device called `name` of this process's namespace.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let bytes = name.as_bytes();
        let mut request =
            Request { name: [0; NAME_BYTES], flags: TAP_WITHOUT_HEADER, rest: [0; REST_BYTES] };
        let (place, _) = request
            .name
            .split_at_mut_checked(bytes.len())
            .filter(|(_, rest)| !rest.is_empty())
            .ok_or(io::ErrorKind::InvalidFilename)?;
        place.copy_from_slice(bytes);
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(nonblocking).open(CLONE_DEVICE)?;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, of which `Request` has the layout
        // (netdevice(7)), and which outlives the call.
        let set = unsafe { Updater::<TUNSETIFF, Request>::new(&mut request) };
        // SAFETY: the operation is the one above, and the descriptor is of the device that has it.
        unsafe { ioctl::ioctl(&file, set) }?;
        Ok(Self(file))
    }

    /// The next frame, if there is one.
    pub(super) fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match rustix::io::read(&self.0, &mut *buffer) {
            Ok(len) => Ok(buffer.get(..len)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame. What the kernel does not take is lost, as on a cable.
    pub(super) fn send(&self, frame: &[u8]) {
        let _ = rustix::io::write(&self.0, frame);
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_is_as_long_as_the_kernel_s() {
        assert_eq!(size_of::<Request>(), 40);
    }

    #[test]
    fn name_that_no_device_can_have_is_refused() {
        for name in ["sixteen-letters-", "a name of more than sixteen letters"] {
            let refused = Tap::open(name).err().map(|error| error.kind());
            assert_eq!(refused, Some(io::ErrorKind::InvalidFilename), "{name}");
        }
    }
}
