//! By what a loader knows that the pinned programs are those that it would load: then the verifier
//! need not look at them again, which costs it seconds.
//!
//! The stamp is pinned beside the programs, and goes with them. It holds of one image and of the
//! very programs and maps that were pinned when it was made: whatever is pinned over one of them
//! later, by whomever, makes it another one. So it is never wrong, only absent.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use watari_abi::{Hook, maps};

use super::LoadOptions;
use super::object::Image;
use crate::error::{BpfError, Doing};
use crate::pins::{PinDir, pin_over};
use crate::sys::{MapFd, MapKind, Pinned, ProgramFd};

/// Raised with every change of what this loader makes of the same image.
const LOADER: u32 = 1;
/// The only key of the map that holds the stamp.
const KEY: [u8; 4] = [0; 4];

/// Of a digest by SHA-256.
const BYTES: u32 = 32;

/// SHA-256.
type Digest = [u8; BYTES as usize];

/// The stamp of an image, as far as it does not depend on what is pinned.
pub(super) struct Stamp(Sha256);

impl Stamp {
    pub fn of(image: Image<'_>, options: &LoadOptions) -> Self {
        let mut hash = Sha256::new();
        hash.update(LOADER.to_ne_bytes());
        hash.update(image.abi.to_ne_bytes());
        for name in maps::ALL {
            // No table has no entries.
            hash.update(options.entries(name).unwrap_or(0).to_ne_bytes());
        }
        hash.update(image.object);
        Self(hash)
    }

    /// The programs pinned in `dir`, if they are the image's, over the maps pinned there.
    pub fn programs(&self, dir: &PinDir) -> Option<Vec<(Hook, ProgramFd)>> {
        let recorded = read(dir)?;
        let programs: Option<Vec<_>> = Hook::ALL
            .iter()
            .map(|hook| Some((*hook, dir.open_program(*hook).ok()?)))
            .collect();
        let programs = programs?;
        (self.with_pins(dir, &programs).ok()? == recorded).then_some(programs)
    }

    /// Says of the programs pinned in `dir` that they are the image's.
    pub fn record(&self, dir: &PinDir, programs: &[(Hook, ProgramFd)]) -> Result<(), BpfError> {
        let stamp = self.with_pins(dir, programs)?;
        let map = MapFd::create("build", MapKind::Array, (4, BYTES), 1, 0)
            .doing(|| "make the map of the stamp".to_owned())?;
        map.update(&KEY, &stamp)
            .doing(|| "set the stamp".to_owned())?;
        pin_over(&map, &path(dir))
    }

    /// Numbers of programs and maps are unique until the next boot, which no pin outlives.
    fn with_pins(&self, dir: &PinDir, programs: &[(Hook, ProgramFd)]) -> Result<Digest, BpfError> {
        let mut hash = self.0.clone();
        for (hook, program) in programs {
            let info = program
                .info()
                .doing(|| format!("look at the program {}", hook.program()))?;
            hash.update(info.id.to_ne_bytes());
            hash.update(info.tag);
        }
        for name in maps::ALL {
            let path = dir.map(name);
            let map = MapFd::open(&path).doing(|| format!("open the map {}", path.display()))?;
            hash.update(map.info().id.to_ne_bytes());
        }
        Ok(hash.finalize().into())
    }
}

fn path(dir: &PinDir) -> PathBuf {
    dir.path().join("build")
}

/// What is recorded; none if that cannot be read, which only costs another load.
fn read(dir: &PinDir) -> Option<Digest> {
    let map = MapFd::open(&path(dir)).ok()?;
    let mut stamp = Digest::default();
    // A map of another shape refuses these lengths.
    map.lookup(&KEY, &mut stamp).ok()?.then_some(stamp)
}
