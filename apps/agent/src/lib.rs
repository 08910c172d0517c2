//! The node daemon: what it desires, what it observes, what it repairs, what it tells.
