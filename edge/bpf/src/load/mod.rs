//! Loads the programs, and brings a node from any other generation of them to this one.
//!
//! A generation is a directory of pins, `v<ABI>`. In the ordinary case its maps have the layout that
//! this build wants: programs are loaded over them, pinned over the old ones, and put in their place
//! at every link; those that are this build's already (see `stamp`) stay as they are. Otherwise (another ABI, another size of a table) a generation is built beside:
//!
//! 1. `v<ABI>:new` gets its maps: those of an equal layout are shared, the others are made and
//!    filled; then its programs.
//! 2. What changed in the old tables meanwhile is copied once more, `v<old>` becomes `v<old>:old`,
//!    and `v<ABI>:new` becomes `v<ABI>`. From then on the plugin uses the new generation.
//! 3. At each link the new program takes the old one's place. Each packet meets one of them.
//! 4. What the old programs still did is brought over, and `v<old>:old` is removed.
//!
//! Whoever is killed in between leaves a state from which the next call goes on: before the second
//! step the old generation is whole, after it the new one is, and a leftover `…:old` is worked off.

mod convert;
mod lock;
mod merge;
mod migrate;
mod object;
mod stamp;

use std::fs;
use std::path::{Path, PathBuf};

use watari_abi::{Hook, maps};

use self::lock::Lock;
use self::migrate::{Migration, Source};
use self::object::{Layout, layouts, load_over};
use self::stamp::Stamp;
use crate::attach::{Attachment, Found, Hooks};
use crate::error::{BpfError, Doing};
use crate::pins::{PinDir, in_bpf_filesystem, link_and_hook, names, pin_over};
use crate::probe;
use crate::sys::{LinkFd, MapFd, Pinned, ProgramFd};

pub use object::Image;

/// How the datapath is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where it is pinned: [`crate::ROOT`] on a node.
    pub root: PathBuf,
    /// How programs are attached in the end; none: by tcx where the kernel has it.
    pub attachment: Option<Attachment>,
    /// Entries of the table of established connections; none: [`maps::ESTABLISHED_MAX`].
    pub established: Option<u32>,
    /// Entries of the table of other connections; none: [`maps::TRANSIENT_MAX`].
    pub transient: Option<u32>,
}

impl LoadOptions {
    /// What a node has by default, below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            attachment: None,
            established: None,
            transient: None,
        }
    }

    fn entries(&self, map: &str) -> Option<u32> {
        match map {
            maps::ESTABLISHED => self.established,
            maps::TRANSIENT => self.transient,
            _ => None,
        }
    }
}

/// What loading did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// How programs are attached in the end.
    pub attachment: Attachment,
    /// The generations that this one has taken the place of, as `v1`.
    pub replaced: Vec<String>,
    /// Connections brought over from tables of another layout.
    pub connections: usize,
    /// True if the pinned programs were this very image's, and were not loaded again.
    pub reused: bool,
    /// Programs that were put in the place of older ones.
    pub swapped: usize,
    /// What could not be brought over, in words.
    pub lost: Vec<String>,
}

/// Loads this build's programs, whatever is there now. Packets go on flowing.
pub fn load(options: &LoadOptions) -> Result<Loaded, BpfError> {
    load_image(options, Image::own())
}

/// Loads an image, whatever is there now. Whoever else loads or removes below the same root is
/// waited for.
pub fn load_image(options: &LoadOptions, image: Image<'_>) -> Result<Loaded, BpfError> {
    let root = &options.root;
    if !in_bpf_filesystem(root) {
        return Err(BpfError::NoBpfFilesystem(root.clone()));
    }
    let _lock = Lock::take(root, lock::PATIENCE)?;
    let layouts = layouts(image, options)?;
    let attachment = match options.attachment {
        Some(attachment) => attachment,
        None => probe::attachment()?,
    };
    let own = PinDir::of_abi(root, image.abi);
    settle(root, &own)?;
    let mut loaded = Loaded {
        attachment,
        replaced: Vec::new(),
        connections: 0,
        reused: false,
        swapped: 0,
        lost: Vec::new(),
    };
    let stamp = Stamp::of(image, options);
    let is_whole = own.exists() && fits(&own, &layouts)?;
    let there = is_whole.then(|| stamp.programs(&own)).flatten();
    loaded.reused = there.is_some();
    let programs = match there {
        Some(programs) => programs,
        None if is_whole => {
            let programs = load_over(image, options, &own)?;
            pin_programs(&own, &programs)?;
            programs
        }
        None => replace_generation(options, image, &own, &layouts, &mut loaded)?,
    };
    let mut hooks = Hooks::new(own.clone());
    loaded.swapped += swap(&mut hooks, &programs)?;
    for source in sources(root, &own)? {
        let mut migration = Migration::new(source, image.abi, &own, &layouts)?;
        finish(&mut migration, &mut hooks, &programs, &mut loaded)?;
    }
    if !loaded.reused {
        stamp.record(&own, &programs)?;
    }
    Ok(loaded)
}

/// Builds a generation beside those there, and makes it the current one.
fn replace_generation(
    options: &LoadOptions,
    image: Image<'_>,
    own: &PinDir,
    layouts: &[Layout],
    loaded: &mut Loaded,
) -> Result<Vec<(Hook, ProgramFd)>, BpfError> {
    let staged = beside(own, ":new");
    staged.make()?;
    let mut migrations = Vec::new();
    let mut found = sources(&options.root, own)?;
    if own.exists() {
        found.push(Source::of(own.clone(), image.abi));
    }
    for source in found {
        let migration = Migration::new(source, image.abi, &staged, layouts)?;
        migration.share()?;
        migrations.push(migration);
    }
    let programs = load_over(image, options, &staged)?;
    for migration in &mut migrations {
        migration.copy()?;
    }
    // Pinned last: they say that the directory is complete.
    pin_programs(&staged, &programs)?;
    for migration in &mut migrations {
        migration.copy()?;
        migration.retire()?;
    }
    rename(staged.path(), own.path())?;
    let mut hooks = Hooks::new(own.clone());
    for migration in &mut migrations {
        migration.moved_to(own);
        finish(migration, &mut hooks, &programs, loaded)?;
    }
    Ok(programs)
}

/// Takes over the links of an old generation, and what its programs did to the end.
fn finish(
    migration: &mut Migration,
    hooks: &mut Hooks,
    programs: &[(Hook, ProgramFd)],
    loaded: &mut Loaded,
) -> Result<(), BpfError> {
    loaded.swapped += take_links(migration.old(), hooks.dir(), programs)?;
    loaded.swapped += swap(hooks, programs)?;
    migration.catch_up()?;
    loaded.connections += migration.connections();
    loaded.lost.append(&mut migration.lost());
    loaded.replaced.push(migration.name());
    migration.old().remove()
}

/// Ends what an earlier call was killed in.
fn settle(root: &Path, own: &PinDir) -> Result<(), BpfError> {
    for name in names(root)? {
        let Some(of) = name.strip_suffix(":new") else {
            continue;
        };
        let staged = PinDir::at(root.join(&name));
        let complete = Hook::ALL.iter().all(|hook| staged.program(*hook).exists());
        if complete && !root.join(of).exists() && root.join(of) == own.path() {
            rename(staged.path(), own.path())?;
        } else {
            staged.remove()?;
        }
    }
    Ok(())
}

/// The other generations below `root`: those of another ABI, and those that are half replaced.
fn sources(root: &Path, own: &PinDir) -> Result<Vec<Source>, BpfError> {
    let mut found = Vec::new();
    for name in names(root)? {
        let path = root.join(&name);
        let version = name.strip_suffix(":old").unwrap_or(&name);
        let abi = version.strip_prefix('v').and_then(|abi| abi.parse().ok());
        if let Some(abi) = abi
            && path != own.path()
        {
            found.push(Source::of(PinDir::at(path), abi));
        }
    }
    Ok(found)
}

fn beside(dir: &PinDir, suffix: &str) -> PinDir {
    let mut path = dir.path().as_os_str().to_owned();
    path.push(suffix);
    PinDir::at(path.into())
}

fn rename(from: &Path, to: &Path) -> Result<(), BpfError> {
    fs::rename(from, to).doing(|| format!("rename {} to {}", from.display(), to.display()))
}

/// True if every map there is has the layout that it must have. One that is missing is made anew.
fn fits(dir: &PinDir, layouts: &[Layout]) -> Result<bool, BpfError> {
    dir.make()?;
    for layout in layouts {
        let path = dir.map(&layout.name);
        if !path.exists() {
            continue;
        }
        let map = MapFd::open(&path).doing(|| format!("open the map {}", path.display()))?;
        if !layout.is_of(&map) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn pin_programs(dir: &PinDir, programs: &[(Hook, ProgramFd)]) -> Result<(), BpfError> {
    programs
        .iter()
        .try_for_each(|(hook, program)| pin_over(program, &dir.program(*hook)))
}

/// Moves the pins of an old generation's links, each with the new program in it, and the marks of
/// its qdiscs; gives how many links.
fn take_links(
    old: &PinDir,
    own: &PinDir,
    programs: &[(Hook, ProgramFd)],
) -> Result<usize, BpfError> {
    let mut taken = 0;
    for name in names(&old.links())? {
        let (from, to) = (old.links().join(&name), own.links().join(&name));
        let Some((_, hook)) = link_and_hook(&name) else {
            continue;
        };
        let alive = LinkFd::open(&from)
            .ok()
            .filter(|link| link.info().is_ok_and(|info| info.ifindex != 0));
        // The plugin was faster, and has attached the new program.
        let (Some(link), false) = (alive, to.exists()) else {
            continue;
        };
        if let Some((_, program)) = programs.iter().find(|(of, _)| *of == hook) {
            link.update(program)
                .doing(|| format!("replace the program of {}", from.display()))?;
            rename(&from, &to)?;
            taken += 1;
        }
    }
    for name in names(&old.qdiscs())? {
        let mark = own.qdiscs().join(name);
        if !mark.is_dir() {
            fs::create_dir(&mark).doing(|| format!("make {}", mark.display()))?;
        }
    }
    Ok(taken)
}

/// Puts these programs in the place of what is attached; gives how many places.
fn swap(hooks: &mut Hooks, programs: &[(Hook, ProgramFd)]) -> Result<usize, BpfError> {
    let mut swapped = 0;
    for found in hooks.list()? {
        let Some(at) = found.at() else { continue };
        let Some((_, program)) = programs.iter().find(|(hook, _)| *hook == at.hook) else {
            continue;
        };
        let id = program.info().doing(|| "look at a program".to_owned())?.id;
        if id == at.program {
            continue;
        }
        match hooks.attach(at.by, (&at.link, at.ifindex), at.hook, program) {
            // The link went meanwhile.
            Err(error) if error.is_absent() => {}
            other => {
                other?;
                swapped += 1;
            }
        }
    }
    Ok(swapped)
}

/// Takes everything away that is Watari's below `root`, of every generation: the node is as it
/// was found.
pub fn remove(root: &Path) -> Result<(), BpfError> {
    if !root.is_dir() {
        return Ok(());
    }
    let _lock = Lock::take(root, lock::PATIENCE)?;
    for name in names(root)? {
        let dir = PinDir::at(root.join(&name));
        let mut hooks = Hooks::new(dir.clone());
        let attached: Vec<Found> = hooks.list()?;
        for found in &attached {
            hooks.detach(found)?;
        }
        hooks.drop_marked_qdiscs()?;
        dir.remove()?;
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("remove {}", root.display()))
        }
        _ => Ok(()),
    }
}
