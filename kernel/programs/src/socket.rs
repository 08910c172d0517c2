//! Programs at a cgroup, and their world: the socket at hand, its namespace, the tables.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, null_mut};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use watari_abi::{Address, Client, Config, Counter, SocketKey, SocketService, Talk, Talks};
use watari_datapath::socket::{
    Answer, Call, Refusal, SocketEnv, TalksPlace, connect, release, seen, send,
};

use crate::maps::{CLIENTS, CONFIG, COUNTERS, SOCKETS, TALKS};
use crate::services::gives_services;
use crate::tables::add;

/// The call goes on; the only answer that programs may give about what a process receives.
const GO_ON: i32 = 1;
/// It fails: with `EPERM`, unless another error was set.
const FAIL: i32 = 0;

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// Whether the kernel has `bpf_set_retval` (Linux 5.18). The loader writes it before the verifier
/// looks at the programs, which then never sees the call where there is no such helper.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 0;

/// A process connects a socket of IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    redirect::<V4, true>(&context)
}

/// A process connects a socket of IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    redirect::<V6, true>(&context)
}

/// A process sends a datagram to an address of IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    redirect::<V4, false>(&context)
}

/// A process sends a datagram to an address of IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    redirect::<V6, false>(&context)
}

/// A process is told who sent a datagram.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    show::<V4>(&context)
}

/// A process is told who sent a datagram, by a socket of IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    show::<V6>(&context)
}

/// A process asks for the other end of its socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    show::<V4>(&context)
}

/// A process asks for the other end of its socket of IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    show::<V6>(&context)
}

/// A socket is closed for good.
#[cgroup_sock(sock_release)]
pub fn sock_release(context: SockContext) -> i32 {
    let socket: *mut bpf_sock = context.as_ptr().cast();
    // SAFETY: the kernel gave the context, and lets programs read this field of it.
    let protocol = unsafe { addr_of!((*socket).protocol).read_volatile() };
    let mut env = Socket {
        context: socket.cast(),
        socket: socket.cast(),
    };
    release(&mut env, protocol as u8);
    GO_ON
}

/// Where a family's address stands in the context.
trait Place {
    fn read(context: *const bpf_sock_addr) -> Address;
    fn write(context: *mut bpf_sock_addr, address: &Address);
}

struct V4;
struct V6;

impl Place for V4 {
    #[inline(always)]
    fn read(context: *const bpf_sock_addr) -> Address {
        // SAFETY: a field that programs of this family may read.
        Address::v4(unsafe { addr_of!((*context).user_ip4).read_volatile() })
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        // SAFETY: a field that programs of this family may write.
        unsafe { addr_of_mut!((*context).user_ip4).write_volatile(address.words[3]) }
    }
}

impl Place for V6 {
    #[inline(always)]
    fn read(context: *const bpf_sock_addr) -> Address {
        // SAFETY: a field that programs of this family may read, word by word.
        unsafe {
            let words = addr_of!((*context).user_ip6).cast::<u32>();
            Address::v6([
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn write(context: *mut bpf_sock_addr, address: &Address) {
        let [a, b, c, d] = address.words;
        // SAFETY: a field that programs of this family may write, word by word.
        unsafe {
            let words = addr_of_mut!((*context).user_ip6).cast::<u32>();
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
            words.add(3).write_volatile(d);
        }
    }
}

#[inline(always)]
fn call<F: Place>(context: *const bpf_sock_addr) -> Call {
    // SAFETY: fields that every program of this kind may read.
    let (port, protocol) = unsafe {
        (
            addr_of!((*context).user_port).read_volatile(),
            addr_of!((*context).protocol).read_volatile(),
        )
    };
    Call {
        address: F::read(context),
        port: port as u16,
        protocol: if protocol > 255 { 0 } else { protocol as u8 },
    }
}

#[inline(always)]
fn give<F: Place>(context: *mut bpf_sock_addr, address: &Address, port: u16) {
    F::write(context, address);
    // SAFETY: a field that programs of this kind may write; network order in the low half.
    unsafe { addr_of_mut!((*context).user_port).write_volatile(u32::from(port)) }
}

#[inline(always)]
fn redirect<F: Place, const CONNECTS: bool>(context: &SockAddrContext) -> i32 {
    let place = context.sock_addr;
    let mut env = Socket::of(place);
    let call = call::<F>(place);
    let answer = if CONNECTS {
        connect(&mut env, &call)
    } else {
        send(&mut env, &call)
    };
    match answer {
        Answer::Untouched => GO_ON,
        Answer::Redirected { address, port } => {
            give::<F>(place, &address, port);
            GO_ON
        }
        Answer::Refused(refusal) => refuse(refusal),
    }
}

#[inline(always)]
fn refuse(refusal: Refusal) -> i32 {
    // SAFETY: a word of read-only data.
    if unsafe { addr_of!(HAS_SET_RETVAL).read_volatile() } != 0 {
        let error = match refusal {
            Refusal::NoEndpoint => ECONNREFUSED,
            Refusal::Dropped => EHOSTUNREACH,
        };
        // SAFETY: a helper on a number.
        unsafe { helpers::bpf_set_retval(-error) };
    }
    FAIL
}

#[inline(always)]
fn show<F: Place>(context: &SockAddrContext) -> i32 {
    let place = context.sock_addr;
    let mut env = Socket::of(place);
    if let Some((address, port)) = seen(&mut env, &call::<F>(place)) {
        give::<F>(place, &address, port);
    }
    GO_ON
}

/// The socket at hand.
struct Socket {
    context: *mut c_void,
    socket: *mut c_void,
}

impl Socket {
    #[inline(always)]
    fn of(place: *mut bpf_sock_addr) -> Self {
        // SAFETY: a field that every program of this kind may read.
        let socket = unsafe { addr_of!((*place).__bindgen_anon_1.sk).read_volatile() };
        Self {
            context: place.cast(),
            socket: socket.cast(),
        }
    }
}

gives_services!(Socket);

impl SocketEnv for Socket {
    type Talks = Kept;

    #[inline(always)]
    fn config(&self) -> Config {
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { helpers::bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper on the context.
        unsafe { helpers::bpf_get_socket_cookie(self.context) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: a helper on the context.
        unsafe { helpers::bpf_get_netns_cookie(self.context) }
    }

    #[inline(always)]
    fn client(&self, netns: u64) -> Option<Client> {
        // SAFETY: user space replaces entries whole.
        unsafe { CLIENTS.get(netns) }.copied()
    }

    #[inline(always)]
    fn remember(&mut self, key: &SocketKey, service: &SocketService) -> bool {
        SOCKETS.insert(key, service, u64::from(BPF_ANY)).is_ok()
    }

    #[inline(always)]
    fn forget(&mut self, key: &SocketKey) {
        // It may be gone already, which is as well.
        let _ = SOCKETS.remove(key);
    }

    #[inline(always)]
    fn talks(&mut self, make: bool) -> Option<Kept> {
        let flags = if make {
            u64::from(BPF_SK_STORAGE_GET_F_CREATE)
        } else {
            0
        };
        // SAFETY: the map is one of sockets' storage, and the socket is the kernel's.
        let place = unsafe {
            helpers::bpf_sk_storage_get(
                addr_of!(TALKS).cast_mut().cast(),
                self.socket,
                null_mut(),
                flags,
            )
        };
        if place.is_null() {
            None
        } else {
            Some(Kept(place.cast()))
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        if let Some(place) = COUNTERS.get_ptr_mut(counter as u32) {
            // A process may be interrupted by a packet, or by another process, while it counts.
            // SAFETY: an aligned word of a map.
            unsafe { add(addr_of_mut!((*place).packets), 1) }
        }
    }
}

/// A socket's talks where the kernel keeps them.
struct Kept(*mut Talks);

impl Kept {
    #[inline(always)]
    fn place(&self, at: usize) -> Option<*mut Talk> {
        if at >= Talks::MOST {
            return None;
        }
        // SAFETY: inside of the array.
        Some(unsafe { addr_of_mut!((*self.0).talks).cast::<Talk>().add(at) })
    }
}

impl TalksPlace for Kept {
    #[inline(always)]
    fn talk(&self, at: usize) -> Talk {
        match self.place(at) {
            // SAFETY: a part of a map's value; any bytes are a `Talk`.
            Some(place) => unsafe { place.read() },
            None => Talk::default(),
        }
    }

    #[inline(always)]
    fn set_talk(&self, at: usize, talk: &Talk) {
        if let Some(place) = self.place(at) {
            // SAFETY: a part of a map's value.
            unsafe { place.write(*talk) }
        }
    }

    #[inline(always)]
    fn next(&self) -> usize {
        // SAFETY: a field of a map's value.
        let next = unsafe {
            let place = addr_of_mut!((*self.0).next);
            let next = place.read_volatile();
            place.write_volatile(next.wrapping_add(1));
            next
        };
        next as usize % Talks::MOST
    }
}
