//! Whatever arrives, the parsers of kernel bytes end without a panic.

use proptest::prelude::*;
use watari_nft::attr::{Attrs, parse_attrs};
use watari_nft::interval::{parse_marks, ranges_of};
use watari_nft::message::parse_frames;
use watari_nft::monitor::{Changed, read_changes};
use watari_nft::object::{parse_comment, parse_elements, parse_generation, says};

fn parse_all(bytes: &[u8]) {
    if let Ok(frames) = parse_frames(bytes) {
        for frame in frames {
            let _ = (frame.outcome(), frame.attributes());
        }
    }
    let _ = parse_attrs(bytes);
    let _ = parse_elements(bytes);
    let _ = parse_marks(bytes).and_then(ranges_of);
    let _ = read_changes(bytes, &mut Changed::default());
    let _ = parse_comment(bytes);
    let _ = parse_generation(bytes);
    let _ = says(bytes, &Attrs::new().nested(3, &Attrs::new().be32(1, 1)));
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        parse_all(&bytes);
    }

    #[test]
    fn a_list_of_elements_with_one_byte_changed(at in 0_usize..64, to in any::<u8>()) {
        let value = Attrs::new().bytes(1, &[6, 0, 0, 0, 0, 80, 0, 0]);
        let element = Attrs::new().nested(1, &value).bytes(6, &[0, 2, b'a', 0]);
        let list = Attrs::new().nested(3, &Attrs::new().nested(1, &element));
        let mut bytes = list.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        parse_all(&bytes);
    }
}
