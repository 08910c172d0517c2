use std::fs::File;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

/// A network namespace of a test: its own, whatever runs beside it, with the loopback up, and
/// gone with this value.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    // Removed last: the namespace is mounted in it.
    dir: TempDir,
}

impl Netns {
    /// Makes a namespace. `hint` is part of the path that names it, for people who look; the
    /// path is unique.
    ///
    /// # Panics
    /// When this process may not make namespaces: these tests need root.
    #[track_caller]
    pub fn new(hint: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("watari-test-{}-", std::process::id()))
            .tempdir()
            .expect("make a directory for a namespace");
        let path = dir.path().join(hint);
        File::create(&path).expect("make the file to mount a namespace on");
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace (needs root)");
            let own = Path::new("/proc/thread-self/ns/net");
            mount(
                Some(own),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .expect("mount a network namespace (needs root)");
            crate::run(&["ip", "link", "set", "lo", "up"]);
        });
        let file = File::open(&path).expect("open the namespace");
        Self { path, file, dir }
    }

    /// Where it is mounted: what `CNI_NETNS` names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory that lives as long as the namespace.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Does this inside the namespace, on a thread of its own; children started there are in it
    /// too. Mounts are the caller's.
    ///
    /// # Panics
    /// When the namespace cannot be entered, or `work` panics.
    #[track_caller]
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enter the namespace (needs root)");
            work()
        })
    }

    /// Runs a program inside the namespace and gives its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        self.enter(|| crate::run(words))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Whoever still has the namespace open keeps it until they close it.
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path.display());
        }
    }
}

/// A thread of its own, so that the caller's stays in its namespace; its panic is the caller's.
#[track_caller]
fn on_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_its_own_and_goes_with_its_value() {
        let (one, two) = (Netns::new("one"), Netns::new("two"));
        one.run(&["ip", "link", "add", "veth-one", "type", "veth", "peer", "v"]);
        assert!(one.run(&["ip", "-o", "link"]).contains("veth-one"));
        assert!(!two.run(&["ip", "-o", "link"]).contains("veth-one"));
        assert!(!crate::run(&["ip", "-o", "link"]).contains("veth-one"));
        let (path, dir) = (one.path().to_owned(), one.dir().to_owned());
        drop(one);
        assert!(!path.exists() && !dir.exists(), "{} stays", path.display());
    }

    #[test]
    fn a_panic_inside_reaches_the_test() {
        let ns = Netns::new("panics");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ns.enter(|| panic!("inside"));
        }));
        assert!(panicked.is_err());
    }
}
