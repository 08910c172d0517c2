use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use watari_abi::{Connection, ConnectionKey, OTHER_ABI, State, flags, maps};
use watari_bpf::sys::{MapFd, Pinned};
use watari_bpf::{Datapath, Image, Node, PinDir, PodHooks, load, load_image};
use zerocopy::IntoBytes;

use crate::object;
use crate::world::{World, kinds, ping};

/// The programs of the layout that only tests have.
fn other_object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        // On another kernel there is no compiler.
        if let Some(path) = std::env::var_os("WATARI_OTHER_OBJECT") {
            return std::fs::read(path).expect("read the object that was brought");
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("other-abi");
        let path = object::build(&workspace, &target, true).expect("compile the programs");
        std::fs::read(path).expect("read the object")
    })
}

pub fn other() -> Image<'static> {
    Image {
        abi: OTHER_ABI,
        object: other_object(),
    }
}

fn connection(number: u16) -> (ConnectionKey, Connection) {
    let key = ConnectionKey {
        low: IpAddr::from([10, 0, 0, 1]).into(),
        high: IpAddr::from([10, 0, 0, 2]).into(),
        low_port: number,
        protocol: 6,
        ..ConnectionKey::default()
    };
    let mut connection = Connection {
        created: u64::from(number),
        expires: u64::MAX,
        state: State::Established as u8,
        flags: flags::LOW_IS_ORIGINATOR,
        ..Connection::default()
    };
    connection.directions[0].packets = number.into();
    (key, connection)
}

/// That a connection is in the table of the other layout, with room behind it.
fn assert_longer(dir: &PinDir, number: u16) {
    let map = MapFd::open(&dir.map(maps::ESTABLISHED)).expect("open the table");
    assert_eq!(map.value_bytes(), size_of::<Connection>() + 8);
    let (key, wanted) = connection(number);
    let mut value = vec![0; map.value_bytes()];
    assert!(map.lookup(key.as_bytes(), &mut value).expect("look it up"));
    assert_eq!(value[..size_of::<Connection>()], *wanted.as_bytes());
}

#[test]
fn an_upgrade_to_another_layout_and_back_keeps_connections_pods_and_counters() {
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let (root, options) = (world.bpffs.root(), world.options(attachment));
        let held = world.node.enter(|| {
            load(&options).unwrap();
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            hooks.add(&one.as_link()).unwrap();
            hooks.add(&two.as_link()).unwrap();
            let mut node = Node::open(&root, attachment).unwrap();
            node.promote(10).unwrap();
            let entries: Vec<_> = (1..=500).map(connection).collect();
            node.tables()
                .established
                .insert_all(&entries[..400])
                .unwrap();
            node.tables().transient.insert_all(&entries[400..]).unwrap();
            node.observe().unwrap().tables
        });
        ping(&one, two.addresses[0]);
        world.node.enter(|| {
            let counted = Node::open(&root, attachment).unwrap().counters().unwrap();
            assert!(counted.iter().any(|(_, tally)| tally.packets > 0));
            let there = load_image(&options, other()).unwrap();
            assert_eq!(
                (&there.replaced[..], there.swapped),
                (&["v1".to_owned()][..], 4)
            );
            assert!(there.connections >= 500, "{there:?}");
            assert!(!root.join("v1").exists() && !root.join("v1:old").exists());
            // A plugin of this build meets no datapath of its own.
            assert!(PodHooks::open(&root).unwrap().is_none());
            assert_longer(&PinDir::of_abi(&root, OTHER_ABI), 7);
        });
        ping(&one, two.addresses[1]);
        world.node.enter(|| {
            let back = load(&options).unwrap();
            assert_eq!(back.replaced, [format!("v{OTHER_ABI}")]);
            let mut node = Node::open(&root, attachment).unwrap();
            let observed = node.observe().unwrap();
            assert_eq!((observed.tables, observed.strays), (held, vec![]));
            for number in 1..=500 {
                let (key, wanted) = connection(number);
                let table = if number <= 400 {
                    node.tables().established
                } else {
                    node.tables().transient
                };
                assert_eq!(
                    table.get(&key).unwrap(),
                    Some(wanted),
                    "connection {number}"
                );
            }
            let names = std::fs::read_dir(&root).unwrap().count();
            assert_eq!(names, 1, "something is left in {}", root.display());
        });
        ping(&one, two.addresses[0]);
    }
}

#[test]
fn another_size_of_a_table_keeps_what_fits_in_it() {
    let world = World::new();
    let root = world.bpffs.root();
    let mut options = world.options(kinds()[0]);
    world.node.enter(|| {
        load(&options).unwrap();
        let node = Node::open(&root, kinds()[0]).unwrap();
        let entries: Vec<_> = (1..=1000).map(connection).collect();
        node.tables().established.insert_all(&entries).unwrap();
        for (size, left) in [(2000, 1000), (600, 600)] {
            options.established = Some(size);
            let loaded = load(&options).unwrap();
            assert_eq!(loaded.replaced, ["v1"]);
            let node = Node::open(&root, kinds()[0]).unwrap();
            let established = node.tables().established;
            assert_eq!(established.info().max_entries, size);
            assert_eq!(established.entries().unwrap().len(), left);
        }
    });
}

/// Where a loader may be killed, and what it leaves there.
#[test]
fn a_loader_that_was_killed_is_gone_on_from() {
    let world = World::new();
    let one = world.pod(1);
    let (root, options) = (world.bpffs.root(), world.options(kinds()[0]));
    let rename = |from: &str, to: &str| {
        std::fs::rename(root.join(from), root.join(to)).unwrap();
    };
    world.node.enter(|| {
        load(&options).unwrap();
        let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
        hooks.add(&one.as_link()).unwrap();
        let node = Node::open(&root, kinds()[0]).unwrap();
        let (key, wanted) = connection(9);
        node.tables().established.insert(&key, &wanted).unwrap();
        // The new generation is not complete: it is begun again.
        std::fs::create_dir_all(root.join("v1:new/maps")).unwrap();
        let loaded = load(&options).unwrap();
        assert!(loaded.replaced.is_empty());
        // Between the two renames.
        let other_name = format!("v{OTHER_ABI}");
        load_image(&options, other()).unwrap();
        rename(&other_name, &format!("{other_name}:old"));
        let loaded = load(&options).unwrap();
        assert_eq!(loaded.replaced, [other_name]);
        let mut node = Node::open(&root, kinds()[0]).unwrap();
        assert_eq!(node.tables().established.get(&key).unwrap(), Some(wanted));
        let observed = node.observe().unwrap();
        assert_eq!((observed.strays, observed.tables.hooks.len()), (vec![], 2));
        // After the first rename, the new one complete.
        rename("v1", "v1:new");
        let loaded = load(&options).unwrap();
        assert!(loaded.replaced.is_empty());
        let mut node = Node::open(&root, kinds()[0]).unwrap();
        assert_eq!(node.observe().unwrap().tables, observed.tables);
    });
}
