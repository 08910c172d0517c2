use std::net::IpAddr;
use std::path::Path;

use watari_abi::{Address, Endpoint, Hook, Link, maps};
use watari_model::{IfName, MacAddr};

use crate::attach::Hooks;
use crate::error::BpfError;
use crate::links;
use crate::map::Map;
use crate::pins::PinDir;

/// The hooks of a pod's host-side link.
const POD_HOOKS: [Hook; 2] = [Hook::FromPod, Hook::ToPod];

/// Attempts at an attachment while an agent replaces programs.
const ATTEMPTS: usize = 4;

/// A pod's interface, as the datapath has to know it.
#[derive(Debug, Clone, Copy)]
pub struct PodLink<'a> {
    /// The host-side link.
    pub link: &'a IfName,
    /// The MAC of the pod's interface.
    pub mac: MacAddr,
    /// The MAC of the host-side link.
    pub host_mac: MacAddr,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
}

/// A loaded datapath, as the plugin uses it: a pod's entries, and the programs at its link. No
/// agent has to run for it.
pub struct PodHooks {
    hooks: Hooks,
    endpoints: Map<Address, Endpoint>,
    links: Map<u32, Link>,
}

impl PodHooks {
    /// Opens the datapath pinned below `root` ([`crate::ROOT`] on a node), in the calling thread's
    /// network and mount namespace. None if no datapath of this build's ABI is loaded: the pod
    /// then takes the ordinary road, and the agent attaches the programs when it comes.
    pub fn open(root: &Path) -> Result<Option<Self>, BpfError> {
        let dir = PinDir::current(root);
        if !dir.exists() {
            return Ok(None);
        }
        let opened = Self::open_dir(dir);
        match opened {
            // An agent is about to make it, or to take it away.
            Err(error) if error.is_absent() => Ok(None),
            other => other.map(Some),
        }
    }

    fn open_dir(dir: PinDir) -> Result<Self, BpfError> {
        Ok(Self {
            endpoints: Map::open(&dir.map(maps::ENDPOINTS))?,
            links: Map::open(&dir.map(maps::LINKS))?,
            hooks: Hooks::new(dir),
        })
    }

    /// Makes a pod's entries, then attaches the programs at its link; may be repeated.
    pub fn add(&mut self, pod: &PodLink<'_>) -> Result<(), BpfError> {
        let ifindex = links::index_of(pod.link)?;
        let link = Link {
            mac: pod.mac.0,
            ..Link::default()
        };
        let endpoint = Endpoint {
            ifindex,
            mac: pod.mac.0,
            host_mac: pod.host_mac.0,
            ..Endpoint::default()
        };
        for address in pod.addresses {
            self.endpoints.insert(&Address::from(*address), &endpoint)?;
        }
        self.links.insert(&ifindex, &link)?;
        POD_HOOKS
            .iter()
            .try_for_each(|hook| self.attach(pod.link, ifindex, *hook))
    }

    /// Attaches a hook's program; again if an agent put another one in its place meanwhile, since
    /// that agent may have missed this link.
    fn attach(&mut self, link: &IfName, ifindex: u32, hook: Hook) -> Result<(), BpfError> {
        for _ in 0..ATTEMPTS {
            let program = self.hooks.dir().open_program(hook)?;
            self.hooks.attach_quickly((link, ifindex), hook, &program)?;
            let now = self.hooks.dir().open_program(hook)?;
            let same = match (program.info(), now.info()) {
                (Ok(ours), Ok(now)) => ours.id == now.id,
                _ => true,
            };
            if same {
                break;
            }
        }
        Ok(())
    }

    /// What of a pod is missing or wrong, in words; empty if all is well.
    pub fn check(&mut self, pod: &PodLink<'_>) -> Result<Vec<String>, BpfError> {
        let ifindex = links::index_of(pod.link)?;
        let mut wrong = Vec::new();
        let known = self.links.get(&ifindex)?;
        if known.map(|link| link.mac) != Some(pod.mac.0) {
            wrong.push(format!(
                "the datapath does not know the MAC behind {}",
                pod.link
            ));
        }
        for address in pod.addresses {
            let known = self.endpoints.get(&Address::from(*address))?;
            let right = known.is_some_and(|known| {
                let macs = (pod.mac.0, pod.host_mac.0);
                known.ifindex == ifindex && (known.mac, known.host_mac) == macs
            });
            if !right {
                wrong.push(format!(
                    "the datapath does not know {address} behind {}",
                    pod.link
                ));
            }
        }
        let attached = self.hooks.list()?;
        for hook in POD_HOOKS {
            let is_there = attached
                .iter()
                .filter_map(|found| found.at())
                .any(|at| at.ifindex == ifindex && at.hook == hook);
            if !is_there {
                let program = hook.program();
                wrong.push(format!(
                    "the program {program} is not attached at {}",
                    pod.link
                ));
            }
        }
        Ok(wrong)
    }

    /// Takes the programs off a pod's link and removes its entries; before the link is deleted,
    /// or, which is faster, after. What is not there is not missed, and an address that another
    /// link has meanwhile stays.
    pub fn remove(&mut self, link: &IfName, addresses: &[IpAddr]) -> Result<(), BpfError> {
        let ifindex = links::index_of(link).ok();
        if let Some(ifindex) = ifindex {
            self.hooks.detach_at(link, ifindex, &POD_HOOKS)?;
        } else {
            self.hooks.unpin(link, &POD_HOOKS)?;
        }
        for address in addresses {
            let key = Address::from(*address);
            let Some(endpoint) = self.endpoints.get(&key)? else {
                continue;
            };
            let owner = links::name_of(endpoint.ifindex);
            if owner.is_none_or(|owner| owner == *link) {
                self.endpoints.remove(&key)?;
                self.links.remove(&endpoint.ifindex)?;
            }
        }
        if let Some(ifindex) = ifindex {
            self.links.remove(&ifindex)?;
        }
        Ok(())
    }
}
