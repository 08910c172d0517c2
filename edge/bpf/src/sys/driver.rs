use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zerocopy::FromZeros;

use super::object::{Pinned, ProgramFd, RawLinkInfo, info, load_as, raw, update_link};
use super::{bpf_fd, command, wrong_length};

/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// `BPF_XDP`, where such a program is attached.
const AT_XDP: u32 = 37;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;

/// Who runs the program at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverMode {
    /// The device's driver, before there is an `sk_buff` (`XDP_FLAGS_DRV_MODE`).
    Native,
    /// The kernel, after that: for devices without support, and no faster (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

impl DriverMode {
    const fn bits(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

#[derive(FromZeros)]
#[repr(C)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

/// What the kernel says about an XDP link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverLinkInfo {
    /// The program's number.
    pub program: u32,
    /// The network device; zero when that is gone.
    pub ifindex: u32,
}

/// A program's attachment at a driver (Linux 5.9). It ends with the last descriptor or pin.
#[derive(Debug)]
pub struct DriverLink(OwnedFd);

impl AsFd for DriverLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pinned for DriverLink {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let link = Self(fd);
        link.info()?;
        Ok(link)
    }
}

impl DriverLink {
    /// Attaches a program at a device of this thread's network namespace, where no other may be.
    pub fn create(program: &ProgramFd, ifindex: u32, mode: DriverMode) -> io::Result<Self> {
        let mut attr = LinkAttr::new_zeroed();
        attr.program = raw(program.as_fd());
        attr.target = ifindex;
        attr.attach = AT_XDP;
        attr.flags = mode.bits();
        // SAFETY: the attribute holds no address.
        unsafe { bpf_fd(command::LINK_CREATE, &mut attr) }.map(Self)
    }

    /// Puts another program in the place of this one; each packet meets one of them.
    pub fn update(&self, program: &ProgramFd) -> io::Result<()> {
        update_link(self.as_fd(), program)
    }

    /// Describes it.
    pub fn info(&self) -> io::Result<DriverLinkInfo> {
        let info: RawLinkInfo = info(self.as_fd())?;
        if info.kind != LINK_TYPE_XDP {
            return Err(wrong_length("the description of an XDP link"));
        }
        Ok(DriverLinkInfo {
            program: info.program,
            ifindex: info.ifindex,
        })
    }
}

/// Loads a program for a driver from bare instructions: to measure beside it.
pub fn load_driver_program(name: &str, instructions: &[[u8; 8]]) -> io::Result<ProgramFd> {
    load_as((XDP, AT_XDP), name, instructions)
}
