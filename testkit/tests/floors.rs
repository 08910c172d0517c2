//! Holds the architecture: the four floors, the purity of `core`, and the size of a file.
//!
//! The rules are in ARCHITECTURE.md. A room is a package of the workspace; its floor is the first
//! folder of its path.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Third-party crates a room of `core` may use: data and arithmetic, no effects. Adding one is a
/// decision about the architecture, so it is made here.
const CORE_MAY_USE: &[&str] = &[
    "ipnet",
    "quick-xml",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
];

/// Third-party crates a room of `kernel` may use: what compiles to eBPF, and allocates nothing.
const KERNEL_MAY_USE: &[&str] = &["aya-ebpf", "zerocopy"];

/// The room of `kernel` where the kernel's pointers are, and unsafe code may be.
const PROGRAMS: &str = "kernel/programs";

/// What reaches outside a program; in `core` it comes as an argument instead.
const EFFECTS: &[&str] = &[
    "std::fs",
    "env::var",
    "env::args",
    "env::current",
    "std::process",
    "std::thread",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "SystemTime::now",
    "Instant::now",
    "println!",
];

/// Lines a source file may have.
const FILE_LIMIT: usize = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Floor {
    Kernel,
    Core,
    Edge,
    Apps,
    /// Tests, benchmarks and their helpers: they stand beside the house and may use all of it.
    Beside,
}

impl Floor {
    fn of(path: &Path) -> Self {
        match path
            .components()
            .next()
            .and_then(|c| c.as_os_str().to_str())
        {
            Some("kernel") => Self::Kernel,
            Some("core") => Self::Core,
            Some("edge") => Self::Edge,
            Some("apps") => Self::Apps,
            _ => Self::Beside,
        }
    }

    /// Whether a room here may stand on a room there in what is shipped.
    fn may_use(self, other: Self) -> bool {
        match self {
            Self::Kernel => other == Self::Kernel,
            Self::Core => other == Self::Core,
            Self::Edge => matches!(other, Self::Core | Self::Kernel),
            Self::Apps => other != Self::Beside,
            Self::Beside => true,
        }
    }

    /// The same for its tests, which may also use the test helpers. Tests that need another
    /// adapter or an application live in `e2e`.
    fn tests_may_use(self, other: Self) -> bool {
        self.may_use(other) || other == Self::Beside
    }
}

struct Room {
    name: String,
    path: PathBuf,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// A room of this workspace, rather than a third party.
    ours: bool,
    for_tests: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("testkit has a parent")
        .to_owned()
}

fn rooms() -> Result<Vec<Room>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    list(&metadata["packages"]).iter().map(room).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Result<String> {
    Ok(value
        .as_str()
        .context("a string was expected in cargo metadata")?
        .to_owned())
}

fn room(package: &Value) -> Result<Room> {
    let manifest = PathBuf::from(text(&package["manifest_path"])?);
    let folder = manifest.parent().context("a manifest has a folder")?;
    let dependencies = list(&package["dependencies"])
        .iter()
        .map(|d| {
            Ok(Dependency {
                name: text(&d["name"])?,
                ours: d["path"].is_string(),
                for_tests: d["kind"] == "dev",
            })
        })
        .collect::<Result<_>>()?;
    Ok(Room {
        name: text(&package["name"])?,
        path: folder.strip_prefix(root())?.to_owned(),
        dependencies,
    })
}

#[test]
fn no_room_reaches_up_or_sideways() -> Result<()> {
    let rooms = rooms()?;
    let floors: BTreeMap<&str, Floor> = rooms
        .iter()
        .map(|r| (r.name.as_str(), Floor::of(&r.path)))
        .collect();
    let mut wrong = Vec::new();
    for room in &rooms {
        let here = floors[room.name.as_str()];
        for dependency in room.dependencies.iter().filter(|d| d.ours) {
            let there = floors[dependency.name.as_str()];
            let allowed = if dependency.for_tests {
                here.tests_may_use(there)
            } else {
                here.may_use(there)
            };
            if !allowed {
                wrong.push(format!(
                    "{} ({here:?}) depends on {} ({there:?})",
                    room.name, dependency.name
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the floors of ARCHITECTURE.md:\n  {}",
        wrong.join("\n  ")
    );
    assert!(
        floors.values().any(|f| *f == Floor::Core),
        "no room of core was seen"
    );
    Ok(())
}

#[test]
fn core_uses_no_crate_with_effects() -> Result<()> {
    let mut wrong = Vec::new();
    for room in rooms()?
        .iter()
        .filter(|r| Floor::of(&r.path) == Floor::Core)
    {
        for dependency in room.dependencies.iter().filter(|d| !d.ours && !d.for_tests) {
            if !CORE_MAY_USE.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} uses {}", room.name, dependency.name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "core is pure; if the crate has no effects, add it to CORE_MAY_USE:\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

#[test]
fn kernel_uses_what_compiles_to_ebpf_alone() -> Result<()> {
    let mut wrong = Vec::new();
    let rooms = rooms()?;
    let kernel: Vec<_> = rooms
        .iter()
        .filter(|r| Floor::of(&r.path) == Floor::Kernel)
        .collect();
    for room in &kernel {
        for dependency in room.dependencies.iter().filter(|d| !d.ours && !d.for_tests) {
            if !KERNEL_MAY_USE.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} uses {}", room.name, dependency.name));
            }
        }
        let [library, program] =
            ["src/lib.rs", "src/main.rs"].map(|file| root().join(&room.path).join(file));
        let file = if library.exists() { library } else { program };
        let source = std::fs::read_to_string(&file)?;
        if !source.contains("#![no_std]") {
            wrong.push(format!("{} is not no_std", room.name));
        }
        let unsafe_allowed = room.path == Path::new(PROGRAMS);
        if !unsafe_allowed && !source.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{} does not forbid unsafe code", room.name));
        }
    }
    assert!(
        wrong.is_empty(),
        "kernel compiles for the host and for eBPF:\n  {}",
        wrong.join("\n  ")
    );
    assert!(kernel.len() >= 4, "rooms of kernel are missing");
    Ok(())
}

#[test]
fn core_reaches_outside_nowhere() -> Result<()> {
    let mut wrong = Vec::new();
    for file in sources(&root().join("core"))? {
        if file.components().any(|c| c.as_os_str() == "tests") {
            continue;
        }
        let source = std::fs::read_to_string(&file)?;
        let shipped = source.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in shipped.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(effect) = EFFECTS.iter().find(|e| code.contains(**e)) {
                wrong.push(format!("{}:{}: {effect}", file.display(), number + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "core takes these as arguments:\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

#[test]
fn files_stay_short() -> Result<()> {
    let mut wrong = Vec::new();
    for folder in [
        "kernel", "core", "edge", "apps", "testkit", "testbed", "e2e", "bench", "fuzz",
    ] {
        for file in sources(&root().join(folder))? {
            let lines = std::fs::read_to_string(&file)?.lines().count();
            if lines > FILE_LIMIT {
                wrong.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "over {FILE_LIMIT} lines, split:\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

/// Every Rust file under a folder, which need not exist. Links are not followed.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
