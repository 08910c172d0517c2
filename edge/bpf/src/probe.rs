//! Which features of the kernel are there, found by trying them, and what follows where one is
//! missing.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};

use crate::attach::{Attachment, try_filter};
use crate::error::{BpfError, Doing};
use crate::pins::in_bpf_filesystem;
use crate::sys::{MapFd, MapKind, NO_PREALLOC, ProgramFd, has_tcx, load_program};

/// The index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// Something that the datapath wants of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub name: &'static str,
    /// Whether it is there, or why not.
    pub there: Result<(), String>,
    /// Whether the datapath needs it.
    pub required: bool,
    /// What follows where it is missing.
    pub without: &'static str,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.there {
            Ok(()) => write!(f, "{}: there", self.name),
            Err(why) => write!(f, "{}: missing ({why}); {}", self.name, self.without),
        }
    }
}

/// One instruction: operation, registers, offset, immediate value.
fn instruction(op: u8, registers: u8, immediate: i32) -> [u8; 8] {
    let [a, b, c, d] = immediate.to_le_bytes();
    [op, registers, 0, 0, a, b, c, d]
}

/// `r0 = value; exit`.
fn returning(value: i32) -> [[u8; 8]; 2] {
    [instruction(0xb7, 0, value), instruction(0x95, 0, 0)]
}

/// A program that calls a helper with five numbers, as far as the verifier lets it. Whether the
/// helper exists is checked before its arguments are.
fn has_helper(number: i32) -> io::Result<()> {
    let mut program: Vec<_> = (1..=5).map(|r| instruction(0xb7, r, 0)).collect();
    program.push(instruction(0x85, 0, number));
    program.extend(returning(0));
    match load_program("probe", &program) {
        Ok(_) => Ok(()),
        // Refused for its arguments: it is known.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        Err(error) => Err(error),
    }
}

fn nothing() -> io::Result<ProgramFd> {
    load_program("probe", &returning(-1))
}

/// How programs are attached on this kernel: by tcx where it has it.
pub fn attachment() -> Result<Attachment, BpfError> {
    let program = nothing().doing(|| "load a program".to_owned())?;
    let tcx = has_tcx(&program).doing(|| "look for tcx".to_owned())?;
    Ok(if tcx {
        Attachment::Tcx
    } else {
        Attachment::Clsact
    })
}

fn tcx() -> io::Result<()> {
    if has_tcx(&nothing()?)? {
        Ok(())
    } else {
        Err(io::Error::other("Linux 6.6 brought it"))
    }
}

fn map(kind: MapKind, sizes: (u32, u32), entries: u32, flags: u32) -> io::Result<MapFd> {
    MapFd::create("probe", kind, sizes, entries, flags)
}

fn batches() -> io::Result<()> {
    let map = map(MapKind::Hash, (4, 4), 4, 0)?;
    map.update_batch(&[1, 0, 0, 0, 2, 0, 0, 0], &[0; 8])
        .map_err(|(_, error)| error)
}

fn jit() -> io::Result<()> {
    match nothing()?.info()?.jited_length {
        0 => Err(io::Error::other("sysctl net.core.bpf_jit_enable is 0")),
        _ => Ok(()),
    }
}

/// A filter on a loopback interface that nobody else sees: of a network namespace of a thread,
/// which goes with it.
fn filters() -> io::Result<()> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        try_filter(&nothing()?, LOOPBACK)
    };
    std::thread::scope(|scope| scope.spawn(attempt).join())
        .unwrap_or_else(|_| Err(io::Error::other("the attempt panicked")))
}

fn kernel_btf() -> io::Result<()> {
    fs::metadata("/sys/kernel/btf/vmlinux").map(drop)
}

type Probe = (&'static str, bool, &'static str, fn() -> io::Result<()>);

/// Numbers of helpers: `enum bpf_func_id`.
const PROBES: &[Probe] = &[
    ("eBPF programs", true, "pods take the ordinary road", || {
        nothing().map(drop)
    }),
    (
        "bpf_redirect_peer",
        true,
        "no datapath on this kernel (5.10 brought it)",
        || has_helper(155),
    ),
    (
        "bpf_redirect_neigh",
        true,
        "no datapath on this kernel (5.10 brought it)",
        || has_helper(152),
    ),
    (
        "bpf_fib_lookup",
        true,
        "no datapath on this kernel (4.18 brought it)",
        || has_helper(69),
    ),
    (
        "LRU hash",
        true,
        "no datapath on this kernel (4.10 brought it)",
        || map(MapKind::LruHash, (4, 4), 64, 0).map(drop),
    ),
    (
        "longest-prefix map",
        true,
        "no datapath on this kernel (4.11 brought it)",
        || map(MapKind::LpmTrie, (8, 4), 4, NO_PREALLOC).map(drop),
    ),
    (
        "ring buffer",
        true,
        "no datapath on this kernel (5.8 brought it)",
        || map(MapKind::RingBuf, (0, 0), 65_536, 0).map(drop),
    ),
    (
        "batch operations",
        false,
        "tables are read entry by entry",
        batches,
    ),
    (
        "clsact filters",
        false,
        "programs are attached by tcx alone, which takes each pod some 20 ms",
        filters,
    ),
    ("tcx", false, "programs are attached by clsact filters", tcx),
    (
        "JIT",
        false,
        "programs are interpreted, several times slower",
        jit,
    ),
    (
        "kernel BTF",
        false,
        "bpftool shows bytes instead of fields",
        kernel_btf,
    ),
];

/// Looks for everything that the datapath wants, with its pins below `root`.
pub fn probe(root: &Path) -> Vec<Feature> {
    let mut features: Vec<Feature> = PROBES
        .iter()
        .map(|(name, required, without, probe)| Feature {
            name,
            there: probe().map_err(|error| words(&error)),
            required: *required,
            without,
        })
        .collect();
    features.push(Feature {
        name: "bpffs",
        there: if in_bpf_filesystem(root) {
            Ok(())
        } else {
            Err(format!("{} is in none", root.display()))
        },
        required: true,
        without: "nothing can be pinned: `mount -t bpf bpf /sys/fs/bpf`",
    });
    features
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "not permitted: root is needed, or CAP_BPF with CAP_NET_ADMIN and CAP_PERFMON"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_that_no_kernel_has_is_missing() {
        assert!(has_helper(69).is_ok());
        assert!(has_helper(1_000_000).is_err());
    }

    #[test]
    fn a_program_that_the_verifier_refuses_is_refused() {
        // Falls off its end.
        assert!(load_program("probe", &[instruction(0xb7, 0, 0)]).is_err());
    }
}
