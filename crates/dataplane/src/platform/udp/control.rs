//! Control messages beside datagrams: what a call says about a train, and what the kernel does.

/// Room for two control messages of an int each, more than any call here sends or receives.
pub(super) const CONTROL_LEN: usize = 64;

/// Control messages under construction, aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
pub(super) struct Control {
    pub(super) bytes: [u8; CONTROL_LEN],
    pub(super) len: usize,
}

impl Control {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; CONTROL_LEN], len: 0 }
    }

    pub(super) fn push(&mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) {
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + value.len(),
            cmsg_level: level,
            cmsg_type: kind,
        };
        let space = header.cmsg_len.next_multiple_of(align_of::<libc::cmsghdr>());
        debug_assert!(self.len + space <= CONTROL_LEN, "the control buffer holds every message");
        // SAFETY: the buffer is aligned for cmsghdr, `len` stays a multiple of that alignment, and
        // CONTROL_LEN leaves room for the header.
        unsafe { self.bytes.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>().write(header) };
        let start = self.len + size_of::<libc::cmsghdr>();
        self.bytes[start..start + value.len()].copy_from_slice(value);
        self.len += space;
    }
}

pub(super) fn for_each_control(
    message: &libc::msghdr,
    mut visit: impl FnMut(libc::c_int, libc::c_int, &[u8]),
) {
    // SAFETY: `message` comes from recvmmsg with its control buffer still alive, so that the macros
    // walk messages that the kernel wrote, each as long as its header says.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(current) = header.as_ref() {
            let len = current.cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
            let value = std::slice::from_raw_parts(libc::CMSG_DATA(header), len);
            visit(current.cmsg_level, current.cmsg_type, value);
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
}
