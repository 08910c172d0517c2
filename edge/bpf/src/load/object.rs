use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::{ProgramError, SchedClassifier};
use aya::{EbpfError, EbpfLoader};
use aya_obj::{EbpfSectionKind, Object};
use watari_abi::{ABI_VERSION, Hook, maps};

use super::LoadOptions;
use crate::error::{BpfError, Doing};
use crate::pins::PinDir;
use crate::sys::{MapFd, MapInfo, MapKind, Pinned, ProgramFd};

/// `BPF_MAP_TYPE_RINGBUF`.
const RING: u32 = 27;
/// Lines of the verifier's log that an error shows.
const LOG_LINES: usize = 24;

/// How often a program is given to a verifier that is interrupted.
const LOAD_ATTEMPTS: u32 = 20;

/// An ELF is read in place, so it stands on a multiple of eight.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static PROGRAMS: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/programs.o")));

/// An object with programs, and the ABI it was compiled with.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Its ABI version.
    pub abi: u32,
    /// The ELF object.
    pub object: &'a [u8],
}

impl Image<'static> {
    /// That of this build.
    pub fn own() -> Self {
        Self {
            abi: ABI_VERSION,
            object: &PROGRAMS.0,
        }
    }
}

/// What a map must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub name: String,
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Layout {
    /// True if this map's entries could be entries of one with this layout.
    pub fn has_entries_of(&self, map: &MapFd) -> bool {
        let MapInfo {
            kind,
            key_size,
            value_size,
            ..
        } = map.info();
        let per_cpu = |kind: Option<MapKind>| kind.is_some_and(MapKind::per_cpu);
        per_cpu(*kind) == per_cpu(MapKind::of(self.kind))
            && (*key_size, *value_size) == (self.key_size, self.value_size)
    }

    /// True if this map has it.
    pub fn is_of(&self, map: &MapFd) -> bool {
        let MapInfo {
            kind,
            key_size,
            value_size,
            max_entries,
            flags,
            ..
        } = map.info();
        // The kernel may round a ring up to pages.
        let room = if self.kind == RING {
            *max_entries >= self.max_entries
        } else {
            *max_entries == self.max_entries
        };
        kind.is_some_and(|kind| kind as u32 == self.kind)
            && (*key_size, *value_size, *flags) == (self.key_size, self.value_size, self.flags)
            && room
    }
}

/// The layouts of an image's maps.
pub(super) fn layouts(image: Image<'_>, options: &LoadOptions) -> Result<Vec<Layout>, BpfError> {
    let object = Object::parse(image.object).map_err(|e| BpfError::Object(e.to_string()))?;
    let mut layouts = Vec::new();
    for name in maps::ALL {
        let Some(map) = object.maps.get(*name) else {
            return Err(BpfError::Object(format!("it has no map {name}")));
        };
        if !matches!(
            map.section_kind(),
            EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps
        ) {
            return Err(BpfError::Object(format!("{name} is no map")));
        }
        layouts.push(Layout {
            name: (*name).to_owned(),
            kind: map.map_type(),
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: options.entries(name).unwrap_or(map.max_entries()),
            flags: map.map_flags(),
        });
    }
    Ok(layouts)
}

/// Loads the programs over the maps pinned in `dir`; those that are not there are made and pinned.
/// The programs are pinned nowhere yet.
pub(super) fn load_over(
    image: Image<'_>,
    options: &LoadOptions,
    dir: &PinDir,
) -> Result<Vec<(Hook, ProgramFd)>, BpfError> {
    let mut loader = EbpfLoader::new();
    for name in maps::ALL {
        loader.map_pin_path(name, dir.map(name));
        if let Some(entries) = options.entries(name) {
            loader.map_max_entries(name, entries);
        }
    }
    let mut ebpf = loader
        .load(image.object)
        .map_err(|error| not_loaded(&error, dir.path()))?;
    let mut programs = Vec::new();
    for hook in Hook::ALL {
        let name = hook.program();
        let missing = || BpfError::Object(format!("it has no program {name}"));
        let program = ebpf.program_mut(name).ok_or_else(missing)?;
        let program: &mut SchedClassifier = program
            .try_into()
            .map_err(|_| BpfError::Object(format!("{name} is no classifier")))?;
        load_program(program).map_err(|error| refused(name, error))?;
        let fd = program.fd().map_err(|error| refused(name, error))?;
        let own = fd
            .as_fd()
            .try_clone_to_owned()
            .and_then(ProgramFd::from_fd)
            .doing(|| format!("keep the program {name}"))?;
        programs.push((*hook, own));
    }
    Ok(programs)
}

/// The verifier gives up with `EAGAIN` whenever a signal is there for the thread, even one that
/// nobody handles (a stop and its continuation).
fn load_program(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    let interrupted = |error: &ProgramError| {
        matches!(error, ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EAGAIN))
    };
    let mut result = program.load();
    for _ in 1..LOAD_ATTEMPTS {
        match &result {
            Err(error) if interrupted(error) => result = program.load(),
            _ => break,
        }
    }
    result
}

fn not_loaded(error: &EbpfError, dir: &Path) -> BpfError {
    let source = std::io::Error::other(chain(error));
    BpfError::Kernel {
        what: format!("make the maps in {}", dir.display()),
        source,
    }
}

/// An error with all that it is due to.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

fn refused(name: &str, error: ProgramError) -> BpfError {
    let program = name.to_owned();
    let why = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines.len().saturating_sub(LOG_LINES);
            format!("{io_error}\n{}", lines[end..].join("\n"))
        }
        other => chain(&other),
    };
    BpfError::Refused { program, why }
}
