use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use watari_abi::SocketHook;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::object::{Pinned, ProgramFd, info, raw, update_link};
use super::{bpf, bpf_fd, command, wrong_length};

/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;
/// `SO_NETNS_COOKIE` of `asm-generic/socket.h` (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

#[derive(FromZeros)]
#[repr(C)]
struct LinkAttr {
    program: u32,
    cgroup: u32,
    attach: u32,
    flags: u32,
}

#[derive(FromZeros)]
#[repr(C)]
struct DetachAttr {
    link: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach: u32,
    rest: [u32; 11],
}

/// What the kernel says about a program's attachment at a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLinkInfo {
    /// The program's number.
    pub program: u32,
    /// The cgroup's number: that of its directory's inode. Zero when it is gone, or the link was
    /// detached.
    pub cgroup: u64,
    /// Where at it: a [`SocketHook`].
    pub attach: u32,
}

/// A program's attachment at a cgroup (Linux 5.7), beside those of others.
#[derive(Debug)]
pub struct CgroupLink(OwnedFd);

impl AsFd for CgroupLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pinned for CgroupLink {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let link = Self(fd);
        link.info()?;
        Ok(link)
    }
}

impl CgroupLink {
    /// Attaches a program at a cgroup, after those there; `cgroup` is its directory.
    pub fn create(
        program: &ProgramFd,
        cgroup: BorrowedFd<'_>,
        hook: SocketHook,
    ) -> io::Result<Self> {
        let mut attr = LinkAttr::new_zeroed();
        attr.program = raw(program.as_fd());
        attr.cgroup = raw(cgroup);
        attr.attach = hook as u32;
        // SAFETY: the attribute holds no address.
        unsafe { bpf_fd(command::LINK_CREATE, &mut attr) }.map(Self)
    }

    /// Puts another program in the place of this one; each call meets one of them.
    pub fn update(&self, program: &ProgramFd) -> io::Result<()> {
        update_link(self.as_fd(), program)
    }

    /// Takes the program off at once (Linux 5.9): after the last reference is gone the kernel does so
    /// too, only some time later.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = DetachAttr::new_zeroed();
        attr.link = raw(self.as_fd());
        // SAFETY: the attribute holds no address.
        unsafe { bpf(command::LINK_DETACH, &mut attr) }.map(drop)
    }

    /// Describes it.
    pub fn info(&self) -> io::Result<CgroupLinkInfo> {
        let info: RawInfo = info(self.as_fd())?;
        if info.kind != LINK_TYPE_CGROUP {
            return Err(wrong_length("the description of a link to a cgroup"));
        }
        Ok(CgroupLinkInfo {
            program: info.program,
            cgroup: info.cgroup,
            attach: info.attach,
        })
    }
}

/// The kernel's number of the network namespace of a socket, which no other one will have until the
/// next boot.
pub fn netns_cookie_of(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes at the address of `cookie`, which has them,
    // and the length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            std::ptr::from_mut(&mut length),
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
