//! Port mappings in nftables and the conntrack entries of removed ones, by netlink.
