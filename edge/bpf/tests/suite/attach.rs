use watari_abi::Hook;
use watari_bpf::{Attachment, Datapath, Node, PinDir, PodHooks, load, load_image, remove};

use crate::reuse::{changed, changed_object};
use crate::traffic::Traffic;
use crate::world::{World, kinds, ping, words};

#[test]
fn a_pod_is_attached_without_an_agent_and_a_reload_swaps_its_programs() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let root = world.bpffs.root();
        let (options, pods) = (world.options(attachment), [&one, &two]);
        let object = changed_object();
        world.node.enter(|| {
            assert!(PodHooks::open(&root).unwrap().is_none());
            assert_eq!(load(&options).unwrap().attachment, attachment);
            for pod in pods {
                let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
                hooks.add(&pod.as_link()).unwrap();
                assert_eq!(hooks.check(&pod.as_link()).unwrap(), [""; 0]);
                // Again, as a runtime may ask twice.
                hooks.add(&pod.as_link()).unwrap();
            }
        });
        for address in &two.addresses {
            ping(&one, *address);
        }
        world.node.enter(|| {
            let again = load_image(&options, changed(&object)).unwrap();
            assert_eq!((again.reused, again.swapped), (false, 4), "{again:?}");
            for pod in pods {
                let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
                assert_eq!(hooks.check(&pod.as_link()).unwrap(), [""; 0]);
                hooks.remove(&pod.link, &pod.addresses).unwrap();
                assert_eq!(hooks.check(&pod.as_link()).unwrap().len(), 5);
            }
        });
        let qdiscs = world
            .node
            .run(&["tc", "qdisc", "show", "dev", one.link.as_str()]);
        assert!(!qdiscs.contains("clsact"), "{qdiscs}");
    }
}

#[test]
fn what_the_plugin_attaches_is_promoted_under_traffic() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let root = world.bpffs.root();
        world.node.enter(|| {
            load(&world.options(attachment)).unwrap();
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            for pod in [&one, &two] {
                hooks.add(&pod.as_link()).unwrap();
            }
        });
        let traffic = Traffic::start(&one, &two);
        world.node.enter(|| {
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            let mut node = Node::open(&root, attachment).unwrap();
            let before = node.observe().unwrap();
            let other = usize::from(attachment == Attachment::Tcx) * 4;
            assert_eq!((before.to_promote, before.tables.hooks.len()), (other, 4));
            assert_eq!(node.promote(3).unwrap(), other.min(3));
            assert_eq!(node.promote(3).unwrap(), other.saturating_sub(3));
            let after = node.observe().unwrap();
            assert_eq!((after.to_promote, &after.strays[..]), (0, &[][..]));
            assert_eq!(after.tables, before.tables);
            // The plugin finds what the agent has done.
            hooks.add(&one.as_link()).unwrap();
            assert_eq!(node.observe().unwrap(), after);
        });
        traffic.goes_on("promoted");
        traffic.end();
    }
}

#[test]
fn removal_leaves_the_node_as_it_was_found() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let root = world.bpffs.root();
        let (dev, other) = (one.link.as_str(), two.link.as_str());
        // Somebody else's qdisc.
        world
            .node
            .run(&["tc", "qdisc", "add", "dev", dev, "clsact"]);
        let state = |world: &World| {
            let links = world.node.run(&["ip", "-o", "link"]);
            let qdiscs = world.node.run(&["tc", "qdisc", "show"]);
            let filters = world
                .node
                .run(&["tc", "filter", "show", "dev", other, "egress"]);
            (links, qdiscs, filters)
        };
        let before = state(&world);
        world.node.enter(|| {
            load(&world.options(attachment)).unwrap();
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            hooks.add(&one.as_link()).unwrap();
            hooks.add(&two.as_link()).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            node.promote(10).unwrap();
            assert_eq!(node.observe().unwrap().tables.hooks.len(), 4);
        });
        assert!(root.is_dir());
        if attachment == Attachment::Clsact {
            assert_ne!(state(&world), before);
        }
        world.node.enter(|| remove(&root).unwrap());
        assert_eq!(state(&world), before);
        assert!(!root.exists());
        world.node.enter(|| remove(&root).unwrap());
    }
}

#[test]
fn a_foreign_filter_beside_ours_stays_with_the_qdisc_that_we_made() {
    let world = World::new();
    let pod = world.pod(1);
    let (root, dev) = (world.bpffs.root(), pod.link.as_str());
    world.node.enter(|| {
        load(&world.options(Attachment::Clsact)).unwrap();
        let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
        hooks.add(&pod.as_link()).unwrap();
    });
    // The same program, attached by somebody else.
    let program = PinDir::current(&root).program(Hook::FromPod);
    let program = program.to_str().unwrap();
    let line = format!("tc filter add dev {dev} ingress prio 7 bpf da object-pinned {program}");
    world.node.run(&words(&line));
    world.node.enter(|| remove(&root).unwrap());
    let left = world
        .node
        .run(&["tc", "filter", "show", "dev", dev, "ingress"]);
    assert!(
        left.contains("pref 7") && !left.contains("watari"),
        "{left}"
    );
    let left = world
        .node
        .run(&["tc", "filter", "show", "dev", dev, "egress"]);
    assert!(left.trim().is_empty(), "{left}");
}
