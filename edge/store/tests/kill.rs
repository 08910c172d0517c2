//! Processes that use the store at once and are killed at random moments: what they were told is
//! done stays done, what was not told is whole or absent, and no address is leased twice.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use watari_ipam::{Holder, Millis, Pool, PoolId, Subnet, Wish};
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName};
use watari_store::{EndpointRecord, Options, Store, StoreError};
use watari_tables::{Endpoint, LinkTables};

const DIR: &str = "WATARI_KILL_TEST_DIR";
const SLOT: &str = "WATARI_KILL_TEST_SLOT";
const SLOTS: u64 = 8;
/// Containers of each process; all of them together fit into the pool, with room to cool down.
const CONTAINERS: u64 = 12;

fn pool() -> Pool {
    let id = PoolId {
        scope: "node".to_owned(),
        name: "kill".to_owned(),
    };
    let net = "10.9.0.0/24".parse().unwrap();
    Pool::new(id, vec![Subnet::whole(net).unwrap()]).unwrap()
}

fn holder(container: &str) -> Holder {
    Holder {
        network: NetworkName::new("kill").unwrap(),
        attachment: Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        },
    }
}

fn endpoint(holder: &Holder, address: IpAddr) -> EndpointRecord {
    let link = |name: IfName| LinkTables {
        name,
        mac: holder.attachment.pod_mac(),
        mtu: 1500,
        alias: String::new(),
        addresses: BTreeSet::from([address.into()]),
        routes: BTreeSet::new(),
        neighbours: BTreeSet::new(),
        proxies: BTreeSet::new(),
        sysctls: BTreeSet::new(),
    };
    let host_ifname = holder.attachment.host_ifname(&HostPrefix::default());
    EndpointRecord {
        network: holder.network.clone(),
        attachment: holder.attachment.clone(),
        pod: None,
        netns: Some("/run/netns/x".into()),
        tables: Endpoint {
            host: link(host_ifname.clone()),
            pod: link(holder.attachment.ifname.clone()),
        },
        host_ifname,
        ips_to_route_via_host: Vec::new(),
        created: Millis(1),
    }
}

/// xorshift64*: enough to vary moments.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    }
}

fn seed() -> u64 {
    let seed = watari_store::now()
        .0
        .wrapping_mul(u64::from(std::process::id()))
        | 1;
    println!("seed {seed}");
    seed
}

fn add(store: &Store, pool: &Pool, who: &Holder) -> Result<IpAddr, StoreError> {
    store.write(|tx| {
        let wish = Wish {
            holder: who,
            address: None,
            now: watari_store::now(),
            cool_down: Millis(0),
        };
        let address = tx.lease(pool, wish).expect("the pool is large enough");
        tx.put_endpoint(&endpoint(who, address))?;
        Ok(address)
    })
}

fn del(store: &Store, who: &Holder) -> Result<(), StoreError> {
    store.write(|tx| {
        tx.release(&who.network, &who.attachment, watari_store::now())?;
        tx.remove_endpoint(&who.attachment)?;
        Ok(())
    })
}

/// Not a test of its own: what the tests below execute. Opens the store anew for each step, as
/// a plugin does, and logs each step before and after.
#[test]
fn child_process() {
    let (Ok(dir), Ok(slot)) = (std::env::var(DIR), std::env::var(SLOT)) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(log(&dir, &slot))
        .unwrap();
    let mut dice = Dice(u64::from(std::process::id()) << 20 | 1);
    let pool = pool();
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        let who = holder(&format!("c{slot}-{}", dice.throw(CONTAINERS)));
        let container = who.attachment.container.as_str().to_owned();
        let store = Store::open_with(&dir.join("run"), &options(&dir)).unwrap();
        if dice.throw(2) == 0 {
            say(&mut log, &format!("adding {container} -"));
            let address = add(&store, &pool, &who).unwrap();
            say(&mut log, &format!("added {container} {address}"));
        } else {
            say(&mut log, &format!("deleting {container} -"));
            del(&store, &who).unwrap();
            say(&mut log, &format!("deleted {container} -"));
        }
    }
}

/// One system call, so that a kill leaves whole lines.
fn say(log: &mut File, line: &str) {
    let line = format!("{line}\n");
    assert_eq!(log.write(line.as_bytes()).unwrap(), line.len());
}

fn log(dir: &Path, slot: &str) -> PathBuf {
    dir.join(format!("log-{slot}"))
}

fn options(dir: &Path) -> Options {
    Options {
        boot_id: dir.join("boot_id"),
    }
}

/// Children that are killed when the test ends, however it ends.
struct Children(Vec<Child>);

impl Children {
    fn start(dir: &Path) -> Self {
        Self((0..SLOTS).map(|slot| spawn(dir, slot)).collect())
    }

    fn kill(&mut self, slot: usize) {
        let child = &mut self.0[slot];
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "process {slot} ended by itself"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(dir: &Path, slot: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .env(SLOT, slot.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Holds the store against the logs; returns how many steps were told done.
fn audit(dir: &Path) -> usize {
    let store = Store::open_with(&dir.join("run"), &options(dir)).unwrap();
    store.verify().unwrap();
    let leases = store.leases().unwrap();
    let (pool, mut by_holder) = (pool(), BTreeMap::new());
    for lease in &leases {
        assert!(pool.contains(lease.address));
        let before = by_holder.insert(lease.holder.attachment.clone(), lease.address);
        assert_eq!(before, None, "two addresses: {lease:?}");
    }
    let addresses: BTreeSet<IpAddr> = by_holder.values().copied().collect();
    assert_eq!(addresses.len(), leases.len(), "an address is leased twice");
    // Lease and endpoint come and go together.
    let endpoints = store.read(|tx| tx.endpoints(None)).unwrap();
    let recorded: BTreeMap<Attachment, IpAddr> = endpoints
        .into_iter()
        .map(|e| (e.attachment, e.tables.pod.addresses.first().unwrap().addr()))
        .collect();
    assert_eq!(recorded, by_holder);

    let mut done = 0;
    for slot in 0..SLOTS {
        let text = std::fs::read_to_string(log(dir, &slot.to_string())).unwrap_or_default();
        let mut last = BTreeMap::new();
        for line in text.lines() {
            let [what, container, address] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line:?}")
            };
            done += usize::from(matches!(what, "added" | "deleted"));
            last.insert(container, (what, address));
        }
        for (container, (what, address)) in last {
            let found = by_holder.get(&holder(container).attachment);
            match what {
                "added" => assert_eq!(found, Some(&address.parse().unwrap()), "{container}"),
                "deleted" => assert_eq!(found, None, "{container}"),
                // Killed between the two lines: either is right.
                _ => {}
            }
        }
    }
    done
}

#[test]
fn eight_processes_killed_at_random_moments_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("boot_id"), "one").unwrap();
    let mut dice = Dice(seed());
    let mut children = Children::start(dir.path());
    for round in 0..200 {
        std::thread::sleep(Duration::from_micros(dice.throw(15_000)));
        let slot = dice.throw(SLOTS);
        let at = usize::try_from(slot).unwrap();
        children.kill(at);
        if round % 10 == 0 {
            // All at rest, for the logs to be compared.
            for slot in (0..children.0.len()).filter(|slot| *slot != at) {
                children.kill(slot);
            }
            audit(dir.path());
            children = Children::start(dir.path());
        } else {
            children.0[at] = spawn(dir.path(), slot);
        }
    }
    drop(children);
    assert!(
        audit(dir.path()) > 500,
        "too little was done to mean anything"
    );
}

#[test]
fn first_comers_after_a_boot_killed_at_random_moments_start_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut dice = Dice(seed());
    for boot in 0..25 {
        // A new boot: the logs of the last one mean nothing any more.
        std::fs::write(dir.path().join("boot_id"), format!("boot-{boot}")).unwrap();
        for slot in 0..SLOTS {
            let _ = std::fs::remove_file(log(dir.path(), &slot.to_string()));
        }
        let mut children = Children::start(dir.path());
        for _ in 0..6 {
            std::thread::sleep(Duration::from_micros(dice.throw(3_000)));
            let slot = dice.throw(SLOTS);
            let at = usize::try_from(slot).unwrap();
            children.kill(at);
            children.0[at] = spawn(dir.path(), slot);
        }
        std::thread::sleep(Duration::from_micros(dice.throw(20_000)));
        drop(children);
        audit(dir.path());
    }
}
