//! A cluster on one machine, from network namespaces.
