//! What is loaded already is not loaded again; and only that.

use std::path::Path;

use watari_abi::{Hook, maps};
use watari_bpf::sys::{MapFd, MapKind, Pinned, ProgramFd};
use watari_bpf::{
    Datapath, Image, LoadOptions, Loaded, Node, PinDir, PodHooks, load, load_image, remove,
};

use crate::migrate::other;
use crate::world::{World, kinds, ping};

/// This build's programs in an image that is not the same one: behind the end of an ELF nobody
/// looks.
pub fn changed_object() -> Vec<u8> {
    [Image::own().object, &[0]].concat()
}

pub fn changed(object: &[u8]) -> Image<'_> {
    Image {
        object,
        ..Image::own()
    }
}

/// The numbers of the pinned programs.
fn programs(root: &Path) -> Vec<u32> {
    let dir = PinDir::current(root);
    let id = |hook: &Hook| {
        let program = ProgramFd::open(&dir.program(*hook)).expect("open a program");
        program.info().expect("look at it").id
    };
    Hook::ALL.iter().map(id).collect()
}

/// Loads where programs are, and gives whether those stayed.
fn stayed(options: &LoadOptions, image: Image<'_>) -> Loaded {
    let before = programs(&options.root);
    let loaded = load_image(options, image).expect("load");
    let same = programs(&options.root) == before;
    assert_eq!(loaded.reused, same, "{loaded:?}");
    loaded
}

#[test]
fn programs_are_loaded_again_only_where_another_image_or_another_size_is_wanted() {
    let object = changed_object();
    for attachment in kinds() {
        let world = World::new();
        let (one, two) = (world.pod(1), world.pod(2));
        let (root, mut options) = (world.bpffs.root(), world.options(attachment));
        world.node.enter(|| {
            assert!(!load(&options).unwrap().reused);
            let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
            hooks.add(&one.as_link()).unwrap();
            hooks.add(&two.as_link()).unwrap();
            for (image, reused) in [
                (Image::own(), true),
                (changed(&object), false),
                (changed(&object), true),
                (Image::own(), false),
                (Image::own(), true),
            ] {
                let loaded = stayed(&options, image);
                let swapped = if reused { 0 } else { 4 };
                assert_eq!((loaded.reused, loaded.swapped), (reused, swapped));
            }
            options.established = Some(2000);
            for reused in [false, true] {
                let loaded = stayed(&options, Image::own());
                assert_eq!(loaded.reused, reused);
                assert_eq!(loaded.replaced.is_empty(), reused);
            }
            let mut node = Node::open(&root, attachment).unwrap();
            node.promote(10).unwrap();
            assert!(stayed(&options, Image::own()).reused);
            let observed = node.observe().unwrap();
            assert_eq!((observed.strays, observed.tables.hooks.len()), (vec![], 4));
        });
        ping(&one, two.addresses[0]);
    }
}

/// What somebody may have done to the pins of a datapath.
type Damage = fn(&PinDir);

fn unpin(path: impl AsRef<Path>) {
    std::fs::remove_file(path).expect("remove a pin");
}

/// Pins another object where one is pinned.
fn replace(path: &Path, other: &impl Pinned) {
    unpin(path);
    other.pin(path).expect("pin another one");
}

/// A map like the one that is pinned there, and empty.
fn twin(path: &Path) -> MapFd {
    let info = MapFd::open(path).expect("open a map").info().clone();
    let kind = info.kind.expect("a known kind");
    let sizes = (info.key_size, info.value_size);
    MapFd::create(&info.name, kind, sizes, info.max_entries, info.flags).expect("make a map")
}

const DAMAGES: &[(&str, Damage)] = &[
    ("a program is gone", |dir| unpin(dir.program(Hook::ToPod))),
    ("a program is another one", |dir| {
        let other = ProgramFd::open(&dir.program(Hook::ToPod)).expect("open a program");
        replace(&dir.program(Hook::FromUplink), &other);
    }),
    ("a map is in a program's place", |dir| {
        let map = MapFd::open(&dir.map(maps::CONFIG)).expect("open a map");
        replace(&dir.program(Hook::FromPod), &map);
    }),
    ("a map is gone", |dir| unpin(dir.map(maps::STACK_PORTS))),
    ("a map is another one of the same layout", |dir| {
        let path = dir.map(maps::COUNTERS);
        replace(&path, &twin(&path));
    }),
    ("the stamp is gone", |dir| unpin(dir.path().join("build"))),
    ("the stamp says nothing", |dir| {
        let path = dir.path().join("build");
        replace(&path, &twin(&path));
    }),
    ("the stamp is no stamp", |dir| {
        let map = MapFd::create("build", MapKind::Hash, (8, 4), 1, 0).expect("make a map");
        replace(&dir.path().join("build"), &map);
    }),
];

#[test]
fn where_pins_are_damaged_all_is_loaded_again() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let (root, options) = (world.bpffs.root(), world.options(kinds()[0]));
    world.node.enter(|| {
        load(&options).unwrap();
        let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
        hooks.add(&one.as_link()).unwrap();
        hooks.add(&two.as_link()).unwrap();
    });
    for (what, damage) in DAMAGES {
        world.node.enter(|| {
            damage(&PinDir::current(&root));
            let again = load(&options).unwrap();
            assert_eq!((again.reused, again.swapped), (false, 4), "{what}");
            let mut node = Node::open(&root, kinds()[0]).unwrap();
            assert_eq!(node.observe().unwrap().unpinned, [""; 0], "{what}");
            assert!(stayed(&options, Image::own()).reused, "{what}");
        });
        ping(&one, two.addresses[0]);
    }
}

/// The stamp is written last: a loader that is killed before leaves its programs with the stamp of
/// those before, or with none.
#[test]
fn the_stamp_of_other_programs_says_nothing() {
    let world = World::new();
    let (root, options) = (world.bpffs.root(), world.options(kinds()[0]));
    let object = changed_object();
    world.node.enter(|| {
        load(&options).unwrap();
        let stamp = PinDir::current(&root).path().join("build");
        for image in [Image::own(), changed(&object)] {
            load(&options).unwrap();
            let before = MapFd::open(&stamp).unwrap();
            assert!(!load_image(&options, changed(&object)).unwrap().reused);
            replace(&stamp, &before);
            assert!(!stayed(&options, image).reused);
        }
    });
}

#[test]
fn loaders_at_once_wait_for_each_other() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let attachment = kinds()[0];
    let (root, options) = (world.bpffs.root(), world.options(attachment));
    let object = changed_object();
    world.node.enter(|| {
        load(&options).unwrap();
        let mut hooks = PodHooks::open(&root).unwrap().expect("a datapath");
        hooks.add(&one.as_link()).unwrap();
        hooks.add(&two.as_link()).unwrap();
    });
    std::thread::scope(|scope| {
        for image in [Image::own(), changed(&object), other()] {
            let (world, options) = (&world, &options);
            scope.spawn(move || {
                world.node.enter(|| {
                    for _ in 0..2 {
                        load_image(options, image).unwrap();
                    }
                });
            });
        }
    });
    world.node.enter(|| {
        load(&options).unwrap();
        let mut node = Node::open(&root, attachment).unwrap();
        let observed = node.observe().unwrap();
        assert_eq!((observed.strays, observed.tables.hooks.len()), (vec![], 4));
        let left = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path());
        assert_eq!(left.collect::<Vec<_>>(), [PinDir::current(&root).path()]);
    });
    ping(&one, two.addresses[1]);
    // Whoever removes waits as well.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| world.node.enter(|| load(&options).unwrap()));
            scope.spawn(|| world.node.enter(|| remove(&root).unwrap()));
        }
    });
    world.node.enter(|| remove(&root).unwrap());
    assert!(!root.exists());
}

#[test]
fn a_verifier_that_signals_interrupt_is_asked_again() {
    let world = World::new();
    let options = world.options(kinds()[0]);
    let object = changed_object();
    // A process that is stopped and goes on has had a signal, and the verifier gives up at once.
    let script = "i=0; while [ $i -lt 20 ]; do kill -STOP $1; kill -CONT $1; sleep 0.004; \
                  i=$((i+1)); done";
    let mut stopper = std::process::Command::new("sh")
        .args(["-c", script, "sh", &std::process::id().to_string()])
        .spawn()
        .expect("start a shell");
    let loaded = world.node.enter(|| {
        (0..5)
            .flat_map(|_| [Image::own(), changed(&object)])
            .try_for_each(|image| load_image(&options, image).map(drop))
    });
    stopper.wait().expect("the shell ends");
    loaded.expect("load while interrupted");
}
