use std::collections::BTreeSet;
use std::fmt;

use watari_tables::LinkTables;

/// One way in which a link is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The link is not there.
    LinkMissing,
    /// A property has another value.
    Changed {
        /// Which.
        what: &'static str,
        /// What it should be.
        desired: String,
        /// What it is.
        observed: String,
    },
    /// Something that should be there is not.
    Missing {
        /// Its kind.
        what: &'static str,
        /// Which one.
        entry: String,
    },
    /// Something is there that nobody asked for.
    Unexpected {
        /// Its kind.
        what: &'static str,
        /// Which one.
        entry: String,
    },
}

impl Difference {
    /// True if what was asked for is missing or changed; false for a mere addition.
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::Unexpected { .. })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkMissing => f.write_str("the link is missing"),
            Self::Changed {
                what,
                desired,
                observed,
            } => {
                write!(f, "{what} is {observed}, should be {desired}")
            }
            Self::Missing { what, entry } => write!(f, "{what} {entry} is missing"),
            Self::Unexpected { what, entry } => write!(f, "{what} {entry} is unexpected"),
        }
    }
}

/// How `observed` differs from `desired`; empty exactly if they are equal.
pub fn differences(desired: &LinkTables, observed: Option<&LinkTables>) -> Vec<Difference> {
    let Some(observed) = observed else {
        return vec![Difference::LinkMissing];
    };
    let mut found = Vec::new();
    let mut property = |what, desired: String, observed: String| {
        if desired != observed {
            found.push(Difference::Changed {
                what,
                desired,
                observed,
            });
        }
    };
    property("name", desired.name.to_string(), observed.name.to_string());
    property("MAC", desired.mac.to_string(), observed.mac.to_string());
    property("MTU", desired.mtu.to_string(), observed.mtu.to_string());
    property(
        "alias",
        format!("{:?}", desired.alias),
        format!("{:?}", observed.alias),
    );
    contents(&mut found, desired, observed);
    found
}

/// What stands on the link.
fn contents(found: &mut Vec<Difference>, desired: &LinkTables, observed: &LinkTables) {
    entries(
        found,
        "address",
        &desired.addresses,
        &observed.addresses,
        ToString::to_string,
    );
    entries(found, "route", &desired.routes, &observed.routes, |route| {
        let via = route
            .via
            .map(|via| format!(" via {via}"))
            .unwrap_or_default();
        format!("{}{via}", route.destination)
    });
    let neighbour = |entry: &watari_tables::Neighbour| format!("{} {}", entry.address, entry.mac);
    let (wanted, seen) = (&desired.neighbours, &observed.neighbours);
    entries(found, "permanent neighbour", wanted, seen, neighbour);
    let (wanted, seen) = (&desired.proxies, &observed.proxies);
    entries(found, "proxy neighbour", wanted, seen, ToString::to_string);
    entries(
        found,
        "setting",
        &desired.sysctls,
        &observed.sysctls,
        |setting| {
            let (directory, link) = (setting.table.directory(), &desired.name);
            format!("{directory}/{link}/{} = {}", setting.key, setting.value)
        },
    );
}

fn entries<T: Ord>(
    found: &mut Vec<Difference>,
    what: &'static str,
    desired: &BTreeSet<T>,
    observed: &BTreeSet<T>,
    show: impl Fn(&T) -> String,
) {
    let missing = desired.difference(observed);
    found.extend(missing.map(|entry| Difference::Missing {
        what,
        entry: show(entry),
    }));
    let unexpected = observed.difference(desired);
    found.extend(unexpected.map(|entry| Difference::Unexpected {
        what,
        entry: show(entry),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use watari_model::{IfName, MacAddr};

    fn link() -> LinkTables {
        LinkTables {
            name: IfName::new("eth0").unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            alias: String::new(),
            addresses: ["10.0.0.1/16".parse().unwrap()].into(),
            routes: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            proxies: BTreeSet::new(),
            sysctls: BTreeSet::new(),
        }
    }

    #[test]
    fn equal_tables_have_none() {
        assert_eq!(differences(&link(), Some(&link())), []);
    }

    #[test]
    fn each_difference_is_named() {
        let mut observed = link();
        observed.mtu = 1400;
        observed.addresses = ["10.0.0.2/16".parse().unwrap()].into();
        let shown: Vec<_> = differences(&link(), Some(&observed))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            shown,
            [
                "MTU is 1400, should be 1500",
                "address 10.0.0.1/16 is missing",
                "address 10.0.0.2/16 is unexpected",
            ]
        );
        assert_eq!(differences(&link(), None), [Difference::LinkMissing]);
    }
}
