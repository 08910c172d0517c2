//! Links, addresses, routes, neighbours and namespaces, by netlink.
