//! How the programs are compiled: a cargo of its own, for `bpfel-unknown-none`, with a compiler
//! that has a core library for it. Used by the build script and by tests.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";
const LINKER: &str = "bpf-linker";

/// What of the environment chooses the compiler. `PATH` does too, but is another one in every
/// shell.
pub const VARIABLES: &[&str] = &["WATARI_BPF_RUSTC"];

/// A compiler, and whether it brings the core library as source only.
struct Compiler {
    rustc: PathBuf,
    from_source: bool,
}

/// Compiles the programs of `workspace` below `target`, and gives the object's path. `other_abi`
/// is the layout that only tests use, to upgrade to and from.
pub fn build(workspace: &Path, target: &Path, other_abi: bool) -> Result<PathBuf, Box<dyn Error>> {
    let compiler = compiler()?;
    let linker = linker()?;
    let features = if other_abi {
        "kernel,other-abi"
    } else {
        "kernel"
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Whatever the outer build is (clippy, static, a test), this one is the same.
    for (name, _) in env::vars_os() {
        if belongs_to_outer_build(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(workspace)
        .env("RUSTC", &compiler.rustc)
        // aya-ebpf uses `asm_experimental_arch`.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
            "-Ctarget-cpu=v3 -Cdebuginfo=2 -Clink-arg=--btf -Clink-arg=--disable-expand-memcpy-in-order",
        )
        .args(["build", "--locked", "--quiet", "-p", "watari-programs"])
        .args(["--features", features, "--target", TARGET])
        .args(["--profile", "kernel", "--target-dir"])
        .arg(target);
    if compiler.from_source {
        command.args(["-Z", "build-std=core"]);
    }
    let output = command.output()?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the eBPF programs do not compile ({command:?}):\n{words}").into());
    }
    Ok(target.join(TARGET).join("kernel/watari-programs"))
}

fn belongs_to_outer_build(name: &str) -> bool {
    let kept = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];
    let outer = [
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "RUSTDOC",
        "CLIPPY",
        "LD_LIBRARY_PATH",
    ];
    outer.iter().any(|prefix| name.starts_with(prefix))
        && !kept.iter().any(|prefix| name.starts_with(prefix))
}

fn compiler() -> Result<Compiler, Box<dyn Error>> {
    if let Some(named) = env::var_os("WATARI_BPF_RUSTC") {
        let rustc = PathBuf::from(named);
        return usable(&rustc).ok_or_else(|| {
            let rustc = rustc.display();
            format!("WATARI_BPF_RUSTC={rustc} has neither a core library for {TARGET} nor the source of one").into()
        });
    }
    let mut candidates = vec![PathBuf::from("/usr/bin/rustc")];
    candidates.extend(env::var_os("RUSTC").map(PathBuf::from));
    candidates.extend(nightly());
    candidates.iter().find_map(|rustc| usable(rustc)).ok_or_else(|| {
        format!(
            "no Rust compiler here can compile eBPF programs: none has a core library for {TARGET}.\n\
             Debian 12: `apt-get install rustc-web libstd-rust-web-dev-bpf` (./run does it).\n\
             Elsewhere: `rustup toolchain install nightly --component rust-src`,\n\
             or name a compiler in WATARI_BPF_RUSTC."
        )
        .into()
    })
}

fn usable(rustc: &Path) -> Option<Compiler> {
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let prebuilt = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let has_core = fs::read_dir(prebuilt).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().starts_with("libcore")))
    });
    let has_source = sysroot.join("lib/rustlib/src/rust/library/core").is_dir();
    (has_core || has_source).then(|| Compiler {
        rustc: rustc.to_owned(),
        from_source: !has_core,
    })
}

fn nightly() -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["which", "rustc", "--toolchain", "nightly"])
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

fn linker() -> Result<PathBuf, Box<dyn Error>> {
    let mut folders: Vec<PathBuf> =
        env::var_os("PATH").map_or_else(Vec::new, |path| env::split_paths(&path).collect());
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    folders.extend(home.map(|home| home.join("bin")));
    folders
        .iter()
        .map(|folder| folder.join(LINKER))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!(
                "{LINKER} is missing, which links the eBPF programs. ./run installs it on Debian 12;\n\
                 elsewhere: `cargo install {LINKER} --version =0.13.0` (it needs LLVM 22)."
            )
            .into()
        })
}
