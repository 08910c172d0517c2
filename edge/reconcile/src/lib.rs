//! The loop that keeps the kernel at the desired tables: queue, back-off, prune gate.
