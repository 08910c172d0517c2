//! What the kernel answers on an nftables socket: untrusted until parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_nft::message::parse_frames;
use watari_nft::object::{parse_comment, parse_elements, parse_generation};

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_comment(bytes);
    for frame in parse_frames(bytes).into_iter().flatten() {
        if let Ok(attributes) = frame.attributes() {
            let _ = parse_generation(attributes);
            let _ = parse_elements(attributes);
        }
    }
});
