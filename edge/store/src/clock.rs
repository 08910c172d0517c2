use nix::time::{ClockId, clock_gettime};
use watari_ipam::Millis;

/// The time since boot (`CLOCK_BOOTTIME`): as old as the store can be, never stepped, running in
/// suspend. A process in a time namespace of its own would see another; plugins run in none.
pub fn now() -> Millis {
    // The call fails only for a clock that the kernel lacks (CLOCK_BOOTTIME is from 2.6.39).
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Millis(seconds * 1000 + nanos / 1_000_000)
}
