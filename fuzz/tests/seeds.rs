//! The seeds through every target on the ordinary compiler: whole, cut, and with a byte changed.

use std::path::Path;

use watari_fuzz::TARGETS;

/// How many cuts and changes of a seed are tried, spread over it.
const TRIES: usize = 300;

#[test]
fn no_target_stumbles_over_its_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in TARGETS {
        let program = root.join(format!("fuzz_targets/{name}.rs"));
        assert!(program.exists(), "{} is missing", program.display());
        let seeds = root.join("seeds").join(name);
        let entries = std::fs::read_dir(&seeds).expect("every target has seeds");
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("list the seeds").path();
            let seed = std::fs::read(&path).expect("read a seed");
            println!("{}", path.display());
            target(&seed);
            for at in (0..seed.len()).step_by(seed.len() / TRIES + 1) {
                target(&seed[..at]);
                for byte in [0, b'"', b'9', 0x7f, 0xff] {
                    let mut changed = seed.clone();
                    changed[at] = byte;
                    target(&changed);
                }
            }
            count += 1;
        }
        assert!(count > 0, "no seed in {}", seeds.display());
    }
}

#[test]
fn every_target_is_in_the_table() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    for entry in std::fs::read_dir(dir).expect("list the targets") {
        let path = entry.expect("list the targets").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let known = TARGETS.iter().any(|(known, _)| *known == name);
        assert!(known, "{name} is not in TARGETS");
    }
}

/// Seeds of binary forms were written by hand: they have to be understood.
#[test]
fn the_netlink_seed_is_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/netlink_answer/dump");
    let seed = std::fs::read(path).expect("read a seed");
    assert_eq!(watari_netlink::read_datagram(&seed), Ok(()));
}
