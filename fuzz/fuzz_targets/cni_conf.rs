//! A network configuration, for each command and for each kind of address plugin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watari_cni_spec::{CniArgs, Command, NetConf};
use watari_ipam::{IpamConf, Kind};

fuzz_target!(|bytes: &[u8]| {
    for command in Command::ALL {
        let Ok(conf) = NetConf::parse_for(command, bytes) else {
            continue;
        };
        for kind in [Kind::AzureV4, Kind::AzureV6, Kind::Watari] {
            let _ = IpamConf::parse(&conf, &CniArgs::new(), kind);
        }
    }
});
