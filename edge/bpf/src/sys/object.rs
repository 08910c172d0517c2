use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{
    address, address_mut, bpf, bpf_fd, command, length, object_name, text_of, wrong_length,
};

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_TCX_INGRESS`.
pub const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
pub const TCX_EGRESS: u32 = 47;
/// More than any kernel's `struct __sk_buff` has.
const CONTEXT_ROOM: usize = 512;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;

#[derive(FromZeros)]
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    file_flags: u32,
}

/// What can be pinned in a bpffs.
pub trait Pinned: Sized + AsFd {
    /// Wraps a descriptor of that kind; fails for one of another kind.
    fn from_fd(fd: OwnedFd) -> io::Result<Self>;

    /// Opens what is pinned at `path`.
    fn open(path: &Path) -> io::Result<Self> {
        Self::from_fd(open_pin(path)?)
    }

    /// Pins it at `path`, where nothing may be yet.
    fn pin(&self, path: &Path) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = PinAttr::new_zeroed();
        attr.path = address(path.as_bytes_with_nul());
        attr.fd = raw(self.as_fd());
        // SAFETY: as in `open_pin`.
        unsafe { bpf(command::OBJ_PIN, &mut attr) }.map(drop)
    }
}

/// Opens what is pinned at `path`, whatever it is.
fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr::new_zeroed();
    attr.path = address(path.as_bytes_with_nul());
    // SAFETY: the path ends with its NUL, and lives longer than the call.
    unsafe { bpf_fd(command::OBJ_GET, &mut attr) }
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

#[derive(FromZeros)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// Reads as much of the kernel's description of `fd` as `T` has room for.
pub(super) fn info<T: FromZeros + IntoBytes + FromBytes>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::new_zeroed();
    let bytes = info.as_mut_bytes();
    let mut attr = InfoAttr::new_zeroed();
    attr.fd = raw(fd);
    attr.length = length(bytes.len())?;
    attr.info = address_mut(bytes);
    // SAFETY: the kernel writes at most `length` bytes, and any bytes are a `T`. What the command
    // reads of `info` are addresses for further arrays, which are zero.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

#[derive(FromBytes, IntoBytes)]
#[repr(C)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    maps: u64,
    name: [u8; 16],
    // ifindex, flags, device and inode of the namespace: for programs offloaded to a device.
    offload: [u64; 3],
    // Symbols and their lengths.
    symbols: [u64; 3],
    // BTF, function and line records.
    btf: [u64; 7],
    tags: u64,
    run_time: u64,
    run_count: u64,
    recursion_misses: u64,
    verified_instructions: u32,
    pad: u32,
}

/// What the kernel says about a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its number, unique until the next boot.
    pub id: u32,
    /// Its name, up to fifteen bytes.
    pub name: String,
    /// Digest of its instructions.
    pub tag: [u8; 8],
    /// Bytes of machine code; zero without a JIT.
    pub jited_length: u32,
    /// Bytes of instructions after the verifier.
    pub translated_length: u32,
    /// Instructions that the verifier looked at, over all paths; since Linux 5.16, before it zero.
    pub verified_instructions: u32,
}

/// A program.
#[derive(Debug)]
pub struct ProgramFd(OwnedFd);

impl AsFd for ProgramFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pinned for ProgramFd {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let program = Self(fd);
        program.info()?;
        Ok(program)
    }
}

impl ProgramFd {
    /// Describes it.
    pub fn info(&self) -> io::Result<ProgramInfo> {
        let info: RawProgramInfo = info(self.as_fd())?;
        Ok(ProgramInfo {
            id: info.id,
            name: text_of(info.name),
            tag: info.tag,
            jited_length: info.jited_length,
            translated_length: info.translated_length,
            verified_instructions: info.verified_instructions,
        })
    }

    /// Runs it over a packet, attached nowhere (`BPF_PROG_TEST_RUN`). A redirect is only noted.
    pub fn test_run(&self, input: &TestInput<'_>) -> io::Result<TestOutput> {
        // The program may make the packet longer.
        let mut packet = vec![0; input.packet.len() + 256];
        let mut context = vec![0; CONTEXT_ROOM];
        let mut attr = TestAttr::new_zeroed();
        attr.program = raw(self.as_fd());
        attr.size_in = length(input.packet.len())?;
        attr.data_in = address(input.packet);
        attr.size_out = length(packet.len())?;
        attr.data_out = address_mut(&mut packet);
        attr.repeat = input.repeat.max(1);
        if !input.context.is_empty() {
            attr.context_size_in = length(input.context.len())?;
            attr.context_in = address(input.context);
            attr.context_size_out = length(context.len())?;
            attr.context_out = address_mut(&mut context);
        }
        // SAFETY: every address goes with the length of its slice.
        unsafe { bpf(command::PROG_TEST_RUN, &mut attr) }?;
        packet.truncate(attr.size_out as usize);
        context.truncate(attr.context_size_out as usize);
        Ok(TestOutput {
            verdict: attr.verdict.cast_signed(),
            packet,
            context,
            nanoseconds: attr.duration,
        })
    }
}

#[derive(FromZeros)]
#[repr(C)]
struct TestAttr {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}

/// What a program is run over.
#[derive(Debug, Clone, Copy)]
pub struct TestInput<'a> {
    /// The frame, from its link header on.
    pub packet: &'a [u8],
    /// The bytes of a `struct __sk_buff`, of which the kernel takes some fields (`ifindex`,
    /// `gso_size`, …); empty for none.
    pub context: &'a [u8],
    /// How often to run it; the packet stays as the runs leave it.
    pub repeat: u32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestOutput {
    /// What the program returned last.
    pub verdict: i32,
    /// The packet after it.
    pub packet: Vec<u8>,
    /// The context after it.
    pub context: Vec<u8>,
    /// Mean time of one run, in ns.
    pub nanoseconds: u32,
}

#[derive(FromZeros)]
#[repr(C)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a classifier from bare instructions, eight bytes each: to find out what the kernel takes.
pub fn load_program(name: &str, instructions: &[[u8; 8]]) -> io::Result<ProgramFd> {
    let mut attr = LoadAttr::new_zeroed();
    attr.kind = SCHED_CLS;
    attr.count = length(instructions.len())?;
    attr.instructions = address(instructions);
    attr.license = address(b"GPL\0");
    attr.name = object_name(name);
    // SAFETY: `count` instructions of eight bytes are there, and the licence ends with its NUL.
    unsafe { bpf_fd(command::PROG_LOAD, &mut attr) }.map(ProgramFd)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    attach: u32,
    rest: [u64; 6],
}

/// What the kernel says about a tcx link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its number.
    pub id: u32,
    /// The program's number.
    pub program: u32,
    /// The network device; zero when that is gone, or the link was detached.
    pub ifindex: u32,
    /// Whether it is at the egress.
    pub egress: bool,
}

/// A program's attachment by tcx (Linux 6.6).
#[derive(Debug)]
pub struct LinkFd(OwnedFd);

impl AsFd for LinkFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pinned for LinkFd {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let link = Self(fd);
        link.info()?;
        Ok(link)
    }
}

#[derive(FromZeros)]
#[repr(C)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

#[derive(FromZeros)]
#[repr(C)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

impl LinkFd {
    /// Attaches a program at a device of this thread's network namespace, after those there.
    pub fn create_tcx(program: &ProgramFd, ifindex: u32, egress: bool) -> io::Result<Self> {
        let mut attr = LinkAttr::new_zeroed();
        attr.program = raw(program.as_fd());
        attr.target = ifindex;
        attr.attach = if egress { TCX_EGRESS } else { TCX_INGRESS };
        // SAFETY: the attribute holds no address.
        unsafe { bpf_fd(command::LINK_CREATE, &mut attr) }.map(Self)
    }

    /// Describes the link that is pinned at `path`, in two system calls where opening it first
    /// takes three.
    pub fn describe(path: &Path) -> io::Result<LinkInfo> {
        Self(open_pin(path)?).info()
    }

    /// Puts another program in the place of this one; each packet meets one of them.
    pub fn update(&self, program: &ProgramFd) -> io::Result<()> {
        let mut attr = LinkUpdateAttr::new_zeroed();
        attr.link = raw(self.as_fd());
        attr.program = raw(program.as_fd());
        // SAFETY: the attribute holds no address.
        unsafe { bpf(command::LINK_UPDATE, &mut attr) }.map(drop)
    }

    /// Describes it.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let info: RawLinkInfo = info(self.as_fd())?;
        if info.kind != LINK_TYPE_TCX {
            return Err(wrong_length("the description of a tcx link"));
        }
        Ok(LinkInfo {
            id: info.id,
            program: info.program,
            ifindex: info.ifindex,
            egress: info.attach == TCX_EGRESS,
        })
    }
}

/// Whether the kernel attaches by tcx. Asked with a device that cannot be: a kernel with tcx
/// looks for it, another one does not know the place.
pub fn has_tcx(program: &ProgramFd) -> io::Result<bool> {
    match LinkFd::create_tcx(program, i32::MAX.cast_unsigned(), false) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}
