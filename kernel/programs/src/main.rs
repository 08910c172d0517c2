//! The eBPF programs.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::{
    macros::{classifier, map},
    maps::HashMap,
    programs::TcContext,
};
use watari_abi::{Address, Endpoint};

#[map(name = "endpoints")]
static ENDPOINTS: HashMap<Address, Endpoint> =
    HashMap::with_max_entries(watari_abi::maps::ENDPOINTS_MAX, 1);

#[classifier]
pub fn from_pod(_ctx: TcContext) -> i32 {
    let a = Address::v4(1);
    if unsafe { ENDPOINTS.get(&a) }.is_some() {
        0
    } else {
        -1
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
