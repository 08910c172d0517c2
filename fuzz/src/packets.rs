//! Raw packets through the datapath.

use watari_abi::{Hook, Reason};
use watari_corpus::{Net, Place, Scene, desk};
use watari_datapath::Verdict;
use watari_datapath::desk::Input;

/// A sequence of frames at hooks, in one world: before each frame its hook (one byte), what the kernel
/// knows of it (bits), and its length in two bytes, network order.
///
/// A packet that is not sent on is left as it was; one that is keeps its length, and has room for
/// its headers. No frame changes what is known of pods and nodes.
pub fn datapath(bytes: &[u8]) {
    let place = Place::default();
    let world = Scene::new(&place, Net::V4, "fuzz").case.world;
    let mut desk = desk::desk(&world, place.now);
    for (hook, input) in frames(&place, bytes) {
        let before = input.bytes.clone();
        let output = desk.run(hook, input);
        assert_eq!(
            output.bytes.len(),
            before.len(),
            "a packet keeps its length"
        );
        match output.verdict {
            Verdict::Deliver { ifindex } => {
                assert!(
                    [place.link_a, place.link_b].contains(&ifindex),
                    "a pod's link"
                );
                assert_ne!(hook, Hook::ToPod, "the stack has delivered it already");
            }
            Verdict::Forward { .. } => unreachable!("this world has no routes"),
            Verdict::Stack | Verdict::Pass => assert_eq!(output.bytes, before),
            Verdict::Drop(reason) => {
                assert_eq!(output.bytes, before);
                assert!(
                    desk.drop_totals.get(&reason).packets > 0,
                    "a drop is counted"
                );
            }
        }
        desk.now += 1_000_000;
    }
    let told = desk.drop_events.len() as u64;
    let counted: u64 = Reason::ALL
        .iter()
        .map(|reason| desk.drop_totals.get(reason).packets)
        .sum();
    assert_eq!(told, counted, "each drop is told");
}

/// The frames in the input; what follows the last whole one is left out.
fn frames(place: &Place, mut bytes: &[u8]) -> Vec<(Hook, Input)> {
    let mut frames = Vec::new();
    while let [hook, bits, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((frame, after)) = rest.split_at_checked(length) else {
            break;
        };
        let hook = Hook::ALL[usize::from(*hook) % Hook::ALL.len()];
        let link = if bits & 1 == 0 {
            place.link_a
        } else {
            place.link_b
        };
        frames.push((
            hook,
            Input {
                ifindex: link,
                bytes: frame.to_vec(),
                segment: if bits & 2 == 0 { 0 } else { 1448 },
                tagged: bits & 4 != 0,
                for_this_host: bits & 8 == 0,
            },
        ));
        bytes = after;
    }
    frames
}
