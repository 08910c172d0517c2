//! What the compiled programs are like.

use aya::programs::SchedClassifier;
use aya_obj::{EbpfSectionKind, Object};
use watari_abi::{Hook, maps};
use watari_bpf::{Image, LoadOptions, PinDir, load};

use crate::world::World;

/// Bytes that the object may have: it is part of the agent.
const LARGEST: usize = 2_000_000;

/// Instructions that the verifier may look at, in all programs together: a start of the agent waits
/// for it, about 1.5 µs for each.
const MOST_VERIFIED: u32 = 250_000;

#[test]
fn no_program_can_panic() {
    let object = Object::parse(Image::own().object).unwrap();
    assert!(!object.functions.is_empty());
    for function in object.functions.values() {
        let name = &function.name;
        // The linker keeps no function that is not called.
        let panics = ["panic", "unwind", "unwrap_failed", "expect_failed", "_fail"];
        assert!(
            !panics.iter().any(|word| name.contains(word)),
            "there is a way to a panic: {name}"
        );
        println!("{name}: {} instructions", function.instructions.len());
    }
}

#[test]
fn it_holds_every_hook_and_every_map_and_is_small() {
    let image = Image::own().object;
    let object = Object::parse(image).unwrap();
    for hook in Hook::ALL {
        assert!(object.programs.contains_key(hook.program()), "{hook:?}");
    }
    for name in maps::ALL {
        let map = object.maps.get(*name).expect("every map");
        let kind = map.section_kind();
        assert!(
            matches!(kind, EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps),
            "{name}"
        );
    }
    println!("the object has {} bytes", image.len());
    assert!(
        image.len() < LARGEST,
        "the object has {} bytes",
        image.len()
    );
}

#[test]
fn the_kernel_verifies_it_in_a_moment() {
    let world = World::new();
    let root = world.bpffs.root();
    let all: u32 = world.node.enter(|| {
        load(&LoadOptions::at(&root)).unwrap();
        let counts = Hook::ALL.iter().map(|hook| {
            let place = PinDir::current(&root).program(*hook);
            let info = SchedClassifier::from_pin(place).unwrap().info().unwrap();
            // Linux says it since 5.16.
            let count = info.verified_instruction_count().expect("a count");
            println!("{hook:?}: {count} instructions verified");
            count
        });
        counts.sum()
    });
    assert!(all < MOST_VERIFIED, "{all} instructions are verified");
}
