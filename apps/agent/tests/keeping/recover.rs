//! A node store that broke under running pods.

use watari_agent::Options;

use crate::world::{Node, repaired, until, until_healthy};

#[test]
fn a_damaged_store_is_made_again_from_the_links() {
    let node = Node::new();
    let pods = [node.pod("c1", 60_000), node.pod("c2", 60_000)];
    let folder = node.netns.dir().join("netns");
    std::fs::create_dir(&folder).unwrap();
    // The second one's namespace is nowhere to be found.
    std::os::unix::fs::symlink(pods[0].netns.path(), folder.join("c1")).unwrap();
    let options = Options {
        namespaces: vec![folder.clone()],
        ..node.options()
    };
    node.with_options(options, |agent| {
        let before = until_healthy(agent);
        assert_eq!(before.endpoints, 4);
        std::fs::write(node.options().data_dir.join("node.db"), "torn").unwrap();
        let status = until(agent, "the recovery", |status| {
            repaired(status, "made again with 2 endpoints")
        });
        assert_eq!(status.endpoints, 4);
        until_healthy(agent);
    });
    let store = node.store();
    store.verify().unwrap();
    let records = store.read(|tx| tx.endpoints(None)).unwrap();
    assert_eq!(records.len(), 2);
    for pod in &pods {
        let attachment = &pod.record.attachment;
        let found = records
            .iter()
            .find(|found| found.attachment == *attachment)
            .unwrap();
        assert_eq!(found.tables.host, pod.record.tables.host);
        if found.attachment.container.as_str() == "c1" {
            assert_eq!(found.tables, pod.record.tables);
            assert_eq!(found.netns, Some(folder.join("c1")));
        }
        pod.ping();
    }
    // No address is given away that a pod has.
    let third = node.pod("c3", 0);
    let held: Vec<String> = third
        .record
        .tables
        .pod
        .addresses
        .iter()
        .map(|net| net.addr().to_string())
        .collect();
    assert_eq!(held, ["10.244.1.4", "fd0a:1::4"]);
}
