//! A conflist, or a configuration of one plugin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_cni_spec::{ConfList, PluginConf};

fuzz_target!(|bytes: &[u8]| {
    let _ = ConfList::parse(bytes);
    let _ = PluginConf::parse(bytes);
});
