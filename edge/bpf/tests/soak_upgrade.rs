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

use std::path::{Path, PathBuf};

use watari_abi::OTHER_ABI;
use watari_bpf::{Datapath, Image, Node, PodHooks, load, load_image};

use traffic::Traffic;
use world::{World, kinds};

/// Upgrades, there and back each.
fn rounds() -> usize {
    if std::env::var_os("WATARI_SOAK").is_some() {
        100
    } else {
        5
    }
}

fn other_object() -> Vec<u8> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("other-abi");
    let path = object::build(&workspace, &target, true).expect("compile the programs");
    std::fs::read(path).expect("read the object")
}

#[test]
fn no_packet_is_lost_while_programs_and_layouts_are_replaced() {
    let object = other_object();
    let other = Image {
        abi: OTHER_ABI,
        object: &object,
    };
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
        let traffic = Traffic::start(&one, &two);
        for round in 0..rounds() {
            world.node.enter(|| {
                load_image(&options, other).unwrap();
                load(&options).unwrap();
                // In place.
                load(&options).unwrap();
            });
            traffic.goes_on(&format!("{attachment:?}, round {round}"));
        }
        traffic.end();
        world.node.enter(|| {
            let observed = Node::open(&root, attachment).unwrap().observe().unwrap();
            assert_eq!((observed.strays, observed.tables.hooks.len()), (vec![], 4));
        });
    }
}
