//! What the compiled programs are like.

use aya_obj::{EbpfSectionKind, Object};
use watari_abi::{Hook, maps};
use watari_bpf::Image;

/// Bytes that the object may have: it is part of the agent.
const LARGEST: usize = 2_000_000;

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
