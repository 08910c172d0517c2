//! A container image written by hand: one static busybox, no registry.

use std::fmt::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use watari_testkit::run;

/// The name of the image: pause container and workload alike.
pub const NAME: &str = "localhost/watari-test:1";

/// What the image is made of: Debian's `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the image as an OCI archive into `dir` and gives its path. Without a command of its own a
/// container of it sleeps: that is all a pause container does.
///
/// # Panics
/// When it cannot be written, or busybox is not there.
pub fn write(dir: &Path) -> PathBuf {
    let layout = dir.join("image");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("make the folders of an image");
    let layer = store(
        &blobs,
        &layer(dir),
        "application/vnd.oci.image.layer.v1.tar",
    );
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": ["/bin/busybox", "sleep", "86400"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = store_json(&blobs, &config, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut manifest = store_json(
        &blobs,
        &manifest,
        "application/vnd.oci.image.manifest.v1+json",
    );
    manifest["annotations"] = json!({ "io.containerd.image.name": NAME });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    put(&layout.join("index.json"), index.to_string().as_bytes());
    put(
        &layout.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    let archive = dir.join("image.tar");
    tar(&layout, &archive);
    archive
}

/// The one layer: busybox, and its applets by name.
fn layer(dir: &Path) -> Vec<u8> {
    let root = dir.join("layer");
    for folder in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(folder)).expect("make the folders of a layer");
    }
    let busybox = root.join("bin/busybox");
    std::fs::copy(BUSYBOX, &busybox).expect("copy busybox (Debian: busybox-static)");
    std::fs::set_permissions(&busybox, PermissionsExt::from_mode(0o755)).expect("chmod busybox");
    for applet in [
        "sh", "cat", "echo", "httpd", "hostname", "ip", "nc", "sleep", "timeout", "wget",
    ] {
        symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
    }
    let archive = dir.join("layer.tar");
    tar(&root, &archive);
    std::fs::read(&archive).expect("read the layer")
}

fn tar(from: &Path, to: &Path) {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    run(&[
        "tar",
        "-C",
        &from,
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-cf",
        &to,
        ".",
    ]);
}

fn store_json(blobs: &Path, value: &Value, media_type: &str) -> Value {
    store(blobs, value.to_string().as_bytes(), media_type)
}

/// Stores a blob under its digest and gives its descriptor.
fn store(blobs: &Path, content: &[u8], media_type: &str) -> Value {
    let digest = Sha256::digest(content)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("write to a string");
            hex
        });
    put(&blobs.join(&digest), content);
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
}

fn put(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}
