//! The CNI plugins of Watari.
