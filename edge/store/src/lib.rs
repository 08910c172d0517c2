//! The node store: leases and endpoints in one SQLite file.
