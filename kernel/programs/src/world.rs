//! The tables of connections, pods and nodes in their maps, and the time: the same at every place
//! where packets are seen.

use aya_ebpf::helpers;

use crate::maps::CLOCK;

/// The coarse time moves with each tick, and asking for it takes as long as half a look-up in a table,
/// while the number of the tick is read by an instruction. So each CPU asks once in a tick. What it
/// knows may be of the tick before: two CPUs differ by that much.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    let tick = unsafe { helpers::bpf_jiffies64() };
    let Some(place) = CLOCK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
    let clock = unsafe { &mut *place };
    if clock.tick != tick {
        // SAFETY: a helper without arguments.
        clock.now = unsafe { helpers::bpf_ktime_get_coarse_ns() };
        clock.tick = tick;
    }
    clock.now
}

/// The methods of [`watari_datapath::Env`] that ask the maps. The type has a method `lost`, which
/// counts an event that found no room. What the body names has to be in scope.
macro_rules! gives_tables {
    () => {
        #[inline(always)]
        fn now(&self) -> u64 {
            $crate::world::now()
        }

        #[inline(always)]
        fn endpoint(&self, address: &Address) -> Option<&'static Endpoint> {
            // SAFETY: user space replaces entries whole, and frees none that a program still reads.
            unsafe { ENDPOINTS.get(address) }
        }

        #[inline(always)]
        fn link(&self, ifindex: u32) -> Option<&'static Link> {
            // SAFETY: as above.
            unsafe { LINKS.get(ifindex) }
        }

        #[inline(always)]
        fn remote(&self, address: &Address) -> Option<&'static Remote> {
            REMOTES.get(&Key::new(128, *address))
        }

        #[inline(always)]
        fn config(&self) -> Config {
            CONFIG.get(0).copied().unwrap_or_default()
        }

        #[inline(always)]
        fn connection(&self, table: Table, key: &ConnectionKey) -> Option<Kept> {
            match table {
                Table::Established => ESTABLISHED.get_ptr_mut(key),
                Table::Transient => TRANSIENT.get_ptr_mut(key),
            }
            .map(Kept)
        }

        #[inline(always)]
        fn open(&mut self, fill: impl FnOnce(&mut FlowEvent), event: bool) -> bool {
            let Some(place) = SCRATCH.get_ptr_mut(0) else {
                return false;
            };
            // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
            let scratch = unsafe { &mut *place };
            scratch.zero();
            fill(scratch);
            let (key, connection) = (&scratch.key, &scratch.connection);
            let made = TRANSIENT.insert(key, connection, u64::from(BPF_ANY));
            if event
                && FLOW_EVENTS
                    .output_untyped::<FlowEvent>(&*scratch, QUIETLY)
                    .is_err()
            {
                self.lost();
            }
            made.is_ok()
        }

        #[inline(always)]
        fn shift(&mut self, key: &ConnectionKey, entry: &Kept, to: Table) -> bool {
            // SAFETY: a map's value; the helper copies it. What other CPUs count meanwhile may be lost.
            let connection = unsafe { &*entry.0 };
            let flags = u64::from(BPF_ANY);
            match to {
                Table::Established => {
                    ESTABLISHED.insert(key, connection, flags).is_ok() && {
                        self.remove(Table::Transient, key);
                        true
                    }
                }
                Table::Transient => {
                    TRANSIENT.insert(key, connection, flags).is_ok() && {
                        self.remove(Table::Established, key);
                        true
                    }
                }
            }
        }

        #[inline(always)]
        fn remove(&mut self, table: Table, key: &ConnectionKey) {
            // It may be gone already, which is as well.
            let _ = match table {
                Table::Established => ESTABLISHED.remove(key),
                Table::Transient => TRANSIENT.remove(key),
            };
        }

        #[inline(always)]
        fn closed(&mut self, hook: Hook, key: &ConnectionKey, entry: &Kept, now: u64) {
            let Some(mut slot) = FLOW_EVENTS.reserve_untyped::<FlowEvent>(0) else {
                return self.lost();
            };
            let event: *mut FlowEvent = slot.as_mut_ptr();
            // SAFETY: the slot is ours until it is submitted; all of it is written.
            unsafe {
                addr_of_mut!((*event).time).write(now);
                addr_of_mut!((*event).kind).write(FlowEventKind::Closed as u32);
                addr_of_mut!((*event).hook).write(hook as u32);
                addr_of_mut!((*event).key).write(*key);
                addr_of_mut!((*event).connection).write(entry.0.read());
            }
            slot.submit(QUIETLY);
        }

        #[inline(always)]
        fn fragment(&self, key: &FragmentKey) -> Option<&'static FragmentPorts> {
            // SAFETY: entries are replaced whole.
            unsafe { FRAGMENTS.get(key) }
        }

        #[inline(always)]
        fn remember_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
            // Without room, later fragments follow their addresses alone, and are counted.
            let _ = FRAGMENTS.insert(key, ports, u64::from(BPF_ANY));
        }

        #[inline(always)]
        fn stack_port(&self, port: &StackPort) -> Option<&'static u64> {
            // SAFETY: entries are replaced whole.
            unsafe { STACK_PORTS.get(port) }
        }

        #[inline(always)]
        fn remember_stack_port(&mut self, port: &StackPort, now: u64) {
            // The table evicts: there is room but for moments of many CPUs at once.
            let _ = STACK_PORTS.insert(port, now, u64::from(BPF_ANY));
        }
    };
}

pub(crate) use gives_tables;
