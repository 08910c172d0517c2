//! Sandboxes that are gone, and those that only look so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::world::{Node, until, until_healthy};

#[test]
fn what_a_gone_sandbox_left_is_taken_back_after_its_grace() {
    let node = Node::new();
    let (gone, stays) = (node.pod("c1", 60_000), node.pod("c2", 60_000));
    node.with_agent(|agent| {
        assert_eq!(until_healthy(agent).endpoints, 4);
        assert_eq!(node.store().leases().unwrap().len(), 4);
        let attachment = gone.record.attachment.clone();
        // The namespace ends, and the kernel takes its links.
        drop(gone);
        let missed = Instant::now();
        until(agent, "the miss", |status| status.missed == 1);
        assert_eq!(
            node.store().leases().unwrap().len(),
            4,
            "not at the first look"
        );
        until(agent, "the reclaim", |status| status.reclaimed == 1);
        assert!(missed.elapsed() >= Duration::from_secs(1), "grace");
        let status = until_healthy(agent);
        assert_eq!((status.missed, status.endpoints), (0, 2));
        let store = node.store();
        assert_eq!(store.leases().unwrap().len(), 2);
        assert_eq!(store.read(|tx| tx.endpoint(&attachment)).unwrap(), None);
    });
    stays.ping();
}

#[test]
fn a_namespace_that_the_agent_cannot_see_is_not_gone() {
    let node = Node::new();
    let pod = node.pod("c1", 60_000);
    let mut hidden = pod.record.clone();
    for path in ["/proc/1073741823/ns/net", "/no/such/folder/c1"] {
        hidden.netns = Some(PathBuf::from(path));
        node.store().write(|tx| tx.put_endpoint(&hidden)).unwrap();
        node.with_agent(|agent| {
            until_healthy(agent);
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                agent.tick();
                assert_eq!(agent.status().missed, 0, "{path}");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        pod.ping();
    }
}

#[test]
fn a_leftover_link_of_a_gone_sandbox_goes_too() {
    let node = Node::new();
    let pod = node.pod("c1", 60_000);
    let mut lost = pod.record.clone();
    // Its pin is gone, the namespace itself is not.
    lost.netns = Some(pod.netns.dir().join("unpinned"));
    node.store().write(|tx| tx.put_endpoint(&lost)).unwrap();
    node.with_agent(|agent| {
        until(agent, "the reclaim", |status| status.reclaimed == 1);
        let status = until_healthy(agent);
        assert_eq!(status.endpoints, 0);
    });
    let links = node.netns.run(&["ip", "-o", "link"]);
    assert!(!links.contains(pod.link()), "{links}");
    assert_eq!(node.store().leases().unwrap(), []);
}
