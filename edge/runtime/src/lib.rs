//! The runtime side of CNI: conflists, chaining, delegation, result cache.
