//! The system call `bpf(2)`, as far as it is needed: the only place of this crate where memory is
//! handed to the kernel by address. What is public here is safe: buffers are slices whose length
//! is checked against what the kernel will read or write.
//!
//! Layouts and numbers: `linux/bpf.h`.
#![allow(unsafe_code)]

mod map;
mod object;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub(crate) use map::lacks_batches;
pub use map::{BatchEnd, Cursor, MapFd, MapInfo, MapKind, NO_PREALLOC, possible_cpus};
pub use object::{
    LinkFd, LinkInfo, Pinned, ProgramFd, ProgramInfo, TestInput, TestOutput, has_tcx, load_program,
};

/// Commands (`enum bpf_cmd`).
mod command {
    pub const MAP_CREATE: u32 = 0;
    pub const MAP_LOOKUP_ELEM: u32 = 1;
    pub const MAP_UPDATE_ELEM: u32 = 2;
    pub const MAP_DELETE_ELEM: u32 = 3;
    pub const MAP_GET_NEXT_KEY: u32 = 4;
    pub const PROG_LOAD: u32 = 5;
    pub const OBJ_PIN: u32 = 6;
    pub const OBJ_GET: u32 = 7;
    pub const PROG_TEST_RUN: u32 = 10;
    pub const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub const MAP_LOOKUP_BATCH: u32 = 24;
    pub const MAP_UPDATE_BATCH: u32 = 26;
    pub const MAP_DELETE_BATCH: u32 = 27;
    pub const LINK_CREATE: u32 = 28;
    pub const LINK_UPDATE: u32 = 29;
}

/// `ENOTSUPP`, which is no error number of user space, but comes from map types without batches.
pub const ENOTSUPP: i32 = 524;

/// Attempts at what a signal interrupts, or what the kernel asks to try again.
const ATTEMPTS: usize = 16;

/// Calls `bpf(2)`.
///
/// # Safety
/// `attr` has the layout that `command` takes, and every address in it is that of memory which the
/// kernel may read, or write, to the length that the command says.
unsafe fn bpf<A>(command: u32, attr: &mut A) -> io::Result<i32> {
    let mut last = io::Error::from_raw_os_error(libc::EAGAIN);
    for _ in 0..ATTEMPTS {
        // SAFETY: the caller vouches for `attr`; its length is its own.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                std::ptr::from_mut(attr),
                size_of::<A>(),
            )
        };
        if result >= 0 {
            return i32::try_from(result).map_err(io::Error::other);
        }
        last = io::Error::last_os_error();
        if !matches!(last.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            break;
        }
    }
    Err(last)
}

/// Like [`bpf`], for commands that return a new descriptor.
///
/// # Safety
/// As [`bpf`], and `command` returns a descriptor.
unsafe fn bpf_fd<A>(command: u32, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for `attr`.
    let fd: RawFd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The address of something the kernel reads.
fn address<T>(memory: &[T]) -> u64 {
    memory.as_ptr() as u64
}

/// The address of something the kernel writes.
fn address_mut<T>(memory: &mut [T]) -> u64 {
    memory.as_mut_ptr() as u64
}

fn wrong_length(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{what} of a wrong length"),
    )
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| wrong_length("a buffer"))
}

/// Up to fifteen bytes of a name, as the kernel keeps it.
fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

fn text_of(name: [u8; 16]) -> String {
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}
