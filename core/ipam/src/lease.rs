//! Which address an attachment gets.
//!
//! Least recently used: first the addresses that were never used, in ascending order; then the
//! one that was released longest ago, if that is at least the cool-down ago. So a peer, a
//! conntrack entry or a DNS answer that still means the previous holder has the longest time
//! to forget it. An address that still cools is never given unasked; who asks for it by name
//! gets it, since that is the same pod coming back (a `StatefulSet` with fixed addresses).

use std::fmt;
use std::net::IpAddr;

use watari_cni_spec::{CniError, Code};
use watari_model::{Attachment, NetworkName};

use crate::{Pool, PoolId};

/// How long a released address rests before somebody else gets it, unless configured.
pub const DEFAULT_COOL_DOWN: Millis = Millis(30_000);

/// Milliseconds, as a length or as a time since the node booted (`CLOCK_BOOTTIME`): leases are
/// void after a reboot, and this clock neither steps nor stops in suspend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// Who has a lease: an attachment of a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The network's name.
    pub network: NetworkName,
    /// The container and its interface.
    pub attachment: Attachment,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (network {})", self.attachment, self.network)
    }
}

/// What is known about an address of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Never leased, or not any more remembered.
    Unknown,
    /// Somebody has it.
    Leased(Holder),
    /// Nobody has it since then.
    Released(Millis),
}

/// The books of one pool, as the decision reads and writes them; each call O(log n), but for
/// [`Ledger::rebuild`] and [`Ledger::census`].
pub trait Ledger {
    /// A failure of the medium.
    type Error;
    /// [`Pool::digest`] of what the list of never-used addresses was built from.
    fn built_from(&mut self) -> Result<Option<u64>, Self::Error>;
    /// Builds that list anew: the pool without all that is leased or released in its scope.
    /// Needed once, and when the pool's addresses change.
    fn rebuild(&mut self, pool: &Pool) -> Result<(), Self::Error>;
    /// The addresses of the scope that the holder has.
    fn held(&mut self, holder: &Holder) -> Result<Vec<IpAddr>, Self::Error>;
    /// What is known about an address of the scope.
    fn standing(&mut self, address: IpAddr) -> Result<Standing, Self::Error>;
    /// The lowest of the never-used.
    fn first_unused(&mut self) -> Result<Option<IpAddr>, Self::Error>;
    /// Takes the lowest of the never-used off that list.
    fn pass_unused(&mut self, lowest: IpAddr) -> Result<(), Self::Error>;
    /// The longest released of the pool, with the time of its release.
    fn longest_released(&mut self) -> Result<Option<(IpAddr, Millis)>, Self::Error>;
    /// Takes a released address out of the pool's books until a [`Ledger::rebuild`] finds it in
    /// the pool again.
    fn set_aside(&mut self, address: IpAddr) -> Result<(), Self::Error>;
    /// Gives the address to the holder.
    fn lease(&mut self, address: IpAddr, to: &Holder, now: Millis) -> Result<(), Self::Error>;
    /// Ends the holder's leases of the pool's addresses but this one.
    fn keep_only(&mut self, kept: IpAddr, of: &Holder, now: Millis) -> Result<(), Self::Error>;
    /// How many addresses of the pool are leased, and how many released.
    fn census(&mut self) -> Result<(u64, u64), Self::Error>;
}

/// One wish for one address.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Who.
    pub holder: &'a Holder,
    /// This one and no other.
    pub address: Option<IpAddr>,
    /// The time.
    pub now: Millis,
    /// How long a released address rests.
    pub cool_down: Millis,
}

/// Why no address is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is left.
    #[error("{}", exhausted(pool, subnets, *leased, *cooling, *next))]
    Exhausted {
        /// The pool.
        pool: PoolId,
        /// Its subnets, for people.
        subnets: String,
        /// Addresses that somebody has.
        leased: u64,
        /// Addresses that were released less than the cool-down ago.
        cooling: u64,
        /// In how long the first of those can be given.
        next: Option<Millis>,
    },
    /// The address belongs to no subnet's spans.
    #[error("{address} is not one of the addresses of {subnets}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The pool's subnets, for people.
        subnets: String,
    },
    /// The gateway's, the node's, or the prefix's own.
    #[error("{0} is reserved for the gateway, the node or the prefix itself")]
    Reserved(IpAddr),
    /// Somebody has it.
    #[error("{address} is leased to {holder}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: Holder,
    },
    /// The same attachment asks for another address than it has.
    #[error("{holder} has {has} already and cannot have {wants} as well; DEL it first")]
    HasAnother {
        /// Who asks.
        holder: Holder,
        /// What it has.
        has: IpAddr,
        /// What it asks for.
        wants: IpAddr,
    },
}

fn exhausted(
    pool: &PoolId,
    subnets: &str,
    leased: u64,
    cooling: u64,
    next: Option<Millis>,
) -> String {
    let next = next.map_or_else(String::new, |next| format!("; the next is free in {next}"));
    format!(
        "pool {pool} ({subnets}) has no free address: {leased} leased, {cooling} cooling down{next}"
    )
}

/// No address: refused, or the books could not be read or written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError<E> {
    /// The decision.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The medium.
    #[error("{0}")]
    Ledger(E),
}

impl<E: Into<CniError>> From<LeaseError<E>> for CniError {
    fn from(error: LeaseError<E>) -> Self {
        match error {
            LeaseError::Refused(refusal) => {
                let code = match refusal {
                    Refusal::Exhausted { .. } => Code::POOL_EXHAUSTED,
                    _ => Code::ADDRESS_UNAVAILABLE,
                };
                Self::new(code, refusal.to_string())
            }
            LeaseError::Ledger(error) => error.into(),
        }
    }
}

/// Leases one address of the pool. The same holder gets the same address again.
pub fn lease<L: Ledger>(
    pool: &Pool,
    ledger: &mut L,
    wish: Wish<'_>,
) -> Result<IpAddr, LeaseError<L::Error>> {
    decide(pool, ledger, wish)
        .map_err(LeaseError::Ledger)?
        .map_err(LeaseError::Refused)
}

fn decide<L: Ledger>(
    pool: &Pool,
    ledger: &mut L,
    wish: Wish<'_>,
) -> Result<Result<IpAddr, Refusal>, L::Error> {
    if ledger.built_from()? != Some(pool.digest()) {
        ledger.rebuild(pool)?;
    }
    let held = ledger.held(wish.holder)?;
    if let Some(&has) = held.iter().find(|address| pool.contains(**address)) {
        return Ok(match wish.address {
            Some(wants) if wants != has => Err(Refusal::HasAnother {
                holder: wish.holder.clone(),
                has,
                wants,
            }),
            _ => Ok(has),
        });
    }
    let address = match wish.address {
        Some(address) => match asked(pool, ledger, address)? {
            Some(refusal) => return Ok(Err(refusal)),
            None => address,
        },
        None => match pick(pool, ledger, wish)? {
            Some(address) => address,
            None => return Ok(Err(nothing_left(pool, ledger, wish)?)),
        },
    };
    ledger.lease(address, wish.holder, wish.now)?;
    if !held.is_empty() {
        // The pool has lost what the holder had of it; from now on the new address is the one.
        ledger.keep_only(address, wish.holder, wish.now)?;
    }
    Ok(Ok(address))
}

/// Why this address cannot be given, if so.
fn asked<L: Ledger>(
    pool: &Pool,
    ledger: &mut L,
    address: IpAddr,
) -> Result<Option<Refusal>, L::Error> {
    if pool.reserves(address) {
        return Ok(Some(Refusal::Reserved(address)));
    }
    if !pool.contains(address) {
        let subnets = pool.to_string();
        return Ok(Some(Refusal::Outside { address, subnets }));
    }
    Ok(match ledger.standing(address)? {
        Standing::Leased(holder) => Some(Refusal::Taken { address, holder }),
        Standing::Unknown | Standing::Released(_) => None,
    })
}

/// The least recently used address. Both loops end: each round shortens a list.
fn pick<L: Ledger>(
    pool: &Pool,
    ledger: &mut L,
    wish: Wish<'_>,
) -> Result<Option<IpAddr>, L::Error> {
    while let Some(address) = ledger.first_unused()? {
        ledger.pass_unused(address)?;
        // It may be in use after all: somebody asked for it by name.
        if ledger.standing(address)? == Standing::Unknown {
            return Ok(Some(address));
        }
    }
    while let Some((address, at)) = ledger.longest_released()? {
        if wish.now.since(at) < wish.cool_down {
            break;
        }
        // The pool may have lost it since.
        if pool.contains(address) {
            return Ok(Some(address));
        }
        ledger.set_aside(address)?;
    }
    Ok(None)
}

fn nothing_left<L: Ledger>(
    pool: &Pool,
    ledger: &mut L,
    wish: Wish<'_>,
) -> Result<Refusal, L::Error> {
    let (leased, cooling) = ledger.census()?;
    let next = ledger
        .longest_released()?
        .map(|(_, at)| wish.cool_down.since(wish.now.since(at)));
    Ok(Refusal::Exhausted {
        pool: pool.id().clone(),
        subnets: pool.to_string(),
        leased,
        cooling,
        next,
    })
}
