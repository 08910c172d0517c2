//! Programs and tables replaced under traffic, again and again.
//!
//! Short in `./run test`, at full length with `WATARI_SOAK=1`.

#[path = "../build/object.rs"]
#[allow(dead_code)] // The build script uses all of it.
mod object;
#[path = "suite/traffic.rs"]
mod traffic;
#[path = "suite/world.rs"]
#[allow(dead_code)] // The suite uses all of it.
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use watari_abi::{ConnectionKey, OTHER_ABI};
use watari_bpf::{
    Attachment, Datapath, Flow, Image, LoadOptions, Node, PodHooks, load, load_image,
};

use traffic::Traffic;
use world::{World, kinds};

/// Upgrades, there and back each.
fn rounds() -> usize {
    if std::env::var_os("WATARI_SOAK").is_some() {
        100
    } else {
        2
    }
}

fn other_object() -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("other-abi");
    let path = object::build(&workspace, &target, true).expect("compile the programs");
    std::fs::read(path).expect("read the object")
}

/// Every connection, and when it was made.
fn created(world: &World, attachment: Attachment) -> BTreeMap<ConnectionKey, u64> {
    let mut created = BTreeMap::new();
    flows(world, attachment, |flow| {
        created.insert(flow.key, flow.connection.created);
    });
    created
}

/// The datagrams of both directions, of each conversation by UDP.
fn datagrams(world: &World, attachment: Attachment) -> Vec<[u64; 2]> {
    let mut counts = Vec::new();
    flows(world, attachment, |flow| {
        if flow.key.protocol == 17 {
            counts.push(flow.connection.directions.map(|way| way.packets));
        }
    });
    counts.sort_unstable();
    counts
}

fn flows(world: &World, attachment: Attachment, mut take: impl FnMut(Flow) + Send) {
    world.node.enter(|| {
        let mut node = Node::open(&world.bpffs.root(), attachment).expect("open");
        node.flows(&mut take).expect("read");
    });
}

/// Replaces tables and programs, and what replaced them; then programs alone.
fn there_and_back(options: &LoadOptions, other: Image<'_>, changed: &[u8]) {
    load_image(options, other).expect("load the other layout");
    load(options).expect("load this one");
    let changed = Image {
        object: changed,
        ..Image::own()
    };
    for image in [changed, Image::own()] {
        let loaded = load_image(options, image).expect("load in place");
        assert_eq!((loaded.reused, loaded.swapped), (false, 4));
    }
    assert!(load(options).expect("load nothing").reused);
}

#[test]
fn no_packet_is_lost_while_programs_and_layouts_are_replaced() {
    let object = other_object();
    let other = Image {
        abi: OTHER_ABI,
        object: &object,
    };
    // Behind the end of an ELF nobody looks.
    let changed = [Image::own().object, &[0]].concat();
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let (root, options) = (world.bpffs.root(), world.options(attachment));
        world.node.enter(|| {
            load(&options).unwrap();
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            hooks.add(&one.as_link()).unwrap();
            hooks.add(&two.as_link()).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            assert_eq!(node.promote(10).unwrap() % 4, 0);
        });
        world.blackhole(&one);
        world.blackhole(&two);
        let traffic = Traffic::start(&one, &two);
        let before = created(&world, attachment);
        assert_eq!(before.len(), 4, "{before:?}");
        for round in 0..rounds() {
            world
                .node
                .enter(|| there_and_back(&options, other, &changed));
            traffic.goes_on(&format!("{attachment:?}, round {round}"));
        }
        assert_eq!(
            created(&world, attachment),
            before,
            "a connection was forgotten"
        );
        let mut sent: Vec<u64> = traffic
            .end()
            .into_iter()
            .filter(|(name, _)| name.starts_with("UDP"))
            .map(|(_, count)| count)
            .collect();
        sent.sort_unstable();
        let counted = datagrams(&world, attachment);
        assert_eq!(counted.len(), sent.len());
        for (sent, counted) in sent.into_iter().zip(counted) {
            // An entry is read, added to and written: what is counted in that microsecond is
            // overwritten, at most once an upgrade.
            let allowed = 2 * rounds() as u64;
            for way in counted {
                assert!(
                    way <= sent && way + allowed >= sent,
                    "{sent} datagrams each way, {counted:?} counted"
                );
            }
        }
        world.node.enter(|| {
            let observed = Node::open(&root, attachment).unwrap().observe().unwrap();
            assert_eq!((observed.strays, observed.tables.hooks.len()), (vec![], 4));
        });
    }
}
