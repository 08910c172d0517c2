//! A medium that is full or read-only: a clear error, and nothing lost.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use watari_store::{Store, StoreError};

/// Runs `work` on a file system of 256 KiB that no other thread sees and that is gone with the
/// thread.
fn with_small_disk(work: impl FnOnce(&Path) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let at: PathBuf = dir.path().to_owned();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &at, tmpfs, MsFlags::empty(), Some("size=256k")).unwrap();
        work(&at);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn fill(dir: &Path) {
    let mut ballast = File::create(dir.join("ballast")).unwrap();
    while ballast.write_all(&[0; 512]).is_ok() {}
}

fn put(store: &Store, size: usize) -> Result<(), StoreError> {
    store.write(|tx| tx.put_document("source", &"x".repeat(size), watari_store::now()))
}

fn length(store: &Store) -> usize {
    let document = store.read(|tx| tx.document("source")).unwrap();
    document.map_or(0, |(body, _)| body.len())
}

#[test]
fn a_full_disk_refuses_and_keeps() {
    with_small_disk(|dir| {
        let store = Store::open(dir).unwrap();
        put(&store, 1000).unwrap();
        fill(dir);
        let error = put(&store, 100_000).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(error.is_temporary());
        drop(store);
        // A new process reads what was committed, and writes once there is room.
        let store = Store::open(dir).unwrap();
        store.verify().unwrap();
        assert_eq!(length(&store), 1000);
        std::fs::remove_file(dir.join("ballast")).unwrap();
        put(&store, 100_000).unwrap();
        assert_eq!(length(&store), 100_000);
    });
}

#[test]
fn a_store_is_not_begun_on_a_full_disk() {
    with_small_disk(|dir| {
        fill(dir);
        let error = Store::open(dir).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        std::fs::remove_file(dir.join("ballast")).unwrap();
        put(&Store::open(dir).unwrap(), 1).unwrap();
    });
}

#[test]
fn a_read_only_file_system_is_named() {
    with_small_disk(|dir| {
        put(&Store::open(dir).unwrap(), 1000).unwrap();
        let none: Option<&str> = None;
        let remount = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, dir, none, remount, none).unwrap();
        let error = Store::open(dir)
            .and_then(|store| put(&store, 1))
            .unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error:?}");
        assert!(
            error.to_string().contains(&dir.display().to_string()),
            "{error}"
        );
        let error = Store::open(&dir.join("new")).unwrap_err();
        assert!(
            error.to_string().contains("Read-only file system"),
            "{error}"
        );
        mount(none, dir, none, MsFlags::MS_REMOUNT, none).unwrap();
        assert_eq!(length(&Store::open(dir).unwrap()), 1000);
    });
}

#[test]
fn a_path_through_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("run")).unwrap_err().to_string();
    assert!(error.contains("file/run"), "{error}");
}
