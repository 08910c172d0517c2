//! Compiles the eBPF programs and leaves the object where the loader includes it from.

mod object;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build");
    if env::var_os("CARGO_FEATURE_LOAD").is_none() {
        return Ok(());
    }
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let workspace = here.join("../..").canonicalize()?;
    for watched in ["kernel", "Cargo.lock", "Cargo.toml"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(watched).display()
        );
    }
    for variable in object::VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let other_abi = env::var_os("CARGO_FEATURE_OTHER_ABI").is_some();
    // One beside the other, so that neither is built again for the other's sake.
    let folder = if other_abi { "bpf-other-abi" } else { "bpf" };
    let target = target_dir(&out, &env::var("TARGET")?).join(folder);
    let built = object::build(&workspace, &target, other_abi)?;
    fs::copy(built, out.join("programs.o"))?;
    Ok(())
}

/// The outer cargo's target directory, so that all its profiles share one build of the programs:
/// `OUT_DIR` is `<target>[/<triple>]/<profile>/build/<package>/out`.
fn target_dir(out: &Path, triple: &str) -> PathBuf {
    let above = out.ancestors().nth(4).unwrap_or(out);
    match above.parent() {
        Some(parent) if above.ends_with(triple) => parent.to_owned(),
        _ => above.to_owned(),
    }
}
