//! Where threads run, and how busy the machine is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// `USER_HZ`: the unit of `/proc/stat`, the same on every Linux that matters here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Pins the calling thread to one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .with_context(|| format!("cannot pin a thread to CPU {cpu}"))
}

/// What all CPUs have worked since the machine started: everything but idling, waiting for disks
/// and being kept waiting by the hypervisor (proc(5), `/proc/stat`). Steps of 10 ms.
pub fn busy() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u32> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot read the first line of /proc/stat: {line}"))?;
    // user, nice, system, idle, iowait, irq, softirq, steal.
    let [user, nice, system, _, _, irq, softirq, ..] = fields[..] else {
        anyhow::bail!("/proc/stat has too few fields: {line}");
    };
    let ticks: f64 = [user, nice, system, irq, softirq]
        .map(f64::from)
        .iter()
        .sum();
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}
