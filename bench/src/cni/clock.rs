//! Calls started at once, each on a thread of its own, and their times.

use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Times in milliseconds.
pub struct Times<R> {
    /// From the first start to the last end.
    pub wall: f64,
    /// Each call's own time and what it returned.
    pub calls: Vec<(f64, R)>,
}

/// Makes each of `items` ready on a thread of its own (in a namespace, with its files open), then
/// runs `work` on all of them at once. Only `work` is timed. `cpu` pins the threads, and with
/// them whatever they execute.
pub fn at_once<'a, T: Sync, S, R: Send>(
    items: &'a [T],
    cpu: Option<usize>,
    ready: impl Fn(&'a T) -> Result<S> + Sync,
    work: impl Fn(&'a T, S) -> Result<R> + Sync,
) -> Result<Times<R>> {
    let barrier = Barrier::new(items.len());
    let one = |item: &'a T| {
        let prepared = pin(cpu).and_then(|()| ready(item));
        // Whatever happened, the others wait here.
        barrier.wait();
        let prepared = prepared?;
        let start = Instant::now();
        let value = work(item, prepared)?;
        Ok((start, Instant::now(), value))
    };
    let ended: Vec<Result<(Instant, Instant, R)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| one(item))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            let panicked = |_| Err(anyhow!("a thread of the benchmark panicked"));
            thread.join().unwrap_or_else(panicked)
        };
        threads.into_iter().map(join).collect()
    });
    let ended: Vec<_> = ended.into_iter().collect::<Result<_>>()?;
    let start = ended.iter().map(|(start, ..)| *start).min();
    let end = ended.iter().map(|(_, end, _)| *end).max();
    let wall = start.zip(end).map(|(start, end)| milliseconds(start, end));
    let wall = wall.ok_or_else(|| anyhow!("there is nothing to time"))?;
    let call = |(start, end, value)| (milliseconds(start, end), value);
    let calls = ended.into_iter().map(call).collect();
    Ok(Times { wall, calls })
}

/// The time between two instants in milliseconds.
pub fn milliseconds(start: Instant, end: Instant) -> f64 {
    (end - start).as_secs_f64() * 1000.0
}

fn pin(cpu: Option<usize>) -> Result<()> {
    if let Some(cpu) = cpu {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    Ok(())
}
