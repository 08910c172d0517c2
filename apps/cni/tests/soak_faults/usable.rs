//! What ADD returns is usable: the first packet arrives, however busy the kernel is.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use watari_testkit::Netns;

use crate::node::{Node, Pod, addresses, ip};
use crate::random::soak;

/// Ends the noise also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Work queues of the kernel that bring links and addresses to life need the lock that the
/// making and unmaking of links holds, so others' links delay them.
#[test]
fn the_first_packet_arrives_on_a_busy_node() {
    let node = Node::new();
    let pod = Pod::new("pod", 2001);
    let done = AtomicBool::new(false);
    let mut lost = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let other = Netns::new("other");
                while !done.load(Ordering::Relaxed) {
                    ip(&other, "link add one type veth peer name two\nlink del one");
                }
            });
        }
        let _stop = Stop(&done);
        for _ in 0..if soak() { 1000 } else { 40 } {
            node.add_interface(&pod).ok();
            for address in addresses(&pod) {
                let ping = || Command::new("ping").args(["-c1", "-W1", &address]).output();
                if !node.ns.enter(ping).expect("start ping").status.success() {
                    lost.push(address);
                }
            }
            node.del(&pod);
        }
    });
    assert!(lost.is_empty(), "lost: {lost:?}");
}
