//! No space, nowhere to write: ADD says so and leaves nothing, DEL still takes pods away.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::node::{Node, Pod, assert_same};
use crate::refusal::error_code;

/// `Code::TRY_AGAIN`.
const TRY_AGAIN: u64 = 11;
/// `Code::STORE`.
const STORE: u64 = 103;

/// A small file system of its own, gone with this value.
struct Disk(PathBuf);

impl Disk {
    fn new(at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("make a mount point");
        mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=512k"),
        )
        .expect("mount a small file system (needs root)");
        Self(at.to_owned())
    }

    fn fill(&self) {
        let path = self.0.join("full");
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("make a file");
        let end = loop {
            match file.write_all(&[0; 512]) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("full")).expect("make space");
    }

    fn read_only(&self, yes: bool) {
        let flag = if yes {
            MsFlags::MS_RDONLY
        } else {
            MsFlags::empty()
        };
        mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            MsFlags::MS_REMOUNT | flag,
            None::<&str>,
        )
        .expect("mount it again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

#[test]
fn on_a_full_disk_nothing_is_half_made_and_pods_can_go() {
    let node = Node::new();
    let disk = Disk::new(&node.data);
    let fresh = Pod::new("fresh", 2001);
    // No store yet, no room for one.
    disk.fill();
    let code = error_code(&node.add_interface(&fresh), "no room for a store");
    assert_eq!(code, TRY_AGAIN);
    assert_eq!(fresh.links(), [""; 0]);
    disk.free();
    let pod = Pod::new("pod", 2002);
    node.add(&pod);
    disk.fill();
    let mut before = node.state();
    // Rows fit into pages that are there already, until they do not.
    let mut pods = Vec::new();
    let code = loop {
        let next = Pod::new(&format!("p{}", pods.len()), 3000);
        let ended = node.add_interface(&next);
        if ended.code != Some(0) {
            assert_eq!(next.links(), [""; 0]);
            break error_code(&ended, "a full disk");
        }
        pods.push(next);
        assert!(pods.len() < 200, "a full disk takes ever more pods");
    };
    assert_eq!(code, TRY_AGAIN);
    for pod in pods.iter().chain([&pod]) {
        node.ping(pod);
    }
    for pod in &pods {
        node.del(pod);
        assert_eq!(pod.links(), [""; 0]);
    }
    let mut after = node.state();
    before.remove("files");
    after.remove("files");
    assert_same(&before, &after, "after a full disk");
    disk.free();
    node.add(&fresh);
    node.ping(&fresh);
    node.del(&fresh);
    node.del(&pod);
    node.gc(&[]);
}

#[test]
fn where_nothing_can_be_written_a_pods_link_goes_and_its_lease_stays_until_it_can() {
    let node = Node::new();
    let disk = Disk::new(&node.data);
    let fresh = Pod::new("fresh", 2001);
    disk.read_only(true);
    let code = error_code(&node.add_interface(&fresh), "nowhere for a store");
    assert_eq!(code, STORE);
    disk.read_only(false);
    let pod = Pod::new("pod", 2002);
    node.add(&pod);
    let before = node.state();
    disk.read_only(true);
    let code = error_code(&node.add_interface(&fresh), "a read-only store");
    assert_eq!(code, STORE);
    assert_eq!(fresh.links(), [""; 0]);
    assert_same(&before, &node.state(), "after an ADD that failed");
    // The address is not free before the store says so: DEL fails, and is tried again.
    let program = node.program("azure-vnet", "DEL", Some(&pod));
    let ended = node.run(program, node.interface().to_string().as_bytes());
    assert_eq!(error_code(&ended, "DEL on a read-only store"), STORE);
    assert_eq!(pod.links(), [""; 0]);
    assert_eq!(node.books()["leases"], before["leases"]);
    disk.read_only(false);
    node.del(&pod);
    node.gc(&[]);
    assert!(node.books()["leases"].is_empty());
}
