//! The tables of Services in their maps: the same for packets and for sockets.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers;
use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Frontend, FrontendKey, PortRangeKey, Set, SocketKey,
    SocketService,
};

use crate::maps::{
    AFFINITIES, BACKEND_LOADS, BACKENDS, FRONTENDS, PORT_RANGES, SERVICE_CIDRS, SETS, SLOTS,
    SOCKETS, SOURCE_RANGES,
};
use crate::tables::add;

#[inline(always)]
pub fn frontend(key: &FrontendKey) -> Option<Frontend> {
    // SAFETY: user space replaces entries whole, and frees none that a program still reads.
    unsafe { FRONTENDS.get(key) }.copied()
}

#[inline(always)]
pub fn port_range(key: &PortRangeKey) -> Option<Frontend> {
    let [a, b, c, d] = key.address.words;
    let [high, low] = key.port;
    let last = u32::from_ne_bytes([key.protocol, high, low, 0]);
    PORT_RANGES
        .get(&Key::new(key.length, [a, b, c, d, last]))
        .copied()
}

#[inline(always)]
pub fn is_service_address(address: &Address) -> bool {
    SERVICE_CIDRS.get(&Key::new(128, *address)).is_some()
}

/// Both fields in one access: user space replaces them as one word.
#[inline(always)]
#[allow(
    clippy::cast_ptr_alignment,
    reason = "the kernel aligns the values of an array to eight bytes"
)]
pub fn set(number: u32) -> Set {
    let Some(place) = SETS.get_ptr(number) else {
        return Set::default();
    };
    // SAFETY: an aligned value of a map, of eight bytes; any are a `Set`.
    let word = unsafe { place.cast::<u64>().read_volatile() };
    Set {
        base: word as u32,
        count: (word >> 32) as u32,
    }
}

#[inline(always)]
pub fn slot(index: u32) -> u32 {
    SLOTS.get(index).copied().unwrap_or(0)
}

#[inline(always)]
pub fn backend(number: u32) -> Option<Backend> {
    BACKENDS.get(number).copied()
}

#[inline(always)]
pub fn load_of(backend: u32) -> u64 {
    // The agent corrects it while connections end, so it may be short of zero for a moment.
    match BACKEND_LOADS.get(backend).copied() {
        Some(load) if load.cast_signed() > 0 => load,
        _ => 0,
    }
}

#[inline(always)]
pub fn add_load(backend: u32, difference: u64) {
    if let Some(place) = BACKEND_LOADS.get_ptr_mut(backend) {
        // SAFETY: an aligned word of a map.
        unsafe { add(place, difference) }
    }
}

#[inline(always)]
pub fn affinity(key: &AffinityKey) -> Option<Affinity> {
    // SAFETY: entries are replaced whole.
    unsafe { AFFINITIES.get(key) }.copied()
}

#[inline(always)]
pub fn remember_affinity(key: &AffinityKey, affinity: &Affinity) {
    // The table evicts: there is room but for moments of many CPUs at once.
    let _ = AFFINITIES.insert(key, affinity, u64::from(BPF_ANY));
}

#[inline(always)]
pub fn is_allowed_source(service: u32, address: &Address) -> bool {
    let [a, b, c, d] = address.words;
    SOURCE_RANGES
        .get(&Key::new(160, [service, a, b, c, d]))
        .is_some()
}

#[inline(always)]
pub fn socket(key: &SocketKey) -> Option<SocketService> {
    // SAFETY: entries are replaced whole.
    unsafe { SOCKETS.get(key) }.copied()
}

#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { helpers::bpf_get_prandom_u32() }
}

/// Makes a type give the tables of Services.
macro_rules! gives_services {
    ($type:ty) => {
        impl watari_datapath::service::ServiceTables for $type {
            #[inline(always)]
            fn frontend(&self, key: &watari_abi::FrontendKey) -> Option<watari_abi::Frontend> {
                $crate::services::frontend(key)
            }
            #[inline(always)]
            fn port_range(&self, key: &watari_abi::PortRangeKey) -> Option<watari_abi::Frontend> {
                $crate::services::port_range(key)
            }
            #[inline(always)]
            fn is_service_address(&self, address: &watari_abi::Address) -> bool {
                $crate::services::is_service_address(address)
            }
            #[inline(always)]
            fn set(&self, number: u32) -> watari_abi::Set {
                $crate::services::set(number)
            }
            #[inline(always)]
            fn slot(&self, index: u32) -> u32 {
                $crate::services::slot(index)
            }
            #[inline(always)]
            fn backend(&self, number: u32) -> Option<watari_abi::Backend> {
                $crate::services::backend(number)
            }
            #[inline(always)]
            fn load_of(&self, backend: u32) -> u64 {
                $crate::services::load_of(backend)
            }
            #[inline(always)]
            fn add_load(&mut self, backend: u32, difference: u64) {
                $crate::services::add_load(backend, difference);
            }
            #[inline(always)]
            fn affinity(&self, key: &watari_abi::AffinityKey) -> Option<watari_abi::Affinity> {
                $crate::services::affinity(key)
            }
            #[inline(always)]
            fn remember_affinity(
                &mut self,
                key: &watari_abi::AffinityKey,
                affinity: &watari_abi::Affinity,
            ) {
                $crate::services::remember_affinity(key, affinity);
            }
            #[inline(always)]
            fn is_allowed_source(&self, service: u32, address: &watari_abi::Address) -> bool {
                $crate::services::is_allowed_source(service, address)
            }
            #[inline(always)]
            fn socket(&self, key: &watari_abi::SocketKey) -> Option<watari_abi::SocketService> {
                $crate::services::socket(key)
            }
            #[inline(always)]
            fn random(&mut self) -> u32 {
                $crate::services::random()
            }
        }
    };
}

pub(crate) use gives_services;
